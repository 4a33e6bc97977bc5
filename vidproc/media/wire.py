"""How guard and child talk: messages with their length before them, received against a deadline and a size limit.

The child may have been taken over by its input: a message cut short, too long or without sense must not harm the guard.
"""

import socket
import struct
import time

_LENGTH = struct.Struct(">I")

QUESTION = struct.Struct("<QQ")
"""A child's question for bytes: (offset, size). Anything longer is its JSON answer."""

MOST_READ = 4 << 20
"""Bytes of one question; FFmpeg is content with fewer than it asked for."""

MOST_ANSWER = 64 << 20
"""Bytes of one answer: mostly the times of frames."""


class WireError(Exception):
    """The other side sent what no honest one does."""


class DeadlineError(Exception):
    """Time was up before the message was through."""


def send(connection: socket.socket, message: bytes, *, deadline: float | None = None) -> None:
    """Send one message. Raises `EOFError` if the other side is gone, `DeadlineError` (of `time.monotonic`)."""
    try:
        _set_timeout(connection, deadline)
        connection.sendall(_LENGTH.pack(len(message)) + message)
    except TimeoutError:
        raise DeadlineError from None
    except ConnectionError:
        raise EOFError from None


def receive(connection: socket.socket, *, most: int, deadline: float | None = None) -> bytes:
    """One message of at most `most` bytes. Raises as `send` does, and `WireError`."""
    try:
        (length,) = _LENGTH.unpack(_receive(connection, _LENGTH.size, deadline))
        if not 0 < length <= most:
            raise WireError(f"a message of {length} bytes; at most {most} are allowed")
        return _receive(connection, length, deadline)
    except TimeoutError:
        raise DeadlineError from None
    except ConnectionError:
        raise EOFError from None


def _receive(connection: socket.socket, size: int, deadline: float | None) -> bytes:
    pieces = []
    while size:
        _set_timeout(connection, deadline)
        piece = connection.recv(min(size, 1 << 20))
        if not piece:
            raise EOFError
        pieces.append(piece)
        size -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _set_timeout(connection: socket.socket, deadline: float | None) -> None:
    if deadline is not None:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        connection.settimeout(left_s)
