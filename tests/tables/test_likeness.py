"""Faces that nobody named are a person's too, if they look like their pictures: no byte of their vectors is left."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_faces import person
from made_rows import part, read, segment_parts
from test_compaction import drive

from vidproc.schema import FACES
from vidproc.tables.commit import Commits
from vidproc.tables.forgetting import Likeness, forget_person
from vidproc.tables.gallery import add_person, pictures_of, read_gallery

ANN, BOB = "Ann Ordway", "Bob Mills"
SIZE = 32
LEAST = 0.4
VIDEO = "a" * 32


def near(cosine: float, seed: int) -> np.ndarray:
    """A vector of length 1 with this cosine to `PICTURE`; nearly all of its bytes are its own."""
    rest = np.random.default_rng(seed).normal(size=SIZE)
    rest[:4] = 0
    found = cosine * PICTURE + (1 - cosine**2) ** 0.5 * rest / np.linalg.norm(rest)
    return found.astype(np.float32)


PICTURE = np.pad(np.float32([0.8, 0.36, 0.48, 0]), (0, SIZE - 4))
MORE = np.pad(np.float32([0.48, 0.8, 0.36, 0]), (0, SIZE - 4))
"""Of the person's; their cosine is 0.84, so that nobody is nearer to the second by more."""


def face(time_us: int, track: str | None, name: str | None, vector: np.ndarray | None, **more: Any) -> dict[str, Any]:
    return {
        "video_id": VIDEO, "annotator": "faces", "model_id": "net-1", "run_id": "run-1", "time_us": time_us,
        "face_id": f"{time_us}-0", "track_id": track, **dict.fromkeys(("x1", "y1", "x2", "y2"), 0.5),
        "landmarks": [0.5] * 10, "score": 0.9, "quality": 0.8, "identity": name, "similarity": 0.7, "runner_up": 0.1,
        "decision": "matched" if name else "unknown", "gallery_version": "000002",
        "vector": None if vector is None else vector.tolist(), **more,
    }  # fmt: skip


OWN = {
    "named": face(0, "0-0", ANN, near(0.8, 1)),
    "alike": face(10, "10-0", None, near(0.45, 2)),
    "of one track with it": face(20, "10-0", None, near(0.1, 3)),
    "turned away, but named": face(30, "0-0", ANN, near(0.2, 4)),
    "without a vector": face(40, "40-0", ANN, None),
}
OTHERS = {
    "a stranger": face(50, "50-0", None, near(0.38, 5)),
    "somebody else, however alike": face(60, "60-0", BOB, near(0.9, 6)),
    "unfit": face(70, "70-0", None, None, decision="unfit", similarity=None, runner_up=None),
    "of another network": face(80, "80-0", None, np.float32([0.6, 0.8])),
    "unknown, of whom nothing was kept": face(90, "90-0", None, None),
}
GONE = near(0.6, 7)
"""Of a row that was replaced: it was alike, and lies in an old file only."""


def folder_of(folder: Path) -> tuple[str, str]:
    """Tables with these faces in two parts, and a gallery of both people in three versions."""
    tables, gallery = str(folder / "tables"), str(folder / "gallery")
    for name, pictures in ((ANN, [PICTURE]), (BOB, [near(0.85, 8)]), (ANN, [PICTURE, MORE])):
        add_person(gallery, person(name, [one.tolist() for one in pictures]), embedder="e" * 64)
    with Commits.open(tables, run_id="run-1") as commits:
        own = [*OWN.values(), face(100, "100-0", None, GONE)]
        _, ledger = segment_parts(tables, VIDEO, [0], n_segments=1, annotator="faces", rows=len(own))
        commits.commit([part(tables, FACES, own), ledger])
        replaced = pa.table({"video_id": [VIDEO], "face_id": ["100-0"]})
        commits.commit([part(tables, FACES, list(OTHERS.values()))], replace={FACES.name: replaced})
    return tables, gallery


def holding(folder: Path, vectors: Sequence[np.ndarray]) -> list[str]:
    """Independent of the proof: files with four numbers in a row of a vector, as bytes or as what they decode to."""
    needles = [
        piece.tobytes() for vector in vectors for piece in np.split(vector, SIZE // 4) if np.count_nonzero(piece) > 1
    ]
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            if path.suffix == ".parquet" and "vector" in (table := pq.read_table(path)).column_names:
                data += table["vector"].combine_chunks().flatten().to_numpy().tobytes()
            if any(needle in data for needle in needles):
                found.append(str(path.relative_to(folder)))
    return found


def test_unnamed_faces_that_look_like_a_person_are_theirs_and_others_stay(tmp_path: Path) -> None:
    tables, gallery = folder_of(tmp_path)
    own = [PICTURE, MORE, GONE, *(np.float32(row["vector"]) for row in OWN.values() if row["vector"])]
    others = [np.float32(row["vector"]) for row in OTHERS.values() if row["vector"]][:2]
    assert len(holding(tmp_path, own)) == 5 and len(holding(tmp_path, others)) == 1
    before = {row["time_us"]: row for row in read(tables, "faces")}
    done = forget_person(tables, ANN, likeness=Likeness(gallery, LEAST))
    assert (done.rows, done.found) == (len(OWN), ())
    after = {row["time_us"]: row for row in read(tables, "faces")}
    cleared = dict.fromkeys(("identity", "similarity", "runner_up", "vector")) | {"decision": "unknown"}
    assert len(after) == len(OWN) + len(OTHERS)
    for told, row in OWN.items():
        assert after[row["time_us"]] == before[row["time_us"]] | cleared, told
    for told, row in OTHERS.items():
        assert after[row["time_us"]] == before[row["time_us"]], told
    assert holding(tmp_path, own) == [] and len(holding(tmp_path, others)) == 1
    assert [one.name for one in read_gallery(gallery).people] == [BOB] and not pictures_of(gallery, ANN).size
    again = forget_person(tables, ANN, likeness=Likeness(gallery, LEAST))  # though there are no pictures any more
    assert (again.rows, again.found) == (0, ())


def test_what_is_left_in_the_gallery_s_folder_is_found(tmp_path: Path) -> None:
    tables, gallery = folder_of(tmp_path)
    (tmp_path / "gallery" / "copy.bin").write_bytes(b"odd" + MORE.tobytes())
    done = forget_person(tables, ANN, likeness=Likeness(gallery, LEAST))
    assert [(one.path, one.what) for one in done.found] == [("copy.bin", "vector")]
    assert done.files > sum(1 for _ in (tmp_path / "gallery").rglob("*.*"))


def test_without_a_likeness_only_names_count(tmp_path: Path) -> None:
    tables, gallery = folder_of(tmp_path)
    assert forget_person(tables, ANN).rows == 3
    left = {row["time_us"]: row["vector"] for row in read(tables, "faces")}
    assert left[10] and left[20] and read_gallery(gallery).person(ANN)


@pytest.mark.parametrize("stride", [17, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_anywhere_the_same_command_goes_on(tmp_path: Path, stride: int) -> None:
    work = tmp_path / "work"
    work.mkdir()
    folder_of(tmp_path / "base")
    own = [PICTURE, MORE, GONE, *(np.float32(row["vector"]) for row in OWN.values() if row["vector"])]
    steps = int(drive("kill", "forget_alike", str(tmp_path / "base"), str(work), str(stride), ANN))
    assert steps > 20
    for k in range(0, steps, stride):
        tables, gallery = (str(work / str(k) / name) for name in ("tables", "gallery"))
        assert forget_person(tables, ANN, likeness=Likeness(gallery, LEAST)).found == (), k
        assert holding(work / str(k), own) == [], k
        assert [one.name for one in read_gallery(gallery).people] == [BOB], k
        assert len(read(tables, "faces")) == len(OWN) + len(OTHERS), k
