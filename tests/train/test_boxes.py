"""Boxes and pictures stay together: through every kind of view and rotation, and through changes at random."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from media.decoding import source_of
from media.drawn_box import box_of, drawn, mask, turned
from PIL import Image

from vidproc.errors import UsageError
from vidproc.media.geometry import displayed_of, place
from vidproc.media.glimpse import glimpses, probed
from vidproc.media.guard import Guard
from vidproc.train.augment import Augment
from vidproc.train.boxes import LEAST_SEEN, changed, in_view, seen_in
from vidproc.train.feed import Feed, Look
from vidproc.train.options import TrainConfig
from vidproc.train.run import _labels
from vidproc.train.streams import PREPARED
from vidproc.train.tasks import TASKS
from vidproc.views import Frames, Picture

STRETCHED = {"resize": (72, 96)}
CROPPED = {"resize": 72, "crop": (64, 48)}
CROPPED_OF_A_SIZE = {"resize": (90, 120), "crop": (70, 100)}
BOXED = {"resize": (96, 96), "letterbox": True}
VIEWS: tuple[dict[str, Any], ...] = (STRETCHED, CROPPED, CROPPED_OF_A_SIZE, BOXED)


@pytest.fixture(scope="module")
def guard() -> Iterator[Guard]:
    with Guard() as guard:
        yield guard


def sampled(guard: Guard, path: Path, picture: Picture) -> tuple[np.ndarray, tuple[int, int] | None]:
    """What a network sees of the picture, bool [height, width], and the picture's displayed size."""
    source = source_of(path)
    facts = probed(guard, source)
    [sample] = glimpses(guard, source, facts, Frames(fps=10, picture=picture), starts_us=[facts["start_us"]])
    return sample[..., 0] > 127, displayed_of(facts)


def agree(seen: np.ndarray, picture: Picture, shown: tuple[int, int], box: np.ndarray) -> None:
    """The mapped box is that of the white pixels, to a pixel; where it is left out, little of it is seen."""
    found = in_view({"boxes": [box], "labels": ["x"]}, picture, shown)
    assert len(found["boxes"]) == len(found["labels"])
    if found["boxes"]:
        sides = np.tile(seen.shape[::-1], 2)
        assert np.abs(np.array(found["boxes"][0]) * sides - box_of(seen)).max() <= 1
    elif seen.any():
        (left,) = np.diff(box_of(seen).reshape(2, 2), axis=0) - 1  # the edges are within a pixel
        assert left.prod() < LEAST_SEEN * sides_of(picture, shown, box).prod()


def sides_of(picture: Picture, shown: tuple[int, int], box: np.ndarray) -> np.ndarray:
    """Width and height in pixels of the sample, were nothing cut off."""
    (sides,) = np.diff(place(picture, shown).pixels(box).reshape(2, 2), axis=0)
    return sides


@settings(max_examples=40, deadline=None)
@given(st.tuples(st.integers(16, 300), st.integers(16, 300)), st.sampled_from(VIEWS), st.data())
def test_a_drawn_rectangle_is_where_its_mapped_box_is(
    guard: Guard, tmp_path_factory: pytest.TempPathFactory, size: tuple[int, int], kind: dict[str, Any], data: Any
) -> None:
    """Of stills of any size: stretched, cropped, letterboxed."""
    picture = Picture(**kind)
    (x1, x2), (y1, y2) = (
        sorted(data.draw(st.lists(st.integers(0, side), min_size=2, max_size=2, unique=True))) for side in size
    )
    box = np.array([x1, y1, x2, y2]) / np.tile(size, 2)
    assume((sides_of(picture, size, box) >= 3).all())  # scaling may dim what is thinner to below the threshold
    path = tmp_path_factory.mktemp("still") / "a.png"
    Image.fromarray(mask(tuple(box), size=size) * np.uint8(255)).convert("RGB").save(path)
    seen, shown = sampled(guard, path, picture)
    assert shown == size
    agree(seen, picture, size, box)


@pytest.mark.parametrize("kind", VIEWS)
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_a_rotated_video_s_boxes_are_of_the_picture_as_it_is_shown(
    guard: Guard, tmp_path: Path, degrees: int, kind: dict[str, Any]
) -> None:
    path = turned(drawn(tmp_path / "a.mp4"), degrees)
    upright = np.rot90(mask(), degrees // 90)
    box = box_of(upright) / np.tile(upright.shape[::-1], 2)
    seen, shown = sampled(guard, path, Picture(**kind))
    assert shown == upright.shape[::-1]
    agree(seen, Picture(**kind), upright.shape[::-1], box)


def test_what_is_cut_off_is_gone_and_of_which_too_little_is_left_is_left_out() -> None:
    """The middle third of a picture three times as wide as high."""
    label = {
        "boxes": [[0.3, 0.1, 0.6, 0.9], [0.5, 0, 0.9, 1], [0.6, 0, 0.9, 1], [0, 0, 0.3, 1]],
        "labels": list("abcd"),
    }
    found = in_view(label, Picture(resize=50, crop=(50, 50)), (300, 100))
    assert found["labels"] == ["a", "b"]
    assert found["boxes"] == [pytest.approx(one) for one in ([0, 0.1, 0.8, 0.9], [0.5, 0, 1, 1])]
    assert in_view({"boxes": [], "labels": []}, Picture(resize=(8, 8)), (3, 4)) == {"boxes": [], "labels": []}
    assert in_view(label, Picture(resize=50, crop=(50, 50)), None)["boxes"] == label["boxes"]
    cut, kept = seen_in(torch.tensor([[-0.5, 0, 0.5, 1], [0.2, 0.2, 0.2, 0.9], [0.4, 0.9, 0.2, 0.1], [-3, 0, 0.9, 1]]))
    assert kept.tolist() == [True, False, False, False] and cut[0].tolist() == [0, 0, 0.5, 1]


def test_training_s_labels_are_of_what_the_network_sees() -> None:
    """Of stored examples with their facts, by the way that `jobs/train.py` goes."""
    import pyarrow as pa

    facts = json.dumps({"displayed_width": 300, "displayed_height": 100})
    label = json.dumps({"boxes": [[0.3, 0.1, 0.6, 0.9], [0, 0, 0.3, 1]], "labels": ["a", "b"]})
    row = {"uri": "a", "member": "", "offset": 0, "bytes": 1, "etag": "e", "split": "train", "group": "a"}
    examples = pa.Table.from_pylist([row | {"label": label, "draw": 0, "number": 0, "facts": facts}], schema=PREPARED)
    view = Frames(fps=1, picture=Picture(resize=50, crop=(50, 50)))
    look = Look(view=view, samples=1, even=False, seed=0)
    feed = Feed(examples=examples, look=look, augment=Augment((), sample_shape=(50, 50, 3)), sample_shape=(50, 50, 3))
    [found] = _labels(feed)
    assert found["labels"] == ["a"] and found["boxes"] == [pytest.approx([0, 0.1, 0.8, 0.9])]


# ---- changes at random


@pytest.mark.parametrize(("flip", "crop"), [(True, False), (False, True), (True, True)])
def test_changes_move_pictures_and_boxes_alike(flip: bool, crop: bool) -> None:
    rng = np.random.default_rng(0)
    images, truth = torch.zeros(60, 3, 60, 80), []
    for image in images:
        x1, y1 = rng.integers(0, 60), rng.integers(0, 40)
        x2, y2 = x1 + rng.integers(8, 20), y1 + rng.integers(8, 20)
        image[:, y1:y2, x1:x2] = 1
        truth.append({"boxes": torch.tensor([[x1 / 80, y1 / 60, x2 / 80, y2 / 60]]), "labels": torch.tensor([1])})
    torch.manual_seed(0)
    moved, told = changed(images, truth, flip=flip, crop=crop)
    kept = 0
    for image, one, before in zip(moved, told, truth, strict=True):
        assert len(one["labels"]) == len(one["boxes"])
        if len(one["boxes"]):
            found = box_of(image[0].numpy() > 0.5)
            assert np.abs(one["boxes"][0].numpy() * [80, 60, 80, 60] - found).max() <= 1
            kept += not torch.equal(one["boxes"], before["boxes"])
    assert kept > (20 if flip and not crop else 40)
    torch.manual_seed(0)
    again = changed(images, truth, flip=flip, crop=crop)
    assert torch.equal(again[0], moved) and all(
        torch.equal(a["boxes"], b["boxes"]) for a, b in zip(again[1], told, strict=True)
    )


def test_a_mirror_alone_moves_no_pixel_between_two() -> None:
    images = torch.rand(8, 3, 12, 20)
    torch.manual_seed(1)
    moved, _ = changed(images, [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0)}] * 8, flip=True, crop=False)
    ways = [torch.allclose(a, b, atol=1e-5) + 2 * torch.allclose(a, b.flip(2), atol=1e-5)
            for a, b in zip(moved, images, strict=True)]  # fmt: skip
    assert set(ways) == {1, 2}


def test_the_task_is_asked_for_changes_that_move_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = {"anchor_sizes": [[8], [16], [32]]}
    asked = {"name": "a", "task": "detection", "architecture": "cifar_resnet20", "detector": detector}
    made: Any = TASKS["detection"](TrainConfig(**asked, augment=("crop", "colour")), ("dog",))
    assert (made.flip, made.crop) == (False, True)
    with pytest.raises(UsageError, match="--augment flip would make"):
        TASKS["detection"](TrainConfig(**asked, augment=("flip",)), ("left arrow",))
