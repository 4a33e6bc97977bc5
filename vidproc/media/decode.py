"""Makes all views of one segment in one pass over the bitstream. Runs in the child; `guard` calls it.

Frames are chosen by presentation time: each target gets the frame whose PTS is nearest, of two equally near ones the
earlier. A frame is converted once per view, and only if a target chose it.
"""

import importlib
import pkgutil
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import av
import av.container
import numpy as np

from vidproc.errors import Damaged
from vidproc.media import planner
from vidproc.media.captions import LONGEST_CAPTION_US, Captions, caption_tracks
from vidproc.media.container import BinaryFile, LateError, has_own_times, opened, select
from vidproc.media.decoders import FrameClock, OrderClock, Pictures, Sounds, StampClock, measure_delay
from vidproc.media.fields import FirstField
from vidproc.media.gather import Gather
from vidproc.media.geometry import displayed_of
from vidproc.media.packets import (
    CAPTION_RUN_IN_US,
    RUN_INS_US,
    SOUND_RUN_IN_US,
    TEXT_RUN_IN_US,
    Extent,
    SegmentPackets,
    seek,
    without_run_in,
)
from vidproc.media.pixels import Slots
from vidproc.media.sampling import Span, data_shape, owned_starts, target_times
from vidproc.media.sound import SoundTrack
from vidproc.media.subtitles import SegmentText, text_streams
from vidproc.views import Audio, Clips, Frames, Text, View, view_from_json, view_to_json

MOST_PASSES = 2 * len(RUN_INS_US)
"""How often one decode reads its stretch at the most: see `_decode`."""


def prepare_process() -> None:
    """Import what is imported lazily: a confined child can open no file. Silence FFmpeg: the typed errors say it."""
    for module in pkgutil.walk_packages(av.__path__, "av."):
        if module.name != "av.__main__":
            importlib.import_module(module.name)
    importlib.import_module("numpy.ma")  # np.unique imports it when first called
    av.logging.set_level(None)


def layout(
    views: Iterable[View], *, video: Span, segment: Span, still: bool, starts_us: Sequence[int] | None = None
) -> tuple[list[tuple[int, tuple[int, ...]]], int]:
    """Where each view lies in the output: ([(offset, shape)], size in bytes). Guard and child both compute it.

    `starts_us`: when the samples of picture views start, sorted, in place of the video's grid.
    """
    places, offset = [], 0
    for view in views:
        if starts_us is not None and isinstance(view, Frames | Clips):
            shape: tuple[int, ...] = (len(starts_us), *view.sample_shape)
        else:
            shape = data_shape(view, video=video, segment=segment, still=still)
        places.append((offset, shape))
        size = int(np.prod(shape, dtype=np.int64)) * (2 if isinstance(view, Audio) else 1)
        offset += -(-size // 64) * 64
    return places, offset


def request_of(
    views: Iterable[View], facts: Mapping[str, Any], *, segment: Span, starts_us: Sequence[int] | None = None
) -> dict[str, Any]:
    """What to ask the child for the views of one segment. `facts`: what a probe said. `starts_us`: as for `layout`."""
    return {
        "views": [view_to_json(view) for view in views],
        "video": [facts["start_us"], facts["end_us"]],
        "segment": [segment.start_us, segment.end_us],
        "still": facts["still"],
        "frame_us": facts["frame_us"],
        "captions": facts["has_captions"],
        "shown": displayed_of(facts),
        "starts_us": starts_us,
    }


def run(file: BinaryFile, request: dict[str, Any], output: memoryview) -> dict[str, Any]:
    """Fill `output` with the views of one segment; say which frames were taken and how much could be decoded.

    Request: what `request_of` makes, and `limits`.
    Raises `Damaged` if nothing at all could be decoded, `TooLarge` beyond the limits.
    """
    started = time.process_time()
    views = [view_from_json(view) for view in request["views"]]
    gather, frames = _decode(file, request, views, output)
    coverage = gather.coverage(request["frame_us"])
    if coverage <= 0:
        raise Damaged("nothing of this stretch decodes")
    frame_us = iter(slots.frame_us.reshape(-1).tolist() for slots in gather.slots)
    text = {} if gather.text is None else {"text": gather.text.told()}
    return {
        **text,
        "frame_us": [next(frame_us) if isinstance(view, Frames | Clips) else [] for view in views],
        "corrupt_us": gather.corrupt_us,
        "coverage": coverage,
        "frames": frames,
        "damaged": gather.damaged,
        "cpu_s": time.process_time() - started,
    }


def _decode(file: BinaryFile, request: dict[str, Any], views: list[View], output: memoryview) -> tuple[Gather, int]:
    """Try by plan from a near keyframe; without a plan if it does not hold; from further ahead if that was too late.

    Returns what the last try gathered, and how many frames all of them decoded.
    """
    planned, frames = True, 0
    for run_in_us in RUN_INS_US:
        try:
            gather = _gather(views, request, output)
            if planned and not _Pass(file, request, gather, run_in_us=run_in_us, planned=True).run():
                planned = False
                frames += gather.frames
                gather = _gather(views, request, output)
            if not planned:
                _Pass(file, request, gather, run_in_us=run_in_us, planned=False).run()
        except LateError:
            frames += gather.frames
            continue
        return gather, frames + gather.frames
    raise AssertionError("from the start of the file nothing is late")


def _gather(views: list[View], request: dict[str, Any], output: memoryview) -> Gather:
    """Empty slots and tracks over `output`."""
    video, segment = Span(*request["video"]), Span(*request["segment"])
    places, _ = layout(views, video=video, segment=segment, still=request["still"], starts_us=request.get("starts_us"))
    limits = request["limits"]
    gather = Gather(segment, limits["frames"], limits["pixels"])
    first_field = FirstField()
    for view, (offset, shape) in zip(views, places, strict=True):
        if isinstance(view, Text):
            gather.text = SegmentText(video, segment)
            continue
        kind = np.int16 if isinstance(view, Audio) else np.uint8
        data: Any = np.frombuffer(output, kind, int(np.prod(shape, dtype=np.int64)), offset).reshape(shape)
        if isinstance(view, Audio):
            data[:] = 0
            gather.tracks.append(SoundTrack(view, segment, data))
        else:
            starts = _starts(view, request) if len(data) else np.empty(0, np.int64)
            shown = request.get("shown")
            gather.slots.append(Slots(view, target_times(view, starts), data, shown=shown, first_field=first_field))
    gather.start()
    return gather


def _starts(view: Frames | Clips, request: dict[str, Any]) -> Any:
    if request.get("starts_us") is not None:
        return np.asarray(request["starts_us"], np.int64)
    return owned_starts(view, video=Span(*request["video"]), segment=Span(*request["segment"]), still=request["still"])


class _Pass:
    """One reading of the file from a seek to the segment's end."""

    def __init__(
        self, file: BinaryFile, request: dict[str, Any], gather: Gather, *, run_in_us: int | None, planned: bool
    ) -> None:
        self._file, self._limits, self._gather = file, request["limits"], gather
        self._run_in_us, self._planned = run_in_us, planned
        self._ends_video = gather.segment.end_us >= request["video"][1]
        self._starts_video = gather.segment.start_us <= request["video"][0]
        self._captioned = gather.text is not None and request["captions"]

    def run(self) -> bool:
        """False if the plan did not hold, so that all has to be decoded. Raises `LateError`."""
        gather = self._gather
        with opened(self._file, limits=self._limits) as container:
            tracks = caption_tracks(container)[:1] if self._captioned else []
            texts = [*self._texts(container), *tracks]
            picture, sound = select(container, texts=texts)
            clock = picture or sound
            hidden = picture if self._captioned and not tracks else None
            picture = None if gather.pictures_done else picture
            sound = sound if gather.tracks else None
            streams = [stream for stream in (picture or hidden, sound) if stream is not None]
            if texts and not streams and clock is not None:
                streams = [clock]
            if not streams and not texts:
                return True
            own_times = has_own_times(container)
            for slots in gather.slots:
                slots.aspect = picture.sample_aspect_ratio if picture is not None else None
            frame_clock: FrameClock | None = StampClock(picture) if own_times and picture is not None else None
            if picture is not None and frame_clock is None:
                frame_clock = OrderClock(picture, delay=measure_delay(container, picture, limits=self._limits))
                container.seek(0)
            extent = self._extent(container, streams)
            for stream in (*tracks, hidden):
                if stream is not None:
                    self._watch(stream, known=extent.by_us is None)
            packets = SegmentPackets(container, streams, extent, texts=texts, text=gather.text)
            sounds = Sounds(sound, gather, limits=self._limits) if sound is not None else None
            pictures = None
            if picture is not None and frame_clock is not None:
                pictures = Pictures(picture, gather, frame_clock, limits=self._limits)
            if pictures is not None and self._planned and own_times and pictures.name in planner.PLANNED:
                complete = self._follow(packets, pictures, sounds, picture)
            else:
                gather.by_us = packets.by_us
                given: Iterable[Any] = packets
                if self._captioned and picture is not None and extent.by_us is not None:
                    by_us = gather.segment.start_us - TEXT_RUN_IN_US - (self._run_in_us or 0)
                    given = without_run_in(packets, picture, by_us)
                complete = self._feed(given, pictures, sounds)
            for decoder in (pictures, sounds):
                if decoder is not None:
                    decoder.drain()
            gather.damaged += packets.torn
            gather.finish()
            return complete and (pictures is None or pictures.faithful)

    def _texts(self, container: av.container.InputContainer) -> list[Any]:
        """The streams of text to read, if it is asked for; chapters are taken in at once."""
        text = self._gather.text
        if text is None:
            return []
        streams = text_streams(container)
        text.add_chapters(container.chapters())
        text.follow(streams)
        return streams

    def _watch(self, stream: Any, *, known: bool) -> None:
        """The stream's packets will have captions."""
        assert self._gather.text is not None
        patient = known or (self._run_in_us or 0) >= LONGEST_CAPTION_US
        self._gather.text.watch(Captions(stream, self._gather.segment, known=known, patient=patient))

    def _extent(self, container: av.container.InputContainer, streams: list[Any]) -> Extent:
        """Seek to before the segment; say what is needed from there on."""
        segment = self._gather.segment
        sought = False
        if streams and not self._starts_video and self._run_in_us is not None:
            run_in_us = self._run_in_us + self._least_run_in_us
            sought = seek(container, streams[0], segment.start_us - run_in_us)
        targets_us = self._gather.targets_us
        return Extent(
            last_picture_us=targets_us[-1] if targets_us else segment.start_us,
            sound_end_us=segment.end_us,
            ends_video=self._ends_video,
            by_us=segment.start_us if sought else None,
        )

    @property
    def _least_run_in_us(self) -> int:
        if self._captioned:
            return CAPTION_RUN_IN_US
        if self._gather.text is not None:
            return TEXT_RUN_IN_US
        return SOUND_RUN_IN_US if self._gather.tracks else 0

    def _feed(self, packets: Iterable[Any], pictures: Pictures | None, sounds: Sounds | None) -> bool:
        """Decode all packets."""
        for packet in packets:
            decoder = pictures if packet.stream.type == "video" else sounds
            if decoder is not None:
                decoder.feed(packet)
        return True

    def _follow(self, packets: Iterable[Any], pictures: Pictures, sounds: Sounds | None, stream: Any) -> bool:
        """Decode by plan. False once the plan proves wrong."""
        pictures.wanted_us = set()
        index = stream.index
        try:
            for step in planner.plan(planner.groups(packets, stream), self._gather.targets_us, index):
                if step.fresh:
                    pictures.restart()
                pictures.wanted_us |= step.wanted_us
                for packet, time_us in step.packets:
                    if packet.stream_index == index:
                        pictures.feed(packet, needed=time_us in step.wanted_us)
                    elif sounds is not None:
                        sounds.feed(packet)
                if pictures.errors:
                    return False
        except planner.UntimedError:
            return False
        return True
