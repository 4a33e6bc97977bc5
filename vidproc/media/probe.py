"""Opens a video once and says what it is: streams, times that can be believed, picture geometry. Runs in the child.

Headers lie: one claims 40 hours and holds a second, another claims nothing. So the end is looked for in the packets:
after a seek to the claimed end, else by reading all packets without decoding them.
"""

import contextlib
from itertools import pairwise
from statistics import median
from typing import Any

import av
import av.container

from vidproc.errors import Damaged, TooLarge
from vidproc.media.container import BinaryFile, has_own_times, microseconds, opened, prepare, select, time_stamp
from vidproc.views import MICROSECONDS

_DEFAULT_FRAME_US = 40_000
_HEAD_PACKETS = 240
_TAIL_US = 5 * MICROSECONDS
_FIRST_FRAME_PACKETS = 200
_MISSING_US = MICROSECONDS
"""A declared end that lies no further than this beyond the last packet is rounding, or the length of a last frame."""
_MOST_PACKETS = 1 << 62  # the time limit ends it sooner
_LEAST_BITS_PER_SECOND = 500
"""A declared duration that would mean fewer bits a second than this is not believed."""


def run(file: BinaryFile, request: dict[str, Any], _: memoryview) -> dict[str, Any]:
    """Facts of one video, JSON-able. Raises the typed errors of `opened`, and `Damaged` if nothing of it decodes."""
    limits = request["limits"]
    with opened(file, limits=limits) as container:
        picture, sound = select(container)
        main: Any = picture if picture is not None else sound
        facts: dict[str, Any] = {
            "container": container.format.name,
            "codec": main.codec_context.name,
            "has_audio": sound is not None,
            "has_picture": picture is not None,
            "has_subtitles": bool(container.streams.subtitles),
            "metadata": _metadata(container),
        }
        declared_end_us = _declared_end(container, request["size"])
        if picture is not None:
            facts.update(_geometry(container, picture, limits))
    times = _times(file, limits)
    facts["declared_us"] = _declared(times, declared_end_us, times.pop("latest_us"))
    facts.update(times)
    facts["still"] = picture is not None and facts["end_us"] - facts["start_us"] <= facts["frame_us"]
    if picture is not None:
        facts["fps"] = _believable_rate(facts)
    return facts


def _believable_rate(facts: dict[str, Any]) -> float | None:
    """The container's frame rate, unless the packets' times contradict it: Matroska may say 1,000 and mean 30."""
    if facts["still"]:
        return None
    measured = MICROSECONDS / facts["frame_us"]
    stated: float | None = facts["fps"]
    return stated if stated and 0.5 < stated / measured < 2 else measured


def _metadata(container: av.container.InputContainer) -> dict[str, str]:
    """Container tags, bounded: at most 64 of at most 1,000 characters, without control characters."""

    def clean(text: object) -> str:
        return "".join(c if c.isprintable() else " " for c in str(text))[:1000].encode(errors="replace").decode()

    return {clean(k)[:100]: clean(v) for k, v in list(container.metadata.items())[:64]}


def _geometry(container: av.container.InputContainer, picture: Any, limits: dict[str, Any]) -> dict[str, Any]:
    """Displayed size and rotation: those of the first frame that decodes, not of the header."""
    claimed = picture.codec_context.width, picture.codec_context.height
    context = prepare(picture, limits=limits)
    frame = None
    try:
        for count, packet in enumerate(container.demux(picture)):
            frame = _first_frame(context, packet)
            if frame is not None or count >= _FIRST_FRAME_PACKETS:
                break
    except MemoryError:
        raise TooLarge("its first frame needs more memory than the limit") from None
    except av.FFmpegError:
        pass  # what could be read was read
    width, height = (frame.width, frame.height) if frame is not None else claimed
    if width * height > limits["pixels"]:
        raise TooLarge(f"{width}x{height} pixels; the limit is {limits['pixels']}")
    if frame is None:
        raise Damaged(f"no frame of its {context.name} stream decodes")
    turn = rotation_of(frame)
    if turn % 180:
        width, height = height, width
    rate = picture.average_rate or picture.guessed_rate
    return {
        "width": width,
        "height": height,
        "rotation": turn,
        "fps": float(rate) if rate and 0 < rate <= 1000 else None,
    }


def _first_frame(context: Any, packet: Any) -> Any | None:
    try:
        return next(iter(context.decode(packet if packet.size else None)), None)
    except MemoryError:
        raise
    except (av.FFmpegError, EOFError):
        return None


def rotation_of(frame: Any) -> int:
    """Degrees counter-clockwise that show the frame upright: 0, 90, 180 or 270; other angles count as 0."""
    turn = int(frame.rotation)
    return turn % 360 if turn % 90 == 0 else 0


def _declared_end(container: av.container.InputContainer, size: int) -> int | None:
    """When the container says that its last stream ends; None if it does not say, or nothing that can be believed."""
    declared = container.duration
    if not declared or declared <= 0 or size * 8 * MICROSECONDS / declared < _LEAST_BITS_PER_SECOND:
        return None
    return int(declared) + (container.start_time or 0)


def _declared(times: dict[str, Any], declared_end_us: int | None, latest_us: int) -> int | None:
    """How long the video should be: as long as it is, and what the declared end says is missing of all its streams."""
    if declared_end_us is None:
        return None
    missing_us = declared_end_us - latest_us
    length_us = int(times["end_us"] - times["start_us"])
    return length_us + (missing_us if missing_us > _MISSING_US else 0)


class _Extent:
    """What the packets say of the times of one stream (the main one), and of the end of all."""

    def __init__(self, stream: Any, *, own_times: bool) -> None:
        self._main, self._own_times = stream.index, own_times
        self.times: list[int] = []
        self.end_us: int | None = None
        self.latest_us: int | None = None

    def add(self, packet: Any) -> bool:
        """Take in one packet; True if it is one of the main stream."""
        stamp = packet.pts if packet.pts is not None and self._own_times else packet.dts
        if not packet.size or packet.is_discard or stamp is None:
            return bool(packet.stream_index == self._main)
        time_us = microseconds(stamp, packet.time_base)
        length = microseconds(packet.duration, packet.time_base) if packet.duration else 0
        if length > 10 * MICROSECONDS:  # a slide may be shown that long; a header error may claim years
            length = 0
        self.latest_us = time_us + length if self.latest_us is None else max(self.latest_us, time_us + length)
        if packet.stream_index != self._main:
            return False
        if len(self.times) < _HEAD_PACKETS:
            self.times.append(time_us)
        self.end_us = time_us + length if self.end_us is None else max(self.end_us, time_us + length)
        return True

    def frame_us(self) -> int:
        """The usual distance of two packets."""
        ordered = sorted(self.times)
        steps = [b - a for a, b in pairwise(ordered) if b > a]
        return int(median(steps)) if steps else _DEFAULT_FRAME_US

    def rate_varies(self) -> bool:
        ordered = sorted(self.times)
        steps = sorted(b - a for a, b in pairwise(ordered) if b > a)
        return bool(steps) and steps[-1 - len(steps) // 20] - steps[len(steps) // 20] > max(
            steps[len(steps) // 2] // 20, 2000
        )


def _read(container: av.container.InputContainer, extent: _Extent, most: int) -> bool:
    """Feed packets to `extent`, up to `most` of its main stream. True if the end was reached."""
    count = 0
    try:
        for packet in container.demux([stream for stream in select(container) if stream is not None]):
            count += extent.add(packet)
            if count >= most:
                return False
    except av.FFmpegError:
        pass  # a torn tail ends the stream here
    return True


def _times(file: BinaryFile, limits: dict[str, Any]) -> dict[str, Any]:
    """Start, end, usual frame distance, whether it varies, and the end of all streams, in µs, of the packets."""
    with opened(file, limits=limits) as container:
        stream: Any = next(s for s in select(container) if s is not None)
        extent = _Extent(stream, own_times=has_own_times(container))
        ended = _read(container, extent, _HEAD_PACKETS)
        if not ended:
            claimed = (stream.duration and microseconds(stream.duration, stream.time_base)) or container.duration
            ended = claimed is not None and claimed > 0 and _read_tail(container, stream, extent, claimed)
    if not ended:
        with opened(file, limits=limits) as container:
            stream = next(s for s in select(container) if s is not None)
            whole = _Extent(stream, own_times=has_own_times(container))
            _read(container, whole, _MOST_PACKETS)
            extent.end_us, extent.latest_us = whole.end_us, whole.latest_us
    frame_us = extent.frame_us()
    if not extent.times or extent.end_us is None or extent.latest_us is None:
        return _untimed(file, limits)
    start_us = min(extent.times)
    return {
        "start_us": start_us,
        "end_us": max(extent.end_us, start_us + frame_us),
        "frame_us": frame_us,
        "variable_rate": extent.rate_varies(),
        "latest_us": extent.latest_us,
    }


def _untimed(file: BinaryFile, limits: dict[str, Any]) -> dict[str, Any]:
    """A raw stream has no time stamps: its frames are counted, by decoding them, at the nominal rate."""
    frames = 0
    with opened(file, limits=limits) as container:
        stream = next(s for s in select(container) if s is not None)
        context = prepare(stream, limits=limits)
        for packet in container.demux(stream):
            with contextlib.suppress(av.FFmpegError, EOFError):
                frames += len(context.decode(packet))
        rate = getattr(stream, "average_rate", None) or getattr(stream, "guessed_rate", None)
    frame_us = int(MICROSECONDS / rate) if rate else _DEFAULT_FRAME_US
    end_us = max(frames, 1) * frame_us
    return {"start_us": 0, "end_us": end_us, "frame_us": frame_us, "variable_rate": False, "latest_us": end_us}


def _read_tail(container: av.container.InputContainer, stream: Any, extent: _Extent, claimed_us: int) -> bool:
    """Seek near the claimed end and read to the real one. False if that shows nothing new: the claim was wrong."""
    before = extent.end_us
    target = claimed_us + (microseconds(stream.start_time, stream.time_base) if stream.start_time else 0) - _TAIL_US
    try:
        container.seek(time_stamp(max(target, 0), stream.time_base), stream=stream, backward=True)
    except (av.FFmpegError, OverflowError):
        return False
    _read(container, extent, _MOST_PACKETS)
    return extent.end_us is not None and before is not None and extent.end_us > before and extent.end_us >= target
