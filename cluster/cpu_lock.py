"""What of requirements.lock a node without a GPU needs: all but torch, torchvision and what only CUDA is for.

    python cluster/cpu_lock.py requirements.lock            the other packages, with their hashes
    python cluster/cpu_lock.py --torch requirements.lock    torch==2.15.0 torchvision==0.29.2

For the image's `cpu` variant (see Dockerfile).
"""

import re
import sys
from pathlib import Path

_TORCH = ("torch", "torchvision")
_ONLY_CUDA = re.compile(r"(nvidia|cuda)-[\w.-]+|triton")


def entries(lock: str) -> list[tuple[str, str]]:
    """Names with their texts, from the name to the last hash. A name may come twice, for different Pythons."""
    found = re.split(r"^(?=\w)", lock, flags=re.MULTILINE)
    return [(entry.partition("==")[0], entry) for entry in found if "==" in entry]


def without_cuda(lock: str) -> str:
    """The lock less torch, torchvision and CUDA's libraries."""
    return "".join(entry for name, entry in entries(lock) if name not in _TORCH and not _ONLY_CUDA.fullmatch(name))


def torch_pins(lock: str) -> str:
    """`torch==… torchvision==…`: pip takes a local version such as 2.15.0+cpu for them."""
    return " ".join(entry.split()[0] for name, entry in entries(lock) if name in _TORCH)


if __name__ == "__main__":
    text = Path(sys.argv[-1]).read_text()
    print(torch_pins(text) if sys.argv[1] == "--torch" else without_cuda(text))
