"""List the networks of the zoo: `python -m vidproc.models [--json] [name …]`.

Sizes are counted here, on networks without memory; accuracies are the authors' own, of their published weights.
"""

import argparse
import json
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from vidproc.models.build import Network, build, parameters_count
from vidproc.models.checkpoints import published_for
from vidproc.models.zoo import ZOO, Entry


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one list of objects in place of a table")
    parser.add_argument("names", nargs="*", metavar="name", help="networks to list (default: all)")
    given = parser.parse_args()
    if unknown := sorted(set(given.names) - set(ZOO)):
        parser.error(f"there is no {', '.join(unknown)} in the zoo: leave out names to list all")
    rows = list(listing(given.names or ZOO))
    if given.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{'name':<24}{'params M':>9}{'GMACs':>9}  {'input':<18}{'licence':<16}weights, and their authors' accuracy")
    for row in rows:
        told = "; ".join(f"{one['name']} {one['accuracy']}".strip() for one in row["weights"][:1])
        more = f" (+{len(row['weights']) - 1} more)" if len(row["weights"]) > 1 else ""
        print(
            f"{row['name']:<24}{row['params_m']:>9.2f}{row['gmacs']:>9.2f}  {row['input']:<18}{row['licence']:<16}"
            f"{told}{more}"
        )


def listing(names: Iterable[str]) -> Iterator[dict[str, Any]]:
    """One object a network of `ZOO`: name, params_m, gmacs, input, licence (of its first weights), source, weights."""
    for name in names:
        entry = ZOO[name]
        network = on_paper(entry)
        weights = published_for(name)
        yield {
            "name": name,
            "params_m": round(parameters_count(network) / 1e6, 3),
            "gmacs": round(multiply_adds(network, entry) / 1e9, 3),
            "input": "x".join(map(str, entry.input)),
            "licence": weights[0]["licence"] if weights else "",
            "source": entry.source,
            "weights": weights,
        }


def on_paper(entry: Entry) -> Network:
    """The network with shapes but without numbers, in eval mode."""
    with torch.device("meta"):
        return build(entry.spec, classes=entry.classes).eval()


def multiply_adds(network: Network, entry: Entry) -> int:
    """Of one input, in convolutions and matrices: norms, activations and pools are not counted, as the field does."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(torch.empty(1, *entry.input, device="meta"))
    return int(counter.get_total_flops()) // 2


if __name__ == "__main__":
    main()
