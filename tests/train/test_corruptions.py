"""Corruptions: of every kind of sample, the same each time, harder with every severity, and what they say they are."""

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from vidproc.train.corruptions import CORRUPTIONS, SEVERITIES, Kind, Sample, corruptions_for, kind_of
from vidproc.train.synthetic import render

RATE = 16_000
KINDS: tuple[Kind, ...] = ("picture", "clip", "sound")
CASES = [(name, kind) for name, one in CORRUPTIONS.items() for kind in one.kinds]


def clip(side: int = 64, seed: int = 1) -> npt.NDArray[np.uint8]:
    """A shape that moves all the time, 24 frames."""
    return render(shape="circle", motion="right", seconds=1, fps=24, size=(side, side), seed=seed)


def sample_of(kind: Kind, seed: int = 1) -> Sample:
    if kind == "sound":
        times = np.arange(RATE) / RATE
        tone = 8000 * np.sin(2 * np.pi * (300 + 50 * seed) * times)
        return np.stack([tone, tone / 2], axis=1).astype(np.int16)
    return clip(seed=seed)[: 1 if kind == "picture" else None]


def difference(one: Sample, other: Sample) -> float:
    return float(np.abs(one.astype(np.int32) - other).mean())


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_sample_keeps_its_shape_and_suffers_the_same_each_time(name: str, kind: Kind) -> None:
    sample = sample_of(kind)
    before = sample.copy()
    sample.flags.writeable = False  # as Ray hands it over
    for severity in SEVERITIES:
        found = CORRUPTIONS[name](sample, severity=severity, seed=7)
        assert (found.shape, found.dtype) == (sample.shape, sample.dtype)
        assert np.array_equal(found, CORRUPTIONS[name](sample, severity=severity, seed=7))
        assert difference(found, sample) > 0
    assert np.array_equal(sample, before)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_higher_severity_is_worse(name: str, kind: Kind) -> None:
    """On average over examples; what happens to time can by chance hit frames that differ little."""
    means = [
        np.mean(
            [
                difference(
                    CORRUPTIONS[name](sample_of(kind, seed), severity=severity, seed=seed), sample_of(kind, seed)
                )
                for seed in range(12)
            ]
        )
        for severity in SEVERITIES
    ]
    assert all(worse > 1.01 * better for better, worse in pairwise(means)), means


@pytest.mark.parametrize("name", sorted(set(CORRUPTIONS) - {"gaussian_blur", "jpeg", "contrast", "brightness"}))
def test_chance_is_drawn_from_the_seed(name: str) -> None:
    sample = sample_of(CORRUPTIONS[name].kinds[-1])
    found = {CORRUPTIONS[name](sample, severity=3, seed=seed).tobytes() for seed in range(5)}
    assert len(found) > 1


@pytest.mark.parametrize("name", [name for name, kind in CASES if kind == "picture"])
def test_a_small_picture_suffers_less(name: str) -> None:
    """Measured on the same scene, drawn large: values are between those of CIFAR-10-C and ImageNet-C."""
    values: Any = CORRUPTIONS[name].values
    for severity in SEVERITIES:
        sides = [values(np.zeros((1, side, 2 * side, 3), np.uint8), severity) for side in (16, 32, 64, 112, 224, 448)]
        assert sides[0] == sides[1]
        assert sides[4] == sides[5]
        assert list(np.diff(sides[1:5]) > 0) == [name not in ("jpeg", "contrast")] * 3
    assert CORRUPTIONS["gaussian_noise"].values(np.zeros((1, 224, 224, 3), np.uint8), 5) == 0.38


@pytest.mark.parametrize("side", [1, 2, 9])
@pytest.mark.parametrize("name", [name for name, kind in CASES if kind == "clip"])
def test_tiny_samples_are_no_error(name: str, side: int) -> None:
    tiny = np.random.default_rng(0).integers(0, 256, (2, side, side + 1, 3), np.uint8)
    assert CORRUPTIONS[name](tiny, severity=5, seed=0).shape == tiny.shape


def test_noise_has_its_sigma_and_is_new_on_every_frame() -> None:
    grey = np.full((4, 224, 224, 3), 128, np.uint8)
    found = CORRUPTIONS["gaussian_noise"](grey, severity=1, seed=3).astype(np.float64) - 128
    assert found.std() == pytest.approx(0.08 * 255, rel=0.02)
    assert abs(np.corrcoef(found[0].ravel(), found[1].ravel())[0, 1]) < 0.02


def test_blur_spreads_a_dot_by_its_sigma() -> None:
    dot = np.zeros((1, 225, 225, 3), np.uint8)
    dot[0, 108:117, 108:117] = 255
    spread = CORRUPTIONS["gaussian_blur"](dot, severity=3, seed=0)[0, :, :, 0].astype(np.float64)
    places = np.arange(225) - 112
    variance = (spread.sum(axis=0) * places**2).sum() / spread.sum()
    assert np.sqrt(variance - (9**2 - 1) / 12) == pytest.approx(3, rel=0.1)  # less the dot's own


def test_contrast_and_brightness_do_as_they_say() -> None:
    half = np.zeros((1, 32, 32, 3), np.uint8)
    half[:, :16] = (200, 100, 0)
    flat = CORRUPTIONS["contrast"](half, severity=2, seed=0)
    assert flat[0, 0, 0].tolist() == [150, 75, 0]
    assert flat[0, 31, 0].tolist() == [50, 25, 0]
    bright = CORRUPTIONS["brightness"](half, severity=4, seed=0)  # V of 200 becomes 251, of black 51
    assert bright[0, 0, 0].tolist() == [251, 126, 0]
    assert bright[0, 31, 0].tolist() == [51, 51, 51]


def frames_of(name: str, severity: int, seed: int) -> list[int]:
    """Which frames of a numbered clip of 100 come out."""
    numbered = np.broadcast_to(np.arange(100, dtype=np.uint8)[:, None, None, None], (100, 2, 2, 3))
    return CORRUPTIONS[name](numbered, severity=severity, seed=seed)[:, 0, 0, 0].tolist()  # type: ignore[no-any-return]


def test_lost_frames_are_stood_in_for_by_the_one_before() -> None:
    lost = [sum(a == b for a, b in pairwise(f)) for f in (frames_of("dropped_frames", 4, s) for s in range(20))]
    assert np.mean(lost) == pytest.approx(99 * 0.5, rel=0.1)
    found = frames_of("dropped_frames", 4, 0)
    assert found[0] == 0
    assert all(shown == i or shown == found[i - 1] for i, shown in enumerate(found))


def test_a_frozen_clip_stands_still_from_some_time_on() -> None:
    for severity, share in ((1, 0.15), (5, 0.75)):
        stops = [max(frames_of("frozen", severity, seed)) for seed in range(40)]
        assert np.mean([99 - stop for stop in stops]) == pytest.approx(100 * share, rel=0.1)
        assert len(set(stops)) > 5
        assert frames_of("frozen", severity, 0) == [min(i, stops[0]) for i in range(100)]


def test_a_jittered_rate_keeps_the_order() -> None:
    found = frames_of("jittered_rate", 5, 1)
    assert found == sorted(found)
    assert found != list(range(100))
    assert max(abs(shown - i) for i, shown in enumerate(found)) <= 5


def test_sound_noise_has_its_ratio_also_in_silence() -> None:
    sound = sample_of("sound")
    for severity, decibels in zip(SEVERITIES, (25, 20, 15, 10, 5), strict=True):
        noise = CORRUPTIONS["sound_noise"](sound, severity=severity, seed=1).astype(np.float64) - sound
        ratio = 10 * np.log10(np.square(sound, dtype=np.float64).mean() / np.square(noise).mean())
        assert ratio == pytest.approx(decibels, abs=0.1)
    quiet = CORRUPTIONS["sound_noise"](np.zeros((RATE, 1), np.int16), severity=5, seed=1)
    assert 0 < np.abs(quiet).max() < 200


def test_silence_is_one_stretch_and_in_the_end_everything() -> None:
    sound = np.full((1000, 1), 100, np.int16)
    for seed in range(10):
        spans = []
        for severity in SEVERITIES:
            silent = np.flatnonzero(CORRUPTIONS["no_sound"](sound, severity=severity, seed=seed)[:, 0] == 0)
            assert len(silent) == 200 * severity == silent[-1] - silent[0] + 1
            spans.append((silent[0], silent[-1]))
        assert all(a[0] >= b[0] and a[1] <= b[1] for a, b in pairwise(spans))


def test_wrong_samples_and_severities_are_refused() -> None:
    sound, picture = sample_of("sound"), sample_of("picture")
    with pytest.raises(ValueError, match=r"a sound .* cannot suffer this"):
        CORRUPTIONS["jpeg"](sound, severity=1, seed=0)
    with pytest.raises(ValueError, match=r"a picture .* cannot suffer this"):
        CORRUPTIONS["frozen"](picture, severity=1, seed=0)
    for severity in (0, 6):
        with pytest.raises(ValueError, match=f"severity {severity}"):
            CORRUPTIONS["jpeg"](picture, severity=severity, seed=0)
    for wrong in (picture[0], picture.astype(np.float32), picture[:0], sound[:, 0]):
        with pytest.raises(ValueError, match="is no sample"):
            CORRUPTIONS["jpeg"](wrong, severity=1, seed=0)


def test_every_kind_has_its_corruptions() -> None:
    for kind in KINDS:
        assert kind_of(sample_of(kind)) == kind
        assert len(corruptions_for(kind)) >= 2
    assert set.union(*(set(corruptions_for(kind)) for kind in KINDS)) == set(CORRUPTIONS)
