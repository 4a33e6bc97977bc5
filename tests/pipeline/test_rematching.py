"""Faces decided anew from their vectors: as labelling anew with the new gallery would, and on record."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelling import read
from made_faces import PURPOSE, offline_faces, person
from tables.made_rows import ledger_rows, part

from vidproc.annotators.face_network import Found
from vidproc.annotators.faces import Faces, Terms
from vidproc.errors import LeaseLost, UsageError
from vidproc.media.samples import Samples
from vidproc.models.gallery import Gallery
from vidproc.pipeline import rematching
from vidproc.pipeline.audit import read_audit
from vidproc.pipeline.rematching import rematch
from vidproc.schema import FACES, LEDGER
from vidproc.tables.checking import check
from vidproc.tables.commit import Commits
from vidproc.tables.derive import derive
from vidproc.tables.forgetting import forget_person
from vidproc.tables.gallery import add_person, read_gallery, remove_person

SEGMENT_US = 5_000_000
VIDEOS = {"a" * 32: 2, "b" * 32: 2, "c" * 32: 1}
"""How many segments each has."""


def faces_of(gallery: Gallery, *, keep: bool = True) -> Faces:
    terms = Terms(gallery=gallery, purpose=PURPOSE, keep_vectors=keep)
    return replace(offline_faces(), terms=terms)


def galleries(folder: Path) -> str:
    """Ann alone; each axis of the vectors is a person."""
    add_person(str(folder), person("ann", [np.eye(8)[0].tolist()]), embedder=offline_faces().terms.gallery.embedder)
    return str(folder)


def joined(url: str, name: str, axis: int) -> Gallery:
    return add_person(url, person(name, [np.eye(8)[axis].tolist()]), embedder=read_gallery(url).embedder)


def seen(video: str, segment: int) -> tuple[Found, Samples]:
    """Two people sit there for a whole segment, one on each side; some of their faces are turned, some unfit."""
    rng = np.random.default_rng([ord(video[0]), segment])
    frames = 10
    starts = segment * SEGMENT_US + np.arange(frames) * 500_000
    who = np.tile([0, 1 + ord(video[0]) % 2], frames)
    vectors = rng.normal(scale=0.25, size=(2 * frames, 8)) + np.eye(8)[who]
    boxes = np.tile(np.float32([[0.1, 0.2, 0.3, 0.5], [0.6, 0.2, 0.8, 0.5]]), (frames, 1))
    quality = rng.choice([0.2, 0.9], 2 * frames, p=[0.2, 0.8]).astype(np.float32)
    found = Found(
        sample=np.repeat(np.arange(frames), 2),
        boxes=boxes,
        points=np.full((2 * frames, 5, 2), 0.25, np.float32),
        scores=np.full(2 * frames, 0.99, np.float32),
        quality=quality,
        vectors=(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32),
    )
    data = np.zeros((frames, 1, 1, 3), np.uint8)
    return found, Samples(starts, starts + 500_000, starts[:, None], data, shown=None)


def labelled(tables: str, faces: Faces, *, videos: Mapping[str, int] = VIDEOS, run_id: str = "run-1") -> None:
    """What `label` commits for each segment, and then derives; the networks' answers are `seen`'s."""
    strict = replace(faces, recogniser=replace(faces.recogniser, least_quality=0.5))
    with Commits.open(tables, run_id=run_id) as commits:
        for video, segments in videos.items():
            unit = {"annotator": "faces", "model_id": strict.model_id, "run_id": run_id}
            for segment in range(segments):
                start_us = segment * SEGMENT_US
                rows = [{"video_id": video, **unit, **row} for row in strict.rows(*seen(video, segment)).to_pylist()]
                told = {**unit, "rows": len(rows), "tally": None, "start_us": start_us, "end_us": start_us + SEGMENT_US}
                ledger = ledger_rows(video, [segment], n_segments=segments, **told)
                commits.commit([part(tables, FACES, rows), part(tables, LEDGER, ledger)])
        derive(commits, {"faces": strict})


def recognised(gallery: Gallery, *, keep: bool = True) -> Faces:
    faces = faces_of(gallery, keep=keep)
    return replace(faces, recogniser=replace(faces.recogniser, least_quality=0.5))


def said(tables: str) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "run_id"} for row in read(tables)["faces"]]


@pytest.fixture
def here(tmp_path: Path) -> tuple[str, str]:
    """Tables labelled with a gallery of ann alone, and the gallery."""
    gallery = galleries(tmp_path / "gallery")
    labelled(str(tmp_path / "tables"), faces_of(read_gallery(gallery)))
    return str(tmp_path / "tables"), gallery


def test_it_says_what_labelling_anew_would(
    here: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In two commits, row for row; and a second time there is nothing to do."""
    tables, gallery = here
    monkeypatch.setattr(rematching, "FACES_A_COMMIT", 30)
    before = said(tables)
    newer = joined(gallery, "bob", 1)
    done = rematch(tables, recognised(newer))
    labelled(str(tmp_path / "anew"), faces_of(newer))
    assert said(tables) == said(str(tmp_path / "anew")) != before
    assert {row["identity"] for row in said(tables)} == {"ann", "bob", None}
    changed = sum(
        (one["identity"], one["decision"]) != (other["identity"], other["decision"])
        for one, other in zip(said(tables), before, strict=True)
    )
    assert done == rematching.Rematched(videos=3, faces=len(before), changed=changed, left=0)
    assert check(tables).findings == ()
    assert rematch(tables, recognised(newer)) == rematching.Rematched(videos=0, faces=0, changed=0, left=0)


def test_who_was_removed_is_unknown_and_it_is_on_record(here: tuple[str, str]) -> None:
    tables, gallery = here
    rematch(tables, recognised(joined(gallery, "bob", 1)))
    rematch(tables, recognised(remove_person(gallery, "ann")))
    assert {row["identity"] for row in said(tables)} == {"bob", None}
    runs = {row["run_id"] for row in read(tables)["faces"]}
    entries = [entry for entry in read_audit(tables) if entry["run_id"] in runs]
    assert [(entry["event"], entry["gallery_version"], entry["purpose"]) for entry in entries] == [
        ("begun", "000003", PURPOSE),
        ("ended", "000003", PURPOSE),
    ]
    assert sum(one["faces"] for one in entries[1]["decided"].values()) == len(said(tables))


def test_videos_whose_vectors_were_not_kept_stay_as_they_are(tmp_path: Path) -> None:
    tables, gallery = str(tmp_path / "tables"), galleries(tmp_path / "gallery")
    first = read_gallery(gallery)
    labelled(tables, faces_of(first), videos={"a" * 32: 1})
    labelled(tables, faces_of(first, keep=False), videos={"b" * 32: 1}, run_id="run-2")
    before = [row for row in said(tables) if row["video_id"] == "b" * 32]
    done = rematch(tables, recognised(joined(gallery, "bob", 1)))
    assert (done.videos, done.left) == (1, 1)
    assert [row for row in said(tables) if row["video_id"] == "b" * 32] == before


def test_who_was_forgotten_stays_unknown(here: tuple[str, str]) -> None:
    tables, gallery = here
    forget_person(tables, "ann")
    gone = {(row["video_id"], row["face_id"]) for row in said(tables) if row["vector"] is None}
    done = rematch(tables, recognised(joined(gallery, "bob", 1)))
    assert done.left == 0 and done.videos == 3
    for row in said(tables):
        if (row["video_id"], row["face_id"]) in gone:
            assert row["decision"] in ("unknown", "unfit") and row["identity"] is row["similarity"] is None


def test_one_that_is_killed_goes_on(here: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables, gallery = here
    newer = joined(gallery, "bob", 1)
    monkeypatch.setattr(rematching, "FACES_A_COMMIT", 30)
    real, times = Commits.commit, iter(range(1))

    def dying(commits: Commits, *given: Any, **more: Any) -> int:
        if next(times, None) is None:
            raise OSError("the machine dies here")
        return real(commits, *given, **more)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="dies here"):
        patch.setattr(Commits, "commit", dying)
        rematch(tables, recognised(newer))
    assert {row["gallery_version"] for row in said(tables)} == {"000001", "000002"}
    assert rematch(tables, recognised(newer)).videos == 1
    labelled(str(tmp_path / "anew"), faces_of(newer))
    assert said(tables) == said(str(tmp_path / "anew"))


def test_a_running_job_and_a_gallery_that_changed_meanwhile_are_told(here: tuple[str, str]) -> None:
    tables, gallery = here
    older = recognised(read_gallery(gallery))
    with Commits.open(tables, run_id="run-9", lease_s=1.0), pytest.raises(LeaseLost, match="run run-9"):
        rematch(tables, older, lease_s=1.0)
    joined(gallery, "bob", 1)
    with pytest.raises(UsageError, match="was changed while this run waited"):
        rematch(tables, older)
    with pytest.raises(UsageError, match="holds no tables"):
        rematch(f"{tables}-elsewhere", older)
    assert read_audit(tables) == []
