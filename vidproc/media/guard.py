"""Keeps a decoder at arm's length: runs probe and decode in children that may crash, hang or eat memory.

The guard holds the storage connection and its credentials; the child sees a nameless file and asks for ranges. Pixels
come back through shared memory that the guard sizes beforehand, so what a header claims allocates nothing here.
"""

import fcntl
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict
from typing import Any

from vidproc.errors import INPUT_ERRORS, InputError, KilledWorker, TimedOut, TooLarge
from vidproc.media.limits import Limits
from vidproc.media.sandbox import READY
from vidproc.media.sources import OpenSource
from vidproc.media.wire import MOST_ANSWER, MOST_READ, QUESTION, DeadlineError, WireError, receive, send

_SANDBOX = "vidproc.media.sandbox"
_START_S, _STARTS = 120.0, 3
"""How long a sandbox may take to start, and how often it is tried: memory may be short for a moment."""
_GRACE_S = 5.0
"""How long the sandbox may take to say how a child ended before it is replaced."""
_MOST_BYTES = 1 << 50
BYTES_READ: Counter[str] = Counter()
"""Bytes of sources that this process's tasks have read, by task ("probe", "decode"), the failed ones too."""


class Guard:
    """Runs one child at a time. Not thread-safe: one guard per worker. Close it, or use it as a context manager."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._sandbox: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def __enter__(self) -> "Guard":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the sandbox; a child that still runs dies with it."""
        if self._control is not None:
            self._control.close()
        if self._sandbox is not None:
            self._sandbox.kill()
            self._sandbox.wait()
        self._sandbox = self._control = None

    def run(
        self, task: str, request: dict[str, Any], source: OpenSource, *, output_bytes: int = 0
    ) -> tuple[dict[str, Any], mmap.mmap | None]:
        """Run `task` ("probe" or "decode") on `source` in a fresh child; return its answer and the filled output.

        Raises what the child found (`NotMedia`, `Damaged`, …), `TimedOut`, `TooLarge`, `KilledWorker`, and what reading
        the source raises (see `open_source`). RuntimeError if this machine can start no process.
        """
        if output_bytes > self.limits.output_bytes:
            raise TooLarge(
                f"the views ask for {output_bytes} bytes of one segment, the limit is {self.limits.output_bytes}: "
                "sample fewer or smaller frames"
            )
        ours, theirs = socket.socketpair()
        memory = os.memfd_create("vidproc", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(memory, max(output_bytes, 1))
            fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            local = source.local
            message = {
                **request,
                "task": task,
                "size": source.size,
                "offset": local[1] if local else 0,
                "output_bytes": output_bytes,
                "limits": asdict(self.limits),
            }
            descriptors = [theirs.fileno(), memory, *([local[0]] if local else [])]
            self._send(json.dumps(message).encode(), descriptors)
            theirs.close()
            answer = self._converse(ours, source)
            output = mmap.mmap(memory, output_bytes, prot=mmap.PROT_READ) if output_bytes else None
        finally:
            os.close(memory)
            theirs.close()
            ours.close()
        return answer, output

    def _send(self, message: bytes, descriptors: list[int]) -> None:
        """Hand a request to the sandbox; to a new one if it has been killed since its last task."""
        try:
            socket.send_fds(self._running(), [message], descriptors)
        except OSError:
            self.close()
            socket.send_fds(self._running(), [message], descriptors)

    def _running(self) -> socket.socket:
        """The way to the sandbox, which is started if need be. Raises RuntimeError if that does not work."""
        if self._sandbox is not None and self._sandbox.poll() is None and self._control is not None:
            return self._control
        for _ in range(_STARTS):
            self.close()
            if (control := self._start()) is not None:
                return control
        self.close()  # this is no input's fault: nothing may be quarantined for it
        command = f"{sys.executable} -m {_SANDBOX} 0"
        raise RuntimeError(f"the decoding sandbox did not start {_STARTS} times: run `{command}` to see why")

    def _start(self) -> socket.socket | None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # messages stay apart
        kept = {name: value for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if (value := os.environ.get(name))}
        env = {
            **kept,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", _SANDBOX, str(theirs.fileno())]
        self._sandbox = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], env=env, stdin=subprocess.DEVNULL, start_new_session=True
        )
        theirs.close()
        self._control = ours
        ours.settimeout(_START_S)
        try:
            ready = ours.recv(16)
        except OSError:  # too slow, or killed while it starts
            ready = b""
        if ready != READY:
            return None
        ours.settimeout(None)
        return ours

    def _converse(self, child: socket.socket, source: OpenSource) -> dict[str, Any]:
        """Serve the child's reads until it answers, dies or runs out of time. Raises what it found."""
        deadline = time.monotonic() + self.limits.seconds
        try:
            while len(message := receive(child, most=MOST_ANSWER, deadline=deadline)) <= QUESTION.size:
                asked = time.monotonic()
                data = _bytes_for(message, source)
                deadline += time.monotonic() - asked  # what storage takes, no video is blamed for
                send(child, data, deadline=deadline)
            answer = _parsed(message)
        except DeadlineError:
            self._end(kill=True)
            raise TimedOut(
                f"took longer than {self.limits.seconds:g} s: raise the time limit if the video is worth it"
            ) from None
        except (WireError, ValueError, RecursionError) as error:  # the last for [[[[…
            self._end(kill=True)
            raise KilledWorker(f"the decoder's answers make no sense, so it was ended: {error}") from None
        except EOFError:
            raise self._post_mortem() from None
        except BaseException:  # storage failed, or this worker is being stopped: the child has nothing left to do
            self._end(kill=True)
            raise
        self._end(kill=False)
        if isinstance(answer, InputError):
            raise answer
        return answer

    def _end(self, *, kill: bool) -> dict[str, Any] | None:
        """Have the child's end confirmed. None, and a new sandbox next time, if the sandbox itself is gone."""
        assert self._control is not None
        try:
            if kill:
                self._control.send(b"kill")
            self._control.settimeout(_GRACE_S)
            told = self._control.recv(1 << 16)
            self._control.settimeout(None)
        except OSError:
            told = b""
        if not told:
            self.close()
            return None
        ended: dict[str, Any] = json.loads(told)
        return ended

    def _post_mortem(self) -> KilledWorker | TimedOut:
        ended = self._end(kill=False)
        if ended is None:
            return KilledWorker("the decoding process was killed together with its parent, most likely for memory")
        if "cannot_fork" in ended:  # this is no input's fault: nothing may be quarantined for it
            raise RuntimeError(
                f"this machine cannot fork another process ({ended['cannot_fork']}): "
                "free memory, or raise its limit of processes (`ulimit -u`, pids.max of the container)"
            )
        status = int(ended["status"])
        if status == -signal.SIGXCPU:
            return TimedOut(f"used more than {self.limits.seconds:g} s of processor time")
        name = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return KilledWorker(f"the decoder ended with {name}, peak memory {ended['peak_bytes'] >> 20} MiB")


def run_verified(
    guard: Guard, task: str, request: dict[str, Any], source: OpenSource, *, output_bytes: int = 0
) -> tuple[dict[str, Any], mmap.mmap | None]:
    """Run a task on an open source. Raises `Changed` before all else: a replaced file may look like a broken one."""
    answer: dict[str, Any] = {}
    try:
        answer, output = guard.run(task, request, source, output_bytes=output_bytes)
        return answer, output
    finally:
        BYTES_READ[task] += source.bytes_read if source.local is None else answer.get("bytes_read", 0)
        source.verify()


_guards: dict[Limits, Guard] = {}


def process_guard(limits: Limits | None = None) -> Guard:
    """This process's guard: its sandbox starts once, not once per task."""
    limits = limits or Limits()
    if limits not in _guards:
        close_guards()  # another run's, with other limits
        _guards[limits] = Guard(limits)
    return _guards[limits]


def close_guards() -> None:
    """End this process's sandboxes now; elsewhere they die with their worker."""
    while _guards:
        _guards.popitem()[1].close()


def _bytes_for(question: bytes, source: OpenSource) -> bytes:
    """What a child asked of the source."""
    if len(question) != QUESTION.size:
        raise WireError(f"a question of {len(question)} bytes")
    offset, size = QUESTION.unpack(question)
    if not 0 < size <= MOST_READ or offset + size > source.size:
        raise WireError(f"it asks for {size} bytes from {offset}")
    return source.read(offset, size)


def _parsed(message: bytes) -> dict[str, Any] | InputError:
    """A child's answer: facts, or what is wrong with the input. Raises `WireError`, `ValueError` or
    `RecursionError` if it is neither.
    """
    answer = json.loads(message)
    match answer:
        case {"ok": dict(facts), "bytes_read": int(bytes_read)} if 0 <= bytes_read < _MOST_BYTES:
            return {**facts, "bytes_read": bytes_read}
        case {"reason": str(reason), "detail": str(detail)} if reason in INPUT_ERRORS:
            return INPUT_ERRORS[reason](detail)
    raise WireError(f"{message[:100]!r} is no answer")
