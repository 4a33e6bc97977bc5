"""Faces linked over time, and the vote of each track, on made rows."""

from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from vidproc.annotators.face_tracks import voted
from vidproc.schema import FACES

STRIDE_US = 500_000


def face(
    step: int, x: float, decision: str = "unknown", identity: str | None = None, *, number: int = 0
) -> dict[str, Any]:
    time_us = step * STRIDE_US
    return {
        "time_us": time_us, "face_id": f"{time_us}-{number}", "x1": x, "y1": 0.2, "x2": x + 0.1, "y2": 0.4,
        "landmarks": [0.5] * 10, "score": 0.9, "quality": 0.8, "identity": identity, "similarity": 0.6,
        "runner_up": None, "decision": decision, "gallery_version": "000001", "vector": [1.0, 0.0],
    }  # fmt: skip


def ann(step: int, x: float, **more: int) -> dict[str, Any]:
    return face(step, x, "matched", "ann", **more)


def vote(*rows: dict[str, Any], votes: int = 3, share: float = 0.3) -> list[dict[str, Any]]:
    table = pa.Table.from_pylist(list(rows), schema=FACES.body)
    found = voted(table, stride_us=STRIDE_US, votes=votes, share=share)
    assert found.schema == FACES.body and found["face_id"].equals(table["face_id"])
    return list(found.to_pylist())


def test_a_track_s_good_faces_all_take_the_identity_that_enough_agree_on() -> None:
    rows = vote(ann(0, 0.1), face(1, 0.12), ann(2, 0.14), face(3, 0.15, "unfit"), ann(4, 0.16))
    assert {row["track_id"] for row in rows} == {"0-0"}
    assert [row["identity"] for row in rows] == ["ann", "ann", "ann", None, "ann"]
    assert [row["decision"] for row in rows] == ["matched", "matched", "matched", "unfit", "matched"]


def test_two_that_agree_are_too_few_and_so_are_three_of_many() -> None:
    few = vote(ann(0, 0.1), ann(1, 0.1), face(2, 0.1))
    assert {(row["decision"], row["identity"]) for row in few} == {("unknown", None)}
    many = vote(*(ann(i, 0.1) if i < 3 else face(i, 0.1) for i in range(11)))
    assert {row["decision"] for row in many} == {"unknown"}
    assert {row["decision"] for row in vote(ann(0, 0.1), votes=1)} == {"matched"}


def test_two_people_side_by_side_are_two_tracks() -> None:
    rows = vote(*(one for i in range(4) for one in (ann(i, 0.1), face(i, 0.6, "matched", "bob", number=1))))
    assert [row["identity"] for row in rows] == ["ann", "bob"] * 4
    assert len({row["track_id"] for row in rows}) == 2


def test_somebody_else_in_the_same_place_is_another_track() -> None:
    """Behind a cut: the boxes overlap, the names differ."""
    rows = vote(*(ann(i, 0.1) for i in range(3)), *(face(i, 0.1, "matched", "bob") for i in range(3, 6)))
    assert [row["identity"] for row in rows] == ["ann"] * 3 + ["bob"] * 3
    assert len({row["track_id"] for row in rows}) == 2


def test_a_face_that_goes_away_for_long_or_far_begins_a_new_track() -> None:
    assert len({row["track_id"] for row in vote(face(0, 0.1), face(3, 0.1))}) == 1
    assert len({row["track_id"] for row in vote(face(0, 0.1), face(4, 0.1))}) == 2
    assert len({row["track_id"] for row in vote(face(0, 0.1), face(1, 0.5))}) == 2


def test_no_faces() -> None:
    assert vote() == []


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 12), st.floats(0, 0.9), st.sampled_from(["matched", "unknown", "unfit"]),
                          st.sampled_from(["ann", "bob"]))))  # fmt: skip
def test_whatever_the_faces_tracks_hold_one_a_time_and_one_name(made: list[tuple[int, float, str, str]]) -> None:
    made.sort(key=lambda one: one[0])
    rows = vote(*(face(step, x, decision, name if decision == "matched" else None, number=i)
                  for i, (step, x, decision, name) in enumerate(made)))  # fmt: skip
    tracks: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        tracks.setdefault(row["track_id"], []).append(row)
        assert (row["identity"] is not None) == (row["decision"] == "matched")
    for members in tracks.values():
        times = [row["time_us"] for row in members]
        assert len(set(times)) == len(times)
        assert len({(row["identity"], row["decision"]) for row in members if row["decision"] != "unfit"}) <= 1
