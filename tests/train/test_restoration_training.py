"""Noise goes: from drawn pictures and from real videos that nobody trained on, and better than a median takes it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vidproc.models.load import load_restorer
from vidproc.models.restorer import resolve_restorer
from vidproc.models.specs import RestorationSpec
from vidproc.train.dead_leaves import picture
from vidproc.train.encoded import encode
from vidproc.train.fidelity import median_filtered, noisy, psnr_db
from vidproc.train.real_frames import frames_of, is_held_out, split_frames
from vidproc.train.restoration import (
    HELD_OUT,
    PATCH,
    Pictures,
    batch_at,
    drawn,
    measured,
    save,
    steps_in,
    train,
)
from vidproc.train.restoration_effect import Case, accuracies
from vidproc.train.synthetic import render

VIDEOS = Path(__file__).parents[3] / "shared" / "data" / "videos"
GAIN_DB = 3.0


def real_frames() -> tuple[Pictures, Pictures]:
    if not VIDEOS.exists():
        pytest.skip(f"the shared videos are not there: {VIDEOS}")
    return split_frames(VIDEOS)


def assert_restores(figures: dict[str, float]) -> None:
    assert figures["restored"] >= figures["noisy"] + GAIN_DB, figures
    assert figures["restored"] > max(figures["median 3x3"], figures["median 5x5"]), figures


def test_the_shipped_checkpoint_restores_drawn_pictures_that_it_never_saw() -> None:
    network = load_restorer(resolve_restorer("demo"), "cpu")
    assert_restores(measured(network, drawn(6, size=96, first=HELD_OUT + 500)))


def test_the_shipped_checkpoint_restores_real_frames() -> None:
    """It was trained on drawn pictures alone."""
    _, held = real_frames()
    assert_restores(measured(load_restorer(resolve_restorer("demo"), "cpu"), held[::16]))


@pytest.mark.slow
def test_three_minutes_on_real_videos_restore_others() -> None:
    training, held = real_frames()
    torch.set_num_threads(1)
    network = train(training, steps=steps_in(3, training))
    assert_restores(measured(network, held))


def test_a_little_training_helps(tmp_path: Path) -> None:
    spec = RestorationSpec(widths=(8, 16), depths=(0, 1))
    said: list[str] = []
    training = drawn(6, size=96)
    network = train(training, steps=60, learning_rate=4e-3, warmup_steps=20, spec=spec, report=said.append)
    held = drawn(3, size=96, first=HELD_OUT)
    figures = measured(network, held)
    assert figures["restored"] > figures["noisy"] + 2
    assert said[-1].startswith("step 60/60  loss ")
    path = save(network, tmp_path, licence="Apache-2.0", how=" --steps 60", protocol="none")
    loaded = load_restorer(resolve_restorer(str(path)), "cpu")
    assert measured(loaded, held)["restored"] == pytest.approx(figures["restored"], abs=1e-3)


def test_training_repeats_itself() -> None:
    training = drawn(2, size=80)
    spec = RestorationSpec(widths=(4, 8), depths=(0, 1))
    one, other = (train(training, steps=3, spec=spec) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_step_s_batch_is_always_the_same() -> None:
    pictures = [*drawn(2, size=80), np.full((20, 150, 3), 90, np.uint8)]  # one lower than a patch
    (given, clean), (again, _), (other, _) = batch_at(pictures, 4), batch_at(pictures, 4), batch_at(pictures, 5)
    assert given.shape == clean.shape == (16, 3, PATCH, PATCH)
    assert torch.equal(given, again) and not torch.equal(given, other)
    assert given.min() >= 0 and given.max() <= 1
    levels = [float((a - b).std() * 255) for a, b in zip(given, clean, strict=True)]
    assert min(levels) < 15 and max(levels) > 30, "patches have noise of their own"


@pytest.mark.slow
def test_time_becomes_steps() -> None:
    few, more = (steps_in(minutes, drawn(1, size=64)) for minutes in (0.0, 5.0))
    assert few == 10 and more > few


# ---- pictures


def test_drawn_pictures_repeat_themselves_and_differ() -> None:
    one, again, other = (picture(size=96, seed=seed) for seed in (3, 3, 4))
    assert one.shape == (96, 96, 3) and one.dtype == np.uint8
    assert np.array_equal(one, again) and not np.array_equal(one, other)


def test_drawn_pictures_have_flat_places_and_edges() -> None:
    """As photographs do: most neighbours are alike, and some differ much."""
    steps = np.concatenate(
        [np.abs(np.diff(one.astype(float).mean(axis=2), axis=1)).ravel() for one in drawn(8, size=96)]
    )
    assert np.median(steps) < 6 and np.quantile(steps, 0.99) > 25


def write_videos(folder: Path, names: list[str]) -> None:
    pixels = render(shape="star", motion="left", seconds=1.5, fps=16, size=(300, 400), seed=0)
    video = encode(pixels, fps=16)
    for name in names:
        (folder / name).write_bytes(video)


def test_frames_of_a_folder_are_split_by_name(tmp_path: Path) -> None:
    names = [f"{word}-{i}.mp4" for word in "abcdef" for i in (1, 2)]
    write_videos(tmp_path, names)
    (tmp_path / "notes.txt").write_text("no video")
    (tmp_path / "b-3.mp4").write_bytes((tmp_path / "b-1.mp4").read_bytes()[:2000])
    training, held = split_frames(tmp_path, each=2)
    sides = {name: is_held_out(Path(name)) for name in names}
    assert len(held) == 2 * sum(sides.values()) > 0 and len(training) == 2 * len(names) - len(held) > 0
    assert all(sides[f"{word}-1.mp4"] == sides[f"{word}-2.mp4"] for word in "abcdef"), "cuts of one recording"
    assert {frame.shape for frame in training} == {(240, 320, 3)}, "larger frames are scaled down"


def test_files_of_a_folder_stay_together() -> None:
    assert len({is_held_out(Path("street") / f"{i}.mp4") for i in range(20)}) == 1


def test_a_folder_without_videos_is_told(tmp_path: Path) -> None:
    (tmp_path / "playlist.mp4").write_text("#EXTM3U\n#EXTINF:10,\nother.mp4\n")
    assert frames_of(tmp_path / "playlist.mp4", each=3, every=1) == []
    with pytest.raises(FileNotFoundError, match="needs videos to train on and to hold out: 0 and 0"):
        split_frames(tmp_path)


# ---- figures


def test_noise_is_as_strong_as_asked_and_fits_8_bits() -> None:
    grey = torch.full((2, 3, 64, 64), 128 / 255)
    found = noisy(grey, torch.tensor([5.0, 25.0]), torch.Generator().manual_seed(0))
    assert (found - grey).flatten(1).std(dim=1).mul(255).tolist() == pytest.approx([5, 25], rel=0.05)
    assert torch.allclose(found * 255, (found * 255).round(), atol=1e-3)
    white = noisy(torch.ones(1, 3, 8, 8), 50.0, torch.Generator().manual_seed(0))
    assert white.max() == 1


def test_psnr() -> None:
    truth = torch.full((2, 3, 4, 4), 0.5)
    found = truth + torch.tensor([0.1, 0.01])[:, None, None, None]
    assert psnr_db(found, truth).tolist() == pytest.approx([20, 40], abs=1e-3)
    assert psnr_db(truth, truth).tolist() == [100, 100]
    assert psnr_db(torch.full_like(truth, 7.0), torch.ones_like(truth)).tolist() == [100, 100], "shown as white"


@pytest.mark.parametrize("size", [3, 5])
def test_median(size: int) -> None:
    x = torch.rand(1, 3, 9, 11)
    expected = np.median(x[0, 1, 4 - size // 2 : 5 + size // 2, 6 - size // 2 : 7 + size // 2])
    found = median_filtered(x, size)
    assert found.shape == x.shape and float(found[0, 1, 4, 6]) == pytest.approx(float(expected))


@pytest.mark.slow
def test_the_effect_on_labels_is_measured_in_pairs() -> None:
    found = accuracies(resolve_restorer("demo"), scenes=2, sigmas=(0.0, 50.0))
    assert set(found) == {
        Case(network, place, sigma)
        for network in ("objects", "actions")
        for place, sigma in (("camera", 0.0), ("camera", 50.0), ("frames", 50.0))
    }
    assert all(0 <= value <= 1 for pair in found.values() for value in pair)
    assert found[Case("objects", "camera", 0.0)][0] == 1
