"""Keeps a decoder at arm's length: runs probe and decode in children that may crash, hang or eat memory.

The guard holds the storage connection and its credentials; the child sees a nameless file and asks for ranges. Pixels
come back through shared memory that the guard sizes beforehand, so what a header claims allocates nothing here.
"""

import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import Any

from vidproc.errors import INPUT_ERRORS, Damaged, KilledWorker, TimedOut, TooLarge
from vidproc.media.limits import Limits
from vidproc.media.sandbox import READ, READY
from vidproc.media.sources import OpenSource

_START_S = 120.0
_GRACE_S = 5.0
"""How long the sandbox may take to say how a child ended before it is replaced."""


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
        the source raises (`Missing`, `Changed`, `Unreadable`).
        """
        if output_bytes > self.limits.output_bytes:
            raise TooLarge(
                f"the views ask for {output_bytes} bytes of one segment, the limit is {self.limits.output_bytes}: "
                "sample fewer or smaller frames"
            )
        control = self._start()
        ours, theirs = socket.socketpair()
        memory = os.memfd_create("vidproc")
        try:
            os.ftruncate(memory, max(output_bytes, 1))
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
            socket.send_fds(control, [json.dumps(message).encode()], descriptors)
            theirs.close()
            with Connection(ours.detach()) as child:
                answer = self._converse(child, source)
            output = mmap.mmap(memory, output_bytes, prot=mmap.PROT_READ) if output_bytes else None
        finally:
            os.close(memory)
            theirs.close()
            ours.close()
        if "reason" in answer:
            raise INPUT_ERRORS.get(answer["reason"], Damaged)(answer["detail"])
        return {**answer["ok"], "bytes_read": answer["bytes_read"]}, output

    def _start(self) -> socket.socket:
        if self._sandbox is not None and self._sandbox.poll() is None and self._control is not None:
            return self._control
        self.close()
        ours, theirs = socket.socketpair()
        kept = {name: value for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if (value := os.environ.get(name))}
        env = {
            **kept,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "vidproc.media.sandbox", str(theirs.fileno())]
        self._sandbox = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], env=env, stdin=subprocess.DEVNULL, start_new_session=True
        )
        theirs.close()
        self._control = ours
        ours.settimeout(_START_S)
        try:
            ready = ours.recv(16)
        except TimeoutError:
            ready = b""
        if ready != READY:  # this is no input's fault: nothing may be quarantined for it
            self.close()
            raise RuntimeError(f"the decoding sandbox does not start here: run `{' '.join(command[:3])} 0` to see why")
        ours.settimeout(None)
        return ours

    def _converse(self, child: Connection, source: OpenSource) -> dict[str, Any]:
        """Serve the child's reads until it answers, dies or runs out of time."""
        deadline = time.monotonic() + self.limits.seconds
        try:
            while True:
                if not child.poll(max(deadline - time.monotonic(), 0)):
                    self._end(kill=True)
                    raise TimedOut(
                        f"took longer than {self.limits.seconds:g} s: raise the time limit if the video is worth it"
                    )
                message = child.recv_bytes()
                if len(message) > READ.size:
                    self._end(kill=False)
                    answer: dict[str, Any] = json.loads(message)
                    return answer
                child.send_bytes(source.read(*READ.unpack(message)))
        except (EOFError, ConnectionError, BrokenPipeError):
            raise self._post_mortem() from None
        except (TimedOut, KilledWorker):
            raise
        except BaseException:  # storage failed, or this worker is being stopped: the child has nothing left to do
            self._end(kill=True)
            raise

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
        status = int(ended["status"])
        if status == -signal.SIGXCPU:
            return TimedOut(f"used more than {self.limits.seconds:g} s of processor time")
        name = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return KilledWorker(f"the decoder ended with {name}, peak memory {ended['peak_bytes'] >> 20} MiB")
