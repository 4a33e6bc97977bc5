"""Changes at random: something changes, all frames alike, the same for the same seed, and nobody else's dice roll."""

from typing import Any

import numpy as np
import pytest
import torch

from vidproc.errors import UsageError
from vidproc.train.augment import GEOMETRIC, PICTURES, SOUNDS, Augment
from vidproc.train.synthetic import render

CLIP, PICTURE, SOUND = (4, 32, 40, 3), (32, 40, 3), (4000, 2)
SEEDS = [[7, 2, 0, item] for item in range(12)]


def scene() -> np.ndarray:
    """uint8 [32, 40, 3] with a shape and a texture."""
    return render(shape="star", motion="up", seconds=0.1, fps=12, size=CLIP[1:3], seed=3)[0]


def sound() -> np.ndarray:
    """int16 [4000, 2]: tones that a shift, a gain or noise would change."""
    times = np.arange(SOUND[0])[:, None] / 16_000
    return (np.sin(2 * np.pi * times * np.array([[440.0, 1000.0]]) * (1 + times)) * 9000).astype(np.int16)


CASES = [
    *((name, CLIP, np.stack([scene()] * CLIP[0])) for name in PICTURES),
    *((name, PICTURE, scene()) for name in PICTURES),
    *((name, SOUND, sound()) for name in SOUNDS),
]
each = pytest.mark.parametrize(
    ("name", "shape", "sample"), CASES, ids=[f"{name}-{len(shape)}" for name, shape, _ in CASES]
)


@each
def test_a_change_changes_keeps_the_form_and_is_told_by_its_seed(
    name: str, shape: tuple[int, ...], sample: np.ndarray
) -> None:
    before = sample.copy()
    augment = Augment([name], sample_shape=shape)
    changed = [augment(sample, seed) for seed in SEEDS]
    assert all(one.shape == sample.shape and one.dtype == sample.dtype for one in changed)
    assert any((one != sample).any() for one in changed), "nothing ever changes"
    assert len({one.tobytes() for one in changed}) > 1, "every seed does the same"
    again = Augment([name], sample_shape=shape)
    assert all(np.array_equal(again(sample, seed), one) for seed, one in zip(SEEDS, changed, strict=True))
    assert np.array_equal(sample, before), "the sample itself is kept for other epochs"


@each
def test_a_change_keeps_what_a_person_would_still_recognise(
    name: str, shape: tuple[int, ...], sample: np.ndarray
) -> None:
    """Brightness or loudness stays within what its documentation allows."""
    for seed in SEEDS:
        changed = Augment([name], sample_shape=shape)(sample, seed).astype(float)
        level, was = np.sqrt((changed**2).mean()), np.sqrt((sample.astype(float) ** 2).mean())
        assert was / 2.1 < level < was * 2.1


@pytest.mark.parametrize("name", PICTURES)
def test_all_frames_of_a_clip_change_alike(name: str) -> None:
    still = np.stack([scene()] * CLIP[0])
    for seed in SEEDS:
        changed = Augment([name], sample_shape=CLIP)(still, seed)
        assert all(np.array_equal(frame, changed[0]) for frame in changed)


def test_every_change_of_place_is_known_as_one() -> None:
    """Detection refuses those: boxes would stay where they were."""
    marked = np.zeros(PICTURE, np.uint8)
    marked[4:9, 3:9] = 255
    moving = set()
    for name in PICTURES:
        for seed in SEEDS:
            changed = Augment([name], sample_shape=PICTURE)(marked, seed).astype(float)
            rows, columns = np.nonzero(changed[..., 0] > 200)
            where = (rows.min(), rows.max(), columns.min(), columns.max()) if len(rows) else None
            if where != (4, 8, 3, 8):
                moving.add(name)
    assert moving - {"colour", "blur"} == GEOMETRIC


def test_changes_come_in_the_given_order_and_none_is_none() -> None:
    picture = scene()
    assert Augment([], sample_shape=PICTURE)(picture, SEEDS[0]) is picture
    one, other = (Augment(names, sample_shape=PICTURE) for names in (["flip", "shift"], ["shift", "flip"]))
    assert any(not np.array_equal(one(picture, seed), other(picture, seed)) for seed in SEEDS)


def test_nobody_elses_dice_roll() -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(3), np.random.random(3)
    torch.manual_seed(5)
    np.random.seed(5)
    Augment(list(PICTURES), sample_shape=CLIP)(np.stack([scene()] * CLIP[0]), SEEDS[0])
    Augment(list(SOUNDS), sample_shape=SOUND)(sound(), SEEDS[0])
    assert torch.equal(torch.rand(3), expected[0]) and np.array_equal(np.random.random(3), expected[1])


@pytest.mark.parametrize("name", ["left", "Turning right", "turn_left", "push-right", "clockwise"])
def test_a_mirror_is_refused_where_labels_say_directions(name: str) -> None:
    with pytest.raises(UsageError, match=rf"--augment flip would make \['{name}'\] wrong"):
        Augment(["crop", "flip"], sample_shape=CLIP, categories=["up", name])
    Augment(["crop"], sample_shape=CLIP, categories=["up", name])
    Augment(["flip"], sample_shape=CLIP, categories=["up", "copyright", "cleft"])


@pytest.mark.parametrize(("shape", "names", "known"), [(CLIP, ["roll", "spin"], PICTURES), (SOUND, ["crop"], SOUNDS)])
def test_unknown_names_are_refused(shape: tuple[int, ...], names: list[str], known: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"{', '.join(names)} is unknown here: use some of {', '.join(known)}"):
        Augment(names, sample_shape=shape)


def test_sounds_change_as_they_say() -> None:
    given = sound()
    rolled = Augment(["roll"], sample_shape=SOUND)(given, SEEDS[0])
    assert sorted(rolled.tolist()) == sorted(given.tolist()) and not np.array_equal(rolled, given)
    for seed in SEEDS:
        louder = Augment(["gain"], sample_shape=SOUND)(given, seed).astype(float)
        gain_db = 20 * np.log10(louder.std() / given.std())
        assert -6.1 < gain_db < 6.1
        noise = Augment(["hiss"], sample_shape=SOUND)(given, seed) - given.astype(float)
        below_db = 20 * np.log10(np.sqrt((given.astype(float) ** 2).mean()) / np.sqrt((noise**2).mean()))
        assert 19 < below_db < 51
    loud = np.full(SOUND, 32_000, np.int16)
    changed = [Augment(["gain"], sample_shape=SOUND)(loud, seed) for seed in SEEDS]
    assert all((one > 0).all() for one in changed), "clipped, not wrapped around"
    assert max(one.max() for one in changed) == 32_767
