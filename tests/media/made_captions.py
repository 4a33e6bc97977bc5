"""Videos whose pictures carry CEA-608 captions, made for tests: pairs are put into the packets of an encoder."""

from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import av
from media.made_videos import drawing

Pair = tuple[int, int]
NOTHING: Pair = (0, 0)
RCL, BS, DER, RU2, RU3, RDC, TR, EDM, CR, ENM, EOC = (
    (0x14, code) for code in (0x20, 0x21, 0x24, 0x25, 0x26, 0x29, 0x2A, 0x2C, 0x2D, 0x2E, 0x2F)
)
_ROWS = {11: 0x1040, 1: 0x1140, 2: 0x1160, 3: 0x1240, 12: 0x1340, 13: 0x1360, 14: 0x1440, 15: 0x1460, 8: 0x1660}
SIZE = (64, 48)


def twice(*codes: Pair) -> list[Pair]:
    """As encoders send them."""
    return [code for code in codes for _ in range(2)]


def row(number: int, *, indent: int = 0) -> Pair:
    """The code that says where to write."""
    place = _ROWS[number] + 0x10 + indent // 4 * 2
    return place >> 8, place & 0xFF


def typed(text: str) -> list[Pair]:
    """Plain characters, two by two."""
    codes = text.encode("ascii")
    return list(zip_longest(codes[::2], codes[1::2], fillvalue=0))


def popped(*rows: str, first: int = 14, cleared: bool = True) -> list[Pair]:
    """A caption that is loaded, and then shown."""
    pairs = twice(RCL, ENM) if cleared else twice(RCL)
    for number, text in enumerate(rows, start=first):
        pairs += twice(row(number)) + typed(text)
    return pairs + twice(EOC)


def rolled(text: str) -> list[Pair]:
    """A line of a caption that rolls up."""
    return twice(RU2, CR, row(15)) + typed(text)


def channel_2(pairs: Iterable[Pair]) -> list[Pair]:
    """The same in the second channel of the field."""
    return [(first | 8, second) if 0x10 <= first < 0x20 else (first, second) for first, second in pairs]


def with_parity(byte: int) -> int:
    """Line 21's parity is odd."""
    return byte if byte.bit_count() & 1 else byte | 0x80


def triplets(first: Pair | None, second: Pair | None = None) -> bytes:
    """`cc_data` of one picture; None: no pair of that field counts."""
    told = [
        bytes([0xFC | number, *map(with_parity, pair)]) if pair is not None else bytes([0xF8 | number, 0x80, 0x80])
        for number, pair in enumerate((first, second))
    ]
    return b"".join(told) + b"\xfa\x00\x00"


def make_captioned(
    path: Path,
    pictures: Sequence[bytes],
    *,
    codec: str = "libx264",
    fps: int = 30,
    gop_s: float = 2,
    options: dict[str, str] | None = None,
    size: tuple[int, int] = SIZE,
    mark: Callable[[bytes, bytes], bytes] | None = None,
) -> Path:
    """One picture for each `cc_data`, with B-frames: packets are not in the order of display."""
    mark = mark or (in_mpeg2 if codec == "mpeg2video" else in_h264)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(
            codec, rate=fps, options={"bf": "2", "g": str(round(gop_s * fps))} | (options or {})
        )
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.thread_count = 1
        for number in range(len(pictures)):
            frame = av.VideoFrame.from_ndarray(drawing(number, width=size[0], height=size[1]), format="rgb24")
            frame.pts = number
            _mux(container, stream, stream.encode(frame), pictures, mark)
        _mux(container, stream, stream.encode(), pictures, mark)
    return path


def _mux(container: Any, stream: Any, packets: Any, pictures: Sequence[bytes], mark: Any) -> None:
    for packet in packets:
        told = pictures[int(packet.pts * packet.time_base * stream.codec_context.framerate)]
        marked = av.Packet(mark(bytes(packet), user_data(told)) if told else bytes(packet))
        marked.stream, marked.time_base = stream, packet.time_base
        marked.pts, marked.dts, marked.duration = packet.pts, packet.dts, packet.duration
        marked.is_keyframe = packet.is_keyframe
        container.mux(marked)


def user_data(told: bytes) -> bytes:
    """A/53 part 4, 6.2.3: identifier, type, flags and count, a byte that nobody reads, triplets, marker bits."""
    return b"GA94\x03" + bytes([0x40 | len(told) // 3, 0xFF]) + told + b"\xff"


def in_h264(packet: bytes, user: bytes) -> bytes:
    """Before the picture's units a message of ITU-T T.35, with the bytes that keep start codes out of it."""
    message = b"\xb5\x00\x31" + user
    escaped = (bytes([4, len(message)]) + message).replace(b"\x00\x00", b"\x00\x00\x03")
    return b"\x00\x00\x00\x01\x06" + escaped + b"\x80" + packet


def in_mpeg2(packet: bytes, user: bytes) -> bytes:
    """Before the first slice."""
    at = packet.index(b"\x00\x00\x01\x01")
    return packet[:at] + b"\x00\x00\x01\xb2" + user + packet[at:]
