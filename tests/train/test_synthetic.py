"""Scenes show what they say, and are the same whenever and however large they are rendered."""

import numpy as np
import pytest

from vidproc.train.synthetic import MOTIONS, SHAPES, frames, render, scene


def mask_of(motion: str, times_s: list[float], *, shape: str = "circle", seed: int = 3) -> np.ndarray:
    """Where the shape is: bool [times, height, width], by its colour in a scene without texture or noise."""
    moving = scene(shape, motion, seed=seed, aspect=1.0)
    quiet = type(moving)(**{**vars(moving), "contrast": np.zeros(3, np.float32), "noise": 0.0})
    pixels = frames(quiet, np.array(times_s), size=(96, 96)).astype(float) / 255
    near = np.abs(pixels - moving.colour).sum(-1) < np.abs(pixels - moving.background).sum(-1)
    assert near.any(axis=(1, 2)).all()
    return near


def times_within_one_pass(motion: str, seed: int = 3) -> list[float]:
    moving = scene("circle", motion, seed=seed, aspect=1.0)
    start = (1 - moving.phase + 0.1) * moving.period_s
    return [start, start + 0.6 * moving.period_s]


@pytest.mark.parametrize(("motion", "axis", "sign"), [("left", 1, -1), ("right", 1, 1), ("up", 0, -1), ("down", 0, 1)])
def test_shapes_move_where_they_should(motion: str, axis: int, sign: int) -> None:
    masks = mask_of(motion, times_within_one_pass(motion))
    (before, after) = [np.array(np.nonzero(mask)).mean(axis=1) for mask in masks]
    moved = after - before
    assert sign * moved[axis] > 10
    assert abs(moved[1 - axis]) < 1


@pytest.mark.parametrize(("motion", "grows"), [("grow", True), ("shrink", False)])
def test_shapes_grow_and_shrink_in_place(motion: str, grows: bool) -> None:
    before, after = mask_of(motion, times_within_one_pass(motion))
    ratio = after.sum() / before.sum()
    assert ratio > 1.8 if grows else ratio < 0.55
    centres = [np.array(np.nonzero(mask)).mean(axis=1) for mask in (before, after)]
    assert np.abs(centres[1] - centres[0]).max() < 1


def test_shapes_fill_their_circle_differently() -> None:
    """Area over the squared farthest extent tells these shapes apart, whatever their size and turn."""
    filled = {}
    for shape in SHAPES:
        mask = mask_of("up", [0.0], shape=shape)[0]
        points = np.array(np.nonzero(mask)).T
        reach = np.linalg.norm(points - points.mean(axis=0), axis=1).max()
        filled[shape] = mask.sum() / (np.pi * reach**2)
    assert filled["circle"] > 0.9
    assert filled["square"] == pytest.approx(2 / np.pi, abs=0.08)
    assert filled["triangle"] == pytest.approx(0.41, abs=0.08)
    assert filled["star"] < 0.45
    assert 0.4 < filled["cross"] < 0.65


def test_a_seed_is_a_scene() -> None:
    arguments = {"shape": "star", "motion": "left", "seconds": 0.4, "fps": 10, "size": (24, 32)}
    first, again, other = (render(**arguments, seed=seed) for seed in (1, 1, 2))
    assert first.shape == (4, 24, 32, 3) and first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_unknown_names_say_which_there_are() -> None:
    with pytest.raises(ValueError, match=f"must be one of .*{SHAPES[0]}.*{MOTIONS[0]}"):
        scene("blob", "left", seed=0)
