"""CEA-608 captions, in a track of their own or in the pictures' user data (ATSC A/53 part 4). Runs in the child.

They are taken from the packets, so that no picture is decoded for them, and read in the order of display.
"""

from collections.abc import Iterator
from heapq import heappop, heappush
from typing import Any

import av
import av.container

from vidproc.media.container import LateError, clock
from vidproc.media.line21 import Caption, Line21
from vidproc.media.sampling import Span
from vidproc.views import MICROSECONDS

_TRACK = "cc_dec"
_CODECS = frozenset({"h264", "hevc", "mpeg2video", "av1", "libdav1d", _TRACK})
"""FFmpeg's names of the decoders whose packets can hold them."""

LONGEST_CAPTION_US = 30 * MICROSECONDS
"""How long after its segment a caption's end is looked for; and what was loaded longer ago is not looked for."""

_USER_DATA, _BEFORE = b"GA94\x03", (b"\xb5\x00\x31", b"\x00\x00\x01\xb2")
"""A/53's identifier and type; and before it ITU-T T.35's country and provider, or MPEG-2's start code."""
_MOST_MESSAGES = 4  # in one packet, which may hold two fields
_MOST_BYTES = 2 + 31 * 3
_REORDERED, _REORDERED_US = 256, MICROSECONDS
"""More pictures, and longer, than any codec shows out of order."""


def caption_tracks(container: av.container.InputContainer) -> list[Any]:
    """The streams of captions alone, as QuickTime has them."""
    return [s for s in container.streams.subtitles if s.codec_context is not None and s.codec_context.name == _TRACK]


def caption_data(packet: Any) -> Iterator[bytes]:
    """The `cc_data` triplets of one packet of a caption track or a picture stream, in its order."""
    name = packet.stream.codec_context.name
    if name not in _CODECS or not packet.size:
        return
    if name == _TRACK:
        yield bytes(packet)
        return
    content, end = bytes(packet), 0
    for _ in range(_MOST_MESSAGES):
        at = content.find(_USER_DATA, end)
        if at < 0:
            return
        end = at + len(_USER_DATA)
        if not content.endswith(_BEFORE, max(at - 4, 0), at):
            continue
        told = content[end : end + 2 * _MOST_BYTES]
        if name in ("h264", "hevc"):  # their units have a 3 wherever two zeros could be taken for a start code
            told = told.replace(b"\x00\x00\x03", b"\x00\x00")
        if len(told) > 2 and told[0] & 0x40:
            yield told[2 : 2 + 3 * (told[0] & 0x1F)]


class Captions:
    """The captions in and around a segment. `stream`: a caption track or the pictures.

    `known`: the first packet is the file's first. `patient`: what a decoder cannot know is taken for empty.
    """

    def __init__(self, stream: Any, segment: Span, *, known: bool, patient: bool) -> None:
        self._index, self._to_us = stream.index, clock(stream.time_base)
        self._segment, self._patient = segment, patient
        self._line = Line21(known=known)
        self._waiting: list[tuple[int, int, bytes]] = []  # time, order, triplets
        self._taken = 0

    def add(self, packet: Any) -> None:
        """Take in a packet, if it is of the stream. Raises `LateError` if more must be known to read it."""
        if packet.stream_index != self._index:
            return
        stamp = packet.pts if packet.pts is not None else packet.dts
        for triplets in caption_data(packet) if stamp is not None else ():
            self._taken += 1
            heappush(self._waiting, (self._to_us(stamp), self._taken, triplets))
        if self._waiting and stamp is not None:
            self._read(self._to_us(packet.dts) if packet.dts is not None else self._to_us(stamp) - _REORDERED_US)

    def is_on(self, read_us: int) -> bool:
        """Whether the end of a caption that started in the segment may still come."""
        soon = read_us <= self._segment.end_us + LONGEST_CAPTION_US
        return soon and any(map(self._inside, self._line.since_us))

    def finish(self) -> list[Caption]:
        """All that there were; what is still shown lasts as long as was looked."""
        self._read(None)
        self._line.finish(self._segment.end_us + LONGEST_CAPTION_US)
        return self._line.captions

    def _read(self, until_us: int | None) -> None:
        """Nothing is shown before it is decoded: what is shown until then is complete."""
        while self._waiting and (
            until_us is None or self._waiting[0][0] <= until_us or len(self._waiting) > _REORDERED
        ):
            time_us, _, triplets = heappop(self._waiting)
            self._line.feed(time_us, triplets)
            if self._line.unknown_us == time_us and self._inside(time_us) and not self._patient:
                raise LateError

    def _inside(self, time_us: int) -> bool:
        return self._segment.start_us <= time_us < self._segment.end_us
