"""The torus task needs time and nothing else; and networks that know time solve it, networks that do not, do not."""

from itertools import pairwise

import numpy as np
import pytest
from bench.time_matters import CHANCE, figures, shuffled

from vidproc.train.torus import DIRECTIONS, clips, opposite

SHIFTS = {"right": (0, 1), "down": (1, 0), "left": (0, -1), "up": (-1, 0)}
"""Rows and columns."""


def shifts_of(clip: np.ndarray, *, step: int) -> set[str]:
    """The directions in which each frame is the one before, moved by `step`."""
    return {
        name
        for name, (down, right) in SHIFTS.items()
        if all(
            np.array_equal(after, np.roll(before, (step * down, step * right), (0, 1)))
            for before, after in pairwise(clip)
        )
    }


def test_textures_move_where_they_should_and_wrap_around() -> None:
    moving, labels = clips(seed=1, count=8, frames=5, size=(6, 10), step=2)
    assert moving.shape == (8, 5, 6, 10, 3) and moving.dtype == np.uint8
    assert labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert [shifts_of(clip, step=2) for clip in moving] == [{DIRECTIONS[label]} for label in labels]


def test_a_clip_backwards_is_a_clip_of_the_opposite_direction() -> None:
    moving, labels = clips(seed=2, count=4)
    assert [DIRECTIONS[opposite(label)] for label in range(4)] == ["left", "up", "right", "down"]
    assert [shifts_of(clip, step=1) for clip in moving[:, ::-1]] == [{DIRECTIONS[label]} for label in opposite(labels)]


def test_single_frames_say_nothing() -> None:
    """All frames of a clip hold the same pixels in other places, and no place differs from another."""
    moving, labels = clips(seed=3, count=4000, frames=3, size=(6, 6))
    pixels = np.sort(moving.reshape(4000, 3, -1), axis=2)
    assert (pixels == pixels[:, :1]).all()
    first, last = moving[:, 0].astype(float), moving[:, -1].astype(float)
    for label in range(4):
        for frame in (first[labels == label], last[labels == label]):
            assert np.abs(frame.mean(axis=0) - first.mean()).max() < 7  # 4 standard errors of 1000 pictures
            assert np.abs(frame.std(axis=0) - first.std()).max() < 5


def test_clips_come_from_the_seed() -> None:
    first, again, other = (clips(seed=seed, count=4)[0] for seed in (5, 5, 6))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("step", [0, 5])
def test_a_step_that_could_be_its_opposite_is_refused(step: int) -> None:
    with pytest.raises(ValueError, match=f"step {step} must be at least 1 and less than half of .*\\(10, 16\\)"):
        clips(seed=0, count=4, size=(10, 16), step=step)


def test_shuffling_keeps_each_clip_s_frames() -> None:
    moving, _ = clips(seed=7, count=12, frames=6)
    mixed = shuffled(moving, seed=0)
    assert not np.array_equal(mixed, moving)
    for clip, other in zip(moving, mixed, strict=True):
        assert sorted(frame.tobytes() for frame in clip) == sorted(frame.tobytes() for frame in other)


def test_only_networks_that_know_time_solve_it(one_thread: None) -> None:
    """3D against 2D and pool, and the four controls. `tests/bench/time_matters.py` has three seeds."""
    found = figures(seed=0)
    assert found["3d"] >= 0.9
    assert found["3d, backwards is the opposite"] >= 0.9
    assert found["3d, shuffled"] <= found["3d"] - 0.3
    for order_blind in ("2d_and_pool", "1x3x3", "3d, frozen"):
        assert found[order_blind] == pytest.approx(CHANCE, abs=0.1), order_blind
