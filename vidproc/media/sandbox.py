"""The process that decodes: forks one short-lived, limited child per request (`python -m vidproc.media.sandbox FD`).

`guard.Guard` starts it. It is single-threaded and holds PyAV imported, so that a child costs milliseconds. A child has
no environment to steal, is confined to what decoding needs (`confine`), has a memory and a CPU limit, is the kernel's
first choice when memory runs out, and dies with this process, which dies with its guard.
"""

import gc
import json
import mmap
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from vidproc.errors import InputError, TooLarge
from vidproc.media.confine import confine
from vidproc.media.wire import MOST_READ, QUESTION, receive, send

READY = b"ready"
"""What the sandbox says first: it has started and takes requests."""


class InputFile:
    """The nameless, read-only file that FFmpeg sees: a stretch of a local descriptor, or bytes asked of the guard."""

    def __init__(self, size: int, *, descriptor: int | None, offset: int, guard: socket.socket) -> None:
        self._size, self._position = size, 0
        self._descriptor, self._offset, self._guard = descriptor, offset, guard
        self.bytes_read = 0

    def read(self, size: int = -1) -> bytes:
        left = max(self._size - self._position, 0)
        size = min(left if size < 0 else min(size, left), MOST_READ)
        if size == 0:
            return b""
        if self._descriptor is not None:
            data = os.pread(self._descriptor, size, self._offset + self._position)
        else:
            send(self._guard, QUESTION.pack(self._position, size))
            data = receive(self._guard, most=MOST_READ)
        self._position += len(data)
        self.bytes_read += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(base + offset, 0)
        return self._position

    def tell(self) -> int:
        return self._position


Task = Callable[[InputFile, dict[str, Any], memoryview], dict[str, Any]]


def _answer(task: Task, request: dict[str, Any], descriptors: list[int], parent: int) -> None:
    guard = socket.socket(fileno=descriptors[0])
    output = memoryview(b"")
    if request["output_bytes"]:
        output = memoryview(mmap.mmap(descriptors[1], request["output_bytes"]))
    descriptor = descriptors[2] if len(descriptors) > 2 else None
    file = InputFile(request["size"], descriptor=descriptor, offset=request["offset"], guard=guard)
    confine(request["limits"], parent)
    try:
        answer = {"ok": task(file, request, output), "bytes_read": file.bytes_read}
    except InputError as error:
        answer = {"reason": error.reason, "detail": str(error)}
    except MemoryError:
        answer = {
            "reason": TooLarge.reason,
            "detail": f"needs more than {request['limits']['memory_bytes']} bytes of memory",
        }
    except Exception as error:  # whatever a hostile file provokes is that file's fault: a row, not a crash
        answer = {"reason": "damaged", "detail": f"{type(error).__name__}: {error}"}
    send(guard, json.dumps(answer).encode().ljust(QUESTION.size + 1))


def _supervise(child: int, control: socket.socket) -> None:
    """Wait for the child; on word from the guard (or its end) kill it. Then tell the guard how it ended."""
    watched = os.pidfd_open(child)
    try:
        ready, _, _ = select.select([watched, control.fileno()], [], [])
        if watched not in ready:
            os.kill(child, signal.SIGKILL)
            if not control.recv(16):
                os._exit(0)
        _, status, usage = os.wait4(child, 0)
    finally:
        os.close(watched)
    told: dict[str, float] = {"status": os.waitstatus_to_exitcode(status), "peak_bytes": usage.ru_maxrss * 1024}
    told["cpu_s"] = usage.ru_utime + usage.ru_stime
    control.send(json.dumps(told).encode())


def serve(control: socket.socket, tasks: dict[str, Task]) -> None:
    """Answer requests, one child each, until the guard closes its end."""
    me = os.getpid()
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1 << 20, 3)
        if not message:
            return
        if message == b"kill":  # came too late: its child had already ended
            continue
        request = json.loads(message)
        try:
            child = os.fork()
        except OSError as error:  # too many processes or too little memory: no fault of the video's
            _close(descriptors)
            control.send(json.dumps({"cannot_fork": str(error)}).encode())
            continue
        if child == 0:
            control.close()
            try:
                _answer(tasks[request["task"]], request, descriptors, me)
            finally:
                os._exit(0)
        _close(descriptors)
        _supervise(child, control)


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def main() -> None:
    from vidproc.media import (  # here: importing them imports PyAV, which the guard's side must not pay for
        decode,
        probe,
    )

    decode.prepare_process()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver, which then closes its guards
    tasks: dict[str, Task] = {"probe": probe.run, "decode": decode.run}
    gc.collect()
    gc.freeze()  # a child that collects garbage would copy these pages
    os.nice(5)  # the networks go first: decoding fills the time that they leave
    control = socket.socket(fileno=int(sys.argv[1]))
    control.send(READY)
    serve(control, tasks)


if __name__ == "__main__":
    main()
