"""A confined child reaches nothing beyond itself, and decoding does not miss it."""

import ctypes
import errno
import faulthandler
import json
import os
import platform
import re
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decoding import decode_all, probe
from made_videos import make_video

from vidproc.media import confine
from vidproc.media.guard import Guard
from vidproc.media.limits import Limits
from vidproc.views import Audio, Frames, Picture

LIMITS = {"seconds": 20, "memory_bytes": 8 << 30}
FRAMES = Frames(fps=2, picture=Picture(resize=(24, 32)))
FORKS_ALL_BUT_ONCE = """
import errno, os
forks = [os.fork]
def fork():
    if len(forks) == 1:
        forks.append(None)
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return forks[0]()
os.fork = fork
"""
SECRET = ctypes.create_string_buffer(b"a secret of the guard's")

pytestmark = pytest.mark.skipif(platform.machine() not in confine._MACHINES, reason="no filter for this machine")

COLUMN = confine._MACHINES.get(platform.machine(), (0, 0))[0]


def _in_child(task: Callable[[], Any], *, confined: bool = True) -> Any:
    """What `task` returns in a fork of this process; the signal's number, negative, if it died of one."""
    parent = os.getpid()
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if confined:
                confine.confine(LIMITS, parent)
            os.write(sending, json.dumps(task()).encode())
        finally:
            os._exit(0)
    os.close(sending)
    with os.fdopen(receiving) as answer:
        text = answer.read()
    _, status = os.waitpid(child, 0)
    return json.loads(text) if text else os.waitstatus_to_exitcode(status)


def _call(number: int | None, *arguments: Any) -> int:
    """The error number of a system call, 0 if it went well."""
    libc = ctypes.CDLL(None, use_errno=True)
    ctypes.set_errno(0)
    failed = libc.syscall(number, *arguments) == -1
    return ctypes.get_errno() if failed else 0


def _numbered(name: str) -> int | None:
    return confine._DENIED[name][COLUMN]


def _spied() -> list[Any]:
    """Reads `SECRET` from the parent's memory: the error number, and what was read."""
    read = ctypes.create_string_buffer(len(SECRET))
    ours = (ctypes.c_size_t * 2)(ctypes.addressof(read), len(SECRET))
    theirs = (ctypes.c_size_t * 2)(ctypes.addressof(SECRET), len(SECRET))
    one = ctypes.c_ulong(1)
    error = _call(_numbered("process_vm_readv"), os.getppid(), ours, one, theirs, one, ctypes.c_ulong(0))
    return [error, read.value.decode()]


def test_a_child_cannot_read_its_guards_memory() -> None:
    assert _in_child(_spied) == [errno.EPERM, ""]


def test_without_the_filter_it_could(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the test above would pass for want of a right call."""
    if _in_child(_spied, confined=False)[0]:
        pytest.skip("this machine lets no process read its parent's memory")
    assert _in_child(_spied, confined=False) == [0, SECRET.value.decode()]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("ptrace", (16, os.getppid(), 0, 0)),
        ("pidfd_open", (os.getpid(), 0)),
        ("tkill", (os.getpid(), 0)),
        ("prctl", (1, 0)),  # PR_SET_PDEATHSIG
        ("prlimit64", (0, 3, None, None)),
        ("fcntl", (0, 8, os.getpid())),  # F_SETOWN
        ("socket", (1, 1, 0)),
        ("socketpair", (1, 1, 0, None)),
        ("execve", (b"/bin/true", None, None)),
        ("openat", (-100, b"/dev/null", 0)),
        ("memfd_create", (b"", 0)),
        ("ftruncate", (1, 0)),
        ("unlinkat", (-100, b"/nowhere/at-all", 0)),
        ("renameat2", (-100, b"/nowhere/a", -100, b"/nowhere/b", 0)),
        ("unshare", (0,)),
        ("bpf", (0, None, 0)),
        ("io_uring_setup", (1, None)),
    ],
)
def test_a_child_is_refused(name: str, arguments: tuple[Any, ...]) -> None:
    assert _in_child(lambda: _call(_numbered(name), *arguments)) == errno.EPERM


def test_every_call_of_the_list_is_refused() -> None:
    def errors() -> dict[str, int]:
        numbers = {name: numbers[COLUMN] for name, numbers in confine._DENIED.items()}
        return {name: _call(number, -1, -1, -1, -1, -1) for name, number in numbers.items() if number is not None}

    assert set(_in_child(errors).values()) == {errno.EPERM}


def test_a_child_signals_itself_alone() -> None:
    guard, kill, tgkill = os.getpid(), confine._KILL[COLUMN], confine._TGKILL[COLUMN]
    assert _in_child(lambda: _call(kill, guard, 0)) == errno.EPERM
    assert _in_child(lambda: _call(tgkill, guard, guard, 0)) == errno.EPERM
    assert _in_child(lambda: _call(kill, 0, 0)) == errno.EPERM  # its process group
    assert _in_child(lambda: _call(kill, -1, 0)) == errno.EPERM  # everyone
    assert _in_child(lambda: os.kill(os.getpid(), signal.SIGKILL)) == -signal.SIGKILL
    assert _in_child(lambda: (faulthandler.disable(), os.abort())) == -signal.SIGABRT


def test_a_child_has_threads_but_no_children() -> None:
    def count() -> int:
        done: list[int] = []
        thread = threading.Thread(target=done.append, args=[1])
        thread.start()
        thread.join()
        return len(done)

    def fork() -> int | None:
        try:
            if os.fork() == 0:
                os._exit(0)
        except OSError as error:
            return error.errno
        return 0

    assert _in_child(count) == 1
    assert _in_child(fork) == errno.EPERM


def test_later_system_calls_and_the_x32_abi_are_not_there() -> None:
    assert _in_child(lambda: _call(451, -1, None, None, 0)) == errno.ENOSYS  # cachestat
    assert _in_child(lambda: _call(0x40000000 + 520, b"/bin/true", None, None)) == errno.ENOSYS  # execve of x32


def test_a_child_has_no_capabilities() -> None:
    def effective() -> list[int]:
        header, sets = (ctypes.c_uint32 * 2)(confine._CAPABILITIES_3, 0), (ctypes.c_uint32 * 6)(*[1] * 6)
        assert ctypes.CDLL(None).capget(header, sets) == 0
        return list(sets)

    assert _in_child(effective) == [0] * 6


@pytest.mark.parametrize(
    ("column", "header"),
    [(0, "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), (1, "/usr/include/asm-generic/unistd.h")],
)
def test_the_numbers_are_those_of_the_kernels_headers(column: int, header: str) -> None:
    if not Path(header).exists():
        pytest.skip(f"no {header}: install linux-libc-dev")
    defined = re.findall(r"#define\s+__NR(?:3264)?_(\w+)\s+(\d+)", Path(header).read_text())
    numbers = {name: int(number) for name, number in defined}
    ours = {**confine._DENIED, "kill": confine._KILL, "tgkill": confine._TGKILL, "clone": confine._CLONE}
    ours["clone3"] = confine._CLONE3
    assert {name: pair[column] for name, pair in ours.items()} == {name: numbers.get(name) for name in ours}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_fits_the_kernels_limit(machine: str) -> None:
    assert len(confine._program(machine, 1)) // 8 <= 4096


def test_a_video_with_sound_decodes_in_a_confined_child(tmp_path: Path) -> None:
    sound = (np.sin(np.arange(96_000) / 20) * 10_000).astype(np.int16)
    video = make_video(tmp_path / "video.mp4", "libx264", [i * 100 for i in range(20)], sound=sound)
    with Guard(Limits(seconds=10)) as guard:
        found = decode_all(guard, video, [FRAMES, Audio()], probe(guard, video))
    assert not found.errors
    assert len(found.joined(0)) == 4
    assert np.abs(found.joined(1)).max() > 5_000


def test_a_fork_that_fails_is_no_videos_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(FORKS_ALL_BUT_ONCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    video = make_video(tmp_path / "video.mp4", "libx264", [i * 100 for i in range(20)])
    with Guard(Limits(seconds=10)) as guard:
        with pytest.raises(RuntimeError, match=r"cannot fork another process .*Resource temporarily unavailable"):
            probe(guard, video)
        sandbox = guard._sandbox
        assert probe(guard, video)["has_picture"]
        assert guard._sandbox is sandbox, "it shall live on"
