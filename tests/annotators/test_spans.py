"""Spans: hysteresis, borders of segments, what is not fit; as a plain loop over all samples finds them."""

import itertools
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from vidproc.annotators.spans import KEEP, joined, noted, runs, spans
from vidproc.annotators.votes import Said

BEGIN = np.array([0.5, 0.8, np.inf], np.float32)
S = 1_000_000


def segment(scores: Any, *, first: int = 0, fit: Any = None, votes: Any = None, span: int = 1) -> list[list[Any]]:
    scores = np.asarray(scores, np.float32).reshape(len(scores), -1)
    starts = (np.arange(len(scores)) + first) * S
    known = np.ones(len(scores), bool)
    fit = known if fit is None else np.asarray(fit, bool)
    said = Said(known, fit, fit if votes is None else np.asarray(votes, bool))
    return noted(runs(scores, starts, starts + span * S, begin=BEGIN[: scores.shape[1]], said=said, ranked=2))


def told(*segments: Any, statuses: Any = None) -> list[tuple[Any, ...]]:
    rows = [{"status": "labelled", "notes": None if one is None else json.dumps(one)} for one in segments]
    for row, status in zip(rows, statuses or [], strict=False):
        row["status"] = status
    schema = pa.schema([("status", pa.string()), ("notes", pa.string())])
    found = spans(pa.Table.from_pylist(rows, schema=schema), task="action", labels=("walk", "run", "rest"))
    assert set(found["scope"].to_pylist()) <= {"span"}
    return [(row["label"], row["start_us"] // S, row["end_us"] // S, row["score"]) for row in found.to_pylist()]


def test_a_span_begins_at_the_threshold_and_goes_on_above_its_half() -> None:
    assert KEEP == 0.5
    scores = [[s] for s in (0.1, 0.3, 0.5, 0.3, 0.25, 0.6, 0.24, 0.4, 0.4, 0.1)]
    assert told(segment(scores)) == [("walk", 1, 6, pytest.approx(0.6))]  # one, where 0.5 alone would have made two


def test_each_label_has_its_own_threshold_and_one_that_is_never_said_has_no_span() -> None:
    scores = [[0.6, 0.6, 1.0], [0.6, 0.8, 1.0], [0.1, 0.4, 1.0]]
    assert told(segment(scores)) == [("walk", 0, 2, pytest.approx(0.6)), ("run", 0, 3, pytest.approx(0.8))]


def test_a_span_runs_across_borders_whichever_side_it_is_sure_on() -> None:
    low, high = [[0.3]] * 3, [[0.3], [0.9], [0.3]]
    for parts in ([low, low, high], [high, low, low], [low, high, low]):
        given = [segment(part, first=3 * i) for i, part in enumerate(parts)]
        assert told(*given) == [("walk", 0, 9, pytest.approx(0.9))]
    assert told(segment(low), segment(low, first=3)) == [], "it never began"


def test_segments_without_samples_are_passed_over_and_failed_ones_are_not() -> None:
    parts = [segment([[0.9]]), None, segment([[0.9]], first=2)]
    assert told(*parts, statuses=["labelled", "empty", "labelled"]) == [("walk", 0, 3, pytest.approx(0.9))]
    for status in ("quarantined", "missing"):
        assert len(told(*parts, statuses=["labelled", status, "labelled"])) == 2


def test_what_is_not_fit_ends_a_span_and_what_is_said_again_begins_none() -> None:
    scores = [[0.9]] * 6
    assert [row[1:3] for row in told(segment(scores, fit=[1, 1, 0, 0, 1, 1]))] == [(0, 2), (4, 6)]
    assert told(segment(scores, votes=[0] * 6)) == []
    assert [row[1:3] for row in told(segment(scores, votes=[1, 0, 0, 0, 0, 0]))] == [(0, 6)]  # a slide that stays


def test_spans_of_overlapping_clips_do_not_overlap() -> None:
    scores = [[s] for s in (0.9, 0.9, 0.1, 0.9, 0.1)]
    assert [row[1:3] for row in told(segment(scores, span=3))] == [(0, 3), (3, 6)]


def test_a_spans_rank_is_that_of_its_best_sample() -> None:
    scores = np.array([[0.6, 0.9, 0.0], [0.7, 0.9, 0.9]], np.float32)
    [walk, run] = segment(scores)
    assert (walk[0], walk[4], run[0], run[4]) == (0, 2, 1, 1)


@pytest.mark.parametrize("seed", range(20))
def test_any_cut_gives_the_spans_of_a_plain_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 40))
    scores = (rng.random((count, 2)).cumsum(axis=0) * 3 % 1).astype(np.float32)
    fit = rng.random(count) < 0.9
    expected = sorted(by_loop(scores, fit))
    for cuts in ([], [count // 2], sorted(rng.integers(0, count + 1, 4).tolist())):
        edges = [0, *cuts, count]
        given = [segment(scores[a:b], first=a, fit=fit[a:b]) for a, b in itertools.pairwise(edges) if b > a]
        found = [(run.start_us // S, run.label_id, run.end_us // S, run.score) for run in joined(given)]
        assert found == [(a, label, b, pytest.approx(best)) for a, label, b, best in expected]


def by_loop(scores: Any, fit: Any) -> list[tuple[int, int, int, float]]:
    found = []
    for label in range(scores.shape[1]):
        start = None
        for i in range(len(scores) + 1):
            on = i < len(scores) and fit[i] and scores[i, label] >= BEGIN[label] * np.float32(KEEP)
            if on and start is None:
                start = i
            if not on and start is not None:
                best = scores[start:i, label].max()
                if best >= BEGIN[label]:
                    found.append((start, label, i, float(best)))
                start = None
    return found
