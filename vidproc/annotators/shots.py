"""Where one shot gives way to the next: cuts and fades, found without a network, into `shots`.

Of every frame up to 64 a second a small picture is compared with its neighbours (`transitions.py`). Clips overlap by
half, so that what happens around a segment's border is seen whole by the segment before it, which decides about it.
Dissolves are not told from motion: two shots that are blended into each other are one here.
"""

from bisect import bisect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from vidproc.annotators.base import Annotation, Network, WithoutWeights
from vidproc.annotators.rows import no_rows, rows_of
from vidproc.annotators.transitions import CONTEXT, is_flat, transitions
from vidproc.media.samples import Samples
from vidproc.schema import SHOTS
from vidproc.views import Clips, Picture, View

if TYPE_CHECKING:
    import numpy.typing as npt

LEAST_SHOT_US = 200_000
"""Of two transitions closer than this one stands: a cut before a fade, and the surer before the less sure."""

_STRIDE = 2 * CONTEXT
"""Samples from one clip's start to the next one's."""


@dataclass(frozen=True)
class Shots(WithoutWeights):
    """The boundaries of shots: no weights, no labels.

    A segment's rows are provisional; `over_video` makes the shots of them. Their `shot` counts the segment's
    transitions from 1 on; 0 is the segment's own beginning, a "fade" if it is black or white; below 0 are those so near
    to it that the segment before knows better, if there is one.
    """

    name: ClassVar[str] = "shots"
    version: ClassVar[int] = 1
    clips: ClassVar[Clips] = Clips(
        num_frames=2 * _STRIDE,
        fps=64,  # 15,625 µs: no frame of up to 64 a second is passed over, so a cut is told to the frame
        stride_s=_STRIDE / 64,
        picture=Picture(resize=(24, 40), interpolation="area"),
    )
    views: ClassVar[tuple[View, ...]] = (clips,)
    tables: ClassVar[tuple[str, ...]] = (SHOTS.name,)
    reads: ClassVar[tuple[str, ...]] = tables
    replaces: ClassVar[tuple[str, ...]] = tables

    def over_video(self, rows: Mapping[str, pa.Table], facts: Mapping[str, Any]) -> Mapping[str, pa.Table]:
        """The shots, numbered from 0, from the video's start to its end without gap: none where nothing was seen.

        A segment that could not be decoded lies within the shot that was going on before it. A first shot that fades in
        begins with the video.
        """
        found = rows[SHOTS.name].to_pylist()
        if not found:
            return {}
        start_us, end_us = facts["start_us"], facts["end_us"]
        marks = joined(found, start_us=start_us, end_us=end_us)
        starts = [start_us, *(mark["start_us"] for mark in marks)]
        columns = {
            "shot": np.arange(len(starts)),
            "start_us": starts,
            "end_us": [*starts[1:], max(end_us, start_us + 1)],
            "transition": ["start", *(mark["transition"] for mark in marks)],
            "score": [1.0, *(mark["score"] for mark in marks)],
        }
        return {SHOTS.name: rows_of(SHOTS, columns)}

    def load(self, device: str, *, compiled: bool = False) -> Network:  # noqa: ARG002  the CPU is quick enough
        return ShotsNetwork()


class ShotsNetwork:
    """Finds the transitions of each segment."""

    def annotate(self, segments: Sequence[Mapping[View, Samples]]) -> list[Annotation]:
        """Provisional rows: of each segment's beginning and of the transitions that it decides about."""
        return [self._annotate(segment.get(Shots.clips)) for segment in segments]

    def _annotate(self, clips: Samples | None) -> Annotation:
        if clips is None or not len(clips):
            return Annotation(rows={SHOTS.name: no_rows(SHOTS)})
        marks = provisional(clips)
        starts = [mark["start_us"] for mark in marks]
        last_us = max(int(clips.end_us[-1]), starts[-1] + 1)
        columns = {name: [mark[name] for mark in marks] for name in marks[0]} | {"end_us": [*starts[1:], last_us]}
        return Annotation(rows={SHOTS.name: rows_of(SHOTS, columns)}, samples=len(clips))


def provisional(clips: Samples, *, between: bool = False) -> list[dict[str, Any]]:
    """One segment's beginning and the transitions that it decides about: shot, start_us, transition, score of each.

    `between`: a transition is put not at the new shot's first frame but half-way to it from the last before, where
    moments that are given the nearest frame begin to show the new shot.
    """
    pixels, at, frame_us, length = timeline(clips)
    ends_video = clips.end_us[-1] < clips.start_us[-1] + Shots.clips.span_us
    decided = length if ends_video else length - CONTEXT
    found = [one for one in transitions(pixels, at, length) if one.sample < decided]
    first = {"shot": 0, "start_us": int(clips.start_us[0]), "score": 1.0}
    marks = [first | {"transition": "fade" if is_flat(pixels[0]) else "start"}]
    for number, one in enumerate(found, start=1):
        begins_us = int(frame_us[one.frame])
        if between:
            begins_us = (int(frame_us[one.frame - 1]) + begins_us) // 2 + 1
        shot = -number if one.sample < CONTEXT else number
        marks.append({"shot": shot, "start_us": begins_us, "score": one.score, "transition": one.kind})
    return marks


def joined(found: Sequence[Mapping[str, Any]], *, start_us: int, end_us: int) -> list[Mapping[str, Any]]:
    """A whole video's transitions, by time, of its segments' provisional ones, in their order."""
    begun_us = start_us + Shots.clips.stride_us  # nothing that is early elsewhere lies before
    inside = [row for row in found if start_us < row["start_us"] < end_us]
    marks = _apart(row for row in inside if row["shot"] > 0 or (row["shot"] < 0 and row["start_us"] < begun_us))
    if marks and found[0]["shot"] == 0 and found[0]["transition"] == marks[0]["transition"] == "fade":
        del marks[0]
    return marks


def timeline(clips: Samples) -> tuple[Any, "npt.NDArray[np.int64]", "npt.NDArray[np.int64]", int]:
    """Overlapping clips as one sequence: its frames, each once, the samples they set in at, their PTS; its length."""
    times = np.concatenate([clips.frame_us[:, :_STRIDE].reshape(-1), clips.frame_us[-1, _STRIDE:]])
    at = np.flatnonzero(np.concatenate([[True], np.diff(times) != 0]))
    clip = np.minimum(at // _STRIDE, len(clips) - 1)
    return clips.data[clip, at - clip * _STRIDE], at, times[at], len(times)


def _apart(marks: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of transitions too near to each other the weightier ones, by time."""
    kept: list[Mapping[str, Any]] = []
    for mark in sorted(marks, key=lambda row: (row["transition"] != "cut", -row["score"], row["start_us"])):
        place = bisect(kept, mark["start_us"], key=itemgetter("start_us"))
        near = kept[max(place - 1, 0) : place + 1]
        if all(abs(mark["start_us"] - other["start_us"]) >= LEAST_SHOT_US for other in near):
            kept.insert(place, mark)
    return kept
