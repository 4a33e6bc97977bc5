"""Detections of one video linked over time into tracks. Pure, from rows alone, without torch.

Linking is ByteTrack (Zhang et al. 2022, arXiv:2110.06864) as the package `trackers` has it: a Kalman filter foretells
where each track's box will be, the surest boxes choose first, the less sure ones may go on with a track but begin none.
Overlap is that of boxes enlarged on all sides (Yang et al. 2022, arXiv:2211.14317): at a few frames a second, what
moves has often left its box. Tracks hold detections only: where one was not seen, nothing is made up.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vidproc.annotators.rows import no_rows
from vidproc.errors import UsageError
from vidproc.schema import TRACKS
from vidproc.views import MICROSECONDS

_SCALE = 1000.0
"""Of shares, for the tracker, whose filter's noise is meant for pixels of a picture about so wide."""
_BUFFER_RATE = 30
"""The tracker counts its patience in frames of thirty a second, whatever the real rate."""

_BOX = ("x1", "y1", "x2", "y2")

Times = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Following:
    """How detections become tracks.

    `patience_s`: how long something may be out of sight and still be the same.
    `begin`: the least score that begins a track; lower ones only go on with it. `sure`: from it on a box chooses first.
    `enlarge`: by this share of its sides a box grows on each side, before overlap is measured. `overlap`: intersection
    over union of the grown boxes, at the least.
    `same`: boxes of other classes that overlap a surer one by this much are taken for the same thing, and not followed.
    """

    patience_s: float = 1.5
    begin: float = 0.5
    sure: float = 0.5
    enlarge: float = 0.3
    overlap: float = 0.2
    same: float = 0.8

    def __post_init__(self) -> None:
        shares = (self.begin, self.sure, self.overlap, self.same)
        if not all(0 <= share <= 1 for share in shares) or self.enlarge < 0 or not 0 < self.patience_s <= 60:
            raise UsageError("begin, sure, overlap and same must be in 0..1, enlarge at least 0, patience_s in 0..60")
        if self.sure > self.begin:
            raise UsageError(f"begin {self.begin} must be at least sure {self.sure}: only sure boxes begin a track")


def tracks(
    rows: pa.Table, following: Following, *, stride_us: int, end_us: int, cuts_us: Sequence[int] = ()
) -> pa.Table:
    """Rows of `detections` of one video, by time → rows of `tracks`, by start: those of at least two detections.

    A track's class is what its detections say, weighted by their scores; its id is that of its first detection.
    `stride_us`: from one frame that was looked at to the next. `end_us`: of the video: no track ends later.
    `cuts_us`: from when on another shot is seen, by time: no track goes on there.
    """
    if not rows.num_rows:
        return no_rows(TRACKS)
    said = _Said.of(rows)
    borders = np.array([*cuts_us, end_us], np.int64)
    linked = _linked(said, following, stride_us=stride_us, cuts_us=borders[:-1])
    found = sorted(linked, key=lambda members: said.ids[members[0]])
    described = [_described(np.array(members), said, stride_us=stride_us, borders_us=borders) for members in found]
    described.sort(key=lambda track: track["start_us"])
    return pa.Table.from_pylist(described, schema=TRACKS.body)


@dataclass(frozen=True, eq=False)
class _Said:
    """The columns of `detections`, all of one length. `boxes`: float32 [k, 4], shares."""

    ids: list[str]
    time_us: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float32]
    score: npt.NDArray[np.float32]
    label_id: npt.NDArray[np.int32]
    label: list[str]

    @classmethod
    def of(cls, rows: pa.Table) -> "_Said":
        numbers = {name: rows[name].to_numpy() for name in ("time_us", "score", "label_id", *_BOX)}
        return cls(
            ids=rows["detection_id"].to_pylist(),
            time_us=numbers["time_us"],
            boxes=np.stack([numbers[name] for name in _BOX], axis=1),
            score=numbers["score"],
            label_id=numbers["label_id"],
            label=rows["label"].to_pylist(),
        )


def _described(members: Times, said: _Said, *, stride_us: int, borders_us: Times) -> dict[str, Any]:
    """One row of `tracks`. `members`: its detections' numbers, in time order."""
    scores = said.score[members].astype(np.float64)
    votes = np.bincount(said.label_id[members], weights=scores)
    label_id = int(votes.argmax())
    best = members[scores.argmax()]
    last_us = int(said.time_us[members[-1]])
    shot = np.searchsorted(borders_us[:-1], last_us, side="right")
    end_us = int(min(borders_us[shot], borders_us[-1]))
    return {
        "track_id": said.ids[members[0]],
        "start_us": int(said.time_us[members[0]]),
        "end_us": max(min(last_us + stride_us, end_us), last_us + 1),
        "label": next(said.label[i] for i in members if said.label_id[i] == label_id),
        "label_id": label_id,
        "n_detections": len(members),
        "mean_score": scores.mean(),
        "detection_ids": [said.ids[i] for i in members],
        "best_time_us": int(said.time_us[best]),
        **dict(zip(_BOX, said.boxes[best].tolist(), strict=True)),
    }


def _linked(said: _Said, following: Following, *, stride_us: int, cuts_us: Times) -> Iterator[list[int]]:
    """The numbers of each track's detections, in time order. Every detection is in one track at the most."""
    patience_us = round(following.patience_s * MICROSECONDS)
    times, firsts = np.unique(said.time_us, return_index=True)
    pieces = np.split(np.arange(len(said.time_us)), firsts[1:])
    links: _Links | None = None
    before_us, before = 0, 0
    shots = np.searchsorted(cuts_us, times, side="right")
    for time_us, shot, members in zip(times.tolist(), shots.tolist(), pieces, strict=True):
        if links is not None and (time_us - before_us > patience_us or shot != before):  # nothing goes on after that
            yield from links.tracks()
            links = None
        if links is None:
            links = _Links(following, rate=MICROSECONDS / stride_us)
        else:
            for empty_us in range(before_us + stride_us, time_us - stride_us // 2, stride_us):
                links.add(members[:0], said, empty_us)
        links.add(members, said, time_us)
        before_us, before = time_us, shot
    if links is not None:
        yield from links.tracks()


class _Links:
    """The tracker, from one long gap to the next, and which detections are whose."""

    def __init__(self, following: Following, *, rate: float) -> None:
        from trackers import BIoU, ByteTrackTracker  # two seconds: it takes OpenCV and matplotlib along

        self._following = following
        self._tracker = ByteTrackTracker(
            lost_track_buffer=round(following.patience_s * _BUFFER_RATE),
            frame_rate=rate,
            track_activation_threshold=following.begin,
            high_conf_det_threshold=following.sure,
            minimum_consecutive_frames=1,
            minimum_iou_threshold=following.overlap,
            iou=BIoU(buffer_ratio=following.enlarge),
        )
        self._begun: dict[Any, int] = {}
        self._members: dict[int, list[int]] = {}

    def tracks(self) -> list[list[int]]:
        return list(self._members.values())

    def add(self, members: npt.NDArray[np.int64], said: _Said, time_us: int) -> None:
        """What was seen in one frame: the numbers of its detections, perhaps none."""
        import supervision as sv

        seen = sv.Detections(
            xyxy=said.boxes[members].astype(np.float64) * _SCALE,
            confidence=said.score[members],
            data={"number": members},
        )
        if len(seen) > 1:
            seen = seen.with_nms(threshold=self._following.same, class_agnostic=True)
        found = self._tracker.update(seen, timestamp=time_us / MICROSECONDS)
        self._note(found)

    def _note(self, found: Any) -> None:
        """Write down whose detections these are.

        The tracker names a track at its second detection only, and does not say again which was its first: of what it
        gives back without a name, in its order, those that are sure enough have begun the tracks whose age is nought.
        """
        numbers, names, scores = (
            (found.data["number"].tolist(), found.tracker_id.tolist(), found.confidence.tolist())
            if len(found)
            else ([], [], [])
        )
        alive = self._tracker.tracks
        for number, name in zip(numbers, names, strict=True):
            if name >= 0 and name not in self._members:
                track = next(track for track in alive if track.tracker_id == name)
                self._members[name] = [self._begun[track]]
            if name >= 0:
                self._members[name].append(number)
        begin = self._following.begin
        begun = [
            number for number, name, score in zip(numbers, names, scores, strict=True) if name < 0 and score >= begin
        ]
        fresh = [track for track in alive if track.age == 0]
        self._begun |= zip(fresh, begun, strict=True)
        self._begun = {track: self._begun[track] for track in alive if track.tracker_id < 0}
