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

from vidproc.errors import Damaged, NoStreams, TooLarge, Unsupported
from vidproc.media.captions import caption_data, caption_tracks
from vidproc.media.container import (
    BinaryFile,
    clock,
    has_own_times,
    opened,
    prepare,
    select,
    time_stamp,
)
from vidproc.media.geometry import displayed
from vidproc.media.subtitles import has_text, text_streams
from vidproc.views import MICROSECONDS

_DEFAULT_FRAME_US = 40_000
_HEAD_PACKETS = 240
_TAIL_US = 5 * MICROSECONDS
_FIRST_FRAME_PACKETS = 200
_MISSING_US = MICROSECONDS
"""A declared end that lies no further than this beyond the last packet is rounding, or the length of a last frame."""
_MOST_PACKETS = 1 << 62  # the time limit ends it sooner
_LONGEST_FRAME_US, _LONGEST_TEXT_US = 10 * MICROSECONDS, 60 * MICROSECONDS
"""How long a slide, or a line of text, may be shown."""
_LEAST_BITS_PER_SECOND = 500
"""A declared duration that would mean fewer bits a second than this is not believed."""


def run(file: BinaryFile, request: dict[str, Any], _: memoryview) -> dict[str, Any]:
    """Facts of one video, JSON-able. Raises the typed errors of `opened`, and `Damaged` if nothing of it decodes."""
    limits = request["limits"]
    with opened(file, limits=limits) as container:
        picture, sound, streams = _select(container)
        facts: dict[str, Any] = {
            "container": container.format.name,
            "codec": streams[0].codec_context.name,
            "has_audio": sound is not None,
            "has_picture": picture is not None,
            "metadata": _metadata(container),
        }
        declared_end_us = _declared_end(container, request["size"])
        first = _FirstFrame(picture, limits) if picture is not None else None
        extent = _Extent(streams, own_times=has_own_times(container))
        ended = _read(container, streams, extent, most=_HEAD_PACKETS, first=first)
        if first is not None:
            facts.update(first.geometry())
        captions = bool(caption_tracks(container)) or (first is not None and first.captions)
        facts["has_captions"] = captions
        facts["has_subtitles"] = captions or bool(container.streams.subtitles)
        facts["has_text"] = captions or has_text(container)
        facts["has_text_stream"] = captions or bool(text_streams(container))
        if not ended:
            ended = _read_tail(container, streams, extent)
    if not ended:
        _read_whole(file, extent, limits)
    times = extent.facts() or _untimed(file, limits)
    if picture is None and times["start_us"] < 0 < times["end_us"]:
        times["start_us"] = 0  # before it a sound decoder only runs in: nothing of that is to be heard
    facts["declared_us"] = _declared(times, declared_end_us, times.pop("latest_us"))
    facts.update(times)
    facts["still"] = picture is not None and facts["end_us"] - facts["start_us"] <= facts["frame_us"]
    if picture is not None:
        facts["fps"] = _believable_rate(facts)
    return facts


def _select(container: av.container.InputContainer) -> tuple[Any | None, Any | None, list[Any]]:
    """(picture stream, sound stream, what tells times: those two, as far as they exist, and then the text streams).

    Text that outlasts the picture is part of the declared length. Other streams are discarded. Raises `NoStreams`.
    """
    texts = text_streams(container)
    picture, sound = select(container, texts=texts)
    return picture, sound, [*(stream for stream in (picture, sound) if stream is not None), *texts]


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


class _FirstFrame:
    """Displayed size and rotation: those of the first frame that decodes, not of the header. `captions`: whether a
    packet up to that frame, or after it as far as they are fed, has any."""

    def __init__(self, stream: Any, limits: dict[str, Any]) -> None:
        self._stream, self._limits = stream, limits
        self._claimed = stream.codec_context.width, stream.codec_context.height
        self._context = prepare(stream, limits=limits)
        self._frame: Any = None
        self._packets = 0
        self.captions = False
        self._encrypted = "enc_key_id" in stream.metadata  # so says Matroska; MP4 says it of each packet

    def feed(self, packet: Any | None) -> None:
        """Try one packet, or None for the end of the stream."""
        if packet is not None and not self.captions:
            self.captions = any(caption_data(packet))
        if self._frame is not None or self._packets > _FIRST_FRAME_PACKETS:
            return
        self._packets += 1
        self._encrypted |= packet is not None and packet.has_sidedata("encryption_info")
        try:
            self._frame = next(iter(self._context.decode(packet)), None)
        except MemoryError:
            raise TooLarge("its first frame needs more memory than the limit") from None
        except (av.FFmpegError, EOFError):
            pass

    def geometry(self) -> dict[str, Any]:
        """Raises `TooLarge`; if no frame has come, `Unsupported` or `Damaged`."""
        frame = self._frame
        width, height = (frame.width, frame.height) if frame is not None else self._claimed
        if width * height > self._limits["pixels"]:
            raise TooLarge(f"{width}x{height} pixels; the limit is {self._limits['pixels']}")
        if frame is None and self._encrypted:
            raise Unsupported(f"its {self._context.name} stream is encrypted")
        if frame is None:
            raise Damaged(f"no frame of its {self._context.name} stream decodes")
        turn = rotation_of(frame)
        shown = displayed(width, height, aspect=self._stream.sample_aspect_ratio, turn=turn)
        if turn % 180:
            width, height = height, width
        rate = self._stream.average_rate or self._stream.guessed_rate
        return {
            "width": width,
            "height": height,
            "displayed_width": shown[0],
            "displayed_height": shown[1],
            "rotation": turn,
            "fps": float(rate) if rate and 0 < rate <= 1000 else None,
        }


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
    """What the packets say of the times of the main stream (the first of `streams`), and of the end of all."""

    def __init__(self, streams: list[Any], *, own_times: bool) -> None:
        self._main, self._own_times = streams[0].index, own_times
        self._longest_us = {s.index: _LONGEST_TEXT_US if s.type == "subtitle" else _LONGEST_FRAME_US for s in streams}
        self._clocks = {stream.index: clock(stream.time_base) for stream in streams}
        self.times: list[int] = []
        self.end_us: int | None = None
        self.latest_us: int | None = None

    def add(self, packet: Any) -> bool:
        """Take in one packet; True if it is one of the main stream."""
        index, pts = packet.stream_index, packet.pts
        stamp = pts if pts is not None and self._own_times else packet.dts
        if stamp is None or not packet.size or packet.is_discard:
            return bool(index == self._main)
        to_us = self._clocks[index]
        time_us, length = to_us(stamp), to_us(packet.duration or 0)
        if length > self._longest_us[index]:  # a header error may claim years
            length = 0
        end_us = time_us + length
        if self.latest_us is None or end_us > self.latest_us:
            self.latest_us = end_us
        if index != self._main:
            return False
        if len(self.times) < _HEAD_PACKETS:
            self.times.append(time_us)
        if self.end_us is None or end_us > self.end_us:
            self.end_us = end_us
        return True

    def facts(self) -> dict[str, Any] | None:
        """Start, end, usual frame distance, whether it varies, the end of all streams, in µs; None without times."""
        if not self.times or self.end_us is None:
            return None
        start_us = min(self.times)
        steps = sorted(b - a for a, b in pairwise(sorted(self.times)) if b > a)
        frame_us = int(median(steps)) if steps else _DEFAULT_FRAME_US
        return {
            "start_us": start_us,
            "end_us": max(self.end_us, start_us + frame_us),
            "frame_us": frame_us,
            "variable_rate": bool(steps) and _varies(steps),
            "latest_us": self.latest_us,
        }


def _varies(steps: list[int]) -> bool:
    """Whether the sorted distances of frames differ by more than rounding, leaving out 5 % at either end."""
    margin = len(steps) // 20
    return steps[-1 - margin] - steps[margin] > max(steps[len(steps) // 2] // 20, 2000)


def _read(
    container: av.container.InputContainer,
    streams: list[Any],
    extent: _Extent,
    *,
    most: int,
    first: _FirstFrame | None = None,
) -> bool:
    """Feed packets to `extent`, up to `most` of its main stream. True if the end was reached."""
    count, main = 0, streams[0].index
    try:
        for packet in container.demux(streams):
            count += extent.add(packet)
            if first is not None and packet.stream_index == main and packet.size:
                first.feed(packet)
            if count >= most:
                return False
    except av.FFmpegError:
        pass  # a torn tail ends the stream here
    if first is not None:
        first.feed(None)
    return True


def _read_tail(container: av.container.InputContainer, streams: list[Any], extent: _Extent) -> bool:
    """Seek near the claimed end and read to the real one. False if that shows nothing new: the claim was wrong."""
    main = streams[0]
    to_us = clock(main.time_base)
    claimed_us = to_us(main.duration) if main.duration else container.duration
    before = extent.end_us
    if not claimed_us or claimed_us < 0 or before is None:
        return False
    target_us = claimed_us + to_us(main.start_time or 0) - _TAIL_US
    try:
        container.seek(time_stamp(max(target_us, 0), main.time_base), stream=main, backward=True)
    except (av.FFmpegError, OverflowError):
        return False
    _read(container, streams, extent, most=_MOST_PACKETS)
    return extent.end_us is not None and extent.end_us > before and extent.end_us >= target_us


def _read_whole(file: BinaryFile, extent: _Extent, limits: dict[str, Any]) -> None:
    """Look for the end in all packets."""
    with opened(file, limits=limits) as container:
        _, _, streams = _select(container)
        whole = _Extent(streams, own_times=has_own_times(container))
        _read(container, streams, whole, most=_MOST_PACKETS)
        extent.end_us, extent.latest_us = whole.end_us, whole.latest_us


def _untimed(file: BinaryFile, limits: dict[str, Any]) -> dict[str, Any]:
    """A raw stream has no time stamps: its frames are counted, by decoding them, at the nominal rate."""
    frames = 0
    with opened(file, limits=limits) as container:
        stream: Any = _select(container)[2][0]
        if stream.type == "subtitle":
            raise NoStreams("it holds neither picture nor sound, and its text streams are empty")
        context = prepare(stream, limits=limits)
        for packet in container.demux(stream):
            with contextlib.suppress(av.FFmpegError, EOFError):
                frames += len(context.decode(packet))
        rate = getattr(stream, "average_rate", None) or getattr(stream, "guessed_rate", None)
    frame_us = int(MICROSECONDS / rate) if rate else _DEFAULT_FRAME_US
    end_us = int(max(frames, 1) * MICROSECONDS / rate) if rate else max(frames, 1) * frame_us
    return {"start_us": 0, "end_us": end_us, "frame_us": frame_us, "variable_rate": False, "latest_us": end_us}
