"""From when to when a label holds: scores of consecutive samples become spans, with hysteresis, across segments.

A span begins where a score reaches its label's threshold and reaches, both ways, as far as scores stay at or above
`KEEP` of it, over consecutive samples, wherever segments end: a score that wavers around the threshold makes one span
and not ten. One sample below ends it; no gap is bridged. A segment's runs are noted in the ledger with what is known of
them there; those that touch its borders are joined when the whole video is there.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vidproc.annotators.rows import repeated, rows_of
from vidproc.annotators.votes import Floats, Said
from vidproc.schema import LABELS

BEGIN = 0.5
"""The threshold of labels that were not calibrated."""
KEEP = 0.5
"""By how much of its threshold a label's span goes on."""

Times = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Run:
    """Consecutive samples with one label. `score`, `rank`: where it scores highest, first.

    `begun`: it reached its threshold. `opens`, `closes`: it holds the segment's first, its last sample.
    """

    label_id: int
    start_us: int
    end_us: int
    score: float
    rank: int
    begun: bool
    opens: bool
    closes: bool

    def followed_by(self, other: "Run") -> "Run":
        """Both as one."""
        best = other if other.score > self.score else self
        return Run(
            self.label_id, self.start_us, max(self.end_us, other.end_us), best.score, best.rank,
            self.begun or other.begun, self.opens, other.closes,
        )  # fmt: skip


def runs(scores: Floats, start_us: Times, end_us: Times, *, begin: Floats, said: Said, ranked: int) -> list[Run]:
    """The runs of one segment's scores [samples, labels] that are spans, or parts of one perhaps; by label and time.

    `begin`: the labels' thresholds; infinite where a label is never said. `ranked`: so many labels, the first, compete
    for ranks; others have 0.
    """
    above = (scores >= begin * np.float32(KEEP)) & said.fit[:, None]
    if not len(above):
        return []
    reached = (scores >= begin) & said.votes[:, None]
    columns = np.flatnonzero(reached.any(axis=0) | above[0] | above[-1])
    edges = np.diff(np.pad(above[:, columns], [(1, 1), (0, 0)]).astype(np.int8), axis=0)
    column, first = np.nonzero(edges.T == 1)
    _, stop = np.nonzero(edges.T == -1)  # as many, and in the same order
    found = []
    for label_id, a, b in zip(columns[column].tolist(), first.tolist(), stop.tolist(), strict=True):
        begun, opens, closes = bool(reached[a:b, label_id].any()), a == 0, b == len(above)
        if begun or opens or closes:
            best = a + int(scores[a:b, label_id].argmax())
            rank = _rank(scores[best, :ranked], label_id) if label_id < ranked else 0
            score = float(scores[best, label_id])
            span = int(start_us[a]), int(end_us[b - 1])
            found.append(Run(label_id, *span, score, rank, begun, opens, closes))
    return found


def _rank(scores: Floats, label_id: int) -> int:
    own = scores[label_id]
    return 1 + int((scores > own).sum()) + int((scores[:label_id] == own).sum())


def noted(found: Sequence[Run]) -> list[list[Any]]:
    """Runs as JSON."""
    return [list(astuple(run)) for run in found]


def joined(segments: Iterable[Sequence[Sequence[Any]] | None]) -> list[Run]:
    """The spans of a whole video, by start and label, from its segments' notes; None where nothing is known of one."""
    done: list[Run] = []
    going: dict[int, Run] = {}
    for notes in segments:
        before, going = going, {}
        for run in (Run(*fields) for fields in notes or ()):
            if run.opens and run.label_id in before:
                run = before.pop(run.label_id).followed_by(run)  # noqa: PLW2901
            if run.closes:
                going[run.label_id] = run
            else:
                done.append(run)
        done += before.values()
    begun = [run for run in [*done, *going.values()] if run.begun]
    return sorted(begun, key=lambda run: (run.start_us, run.label_id))


def spans(segments: pa.Table, *, task: str, labels: Sequence[str]) -> pa.Table:
    """A unit's segments, rows of `ledger` in order → rows of `labels` with scope "span", less the common columns.

    Segments without a sample of the view are passed over; those that failed end what was going on. Spans of one label
    do not overlap, as clips may.
    """
    rows = segments.select(["status", "notes"]).to_pylist()
    found = joined(json.loads(row["notes"] or "null") for row in rows if row["status"] != "empty")
    ends = {id(run): run.end_us for run in found}
    of_label: dict[int, list[Run]] = {}
    for run in found:
        of_label.setdefault(run.label_id, []).append(run)
    for same in of_label.values():
        ends |= {id(one): min(one.end_us, other.start_us) for one, other in pairwise(same)}
    columns = {
        "start_us": [run.start_us for run in found],
        "end_us": [ends[id(run)] for run in found],
        "scope": repeated("span", len(found)),
        "task": repeated(task, len(found)),
        "label": [labels[run.label_id] for run in found],
        "label_id": [run.label_id for run in found],
        "score": [run.score for run in found],
        "rank": [run.rank for run in found],
    }
    return rows_of(LABELS, columns)
