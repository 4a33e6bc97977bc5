"""Faces of one video linked over time, and what a track's faces agree on. Pure, from rows alone, without torch."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vidproc.schema import FACES

LEAST_OVERLAP = 0.2
"""Intersection over union of two boxes of one track: a head that turns and nods half a second apart still has it."""
GAP_STRIDES = 3
"""A track ends when nothing was added to it for longer than so many samples."""

Row = dict[str, Any]


@dataclass(eq=False)
class Track:
    """Faces in time order, one a time, by their numbers; who its good ones were taken for, each alone."""

    faces: list[int] = field(default_factory=list)
    time_us: int = 0
    box: tuple[float, ...] = ()
    named: Counter[str] = field(default_factory=Counter)
    good: int = 0

    def add(self, number: int, row: Row) -> None:
        self.faces.append(number)
        self.time_us, self.box = row["time_us"], _box(row)
        self.good += row["decision"] != "unfit"
        if row["decision"] == "matched":
            self.named[row["identity"]] += 1

    def may_be(self, row: Row) -> bool:
        """Not if this face was taken for another person than the track's: behind a cut somebody else may sit there."""
        return row["decision"] != "matched" or not self.named or row["identity"] in self.named

    def identity(self, *, votes: int, share: float) -> str | None:
        """Who enough of its good faces were taken for."""
        for name, count in self.named.most_common(1):
            if count >= votes and count >= share * self.good:
                return name
        return None


def voted(rows: pa.Table, *, stride_us: int, votes: int, share: float) -> pa.Table:
    """Rows of `faces`, by time, with tracks; a good face has its track's identity, or is unknown like its track.

    `votes`, `share`: how many of a track's good faces must have been taken for a person by themselves, at least, and
    which share of them. Faces that say nothing by themselves (`unfit`) are in tracks, and have no identity.
    """
    said = rows.drop_columns(["vector"]).to_pylist()
    tracks = linked(said, gap_us=GAP_STRIDES * stride_us)
    track_ids: list[str | None] = [None] * len(said)
    identities: list[str | None] = [None] * len(said)
    decisions = [row["decision"] for row in said]
    for track in tracks:
        identity = track.identity(votes=votes, share=share)
        for number in track.faces:
            track_ids[number] = said[track.faces[0]]["face_id"]  # a name that needs no counting
            if decisions[number] != "unfit":
                identities[number], decisions[number] = identity, "matched" if identity else "unknown"
    for name, values in (("track_id", track_ids), ("identity", identities), ("decision", decisions)):
        at = FACES.body.get_field_index(name)
        rows = rows.set_column(at, FACES.body.field(at), pa.array(values, pa.string()))
    return rows


def linked(rows: list[Row], *, gap_us: int) -> list[Track]:
    """Tracks by greedy overlap: at each time the pairs of a track and a face that overlap most come first."""
    done: list[Track] = []
    open_: list[Track] = []
    at = 0
    while at < len(rows):
        now = rows[at]["time_us"]
        end = at
        while end < len(rows) and rows[end]["time_us"] == now:
            end += 1
        done += [track for track in open_ if now - track.time_us > gap_us]
        open_ = [track for track in open_ if now - track.time_us <= gap_us]
        free = _extended(open_, rows, range(at, end))
        for number in free:
            open_.append(Track())
            open_[-1].add(number, rows[number])
        at = end
    return done + open_


def _extended(tracks: list[Track], rows: list[Row], numbers: range) -> list[int]:
    """Give faces of one time to the tracks; returns the numbers of those that fit none."""
    overlaps = _overlaps([track.box for track in tracks], [_box(rows[number]) for number in numbers])
    pairs = [(-overlaps[i, j], -tracks[i].time_us, i, j) for i, j in np.argwhere(overlaps >= LEAST_OVERLAP).tolist()]
    taken_tracks, taken = set[int](), set[int]()
    for *_, i, j in sorted(pairs):
        row = rows[numbers[j]]
        if i not in taken_tracks and j not in taken and tracks[i].may_be(row):
            tracks[i].add(numbers[j], row)
            taken_tracks.add(i)
            taken.add(j)
    return [number for j, number in enumerate(numbers) if j not in taken]


def _box(row: Row) -> tuple[float, ...]:
    return row["x1"], row["y1"], row["x2"], row["y2"]


def _overlaps(one: list[tuple[float, ...]], other: list[tuple[float, ...]]) -> npt.NDArray[np.float64]:
    """Intersection over union of each pair: [one, other]."""
    a, b = (np.asarray(boxes, np.float64).reshape(-1, 4) for boxes in (one, other))
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.prod(np.maximum(high - low, 0), axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (a, b)]
    union = areas[0][:, None] + areas[1][None] - common
    shares: npt.NDArray[np.float64] = common / np.maximum(union, 1e-12)
    return shares
