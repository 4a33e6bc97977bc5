"""Plants faults in the decoding child, keyed on the last bytes of a file (`planting.poisoned`).

Python imports this by itself where its folder is on PYTHONPATH. The sandbox inherits the guard's `sys.path`, so
production code needs no hook: `probe.run` and `decode.run` are replaced as they are imported.
"""

import ctypes
import fcntl
import importlib.abc
import importlib.machinery
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

_MARK = b"POISON:"
_MINE: list[int] = []
_PATCHED = {"vidproc.media.probe": "probe", "vidproc.media.decode": "decode"}


def _wanted_fault(file: Any, task: str) -> str | None:
    """The fault a file asks of `task`, None for none: `segfault` is for both, `decode/segfault` for decode alone."""
    file.seek(-32, os.SEEK_END)
    _, mark, fault = file.read(32).partition(_MARK)
    file.seek(0)
    where, _, name = fault.rstrip(b"\0").decode(errors="replace").rpartition("/")
    return name if mark and where in ("", task) else None


def _hoard() -> None:
    held = []
    while True:
        held.append(bytearray(1 << 24))


def _spin() -> None:
    while True:
        pass


def _mine() -> int:
    """A descriptor that kills this process, the sandbox, when a child writes to it: a child may send no signals."""
    watched, mine = os.pipe()
    fcntl.fcntl(watched, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(watched, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(watched, fcntl.F_SETFL, os.O_ASYNC)
    return mine


def _kill_sandbox() -> None:
    os.write(_MINE[0], b"!")
    time.sleep(3600)


def _read_forever(descriptor: int) -> None:
    while True:
        os.write(descriptor, (16).to_bytes(4, "big") + bytes(8) + (1).to_bytes(8, "little"))
        os.read(descriptor, 1 << 16)


def _say(descriptor: int, message: bytes, claimed: int) -> None:
    """Write to the guard past `Connection`: so many bytes are claimed, these are sent."""
    os.write(descriptor, claimed.to_bytes(4, "big") + message)
    time.sleep(3600)


def _raise(error: Exception) -> None:
    raise error


_FAULTS: dict[str, Callable[[int], None]] = {
    "segfault": lambda _: ctypes.string_at(0) and None,
    "sleep": lambda _: time.sleep(3600),
    "busy": lambda _: _spin(),
    "memory": lambda _: _hoard(),
    "kill": lambda _: os.kill(os.getpid(), 9),
    "exit": lambda _: os._exit(0),
    "kill_sandbox": lambda _: _kill_sandbox(),
    "error": lambda _: _raise(RuntimeError("planted")),
    "garbage": lambda fd: _say(fd, b"\xff" * 64, 64),
    "no_answer": lambda fd: _say(fd, b"[1, 2]".ljust(64), 64),
    "brackets": lambda fd: _say(fd, b"[" * 200_000, 200_000),
    "wrong_answer": lambda fd: _say(fd, b'{"reason": 7}'.ljust(64), 64),
    "half_message": lambda fd: _say(fd, b"{", 64),
    "huge_message": lambda fd: _say(fd, b"{" * 4096, 0x7FFFFF00),
    "short_question": lambda fd: _say(fd, b"abc", 3),
    "vast_question": lambda fd: _say(fd, bytes(8) + b"\xff" * 8, 16),
    "read_forever": _read_forever,
}


def _patch(module: ModuleType, task: str) -> None:
    run = module.run

    def poisoned_run(file: Any, request: dict[str, Any], output: memoryview) -> Any:
        fault = _wanted_fault(file, task)
        if fault is not None:
            _FAULTS[fault](file._guard.fileno())
        return run(file, request, output)

    module.run = poisoned_run
    _MINE.append(_mine())


class _Loader(importlib.abc.Loader):
    """Loads as the real loader does, then patches."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._real.exec_module(module)
        _patch(module, _PATCHED[module.__name__])


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        if name not in _PATCHED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


sys.meta_path.insert(0, _Finder())
