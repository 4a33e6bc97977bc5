"""What a decoding child says is checked before it is believed: a hostile file may have taken the child over."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from vidproc.errors import KilledWorker, TooLarge
from vidproc.media.markup import MOST_CHARACTERS, sanitised
from vidproc.media.samples import LEAST_STREAM, MOST_LANGUAGE, MOST_SEGMENT_CHARACTERS, MOST_SPANS, TextSpan
from vidproc.media.sampling import SEGMENT_US, Span
from vidproc.views import Clips, Frames, View

MOST_SEGMENTS = 7 * 24 * 120
"""A week of video. One wrong time stamp in a small file claims centuries, which would be planned segment by segment."""

_FARTHEST_US = 1 << 53
_MOST_STREAMS = 1 << 16
_OPTIONAL = {
    "width": int, "height": int, "displayed_width": int, "displayed_height": int, "rotation": int, "fps": float,
    "declared_us": int,
}  # fmt: skip
_REQUIRED = {
    "container": str, "codec": str, "start_us": int, "end_us": int, "frame_us": int, "metadata": dict,
    "has_audio": bool, "has_picture": bool, "has_subtitles": bool, "has_text": bool, "has_text_stream": bool,
    "has_captions": bool, "variable_rate": bool, "still": bool,
}  # fmt: skip


def clean_text(value: object, *, most: int) -> str:
    """At most `most` characters that every table and terminal can hold: no control characters, no half surrogates."""
    printable = "".join(c if c.isprintable() else " " for c in str(value)[:most])
    return printable.encode(errors="replace").decode()


def checked_facts(answer: Mapping[str, Any]) -> dict[str, Any]:
    """A probe's answer, with exactly the fields that are known, in range. Raises `KilledWorker`, `TooLarge`."""
    facts: dict[str, Any] = {}
    for name, kind in {**_REQUIRED, **_OPTIONAL}.items():
        value = answer.get(name)
        if value is None and name in _OPTIONAL:
            facts[name] = None
            continue
        fits = isinstance(value, (int, float) if kind is float else kind) and (kind is bool or value is not True)
        if not fits or (isinstance(value, int | float) and not abs(value) <= _FARTHEST_US):
            raise KilledWorker(f"the decoder's answer makes no sense: {name} is {clean_text(repr(value), most=80)}")
        facts[name] = clean_text(value, most=100) if kind is str else value
    facts["metadata"] = {
        clean_text(key, most=100): clean_text(value, most=1000) for key, value in list(facts["metadata"].items())[:64]
    }
    length_us = facts["end_us"] - facts["start_us"]
    if length_us < 0 or facts["frame_us"] <= 0:
        raise KilledWorker(f"the decoder's answer makes no sense: {length_us} µs long, {facts['frame_us']} µs a frame")
    if length_us > MOST_SEGMENTS * SEGMENT_US:
        hours = length_us / 3.6e9
        raise TooLarge(
            f"its time stamps span {hours:,.0f} hours; the limit is {MOST_SEGMENTS * SEGMENT_US / 3.6e9:.0f}"
        )
    return facts


def checked_answer(
    answer: Mapping[str, Any], views: Sequence[View], shapes: Sequence[tuple[int, ...]]
) -> tuple[list[npt.NDArray[np.int64]], float]:
    """A decode's answer: of each view its frames' times, int64 [samples × frames], and the coverage, 0..1.

    Raises `KilledWorker` if it does not fit the views.
    """
    coverage, told = answer.get("coverage"), answer.get("frame_us")
    if not isinstance(coverage, int | float) or not math.isfinite(coverage) or not 0 <= coverage <= 1:
        raise KilledWorker(f"the decoder's answer makes no sense: coverage is {clean_text(repr(coverage), most=80)}")
    expected = [
        shape[0] * len(view.offsets_us) if isinstance(view, Frames | Clips) else 0
        for view, shape in zip(views, shapes, strict=True)
    ]
    try:
        times = [np.asarray(one, np.int64) for one in told]  # type: ignore[union-attr]
    except (TypeError, ValueError, OverflowError):
        times = []
    if [one.shape for one in times] != [(count,) for count in expected]:
        raise KilledWorker("the decoder's answer makes no sense: its frames' times do not fit what was asked for")
    return times, float(coverage)


def checked_corrupt(answer: Mapping[str, Any], *, most: int) -> npt.NDArray[np.int64]:
    """The times of the frames that a decode calls corrupt, at most so many. Raises `KilledWorker`."""
    told = answer.get("corrupt_us")
    if isinstance(told, list) and len(told) <= most:
        with suppress(TypeError, ValueError, OverflowError):
            times = np.asarray(told, np.int64)
            if times.ndim == 1:
                return times
    raise KilledWorker("the decoder's answer makes no sense: its corrupt frames are no list of times")


def checked_frames(answer: Mapping[str, Any], *, most: int) -> int:
    """How many frames a decode says that it decoded, over all its tries. Raises `KilledWorker`."""
    frames = answer.get("frames")
    if not isinstance(frames, int) or not 0 <= frames <= most:
        raise KilledWorker(f"the decoder's answer makes no sense: frames is {clean_text(repr(frames), most=80)}")
    return int(frames)


def checked_text(answer: Mapping[str, Any], *, video: Span, segment: Span) -> tuple[list[TextSpan], bool]:
    """A decode's answer: the spans of text that start in the segment, and whether these are all. Raises `KilledWorker`.

    Each is inside the video, its text is sanitised once more, and together they are within the limits.
    """
    told = answer.get("text")
    match told:
        case {"spans": list(found), "whole": bool(whole)} if len(found) <= MOST_SPANS:
            spans = [_checked_span(one, video=video, segment=segment) for one in found]
            if sum(len(span.text) for span in spans) <= MOST_SEGMENT_CHARACTERS:
                return [span for span in spans if span.text], whole
    raise KilledWorker("the decoder's answer makes no sense: its text is none, or is too long")


def _checked_span(told: object, *, video: Span, segment: Span) -> TextSpan:
    match told:
        case [int(stream), int(start_us), int(end_us), str(language), str(text)]:
            starts_here = segment.start_us <= start_us < segment.end_us
            if LEAST_STREAM <= stream < _MOST_STREAMS and starts_here and start_us < end_us <= video.end_us:
                language = clean_text(language, most=MOST_LANGUAGE)
                return TextSpan(stream, start_us, end_us, language, sanitised(text, most=MOST_CHARACTERS))
    raise KilledWorker(f"the decoder's answer makes no sense: a span of text is {clean_text(repr(told), most=80)}")
