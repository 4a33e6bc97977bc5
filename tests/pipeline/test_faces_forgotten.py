"""Real photos and a real clip: labelled, decided anew by a larger gallery, and one of the people forgotten.

By the commands that a person would give. Needs the shared test data; the embedder states no licence: tests only.
"""

import importlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from labelling import read
from made_faces import PURPOSE, SHARED, real_description, real_recogniser
from PIL import Image

from vidproc.media.glimpse import glimpses, probed
from vidproc.media.guard import Guard
from vidproc.models.recogniser import FaceRecogniser
from vidproc.pipeline import label
from vidproc.pipeline.enrolment import listed_pictures
from vidproc.pipeline.options import LabelConfig
from vidproc.tables.checking import check
from vidproc.tables.gallery import pictures_of, read_gallery

pytestmark = [pytest.mark.slow, pytest.mark.ray]

LIN, OBAMA, BIDEN = "Lin-Manuel Miranda", "Barack Obama", "Joe Biden"
CLIP = SHARED / "videos" / "people" / "short_hamilton_clip.mp4"
PHOTOS = ("obama1.jpg", "obama_and_biden.jpg", "kit_with_rose.jpg")
LEAST = 0.35
"""The recogniser's threshold is 0.4."""

Row = dict[str, Any]


@pytest.fixture
def maintain(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "jobs"))
    job = importlib.import_module("maintain")
    return lambda *arguments: job.main([str(one) for one in arguments])


def first_frame(recogniser: FaceRecogniser, path: Path) -> Path:
    """Lin-Manuel Miranda in the clip's first shot: the right half of the letterboxed frame."""
    with Guard() as guard:
        [source] = listed_pictures([str(CLIP)])
        facts = probed(guard, source)
        [frame] = glimpses(guard, source, facts, recogniser.view, starts_us=[facts["start_us"]])
    Image.fromarray(frame[:360, 400:]).save(path)
    return path


def labelled(folder: Path, name: str, *, keep: bool) -> str:
    config = LabelConfig(
        archive=(str(folder / "archive"),), tables=str(folder / name), annotators=("faces",),
        weights={"faces": str(folder / "recogniser" / "faces.json")}, allow_licences=("not stated",),
        gallery=str(folder / "gallery"), purpose=PURPOSE, keep_face_vectors=keep,
    )  # fmt: skip
    assert label.run(config) == 0
    return config.tables


def faces(tables: str) -> list[Row]:
    return [{name: value for name, value in row.items() if name != "run_id"} for row in read(tables)["faces"]]


def holding(folders: Sequence[Path | str], vectors: Sequence[np.ndarray]) -> list[Path]:
    """Independent of the proof: files with four numbers in a row of a vector, as bytes or as what they decode to."""
    needles = [piece.tobytes() for vector in vectors for piece in np.split(vector, len(vector) // 4)]
    found = []
    for path in (path for folder in folders for path in Path(folder).rglob("*") if path.is_file()):
        data = path.read_bytes()
        if path.suffix == ".parquet" and "vector" in (table := pq.read_table(path)).column_names:
            data += table["vector"].combine_chunks().flatten().to_numpy().tobytes()
        if any(needle in data for needle in needles):
            found.append(path)
    return found


def vectors(rows: Sequence[Row]) -> list[np.ndarray]:
    return [np.array(row["vector"], np.float32) for row in rows if row["vector"]]


def test_a_gallery_grows_and_somebody_is_forgotten(
    tmp_path: Path, ray_cluster: None, maintain: Callable[..., int]
) -> None:
    recogniser = real_recogniser(tmp_path / "recogniser")
    (tmp_path / "archive").mkdir()
    for path in (CLIP, *(SHARED / "faces" / "known" / photo for photo in PHOTOS)):
        shutil.copy(path, tmp_path / "archive")
    people = {
        LIN: first_frame(recogniser, tmp_path / "lin.png"),
        OBAMA: SHARED / "faces" / "known" / "obama.jpg",
        BIDEN: SHARED / "faces" / "known" / "biden.jpg",
    }
    gallery, weights = tmp_path / "gallery", real_description(tmp_path / "recogniser")
    same = ("--gallery", gallery, "--weights", weights, "--allow-licences", "not stated")

    def add(name: str) -> None:
        assert maintain("gallery", "add", name, *same, "--pictures", people[name], "--consent", "a test") == 0

    add(LIN)
    add(OBAMA)
    kept, unkept = (labelled(tmp_path, name, keep=name == "kept") for name in ("kept", "unkept"))
    assert {row["identity"] for row in faces(kept)} == {LIN, OBAMA, None}
    assert [row | {"vector": None} for row in faces(kept)] == faces(unkept)

    add(BIDEN)
    assert maintain("gallery", "rematch", *same, "--tables", kept, "--purpose", PURPOSE) == 0
    anew = labelled(tmp_path, "anew", keep=True)
    assert faces(kept) == faces(anew)
    assert {row["identity"] for row in faces(kept)} == {LIN, OBAMA, BIDEN, None}
    assert maintain("gallery", "rematch", *same, "--tables", unkept, "--purpose", PURPOSE) == 0
    assert BIDEN not in {row["identity"] for row in faces(unkept)}, "without vectors nothing can be decided"

    before, pictures = faces(kept), pictures_of(str(gallery), LIN)
    alike = [row for row in before if row["vector"] and (pictures @ np.float32(row["vector"])).max() >= LEAST]
    own = [row for row in before if row["identity"] == LIN or (row in alike and row["identity"] is None)]
    theirs = [*vectors(own), *pictures]
    assert len(own) > sum(row["identity"] == LIN for row in before) >= 4, "some of their faces are unknown"
    assert len(holding([kept, gallery], theirs)) >= 3
    forget = ("forget", "--person", LIN)
    assert maintain(*forget, "--tables", kept, "--gallery", gallery, "--similarity", LEAST) == 0
    assert holding([kept, gallery], theirs) == []
    assert [person.name for person in read_gallery(str(gallery)).people] == [OBAMA, BIDEN]
    after = {(row["video_id"], row["face_id"]): row for row in faces(kept)}
    where = {row["video_id"] for row in own}
    for row in before:
        if row["identity"] in (OBAMA, BIDEN) or row["video_id"] not in where:
            assert after[row["video_id"], row["face_id"]] == row
    assert LIN not in {row["identity"] for row in after.values()}
    assert maintain(*forget, "--tables", unkept) == 0
    assert LIN not in {row["identity"] for row in faces(unkept)}
    assert check(kept).findings == check(unkept).findings == ()
