"""Embeddings through the whole job: copies encoded anew are found among other videos, and nothing else is."""

from pathlib import Path

import numpy as np
import pytest
from labelling import by_name, read

from vidproc.errors import UsageError
from vidproc.pipeline import label
from vidproc.pipeline.options import LabelConfig
from vidproc.tables.duplicates import near_duplicates
from vidproc.tables.similar import similar
from vidproc.train.encoded import encode
from vidproc.train.synthetic import MOTIONS, SHAPES, render

SCENES = 6
ALIKE = 0.995
"""What copies reach with the demo network, and few others: see tests/bench/near_duplicates.py."""


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> str:
    """Six scenes of five seconds: as they are, and as copies, smaller and coarser, one of them cut short."""
    folder = tmp_path_factory.mktemp("embeddings")
    archive = folder / "archive"
    archive.mkdir()
    for seed in range(SCENES):
        frames = render(shape=SHAPES[seed % 5], motion=MOTIONS[seed], seconds=5, fps=16, size=(96, 128), seed=seed)
        (archive / f"scene-{seed}.mp4").write_bytes(encode(frames, fps=16, crf=20))
        if seed < 3:
            smaller = np.ascontiguousarray(frames[: 80 if seed else 56, ::2, ::2])
            (archive / f"copy-{seed}.mp4").write_bytes(encode(smaller, fps=16, crf=30))
    (archive / "broken.mp4").write_bytes(b"no video")
    url = str(folder / "tables")
    config = LabelConfig(
        archive=(str(archive),),
        tables=url,
        annotators=("embeddings",),
        weights={"embeddings": "demo"},
        failure_budget=1.0,
    )
    assert label.run(config) == 0
    return url


def test_every_clip_has_its_vector(tables: str) -> None:
    found = read(tables)
    videos = by_name(found)
    assert videos["broken.mp4"]["status"] == "quarantined"
    for name, video in videos.items():
        rows = [row for row in found["embeddings"] if row["video_id"] == video["video_id"]]
        expected = 0 if name == "broken.mp4" else 4 if name == "copy-0.mp4" else 5
        assert [row["start_us"] for row in rows] == [second * 1_000_000 for second in range(expected)]
        assert all(row["start_us"] < row["end_us"] <= video["duration_us"] for row in rows)
        assert all(len(row["vector"]) == 36 for row in rows)
        np.testing.assert_allclose([np.linalg.norm(row["vector"]) for row in rows], 1, atol=1e-6)


def test_copies_are_found_and_other_videos_are_not(tables: str) -> None:
    pairs = near_duplicates(tables, at_least=ALIKE).to_pylist()
    named = {frozenset(Path(row[side]).stem for side in ("uri", "other_uri")): row for row in pairs}
    assert set(named) == {frozenset({f"scene-{seed}", f"copy-{seed}"}) for seed in range(3)}
    assert named[frozenset({"scene-0", "copy-0"})]["share"] == 0.6  # cut short: its last clip repeats a frame
    assert all(row["similarity"] > ALIKE for row in pairs if row["share"] == 1)


def test_the_moment_most_like_one_is_that_of_its_copy(tables: str) -> None:
    for seed in range(3):
        best = similar(tables, f"scene-{seed}.mp4@0:01.2", limit=1).to_pylist()[0]
        assert (Path(best["uri"]).stem, best["start_s"]) == (f"copy-{seed}", 1.0)


def test_a_video_without_embeddings_is_said(tables: str) -> None:
    with pytest.raises(UsageError, match="has no embeddings"):
        similar(tables, "broken.mp4@0")
