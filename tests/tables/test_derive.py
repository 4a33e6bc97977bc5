"""Derive: states, coverage and means over whole videos, pending until their annotator runs, and never twice."""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from made_rows import (
    LENGTH_US,
    FakeAnnotator,
    facts,
    ledger_rows,
    part,
    read,
    read_all,
    segment_parts,
    unit_keys,
)

from vidproc.annotators.objects import Objects
from vidproc.annotators.votes import Said
from vidproc.errors import TablesDamaged
from vidproc.models.weights import resolve_weights
from vidproc.schema import LEDGER, SHOTS, VIDEOS, WHOLE_VIDEO
from vidproc.tables import sql
from vidproc.tables.commit import Commits, replace_units
from vidproc.tables.derive import derive, pending_derivations, whole_videos
from vidproc.tables.merge import merge_coverage, merge_status

ACTIONS = {"actions": FakeAnnotator()}


@pytest.mark.parametrize(
    ("states", "merged"),
    [
        (["labelled", "labelled"], ("labelled", None)),
        (["labelled", "empty"], ("labelled", None)),
        (["empty", "empty"], ("empty", None)),
        (["quarantined:timeout", "quarantined:damaged"], ("quarantined", "timeout")),
        (["missing:missing"], ("missing", "missing")),
        (["labelled", "quarantined:damaged"], ("partial", "damaged")),
        (["empty", "quarantined:damaged"], ("partial", "damaged")),
        (["partial:damaged", "labelled"], ("partial", "damaged")),
        (["missing:missing", "quarantined:changed"], ("partial", "missing")),
    ],
)
def test_states_merge(states: list[str], merged: tuple[str, str | None]) -> None:
    parts = [state.partition(":") for state in states]
    assert merge_status({"status": s, "reason": r or None} for s, _, r in parts) == merged


def segment(length_us: int, coverage: float | None, status: str = "labelled") -> dict[str, Any]:
    return {"start_us": 0, "end_us": length_us, "coverage": coverage, "status": status}


def test_coverage_is_decoded_over_declared_time() -> None:
    assert merge_coverage([segment(30, 1.0), segment(10, 0.5)], 40) == pytest.approx(35 / 40)
    assert merge_coverage([segment(30, 1.0), segment(10, 0.5)], 70) == pytest.approx(0.5)  # it broke off half-way
    assert merge_coverage([segment(30, 1.0)], 10) == 1.0  # it declared too little
    assert merge_coverage([segment(30, 1.0)], None) == 1.0
    assert merge_coverage([segment(10, 1.0), segment(10, None, "quarantined")], 20) == 0.5
    assert merge_coverage([segment(10, 1.0), segment(10, None)], 20) is None
    assert merge_coverage([segment(0, 1.0)], None) == 1.0  # a picture


class Tables:
    def __init__(self, url: str) -> None:
        self.url = url
        self.run = 0

    def add(self, rows: list[dict[str, Any]], **replace: pa.Table) -> None:
        with self.open() as commits:
            commits.commit([part(self.url, LEDGER, rows)], replace=replace)

    def open(self) -> Commits:
        self.run += 1
        return Commits.open(self.url, run_id=f"run-{self.run}")

    def derive(self, annotators: dict[str, Any] = ACTIONS, **changed: Any) -> int:
        with self.open() as commits:
            return derive(commits, annotators, **changed)

    def video(self, video_id: str) -> dict[str, Any]:
        (row,) = (row for row in read(self.url, "videos") if row["video_id"] == video_id)
        return row

    def whole(self, **columns: Any) -> dict[str, Any]:
        columns["segment"] = WHOLE_VIDEO
        (row,) = (row for row in read(self.url, "ledger") if columns.items() <= row.items())
        return row


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(str(tmp_path))


def test_a_whole_video_gets_its_row_its_labels_and_its_ledger_row(tables: Tables) -> None:
    with tables.open() as commits:
        commits.commit(segment_parts(tables.url, "a", [2, 0], n_segments=3))
        assert derive(commits, ACTIONS) == 0  # segment 1 is not there yet
        commits.commit(segment_parts(tables.url, "a", [1], n_segments=3, samples=1, tally=[0.25, 1.0], attempts=2))
    assert pending_derivations(tables.url, ACTIONS) == 1
    assert tables.derive() == 1
    assert pending_derivations(tables.url, ACTIONS) == 0
    whole = tables.whole(video_id="a")
    assert (whole["status"], whole["n_segments"], whole["start_us"], whole["end_us"]) == ("labelled", 3, 0, 3_000_000)
    assert (whole["rows"], whole["attempts"], whole["decode_s"], whole["samples"]) == (6, 2, 1.5, 5)
    assert whole["tally"] == [1.0 + 3.0 + 0.25, 0.5 + 0.5 + 1.0]
    assert whole["run_id"] == "run-2"
    labels = [row for row in read(tables.url, "labels") if row["scope"] == "video"]
    assert [(row["label"], row["rank"], row["start_us"], row["end_us"]) for row in labels] == [
        ("walk", 0, 0, 3_000_000),
        ("run", 1, 0, 3_000_000),
    ]
    np.testing.assert_allclose([row["score"] for row in labels], [4.25 / 5, 2.0 / 5], rtol=1e-6)
    video = tables.video("a")
    assert (video["uri"], video["status"], video["duration_us"], video["n_segments"]) == (
        "a/a.mp4",
        "labelled",
        3_000_000,
        3,
    )
    assert video["metadata"] == [("title", "a")]
    assert tables.derive() == 0


def test_a_file_that_never_opened_has_a_row_with_its_reason(tables: Tables) -> None:
    broken = {"status": "quarantined", "reason": "not_media", "detail": "no format fits", "coverage": None}
    tables.add(ledger_rows("a", [0], n_segments=1, end_us=0, samples=0, tally=None, facts=facts("a"), **broken))
    assert tables.derive() == 1
    video = tables.video("a")
    assert (video["status"], video["reason"], video["container"], video["duration_us"]) == (
        "quarantined",
        "not_media",
        None,
        None,
    )
    assert tables.whole(video_id="a")["detail"] == "no format fits"
    assert read(tables.url, "labels") == []


def test_a_video_that_broke_off_is_partial(tables: Tables) -> None:
    known = facts("a", start_us=0, end_us=LENGTH_US, declared_us=2 * LENGTH_US, width=64)
    tables.add(ledger_rows("a", [0], n_segments=1, facts=known))
    tables.derive()
    video = tables.video("a")
    assert (video["status"], video["reason"], video["coverage"], video["width"]) == ("partial", "damaged", 0.5, 64)
    assert video["duration_us"] == 2 * LENGTH_US


def test_the_facts_that_know_most_are_kept(tables: Tables) -> None:
    rows = ledger_rows("a", [0, 1], n_segments=2)
    rows[1] |= {"facts": facts("a"), "status": "missing", "reason": "missing", "coverage": None}
    tables.add(rows)
    tables.derive()
    video = tables.video("a")
    assert (video["duration_us"], video["status"], video["coverage"]) == (2_000_000, "partial", 0.5)


def test_odd_metadata_becomes_text(tables: Tables) -> None:
    odd = json.dumps(json.loads(facts("a")) | {"metadata": {"n": 1, "list": ["ü"], "none": None}})
    tables.add(ledger_rows("a", [0], n_segments=1, facts=odd))
    tables.derive()
    assert dict(tables.video("a")["metadata"]) == {"n": "1", "list": '["\\u00fc"]', "none": None}


def test_a_later_annotator_replaces_the_videos_row(tables: Tables) -> None:
    other = {"other": FakeAnnotator("other")}
    tables.add(ledger_rows("a", [0], n_segments=1) + ledger_rows("b", [0], n_segments=1))
    tables.derive()
    tables.add(ledger_rows("a", [0], n_segments=1, annotator="other", status="quarantined", reason="timeout"))
    assert tables.derive(other) == 1
    assert [(row["video_id"], row["status"]) for row in read(tables.url, "videos")] == [
        ("a", "partial"),
        ("b", "labelled"),
    ]
    assert tables.video("a")["reason"] == "timeout"


def test_a_new_model_stands_for_its_annotator(tables: Tables) -> None:
    tables.add(ledger_rows("a", [0], n_segments=1, status="quarantined", reason="timeout"))
    tables.derive()
    tables.add(ledger_rows("a", [0], n_segments=1, model_id="net-2"))
    assert tables.derive({"actions": FakeAnnotator(model_id="net-2")}) == 1
    assert (tables.video("a")["status"], tables.video("a")["reason"]) == ("labelled", None)


def test_reprocessing_replaces_everything_of_the_unit(tables: Tables) -> None:
    tables.add(ledger_rows("a", [0], n_segments=1, status="quarantined", reason="timeout"))
    tables.derive()
    with tables.open() as commits:
        new = segment_parts(tables.url, "a", [0, 1], n_segments=2)
        commits.commit(new, replace=replace_units(unit_keys("a")))
        assert derive(commits, ACTIONS) == 1
    assert tables.video("a")["status"] == "labelled"
    assert [row["segment"] for row in read(tables.url, "ledger")] == [-1, 0, 1]
    assert len([row for row in read(tables.url, "labels") if row["scope"] == "video"]) == 2


def test_what_todays_run_cannot_name_stays_pending(tables: Tables) -> None:
    tables.add(ledger_rows("a", [0], n_segments=1))
    assert tables.derive({"other": FakeAnnotator("other")}) == 0
    assert tables.derive({"actions": FakeAnnotator(model_id="net-2")}) == 0
    assert tables.derive({}) == 0
    assert read(tables.url, "videos") == []
    assert tables.derive() == 1
    assert len(read(tables.url, "labels")) == 2


def test_many_videos_in_small_commits_equal_one_commit(tmp_path: Path) -> None:
    outcomes = []
    for name, size in (("small", 7), ("large", 10_000)):
        tables = Tables(str(tmp_path / name))
        rows = [row for i in range(40) for row in ledger_rows(f"{i:03d}", range(1 + i % 5), n_segments=1 + i % 5)]
        tables.add(rows)
        assert tables.derive(commit_segments=size) == 40
        outcomes.append(read_all(tables.url))
    assert outcomes[0] == outcomes[1]
    assert len(outcomes[0]["videos"]) == 40


class Joining(FakeAnnotator):
    """Says of a video that it is one shot, as many as there were."""

    reads = ("shots", "quality")
    replaces = ("shots",)

    def over_video(self, rows: Mapping[str, pa.Table], facts: Mapping[str, Any]) -> Mapping[str, pa.Table]:
        shots = rows["shots"]
        assert shots.schema == SHOTS.body and rows["quality"].num_rows == 0
        starts = shots["start_us"].to_pylist()
        assert starts == sorted(starts) and facts["uri"]
        whole = {"shot": 0, "start_us": starts[0], "end_us": shots["end_us"][-1].as_py(), "transition": "start"}
        return {"shots": pa.Table.from_pylist([whole | {"score": float(len(starts))}], schema=SHOTS.body)}


def shots(video_id: str, segments: Sequence[int], **common: Any) -> list[dict[str, Any]]:
    return [
        {"video_id": video_id, "annotator": "actions", "model_id": "net-1", "run_id": "run-1", "shot": 0}
        | {"start_us": i * LENGTH_US, "end_us": (i + 1) * LENGTH_US, "transition": "start", "score": 0.0}
        | common
        for i in segments
    ]


def test_what_only_a_whole_video_tells_takes_the_place_of_its_segments_rows(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "BATCH_ROWS", 3)  # units begin and end within batches
    lengths = {f"{i:03d}": 1 + i % 5 for i in range(20)}
    with tables.open() as commits:
        ledger = [row for name, n in lengths.items() for row in ledger_rows(name, range(n), n_segments=n)]
        written = [row for name, n in reversed(lengths.items()) for row in shots(name, reversed(range(n)))]
        other = shots("003", range(3), model_id="net-0")
        commits.commit([part(tables.url, LEDGER, ledger), part(tables.url, SHOTS, written + other)])
    assert tables.derive({"actions": Joining()}, commit_segments=7) == 20
    found = {row["video_id"]: row for row in read(tables.url, "shots") if row["model_id"] == "net-1"}
    assert {name: (row["start_us"], row["end_us"], row["score"]) for name, row in found.items()} == {
        name: (0, n * LENGTH_US, n) for name, n in lengths.items()
    }
    assert {row["run_id"] for row in found.values()} == {f"run-{tables.run}"}
    assert len(read(tables.url, "shots")) == 20 + 3, "another model's rows are left alone"
    before = read_all(tables.url)
    assert tables.derive({"actions": Joining()}) == 0
    assert read_all(tables.url) == before


def test_cuts_fall_between_videos() -> None:
    ids = list("aabbbbbbbcdd")
    batches = [pa.record_batch({"video_id": ids[i : i + 2]}) for i in range(0, len(ids), 2)]
    pieces = [piece.column("video_id").to_pylist() for piece in whole_videos(iter(batches), 4)]
    assert [v for piece in pieces for v in piece] == ids
    assert all(one[-1] != two[0] for one, two in itertools.pairwise(pieces))
    assert len(pieces) > 1


def test_a_ledger_that_contradicts_itself_is_reported(tables: Tables) -> None:
    rows = ledger_rows("a", [0, 1], n_segments=2)
    rows[1]["tally"] = [1.0, 2.0, 3.0]
    tables.add(rows)
    with pytest.raises(TablesDamaged, match=r"different lengths \[2, 3\]"):
        tables.derive()
    tables.add(ledger_rows("b", [0], n_segments=1, facts=None), ledger=unit_keys("a"))
    with pytest.raises(TablesDamaged, match="no facts of video b"):
        tables.derive()


def test_derive_on_s3(place: str) -> None:
    tables = Tables(place)
    with tables.open() as commits:
        commits.commit(segment_parts(place, "a", [0], n_segments=1))
        assert derive(commits, ACTIONS) == 1
    assert tables.video("a")["status"] == "labelled"
    assert set(tables.video("a")) | {"labelled_at"} == set(VIDEOS.schema.names)


def test_spans_and_votes_are_those_of_the_whole_video_in_whatever_order_its_segments_came(tmp_path: Path) -> None:
    """A circle from the first segment into the third; the second is black at its end, which says nothing."""
    circles = Objects(weights=resolve_weights("demo:objects"))
    scores = np.full((3, 4, 5), 0.02, np.float32)
    scores[0, 2:, 0], scores[1, :2, 0], scores[2, 2:, 0] = 0.3, 0.9, 0.8
    scores[1, 2:, 1] = 0.95  # what a network takes black for
    fit = np.ones((3, 4), bool)
    fit[1, 2:] = False
    rows = []
    for number in range(3):
        starts = number * LENGTH_US + np.arange(4) * 250_000
        said = Said(np.ones(4, bool), fit[number], fit[number])
        found = circles.annotation(scores[number], starts, starts + 250_000, said)
        made = {"samples": found.samples, "tally": found.tally, "notes": json.dumps(found.notes)}
        rows += ledger_rows("a", [number], n_segments=3, annotator="objects", model_id=circles.model_id, **made)
    outcomes = []
    for order in ([0, 1, 2], [2, 0, 1]):
        tables = Tables(str(tmp_path / str(order[0])))
        for number in order:
            tables.add([rows[number]])
        assert tables.derive({"objects": circles}) == 1
        rows_of = [row | {"run_id": ""} for row in read(tables.url, "labels")]
        outcomes.append(sorted(rows_of, key=lambda row: (row["scope"], row["start_us"], row["label_id"])))
    assert outcomes[0] == outcomes[1]
    spans = [row for row in outcomes[0] if row["scope"] == "span"]
    assert [(row["label"], row["start_us"], row["end_us"]) for row in spans] == [
        ("circle", 500_000, 1_500_000),
        ("circle", 2_500_000, 3_000_000),
    ]
    [best] = [row for row in outcomes[0] if row["scope"] == "video"]
    assert (best["label"], best["rank"]) == ("circle", 1)
    assert best["score"] == pytest.approx(scores[..., 0][fit].mean(), rel=1e-6)
