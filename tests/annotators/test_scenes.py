"""Scenes are named by weights that have to be named too."""

from pathlib import Path

import numpy as np
import pytest
from random_weights import written

from vidproc.annotators.scenes import Scenes
from vidproc.errors import UsageError, WeightsError
from vidproc.media.samples import Samples


def test_rows_are_scenes(tmp_path: Path) -> None:
    annotator = Scenes.from_spec(written(tmp_path, "scenes"))
    times = np.arange(3) * 500_000
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    given = Samples(times, times + annotator.view.span_us, times[:, None], pixels)
    [annotation] = annotator.load("cpu").annotate([{annotator.view: given}])
    rows = annotation.rows["labels"]
    assert set(rows["task"].to_pylist()) == {"scene"}
    assert set(rows["label"].to_pylist()) <= {"attic", "bay", "cave"}
    assert sorted(set(rows["start_us"].to_pylist())) == times.tolist()


def test_the_pace_of_the_view_can_be_changed(tmp_path: Path) -> None:
    url = written(tmp_path, "scenes")
    assert Scenes.from_spec(url).view.stride_us == 500_000
    assert Scenes(weights=Scenes.from_spec(url).weights, fps=4.0).view.stride_us == 250_000


def test_weights_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"scenes has no weights of its own: give --weights scenes=places365:resnet18"):
        Scenes.from_spec()
    with pytest.raises(WeightsError, match="look at audio, but scenes needs frames"):
        Scenes.from_spec(written(tmp_path, "sounds"))
