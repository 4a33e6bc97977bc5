"""Faces in the label job: refused without its terms, compared and put on record with them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelling import read
from made_faces import PURPOSE, person, random_recogniser

from vidproc.errors import UsageError
from vidproc.models.recogniser import resolve_recogniser
from vidproc.pipeline import label
from vidproc.pipeline.audit import read_audit
from vidproc.pipeline.chosen import chosen_annotators
from vidproc.pipeline.options import LabelConfig
from vidproc.tables.gallery import add_person
from vidproc.train.archive import make_archive


def options(folder: Path, **changes: Any) -> LabelConfig:
    given = {
        "archive": (str(folder / "archive"),),
        "tables": str(folder / "tables"),
        "annotators": ("faces",),
        "weights": {"faces": random_recogniser()},
        "gallery": str(folder / "gallery"),
        "purpose": PURPOSE,
        "failure_budget": 1.0,
    }
    return LabelConfig(**given | changes)


def enrolled(folder: Path) -> None:
    embedder = resolve_recogniser(random_recogniser()).embedder.sha256
    for name, vector in zip(("ann", "bob"), np.eye(8, dtype=np.float32), strict=False):
        add_person(str(folder / "gallery"), person(name, [vector]), embedder=embedder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gallery": None}, "give --gallery URL and --purpose TEXT"),
        ({"purpose": None}, "give --gallery URL and --purpose TEXT"),
        ({"purpose": "test"}, "says too little"),
        ({"weights": {}}, "no faces' weights ship"),
        ({"annotators": ("quality",), "weights": {}}, "are for faces, which --annotators lacks"),
    ],
)
def test_faces_are_refused_without_their_terms(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    enrolled(tmp_path)
    with pytest.raises(UsageError, match=message):
        label.run(options(tmp_path, **changes))
    assert not (tmp_path / "tables").exists()


def test_a_gallery_must_exist_and_lie_apart_from_the_tables(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no gallery"):
        chosen_annotators(options(tmp_path))
    with pytest.raises(UsageError, match="must lie apart"):
        chosen_annotators(options(tmp_path, gallery=str(tmp_path / "tables" / "gallery")))


def test_a_run_decides_faces_in_tracks_and_is_on_record(tmp_path: Path, ray_cluster: None) -> None:
    make_archive(tmp_path / "archive", plain=1, sharded=0, seconds=2)
    enrolled(tmp_path)
    assert label.run(options(tmp_path)) == 0
    tables = read(str(tmp_path / "tables"))
    faces, [run] = tables["faces"], tables["runs"]
    assert faces and all(row["track_id"] and row["gallery_version"] == "000002" for row in faces)
    assert all(row["vector"] is None for row in faces)
    begun, ended = read_audit(str(tmp_path / "tables"))
    for entry in (begun, ended):
        assert (entry["run_id"], entry["purpose"], entry["gallery_version"]) == (run["run_id"], PURPOSE, "000002")
    assert (begun["event"], ended["event"], ended["status"]) == ("begun", "ended", "done")
    assert sum(one["faces"] for one in ended["decided"].values()) == len(faces)
