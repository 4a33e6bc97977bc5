"""Which samples a segment owns, and the exact target times of their frames. Pure arithmetic on integer microseconds."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vidproc.views import MICROSECONDS, Audio, Clips, Frames, Text, View

SEGMENT_US = 30 * MICROSECONDS
"""Length of a segment. A constant, not a setting: the ledger names segments by number."""


@dataclass(frozen=True)
class Span:
    """A half-open stretch of presentation time, `start_us <= t < end_us`."""

    start_us: int
    end_us: int

    @property
    def duration_us(self) -> int:
        return self.end_us - self.start_us


def segments(video: Span) -> Iterator[Span]:
    """Cut a video into segments of `SEGMENT_US`; the last one ends with the video. A video without time has one."""
    start = video.start_us
    while True:
        end = min(start + SEGMENT_US, video.end_us)
        yield Span(start, max(end, start))
        start += SEGMENT_US
        if start >= video.end_us:
            return


def owned_starts(view: Frames | Clips, *, video: Span, segment: Span, still: bool) -> npt.NDArray[np.int64]:
    """Start times of the samples that `segment` owns: int64 [samples], on the video's grid `start + k * stride`.

    A clip needs half of its span inside the video, so that it is not mostly a repeated last frame; the first clip of a
    moving video is always taken. `still`: the video is one picture, of which there are frames, but no clips.
    """
    if isinstance(view, Clips) and still:
        return np.empty(0, np.int64)
    first = max(0, math.ceil((segment.start_us - video.start_us) / view.stride_us))
    latest = min(segment.end_us, video.end_us) - 1
    if isinstance(view, Clips):
        latest = min(latest, video.end_us - view.span_us // 2)
    stop = (latest - video.start_us) // view.stride_us + 1
    if segment.start_us == video.start_us:
        stop = max(stop, 1)
    return video.start_us + np.arange(first, max(stop, first), dtype=np.int64) * view.stride_us


def target_times(view: Frames | Clips, starts_us: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The times at which frames are wanted: int64 [samples, frames per sample]."""
    return starts_us[:, None] + np.asarray(view.offsets_us, np.int64)[None, :]


def audio_length(view: Audio, segment: Span) -> int:
    """Sound samples that a segment holds at the view's rate, rounded up."""
    return -(-segment.duration_us * view.rate // MICROSECONDS)


def data_shape(view: View, *, video: Span, segment: Span, still: bool) -> tuple[int, ...]:
    """Shape of what the decoder fills for one view of one segment; text goes another way."""
    if isinstance(view, Text):
        return (0,)
    if isinstance(view, Audio):
        return (audio_length(view, segment), view.channels)
    return (len(owned_starts(view, video=video, segment=segment, still=still)), *view.sample_shape)
