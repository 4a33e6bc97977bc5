"""The packets of one segment: from a keyframe at or before its start to where nothing of it can come any more."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import av
import av.container
import av.format

from vidproc.errors import Damaged
from vidproc.media.container import LateError, clock, has_own_times, time_stamp
from vidproc.media.decoders import holds_picture
from vidproc.media.subtitles import SegmentText
from vidproc.views import MICROSECONDS

RUN_INS_US: tuple[int | None, ...] = (0, 5 * MICROSECONDS, 30 * MICROSECONDS, None)
"""How far before a segment's start to look for its keyframe, until one is found; None: from the start of the file."""

SOUND_RUN_IN_US = MICROSECONDS // 2
"""A sound decoder's first packets come out wrong: they overlap with what came before them."""

_NO_TIMESTAMPS: int = av.format.Flags.no_timestamps.value  # type: ignore[assignment]  # the stubs call it a Flags

_LAG_US = 10 * MICROSECONDS
"""How far behind its neighbour one stream may be in the file before it counts as ended."""


def seek(container: av.container.InputContainer, stream: Any, time_us: int) -> bool:
    """To a keyframe at or before a time. False, and at the start, where the container cannot. To be called first."""
    if container.format.flags & _NO_TIMESTAMPS:
        return False
    try:
        container.seek(time_stamp(time_us, stream.time_base), stream=stream, backward=True)
        return True
    except (av.FFmpegError, OverflowError):
        pass
    try:
        container.seek(0)
    except av.FFmpegError:
        raise Damaged("cannot be read from its start again") from None
    return False


@dataclass(frozen=True, kw_only=True)
class Extent:
    """What of the streams a segment needs. `by_us`: after a seek, the latest time at which they may set in."""

    last_picture_us: int
    sound_end_us: int
    ends_video: bool
    by_us: int | None


TEXT_RUN_IN_US = MICROSECONDS
"""How far before its time the packet of a subtitle may lie: muxers order by time, but sort equal times as they like."""

CAPTION_RUN_IN_US = 6 * MICROSECONDS
"""How far before a segment to look for captions at first: a caption is loaded in a few seconds, then it is shown."""


def without_run_in(packets: Iterable[Any], pictures: Any, by_us: int) -> Iterator[Any]:
    """Leave out the pictures before the last keyframe at or before a time: they were read for their captions alone."""
    held: list[Any] = []
    to_us, packets = clock(pictures.time_base), iter(packets)
    for packet in packets:
        if packet.stream_index != pictures.index:
            yield packet
            continue
        stamp = packet.pts if packet.pts is not None else packet.dts
        late = stamp is None or to_us(stamp) > by_us
        if packet.is_keyframe and not late:
            held.clear()
        held.append(packet)
        if late:
            break
    yield from held
    yield from packets


class SegmentPackets:
    """Iterates over the packets that one segment can need. `torn`: the file could not be read as far as that.

    Those of text go to `text` and are not given out. `texts`: its streams, too sparse to tell by their own packets when
    to stop: `streams` do, read on to where `text` is over, where the other views are content with less. Without any
    `streams` the file is read to its end.
    """

    def __init__(
        self,
        container: av.container.InputContainer,
        streams: list[Any],
        extent: Extent,
        *,
        texts: list[Any],
        text: SegmentText | None,
    ) -> None:
        self._packets = container.demux([*streams, *texts])
        self._texts, self._text = {stream.index for stream in texts}, text if text is not None and text.reads else None
        self._own_times = has_own_times(container)
        self._clocks = {stream.index: clock(stream.time_base) for stream in streams}
        self._pictures = next((stream.index for stream in streams if stream.type == "video"), None)
        self._extent, self.by_us = extent, extent.by_us
        self._latest_us = max(extent.last_picture_us, extent.sound_end_us) + _LAG_US
        self._beyond_us: int | None = None  # the earliest known picture at or after the last target
        self.torn = False

    def __iter__(self) -> Iterator[Any]:
        """Raises `LateError` if the streams set in later than `by_us`."""
        open_streams = set(self._clocks)
        while open_streams or self._text is not None:
            try:
                packet = next(self._packets, None)
            except av.FFmpegError:
                self._tear(bool(open_streams))
                packet = None
            if packet is None:
                if self.by_us is not None:
                    raise LateError
                return
            index = packet.stream_index
            self._take_text(packet)
            if index not in open_streams or not (packet.size if self._own_times else holds_picture(packet)):
                continue
            pts, dts = packet.pts, packet.dts
            if pts is None or (dts is not None and not self._own_times):
                pts = dts
            if pts is None:
                yield packet
                continue
            shown_us = self._clocks[index](pts)
            if self.by_us is not None and not self._sets_in(packet, shown_us):
                continue
            if index == self._pictures and shown_us >= self._extent.last_picture_us:
                self._beyond_us = shown_us if self._beyond_us is None else min(shown_us, self._beyond_us)
            yield packet
            decoded_us = self._clocks[index](dts) if dts is not None else shown_us
            if self._is_past(index, decoded_us):
                open_streams.discard(index)
            if decoded_us > self._latest_us and (self._extent.ends_video or self._pictures not in open_streams):
                return

    def _tear(self, pictures_or_sound: bool) -> None:
        self.torn = pictures_or_sound
        if self._text is not None:
            self._text.torn = True

    def _take_text(self, packet: Any) -> None:
        """Give the packet to the text; note how far the file has been read, and whether that is enough."""
        if self._text is None:
            return
        self._text.add(packet)
        stamp = packet.dts if packet.dts is not None else packet.pts
        if stamp is None or packet.stream_index in self._texts:
            return
        self._text.read_us = max(self._text.read_us, self._clocks[packet.stream_index](stamp))
        if self._text.is_over:
            self._text = None

    def _sets_in(self, packet: Any, shown_us: int) -> bool:
        """Whether the sought stream can be decoded from this packet on: a seek may land between keyframes."""
        assert self.by_us is not None
        if self._pictures is not None and packet.stream_index != self._pictures:
            return True
        if not packet.is_keyframe:
            return False
        if shown_us > self.by_us:
            raise LateError
        self.by_us = None
        return True

    def _is_past(self, index: int, decoded_us: int) -> bool:
        """Nothing is shown before it is decoded, so no later packet matters. A second is for inexact time stamps."""
        end_us = self._beyond_us if index == self._pictures else self._extent.sound_end_us
        return end_us is not None and decoded_us > end_us + MICROSECONDS
