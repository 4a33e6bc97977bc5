"""Tracks of made detections: nothing is made up, borders of segments are not seen, long gaps end them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from bench.tracking import scene

from vidproc.annotators.rows import no_rows, rows_of
from vidproc.annotators.tracking import Following, tracks
from vidproc.errors import UsageError
from vidproc.schema import DETECTIONS, TRACKS

STEP_US = 200_000
SEGMENT_US = 30_000_000
Row = dict[str, Any]


def seen(time_us: int, x: float, *, number: int = 0, score: float = 0.9, label: int = 0, y: float = 0.4) -> Row:
    """A box of a tenth of the picture a side."""
    told = {"time_us": time_us, "detection_id": f"{time_us}-{number}", "label": f"class-{label}", "label_id": label}
    return told | {"score": score, "x1": x, "y1": y, "x2": x + 0.1, "y2": y + 0.1}


def table(rows: Sequence[Row]) -> pa.Table:
    ordered = sorted(rows, key=lambda row: (row["time_us"], row["detection_id"]))
    return rows_of(DETECTIONS, {name: [row[name] for row in ordered] for name in DETECTIONS.body.names})


def followed(rows: Sequence[Row], **how: Any) -> list[Row]:
    found = tracks(table(rows), Following(**how), stride_us=STEP_US, end_us=2 * SEGMENT_US)
    assert found.schema == TRACKS.body
    return found.to_pylist()


def walk(*, first: int = 0, count: int = 10, start: float = 0.1, speed: float = 0.02, **more: Any) -> list[Row]:
    return [seen((first + i) * STEP_US, start + speed * i, **more) for i in range(count)]


def test_one_thing_is_one_track_from_its_first_detection_to_its_last() -> None:
    rows = walk()
    rows[4]["score"], rows[7]["score"] = 0.98, 0.35  # too unsure to begin a track, not to go on with one
    [track] = followed(rows)
    assert track["detection_ids"] == [row["detection_id"] for row in rows]
    assert (track["track_id"], track["start_us"], track["end_us"]) == ("0-0", 0, 10 * STEP_US)
    assert track["n_detections"] == 10 and track["best_time_us"] == 4 * STEP_US
    assert track["mean_score"] == pytest.approx(np.mean([row["score"] for row in rows]))
    assert [track[side] for side in ("x1", "y1", "x2", "y2")] == pytest.approx([0.18, 0.4, 0.28, 0.5])


def test_two_that_cross_keep_their_tracks() -> None:
    there = walk(count=30, start=0.05, speed=0.025)
    back = walk(count=30, start=0.85, speed=-0.025, number=1, y=0.46)
    found = followed(there + back)
    assert [track["detection_ids"] for track in found] == [
        [row["detection_id"] for row in one] for one in (there, back)
    ]


def test_what_was_hidden_for_a_second_is_the_same_and_what_was_gone_for_long_is_not() -> None:
    rows = walk(count=30)
    hidden = [row for i, row in enumerate(rows) if not 10 <= i < 15]
    [track] = followed(hidden)
    assert track["n_detections"] == 25, "only what was seen"
    gone = [row for i, row in enumerate(rows) if not 10 <= i < 20]
    assert [track["n_detections"] for track in followed(gone)] == [10, 10]
    assert [track["n_detections"] for track in followed(gone, patience_s=4.0)] == [20]


def test_the_class_is_voted_by_score_and_a_second_name_is_not_followed() -> None:
    rows = walk(count=6, score=0.6, label=2)
    rows[0] |= {"label": "class-1", "label_id": 1, "score": 0.95}
    rows[1] |= {"label": "class-1", "label_id": 1, "score": 0.95}
    doubled = [
        row | {"detection_id": f"{row['time_us']}-7", "label": "class-5", "label_id": 5, "score": 0.5} for row in rows
    ]
    [track] = followed(rows + doubled)
    assert (track["label"], track["label_id"]) == ("class-2", 2)
    assert not any(name.endswith("-7") for name in track["detection_ids"])
    rows[2]["score"] = rows[3]["score"] = 0.5
    rows[4]["score"] = rows[5]["score"] = 0.4
    [track] = followed(rows)
    assert track["label_id"] == 1


def test_a_cut_ends_tracks_and_their_votes() -> None:
    """One thing stands still across two cuts: three tracks, each named by what was seen in its own shot."""
    rows = [seen(i * STEP_US, 0.3, label=i // 4, score=0.6 + 0.01 * (i % 4)) for i in range(12)]
    assert [track["n_detections"] for track in followed(rows)] == [12]
    cuts = [4 * STEP_US - 30_000, 8 * STEP_US]
    found = tracks(table(rows), Following(), stride_us=STEP_US, end_us=12 * STEP_US, cuts_us=cuts).to_pylist()
    assert [track["n_detections"] for track in found] == [4, 4, 4]
    assert [track["label"] for track in found] == ["class-0", "class-1", "class-2"]
    assert [(track["start_us"], track["end_us"]) for track in found] == [
        (0, cuts[0]),
        (4 * STEP_US, cuts[1]),
        (8 * STEP_US, 12 * STEP_US),
    ]
    assert [track["best_time_us"] for track in found] == [3 * STEP_US, 7 * STEP_US, 11 * STEP_US]


def test_cuts_between_tracks_change_nothing() -> None:
    rows = walk(count=8) + walk(first=30, count=8)
    plain = followed(rows)
    with_cuts = tracks(
        table(rows), Following(), stride_us=STEP_US, end_us=2 * SEGMENT_US, cuts_us=[20 * STEP_US, 25 * STEP_US]
    )
    assert with_cuts.to_pylist() == plain and len(plain) == 2


def test_a_single_detection_and_an_unsure_beginning_are_no_tracks() -> None:
    assert followed([seen(0, 0.5)]) == []
    assert followed(walk(score=0.4)) == []
    assert tracks(no_rows(DETECTIONS), Following(), stride_us=STEP_US, end_us=1).schema == TRACKS.body


def test_a_track_ends_within_the_video() -> None:
    rows = walk(count=3)
    found = tracks(table(rows), Following(), stride_us=STEP_US, end_us=2 * STEP_US + 50_000).to_pylist()
    assert [track["end_us"] for track in found] == [2 * STEP_US + 50_000]


@pytest.mark.parametrize("left_out", [0.0, 0.25])
def test_a_track_does_not_break_at_a_segment_border(left_out: float) -> None:
    """Crossings, occlusions, misses: the same scene at two places of the time line, where borders lie elsewhere in it,
    gives the same tracks; and without borders' help some of them do run across one."""
    made = scene(3, left_out=left_out)
    plain = tracks(made.rows, Following(), stride_us=STEP_US, end_us=1 << 40).to_pylist()
    assert sum(track["start_us"] < SEGMENT_US <= track["end_us"] - STEP_US for track in plain) >= 3
    for shift_us in (7_300_000, 22_000_000):
        moved = made.rows.to_pylist()
        for row in moved:
            row["time_us"] += shift_us
        again = tracks(table_in_order(moved), Following(), stride_us=STEP_US, end_us=1 << 40).to_pylist()
        assert [track["detection_ids"] for track in again] == [track["detection_ids"] for track in plain]
        assert [track["start_us"] - shift_us for track in again] == [track["start_us"] for track in plain]


def table_in_order(rows: Sequence[Row]) -> pa.Table:
    return rows_of(DETECTIONS, {name: [row[name] for row in rows] for name in DETECTIONS.body.names})


@pytest.mark.parametrize("seed", range(3))
def test_every_detection_is_in_one_track_at_most_and_tracks_are_the_same_each_time(seed: int) -> None:
    made = scene(seed, left_out=0.25 * (seed % 2), seconds=20)
    found, again = (tracks(made.rows, Following(), stride_us=STEP_US, end_us=20_000_000) for _ in range(2))
    assert found.equals(again)
    rows = {row["detection_id"]: row for row in made.rows.to_pylist()}
    named = [name for track in found.to_pylist() for name in track["detection_ids"]]
    assert len(named) == len(set(named)) and set(named) <= set(rows)
    for track in found.to_pylist():
        times = [rows[name]["time_us"] for name in track["detection_ids"]]
        assert times == sorted(set(times)) and len(times) == track["n_detections"] >= 2
        best = next(rows[name] for name in track["detection_ids"] if rows[name]["time_us"] == track["best_time_us"])
        assert best["score"] == max(rows[name]["score"] for name in track["detection_ids"])
        assert [best[side] for side in ("x1", "y1", "x2", "y2")] == [track[side] for side in ("x1", "y1", "x2", "y2")]
        assert track["start_us"] == times[0] < track["end_us"] <= 20_000_000


def test_it_holds_on_by_a_public_measure() -> None:
    """`tests/bench/tracking.py` has the figures of more scenes."""
    pytest.importorskip("trackeval", reason="an optional package: pip install trackeval")
    from bench.tracking import figures

    scenes = [scene(seed, seconds=30) for seed in range(2)]
    found, cut = figures(scenes, Following()), figures(scenes, Following(overlap=0.95))
    assert found["IDF1"] > 0.7 > cut["IDF1"] and found["HOTA"] > 0.65


@pytest.mark.parametrize("wrong", [{"overlap": 1.5}, {"enlarge": -0.1}, {"patience_s": 0}, {"begin": 0.3, "sure": 0.6}])
def test_ways_of_following_that_cannot_be(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="must be"):
        Following(**wrong)
