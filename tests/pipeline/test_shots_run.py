"""Shots through the whole job: joined across a segment's border, numbered, no provisional row left."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from annotators.shot_runs import write_film
from labelling import by_name, read

from vidproc.pipeline import label
from vidproc.pipeline.options import LabelConfig

FPS = 24
SHOTS_S = (12, 17.5, 2, 1.5)
"""A border at 30 s lies within the third."""


def film(path: Path) -> None:
    """Plaids of one shade after another, drifting: yuv420p, 96×64."""
    frames = []
    for number, seconds in enumerate(SHOTS_S):
        y, x, t = np.arange(64)[None, :, None], np.arange(96)[None, None, :], np.arange(seconds * FPS)[:, None, None]
        luma = 60 + 40 * number + 25 * np.sin((x + t / 3) / (5 + number)) + 20 * np.sin(y / (4 + number))
        colours = np.full((len(luma), 32, 96), 100 + 15 * number)
        frames.append(np.concatenate([luma, colours], axis=1).clip(16, 235).astype(np.uint8))
    joined = np.concatenate(frames)
    write_film(path, joined, times=[i * 90_000 // FPS for i in range(len(joined))], rate=Fraction(FPS))


@pytest.mark.usefixtures("ray_cluster")
def test_shots_of_a_run(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    film(archive / "film.mp4")
    (archive / "broken.mp4").write_bytes(b"no video")
    config = LabelConfig(
        archive=(str(archive),), tables=str(tmp_path / "tables"), annotators=("shots",), failure_budget=1.0
    )
    assert label.run(config) == 0
    found = read(config.tables)
    assert by_name(found)["film.mp4"]["n_segments"] == 2
    starts = np.cumsum([0, *SHOTS_S]) * 1_000_000
    kinds = ["start", "cut", "cut", "cut"]
    assert [(row["shot"], row["start_us"], row["end_us"], row["transition"]) for row in found["shots"]] == [
        (i, starts[i], starts[i + 1], kind) for i, kind in enumerate(kinds)
    ]
