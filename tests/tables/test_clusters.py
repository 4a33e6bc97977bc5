"""Which unknown tracks are one person's: of which rows they are made, what is told of them, and what is left out."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from made_rows import ledger_rows

from vidproc.errors import TablesDamaged, UsageError
from vidproc.schema import FACES, LEDGER, VIDEOS, WHOLE_VIDEO
from vidproc.tables import clusters
from vidproc.tables.clusters import CLUSTERS, unknown_clusters

SIZE = 16
Row = dict[str, Any]


def person(number: int, seed: int, *, noise: float = 0.1) -> list[float]:
    """A picture of a person: people are axes, and two pictures of one have a cosine near 0.85."""
    vector = np.eye(SIZE)[number] + np.random.default_rng([number, seed]).normal(scale=noise, size=SIZE)
    return [float(value) for value in (vector / np.linalg.norm(vector)).astype(np.float32)]


def face(video: str, track: str | None, time_us: int, vector: list[float] | None, **more: Any) -> Row:
    return {
        "video_id": video, "annotator": "faces", "model_id": "net-1", "run_id": "run-1", "time_us": time_us,
        "face_id": f"{time_us}-{track}", "track_id": track, "x1": 0.25, "y1": 0.25, "x2": 0.5, "y2": 0.5,
        "landmarks": [0.5] * 10, "score": 0.9, "quality": 0.5, "identity": None, "similarity": 0.1, "runner_up": 0.0,
        "decision": "unknown", "gallery_version": "000001", "vector": vector, **more,
    }  # fmt: skip


def video(name: str, *, uri: str | None = None, at: int = 1, model: str = "net-1", whole: bool = True) -> list[Any]:
    """A row of `videos`, and one of `ledger` that says that its faces are labelled by a model."""
    when = datetime(2026, 1, at, tzinfo=UTC)
    row = {"video_id": name, "run_id": "run-1", "uri": uri or f"a/{name}.mp4", "member": "", "etag": "e", "bytes": 10,
           "status": "labelled", "n_segments": 1, "labelled_at": when}  # fmt: skip
    segment = WHOLE_VIDEO if whole else 0
    unit = ledger_rows(name, [segment], n_segments=1, annotator="faces", model_id=model, tally=None, at=when)
    return [row, *unit]


def committed(url: str, videos: Sequence[list[Any]], faces: Sequence[Row]) -> str:
    """The three tables that matter here, with faces in files of five."""
    rows = {row["video_id"]: row for row, _ in videos}
    written = [(VIDEOS, list(rows.values())), (LEDGER, [unit for _, unit in videos])]
    for table, some in (*written, *((FACES, list(faces[i : i + 5])) for i in range(0, len(faces), 5))):
        rows_of_it = pa.Table.from_pylist(some, schema=table.schema)
        write_deltalake(f"{url}/{table.name}", rows_of_it, mode="append")
    return url


def three_videos() -> list[Row]:
    """Person 0 in tracks of a, b and c; person 1 twice in a; person 2 once; ann, who is known, in a and b."""
    found = []
    for track, (name, who) in enumerate([("a", 0), ("b", 0), ("c", 0), ("a", 1), ("a", 1), ("c", 2)]):
        for i in range(3):
            time_us = track * 10_000_000 + i * 500_000
            found.append(face(name, f"t{track}", time_us, person(who, 10 * track + i), quality=0.5 + 0.1 * (i == 1)))
    ann = {"identity": "ann", "decision": "matched"}
    found += [face(name, "ann", 90_000_000, person(5, ord(name)), **ann) for name in "ab"]
    found.append(face("a", "t0", 1_500_000, None, decision="unfit", similarity=None, runner_up=None))
    return found


VIDEOS_OF_THREE = [video("a"), video("b"), video("c")]


def members(rows: Sequence[Row]) -> dict[int, list[str]]:
    told: dict[int, list[str]] = {}
    for row in rows:
        told.setdefault(row["cluster"], []).append(f"{row['video_id']}/{row['track_id']}")
    return told


def test_the_same_stranger_is_in_three_videos(tmp_path: Path) -> None:
    tables = committed(str(tmp_path), VIDEOS_OF_THREE, three_videos())
    found = unknown_clusters(tables, at_least=0.5)
    assert (found.clusters, found.tracks, found.left, found.models) == (2, 6, 0, ("net-1",))
    assert found.rows.schema == CLUSTERS
    rows = found.rows.to_pylist()
    assert members(rows) == {1: ["a/t0", "b/t1", "c/t2"], 2: ["a/t3", "a/t4"]}
    assert [(row["tracks"], row["videos"]) for row in rows] == [(3, 3)] * 3 + [(2, 1)] * 2
    first = rows[0]
    assert (first["uri"], first["start_us"], first["end_us"], first["faces"]) == ("a/a.mp4", 0, 1_500_001, 3)
    assert (first["best_time_us"], first["x1"], first["y2"]) == (500_000, 0.25, 0.5)
    means = [np.mean([person(0, 10 * track + i) for i in range(3)], axis=0) for track in range(3)]
    means = [mean / np.linalg.norm(mean) for mean in means]
    centre = np.sum(means, axis=0) / np.linalg.norm(np.sum(means, axis=0))
    assert [row["similarity"] for row in rows[:3]] == pytest.approx([mean @ centre for mean in means], abs=1e-6)


def test_sizes_that_are_asked_for(tmp_path: Path) -> None:
    lone = face("c", None, 80_000_000, person(1, 99))
    tables = committed(str(tmp_path), VIDEOS_OF_THREE, [*three_videos(), lone])
    assert members(unknown_clusters(tables, at_least=0.5, min_tracks=3).rows.to_pylist()) == {
        1: ["a/t0", "b/t1", "c/t2"],
        2: ["a/t3", "a/t4", "c/80000000-None"],
    }
    longer = unknown_clusters(tables, at_least=0.5, min_tracks=3, min_faces=2)
    assert (longer.clusters, longer.tracks) == (1, 6)
    assert unknown_clusters(tables, at_least=0.99).rows.num_rows == 0


def test_rows_come_in_any_order_and_the_answer_is_the_same(tmp_path: Path) -> None:
    rows = three_videos()
    wanted = unknown_clusters(committed(str(tmp_path / "0"), VIDEOS_OF_THREE, rows), at_least=0.5)
    for seed in (1, 2):
        shuffled = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]
        found = unknown_clusters(committed(str(tmp_path / str(seed)), VIDEOS_OF_THREE[::-1], shuffled), at_least=0.5)
        assert found.rows.equals(wanted.rows)


def test_only_the_newest_version_and_the_newest_model_count(tmp_path: Path) -> None:
    """Of b there is an older version, of a another model; models do not compare, though vectors are alike."""
    videos = [video("a", at=2), video("b", at=2), video("c", model="net-2"), video("d", model="net-2")]
    videos += [video("b-old", uri="a/b.mp4"), video("a", model="net-0"), video("half", whole=False)]
    faces = [face(name, "t", 0, person(0, i)) for i, name in enumerate(("a", "b", "b-old", "half"))]
    faces += [face(name, "t", 0, person(0, 9 + i), model_id="net-2") for i, name in enumerate("cd")]
    faces += [face("a", "t", 0, person(0, 20), model_id="net-0")]
    found = unknown_clusters(committed(str(tmp_path), videos, faces), at_least=0.5)
    assert members(found.rows.to_pylist()) == {1: ["a/t", "b/t"], 2: ["c/t", "d/t"]}
    assert found.models == ("net-1", "net-2")
    assert found.rows["similarity"].to_numpy().min() > 0.9


def test_without_vectors_nothing_is_said_and_how_to_get_them_is(tmp_path: Path) -> None:
    none = [row | {"vector": None} for row in three_videos()]
    with pytest.raises(UsageError, match=r"of the 6 unknown tracks .* label with --annotators faces --keep-face-vec"):
        unknown_clusters(committed(str(tmp_path / "none"), VIDEOS_OF_THREE, none), at_least=0.5)
    some = [row | {"vector": None} if row["track_id"] == "t2" else row for row in three_videos()]
    found = unknown_clusters(committed(str(tmp_path / "some"), VIDEOS_OF_THREE, some), at_least=0.5)
    assert (found.left, found.tracks) == (1, 5)
    forgotten = {"vector": None, "similarity": None, "runner_up": None}
    some = [row | forgotten if row["track_id"] == "t2" else row for row in three_videos()]
    found = unknown_clusters(committed(str(tmp_path / "forgotten"), VIDEOS_OF_THREE, some), at_least=0.5)
    assert (found.left, found.tracks) == (0, 5)
    with pytest.raises(UsageError, match="has no faces: label with"):
        unknown_clusters(committed(str(tmp_path / "empty"), VIDEOS_OF_THREE, []), at_least=0.5)
    known = [row for row in three_videos() if row["identity"]]
    found = unknown_clusters(committed(str(tmp_path / "known"), VIDEOS_OF_THREE, known), at_least=0.5)
    assert (found.rows.num_rows, found.clusters, found.tracks, found.models) == (0, 0, 0, ())


@pytest.mark.parametrize("wrong", [[1.0, 0.0], [], [0.0] * SIZE, [float("nan")] * SIZE])
def test_vectors_that_are_none_are_told(tmp_path: Path, wrong: list[float]) -> None:
    rows = [*three_videos(), face("a", "t9", 95_000_000, wrong)]
    with pytest.raises(TablesDamaged, match="a person must look"):
        unknown_clusters(committed(str(tmp_path), VIDEOS_OF_THREE, rows), at_least=0.5)


def test_more_than_fits_is_refused_before_it_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = committed(str(tmp_path), VIDEOS_OF_THREE, three_videos())
    monkeypatch.setattr(clusters, "MOST_NUMBERS", 6 * SIZE - 1)
    with pytest.raises(UsageError, match=r"6 unknown tracks of 16 numbers each .* \(at most 5\): .* --min-faces"):
        unknown_clusters(tables, at_least=0.5)
    monkeypatch.setattr(clusters, "MOST_NUMBERS", 6 * SIZE)
    assert unknown_clusters(tables, at_least=0.5).clusters == 2
