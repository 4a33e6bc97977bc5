"""A detector trained here on real photos finds things in others, where a fixed guess does not."""

import json
from pathlib import Path

import numpy as np
import pytest
from bench.real_boxes import is_held_out, measured, photos, truth, write_coco

SHARED = Path(__file__).parents[3] / "shared" / "data"

pytestmark = pytest.mark.skipif(not SHARED.exists(), reason=f"no photos: {SHARED} is not there")


def test_people_s_boxes_become_a_coco_file(tmp_path: Path) -> None:
    """VOC's count pixels from 1: a box of a whole picture is all of it."""
    coco = write_coco(SHARED, tmp_path / "coco")
    told = json.loads(Path(coco).read_text())
    seen, held = truth(coco)
    assert len(seen) + len(held) == len(told["images"]) == len(photos(SHARED))
    assert all(is_held_out(Path(photo)) for photo in held) and 0.2 < len(held) / len(told["images"]) < 0.45
    every = np.concatenate([*seen.values(), *held.values()])
    assert (every[:, 2:] > every[:, :2]).all() and every.min() == 0 and every.max() == 1
    [photo] = [photo for photo in photos(SHARED) if photo.name == "raccoon-1.jpg"]
    assert {**seen, **held}[str(photo)] == pytest.approx(np.array([[80 / 650, 87 / 417, 522 / 650, 408 / 417]]))


@pytest.mark.slow
@pytest.mark.ray
def test_it_finds_things_in_photos_that_it_never_saw(ray_cluster: None, tmp_path: Path) -> None:
    """By the ways of `jobs/train.py` and `jobs/label.py`: 54 photos, 20 epochs, a quarter of an hour."""
    figures = measured(SHARED, tmp_path)
    assert figures["untrained"] < 0.01
    assert figures["trained"] > max(0.1, 3 * figures["mean_box"])
