"""Our networks beside torchvision's, on the same weights: `python tests/bench/inference.py [NAME …] [--rounds 7]`.

Three ways, interleaved, medians: torchvision's, ours as built, ours as `label` runs it (folded, channels last).
"""

import argparse
import json
import statistics
import time

import torch
import torchvision
from torch import Tensor, nn

from vidproc.models.build import build
from vidproc.models.optimise import for_inference
from vidproc.models.zoo import ZOO

NAMES = ("resnet18", "resnet50", "densenet121", "r3d_18", "mc3_18", "r2plus1d_18")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    for name in arguments.names:
        measure(name, rounds=arguments.rounds, batch=arguments.batch, device=arguments.device)


def measure(name: str, *, rounds: int, batch: int, device: str) -> None:
    """Print one line: seconds of each way, and their ratios to torchvision's."""
    their = torchvision.models.get_model(name, weights=None).eval()
    entry = ZOO[name]
    our = build(entry.spec, classes=entry.classes).eval()
    our.load_state_dict(their.state_dict())
    ways = {"torchvision": their.to(device), "ours": our.to(device), "prepared": for_inference(our, device)}
    x = torch.randn(batch, *entry.input, device=device)
    layout = torch.channels_last if entry.spec.dims == 2 else torch.channels_last_3d
    inputs = {"torchvision": x, "ours": x, "prepared": x.contiguous(memory_format=layout)}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    with torch.inference_mode():
        for number in range(rounds + 1):
            for way, network in ways.items():
                taken = timed(network, inputs[way])
                if number:  # the first warms up
                    seconds[way].append(taken)
    medians = {way: statistics.median(values) for way, values in seconds.items()}
    ratios = {f"{way}_is": round(medians[way] / medians["torchvision"], 3) for way in ("ours", "prepared")}
    print(
        json.dumps(
            {"name": name, "device": device, "batch": batch, **ratios, **{k: round(v, 4) for k, v in medians.items()}}
        )
    )


def timed(network: nn.Module, x: Tensor) -> float:
    started = time.perf_counter()
    network(x)
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
