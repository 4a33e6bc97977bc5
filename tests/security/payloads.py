"""Files that run code in whoever unpickles them without care: the code touches a file, so that a test can tell."""

import io
import pickle
import tarfile
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Forms = dict[str, Callable[[Path], bytes]]


class Payload:
    """Unpickled, it touches `mark`."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


def _saved(value: Any, *, zipped: bool) -> bytes:
    out = io.BytesIO()
    torch.save(value, out, _use_new_zipfile_serialization=zipped)
    return out.getvalue()


def _state(mark: Path) -> Any:
    return {"state_dict": OrderedDict(fc=torch.ones(2)), "epoch": 3, "optimizer": {"state": Payload(mark)}}


def _tar(mark: Path) -> bytes:
    """torch's format before 0.1.10."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, value in (("sys_info", {}), ("pickle", Payload(mark)), ("tensors", 0), ("storages", 0)):
            data = pickle.dumps(value if name == "pickle" else Payload(mark), protocol=2)
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def _script(mark: Path) -> bytes:
    """A TorchScript archive, whose own pickle carries the payload."""
    out, again = io.BytesIO(), io.BytesIO()
    with warnings.catch_warnings(action="ignore"):  # it is deprecated, and its files are still about
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), out)
    with zipfile.ZipFile(out) as source, zipfile.ZipFile(again, "w", zipfile.ZIP_STORED) as target:
        for name in source.namelist():
            data = pickle.dumps(Payload(mark), protocol=2) if name.endswith("data.pkl") else source.read(name)
            target.writestr(name, data)
    return again.getvalue()


def _by_opcodes(module: str, name: str) -> Callable[[Path], bytes]:
    """A checkpoint whose pickle calls `module.name(mark, "w")`: by name, no class of ours in sight."""

    def made(mark: Path) -> bytes:
        call = f"c{module}\n{name}\n(V{mark}\nVw\ntR.".encode()
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr("archive/data.pkl", b"\x80\x02" + call)
            archive.writestr("archive/version", b"3\n")
        return out.getvalue()

    return made


FORMS: Forms = {
    "bare pickle": lambda mark: pickle.dumps(Payload(mark), protocol=2),
    "zip": lambda mark: _saved({"state_dict": Payload(mark)}, zipped=True),
    "zip, hidden in an optimiser's state": lambda mark: _saved(_state(mark), zipped=True),
    "before zip": lambda mark: _saved(_state(mark), zipped=False),
    "tar": _tar,
    "TorchScript": _script,
    "builtins.open": _by_opcodes("builtins", "open"),
    "io.open": _by_opcodes("io", "open"),
    "torch.load": _by_opcodes("torch", "load"),
    "numpy.load": _by_opcodes("numpy", "load"),
}
"""How checkpoints have been saved over the years, each with the payload. Protocol 2: what readers without care take."""
