"""Makes all views of one segment in one pass over the bitstream. Runs in the child; `guard` calls it.

Frames are chosen by presentation time: each target gets the frame whose PTS is nearest, of two equally near ones the
earlier. A frame is converted once per view, and only if a target chose it.
"""

import importlib
import pkgutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import av
import numpy as np

from vidproc.errors import Damaged, TooLarge
from vidproc.media import planner
from vidproc.media.container import BinaryFile, microseconds, opened, prepare, select, time_stamp
from vidproc.media.pixels import Slots
from vidproc.media.sampling import Span, data_shape, owned_starts, target_times
from vidproc.media.sound import SoundTrack, sound_time
from vidproc.views import MICROSECONDS, Audio, Clips, Frames, View, view_from_json

_SLACK_US = 10 * MICROSECONDS
"""How far behind its neighbour one stream may lag in the file before it counts as ended."""


def prepare_process() -> None:
    """Import what is imported lazily: a confined child can open no file. Silence FFmpeg: the typed errors say it."""
    for module in pkgutil.walk_packages(av.__path__, "av."):
        if module.name != "av.__main__":
            importlib.import_module(module.name)
    importlib.import_module("numpy.ma")  # np.unique imports it when first called
    av.logging.set_level(None)


def layout(
    views: Iterable[View], *, video: Span, segment: Span, still: bool
) -> tuple[list[tuple[int, tuple[int, ...]]], int]:
    """Where each view lies in the output: ([(offset, shape)], size in bytes). Guard and child both compute it."""
    places, offset = [], 0
    for view in views:
        shape = data_shape(view, video=video, segment=segment, still=still)
        places.append((offset, shape))
        size = int(np.prod(shape, dtype=np.int64)) * (2 if isinstance(view, Audio) else 1)
        offset += -(-size // 64) * 64
    return places, offset


@dataclass
class _Work:
    """One segment's views, being filled."""

    segment: Span
    slots: list[Slots]
    tracks: list[SoundTrack]
    max_frames: int
    max_pixels: int
    held: Any = None  # the frame before, which the next one's time decides about
    held_us: int = 0
    frames: int = 0
    damaged: int = 0
    good_us: list[int] | None = None

    def picture_done(self) -> bool:
        return all(slots.done for slots in self.slots)

    def add_frame(self, frame: Any, time_us: int) -> None:
        """Frames must come in presentation order; one that does not is damage and left out."""
        self.frames += 1
        if self.frames > self.max_frames:
            raise TooLarge(f"more than {self.max_frames} frames in one segment")
        if frame.width * frame.height > self.max_pixels:
            raise TooLarge(f"a frame of {frame.width}x{frame.height} pixels; the limit is {self.max_pixels}")
        if self.held is not None and time_us <= self.held_us:
            self.damaged += 1
            return
        if self.held is not None:
            middle = (self.held_us + time_us) // 2  # a tie goes to the earlier frame
            for slots in self.slots:
                slots.take(self.held, self.held_us, middle)
        if frame.is_corrupt and time_us >= self.segment.start_us:
            self.damaged += 1
        elif self.good_us is not None:
            self.good_us.append(time_us)
        self.held, self.held_us = frame, time_us

    def finish(self) -> None:
        for track in self.tracks:
            track.flush()
        if self.held is not None:
            for slots in self.slots:
                slots.take(self.held, self.held_us, None)
        self.held = None


def run(file: BinaryFile, request: dict[str, Any], output: memoryview) -> dict[str, Any]:
    """Fill `output` with the views of one segment; say which frames were taken and how much could be decoded.

    Request: `views` (JSON texts), `video`, `segment` ([start_us, end_us]), `still`, `frame_us`, `limits`.
    Raises `Damaged` if nothing at all could be decoded, `TooLarge` beyond the limits.
    """
    started = time.process_time()
    views = [view_from_json(view) for view in request["views"]]
    planned = True
    while True:
        work = _work(views, request, output)
        try:
            complete = _decode(file, request, work, planned=planned)
        except planner.UntimedError:
            complete = False
        if complete or not planned:
            break
        planned = False
    coverage = _coverage(work, request)
    if coverage <= 0:
        raise Damaged("nothing of this stretch decodes")
    frame_us = iter(slots.frame_us.reshape(-1).tolist() for slots in work.slots)
    return {
        "frame_us": [[] if isinstance(view, Audio) else next(frame_us) for view in views],
        "coverage": coverage,
        "frames": work.frames,
        "damaged": work.damaged,
        "cpu_s": time.process_time() - started,
    }


def _work(views: list[View], request: dict[str, Any], output: memoryview) -> _Work:
    video, segment = Span(*request["video"]), Span(*request["segment"])
    places, _ = layout(views, video=video, segment=segment, still=request["still"])
    limits = request["limits"]
    work = _Work(segment, [], [], limits["frames"], limits["pixels"], good_us=[])
    for view, (offset, shape) in zip(views, places, strict=True):
        kind = np.int16 if isinstance(view, Audio) else np.uint8
        data: Any = np.frombuffer(output, kind, int(np.prod(shape, dtype=np.int64)), offset).reshape(shape)
        if isinstance(view, Audio):
            data[:] = 0
            work.tracks.append(SoundTrack(view, segment, data))
        elif len(data):
            work.slots.append(Slots(view, target_times(view, _starts(view, request)), data))
        else:
            work.slots.append(Slots(view, np.empty((0, len(view.offsets_us)), np.int64), data))
    return work


def _starts(view: Frames | Clips, request: dict[str, Any]) -> Any:
    return owned_starts(view, video=Span(*request["video"]), segment=Span(*request["segment"]), still=request["still"])


def _decode(file: BinaryFile, request: dict[str, Any], work: _Work, *, planned: bool) -> bool:
    """Decode what `work` wants. False if the plan of `planner` did not hold, so that all has to be decoded."""
    limits = request["limits"]
    with opened(file, limits=limits) as container:
        picture, sound = select(container)
        picture = None if work.picture_done() else picture
        sound = sound if work.tracks else None
        if picture is None and sound is None:
            return True
        decoders = [
            _Pictures(picture, work, limits) if picture is not None else None,
            _Sounds(sound, work, limits) if sound is not None else None,
        ]
        pictures, sounds = decoders
        for slots in work.slots:
            slots.aspect = picture.sample_aspect_ratio if picture is not None else None
        main = picture if picture is not None else sound
        if work.segment.start_us > request["video"][0]:
            _seek(container, main, work.segment.start_us)
        packets = _until_done(container.demux([s for s in (picture, sound) if s is not None]), picture, sound, work)
        if not planned or picture is None or picture.codec_context.name not in planner.PLANNED:
            for packet in packets:
                (pictures if picture is not None and packet.stream_index == picture.index else sounds).feed(packet)  # type: ignore[union-attr]
            complete = True
        else:
            complete = _follow(packets, pictures, sounds, work)  # type: ignore[arg-type]
        for decoder in decoders:
            if decoder is not None:
                decoder.drain()
        complete = complete and (not isinstance(pictures, _Pictures) or pictures.faithful)
        work.finish()
        return complete


def _follow(packets: Iterable[Any], pictures: "_Pictures", sounds: "_Sounds | None", work: _Work) -> bool:
    """Decode by plan. False once the plan proves wrong."""
    targets = np.unique(np.concatenate([slots.targets_us.reshape(-1) for slots in work.slots]))
    for step in planner.plan(planner.groups(packets, pictures.stream), targets):
        if step.fresh:
            pictures.restart()
        pictures.wanted |= step.wanted_us
        for packet in step.group.packets:
            if packet.stream_index != pictures.stream.index:
                if sounds is not None:
                    sounds.feed(packet)
            else:
                pictures.feed(packet, needed=microseconds(packet.pts, packet.time_base) in step.wanted_us)
        if pictures.errors:
            return False
    return True


def _seek(container: Any, stream: Any, start_us: int) -> None:
    """To a keyframe at or before `start_us`; where the container cannot, to its start."""
    run_in_us = 0 if stream.type == "video" else MICROSECONDS // 2
    try:
        container.seek(time_stamp(start_us - run_in_us, stream.time_base), stream=stream, backward=True)
    except av.FFmpegError:
        try:
            container.seek(0)
        except av.FFmpegError as error:
            raise Damaged(f"cannot be read from its start again: {error}") from None


def _until_done(packets: Iterator[Any], picture: Any, sound: Any, work: _Work) -> Iterator[Any]:
    """Packets up to where nothing of the segment can come any more. A torn file ends there too."""
    last_target = max((int(s.targets_us.max()) for s in work.slots if s.targets_us.size), default=work.segment.end_us)
    ends = {s.index: last_target if s is picture else work.segment.end_us for s in (picture, sound) if s is not None}
    open_streams = set(ends)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError:
            work.damaged += 1
            return
        if packet is None:
            return
        if not packet.size:
            continue
        yield packet
        stamp = packet.dts if packet.dts is not None else packet.pts
        if stamp is None:
            continue
        time_us = microseconds(stamp, packet.time_base)
        if time_us > ends[packet.stream_index] + MICROSECONDS:
            open_streams.discard(packet.stream_index)
        if not open_streams or time_us > max(ends.values()) + _SLACK_US:
            return


class _Stamps:
    """Which of a frame's two time stamps to believe: PTS, until it has stepped back more often than DTS.

    The rule is that of FFmpeg's `best_effort_timestamp` (libavcodec/decode.c, guess_correct_pts). AVI needs it.
    """

    def __init__(self) -> None:
        self._last_pts = self._last_dts = -(1 << 63)
        self._faulty_pts = self._faulty_dts = 0

    def best(self, pts: int | None, dts: int | None) -> int | None:
        if dts is not None:
            self._faulty_dts += dts <= self._last_dts
            self._last_dts = dts
        if pts is not None:
            self._faulty_pts += pts <= self._last_pts
            self._last_pts = pts
        return pts if pts is not None and (self._faulty_pts <= self._faulty_dts or dts is None) else dts


class _Pictures:
    """The picture stream's decoder. Frames without time stamps get the usual distance from the one before."""

    def __init__(self, stream: Any, work: _Work, limits: dict[str, Any]) -> None:
        self.stream, self._work = stream, work
        self._context = prepare(stream, limits=limits)
        rate = stream.average_rate or stream.guessed_rate
        self._frame_us = int(MICROSECONDS / rate) if rate else 40_000
        self._last_us: int | None = None
        self._stamps = _Stamps()
        self.wanted: set[int] = set()
        self._seen: set[int] = set()
        self.errors = 0

    @property
    def faithful(self) -> bool:
        """Every frame that the plan wanted came out, under the time stamp of its packet."""
        return self.wanted <= self._seen

    def feed(self, packet: Any, *, needed: bool = True) -> None:
        self._context.skip_frame = "DEFAULT" if needed else "NONREF"
        self._take(packet)

    def drain(self) -> None:
        self._take(None)

    def restart(self) -> None:
        """After packets were left out: give out what is held, then start anew at the coming keyframe."""
        self.drain()
        self._context.flush_buffers()

    def _take(self, packet: Any) -> None:
        try:
            frames = self._context.decode(packet)
        except MemoryError:
            raise
        except EOFError:
            return
        except av.FFmpegError as error:
            if isinstance(error, MemoryError):
                raise
            self.errors += 1
            self._work.damaged += 1
            return
        for frame in frames:
            stamp = self._stamps.best(frame.pts, frame.dts)
            if stamp is not None:
                time_us = microseconds(stamp, frame.time_base or self.stream.time_base)
            else:
                time_us = 0 if self._last_us is None else self._last_us + self._frame_us
            self._last_us = time_us
            self._seen.add(time_us)
            if not self._work.picture_done():
                self._work.add_frame(frame, time_us)


class _Sounds:
    """The sound stream's decoder."""

    def __init__(self, stream: Any, work: _Work, limits: dict[str, Any]) -> None:
        self._stream, self._work = stream, work
        self._context = prepare(stream, limits=limits)
        self._expected_us: int | None = None

    def feed(self, packet: Any) -> None:
        self._take(packet)

    def drain(self) -> None:
        self._take(None)

    def _take(self, packet: Any) -> None:
        try:
            frames = self._context.decode(packet)
        except MemoryError:
            raise
        except (av.FFmpegError, EOFError):
            return
        for frame in frames:
            time_us = sound_time(frame, self._stream, self._expected_us)
            if time_us is None or not frame.sample_rate:
                continue
            self._expected_us = time_us + frame.samples * MICROSECONDS // frame.sample_rate
            for track in self._work.tracks:
                track.add(frame, time_us)


def _coverage(work: _Work, request: dict[str, Any]) -> float:
    """Share of the segment that could be decoded: targets with a good frame at hand, or else sound that was filled.

    "At hand" means within twice the usual distance of frames, at least a second: a slide show has lost nothing.
    """
    targets = [slots.targets_us.reshape(-1) for slots in work.slots if slots.targets_us.size]
    if not targets:
        longest = max((len(track._data) for track in work.tracks), default=0)
        filled = max((track.filled for track in work.tracks), default=0)
        if not longest:
            return 1.0 if not work.damaged else 0.0
        return min(filled / longest, 1.0) if filled < longest - 4800 else 1.0
    if not work.good_us:
        return 0.0
    wanted = np.concatenate(targets)
    good = np.unique(np.asarray(work.good_us, np.int64))
    near = max(MICROSECONDS, 2 * int(request["frame_us"]))
    if not work.damaged:  # gaps inside are the video's own; only a missing end is a loss
        return float(np.mean(wanted <= good[-1] + near))
    reached = float(np.mean(np.abs(planner.nearest(good, wanted) - wanted) <= near))
    return min(reached, len(good) / (len(good) + work.damaged))
