"""The decoders of the picture and the sound stream: packets in, frames with believable times out into a `Gather`."""

from collections import deque
from typing import Any, Protocol

import av

from vidproc.media.container import clock, prepare
from vidproc.media.gather import Gather
from vidproc.media.sound import sound_time, with_layout
from vidproc.views import MICROSECONDS

_MOST_DELAY = 32
"""No decoder reorders more frames than that."""


class FrameClock(Protocol):
    """Says when a decoded frame is shown."""

    def feed(self, packet: Any) -> None:
        """This packet goes to the decoder next."""

    def drain(self) -> None:
        """Frames that come now need no more packets."""

    def time_us(self, frame: Any, /) -> int | None:
        """None if that cannot be known: the frame is left out."""


class StampClock:
    """Believes a frame's PTS, until it has stepped back more often than the DTS; counts where there is neither.

    The rule is that of FFmpeg's `best_effort_timestamp` (libavcodec/decode.c, guess_correct_pts).
    """

    def __init__(self, stream: Any) -> None:
        self._to_us = clock(stream.time_base)
        self._rate = stream.average_rate or stream.guessed_rate or 25
        self._last_pts = self._last_dts = -(1 << 63)
        self._faulty_pts = self._faulty_dts = 0
        # Of a stream without any time stamps the frames are counted; of others those before the first stamp are lost.
        self._base_us: int | None = 0 if stream.start_time is None else None
        self._since_base = 0

    def feed(self, packet: Any) -> None:
        pass

    def drain(self) -> None:
        pass

    def time_us(self, frame: Any) -> int | None:
        stamp = self._best(frame.pts, frame.dts)
        if stamp is not None:
            self._base_us, self._since_base = self._to_us(stamp), 0
        if self._base_us is None:
            return None
        time_us = self._base_us + int(self._since_base * MICROSECONDS / self._rate + 0.5)
        self._since_base += 1
        return time_us

    def _best(self, pts: int | None, dts: int | None) -> int | None:
        if dts is not None:
            self._faulty_dts += dts <= self._last_dts
            self._last_dts = dts
        if pts is not None:
            self._faulty_pts += pts <= self._last_pts
            self._last_pts = pts
        return pts if pts is not None and (self._faulty_pts <= self._faulty_dts or dts is None) else dts


class OrderClock:
    """For AVI, which stores only the order of decoding: the decoder's delay, in packets, is taken back.

    The delay must be measured at the start of the file: after a seek, frames that cannot be decoded look like delay.
    """

    def __init__(self, stream: Any, *, delay: int) -> None:
        self._to_us = clock(stream.time_base)
        self._waiting: deque[int] = deque(maxlen=delay + 1)  # times of the packets that went in last
        self._drains = False
        self._last_us = 0

    def feed(self, packet: Any) -> None:
        if packet.dts is not None:
            self._waiting.append(self._to_us(packet.dts))

    def drain(self) -> None:
        self._drains = True

    def time_us(self, _: Any) -> int:
        if self._drains and self._waiting:
            self._waiting.popleft()
        self._last_us = self._waiting[0] if self._waiting else self._last_us + 1
        return self._last_us


def measure_delay(container: Any, stream: Any, *, limits: dict[str, Any]) -> int:
    """How many packets go into a stream's decoder before the first frame comes out. Reads from where it is."""
    context = prepare(stream, limits=limits)
    fed = 0
    try:
        for packet in container.demux(stream):
            if holds_picture(packet):
                if context.decode(packet):
                    break
                fed += 1
            if fed > _MOST_DELAY:
                return 0
    except (av.FFmpegError, EOFError):
        return 0
    context.flush_buffers()
    return fed


def holds_picture(packet: Any) -> bool:
    """AVI fills time in which nothing changes with packets of at most one byte."""
    return bool(packet.size > 1)


class Pictures:
    """The picture stream's decoder."""

    def __init__(self, stream: Any, gather: Gather, frame_clock: FrameClock, *, limits: dict[str, Any]) -> None:
        self._gather, self._clock = gather, frame_clock
        self._context = prepare(stream, limits=limits)
        self._skips = False
        self.wanted_us: set[int] | None = None
        self._seen_us: set[int] = set()
        self.errors = 0

    @property
    def name(self) -> str:
        """FFmpeg's name of the decoder."""
        return str(self._context.name)

    @property
    def faithful(self) -> bool:
        """Every frame that the plan wanted came out, under the time stamp of its packet."""
        return self.wanted_us is None or self.wanted_us <= self._seen_us

    def feed(self, packet: Any, *, needed: bool = True) -> None:
        """Decode one packet. Not `needed`: its frame may be left out if no other depends on it."""
        if self._gather.pictures_done:
            return
        if self._skips == needed:
            self._context.skip_frame = "DEFAULT" if needed else "NONREF"
            self._skips = not needed
        self._clock.feed(packet)
        self._decode(packet)

    def drain(self) -> None:
        """Give out what the decoder still holds."""
        self._clock.drain()
        self._decode(None)

    def restart(self) -> None:
        """After packets were left out: give out what is held, then start anew at the coming keyframe."""
        self.drain()
        self._context.flush_buffers()

    def _decode(self, packet: Any) -> None:
        try:
            frames = self._context.decode(packet)
        except EOFError:
            return
        except av.FFmpegError as error:
            if isinstance(error, MemoryError):
                raise
            self.errors += 1
            self._gather.damaged += 1
            return
        for frame in frames:
            time_us = self._clock.time_us(frame)
            if time_us is None:
                continue
            self._seen_us.add(time_us)
            if not self._gather.pictures_done:
                self._gather.add_frame(frame, time_us, wanted=self.wanted_us is None or time_us in self.wanted_us)


class Sounds:
    """The sound stream's decoder."""

    def __init__(self, stream: Any, gather: Gather, *, limits: dict[str, Any]) -> None:
        self._stream, self._gather = stream, gather
        self._context = prepare(stream, limits=limits)
        self._expected_us: int | None = None

    def feed(self, packet: Any) -> None:
        """Decode one packet."""
        self._decode(packet)

    def drain(self) -> None:
        """Give out what the decoder still holds."""
        self._decode(None)

    def _decode(self, packet: Any) -> None:
        try:
            frames = self._context.decode(packet)
        except EOFError:
            return
        except av.FFmpegError as error:
            if isinstance(error, MemoryError):
                raise
            return  # its stretch stays silent
        for frame in frames:
            time_us = sound_time(frame, self._stream, self._expected_us)
            if time_us is None or not frame.sample_rate:
                continue
            self._expected_us = time_us + frame.samples * MICROSECONDS // frame.sample_rate
            named = with_layout(frame)
            for track in self._gather.tracks:
                track.add(named, time_us)
