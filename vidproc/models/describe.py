"""Write the sidecar of a published checkpoint, so that its URL can be given as weights where no name can be fetched.

    python -m vidproc.models.describe places365:resnet18 resnet18_places365.pth.tar --categories names.txt

The sidecar lies beside the file, as FILE.json; copy both to where the cluster reads. Exit codes: 0 done, 2 usage.
"""

import argparse
import hashlib
import sys
from pathlib import Path

from vidproc.errors import WeightsError
from vidproc.models.fetch import md5_of
from vidproc.models.named import NAMED, names_listed, published_under, used
from vidproc.models.sidecar import sidecar_text
from vidproc.models.weights import Weights


def describe(spec: str, path: Path, *, categories: Path | None = None) -> Path:
    """Write the sidecar of the file at `path`, which holds what `spec` names. Returns the sidecar's path.

    `categories`: the list of them, where it cannot be fetched either. Raises `WeightsError` if the file is not there,
    or not the one that was published under that name.
    """
    one = published_under(spec)
    for needed in filter(None, (path, categories)):
        if not needed.is_file():
            raise WeightsError(f"{needed} is no file: get the checkpoint from {one.url} first")
    data = path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    if not sha256.startswith(one.sha256) or (one.md5 and md5_of(data) != one.md5):
        raise WeightsError(f"{path} is not what was published as {spec}: its hash differs; fetch it from {one.url}")
    names = None if categories is None else names_listed(categories.read_text())
    weights = Weights(url=str(path), sha256=sha256, **used(spec, categories=names))
    sidecar = path.with_name(f"{path.name}.json")
    sidecar.write_text(sidecar_text(weights))
    return sidecar


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(NAMED), help="under which name it was published")
    parser.add_argument("file", type=Path, help="the checkpoint")
    parser.add_argument("--categories", type=Path, help="the list of its categories; by default it is fetched")
    asked = parser.parse_args()
    try:
        print(describe(asked.name, asked.file, categories=asked.categories))
    except WeightsError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
