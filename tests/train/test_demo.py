"""The shipped checkpoints know scenes they never saw, through H.264; and the loop that made them learns."""

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from vidproc.annotators import ANNOTATORS
from vidproc.media.samples import Samples
from vidproc.models.weights import resolve_weights
from vidproc.train.demo import CATEGORIES, LEARNT, draw_videos, train_config
from vidproc.train.encoded import encode, first_samples
from vidproc.train.loop import fit
from vidproc.train.synthetic import HELD_OUT, MOTIONS, SHAPES, render


@pytest.mark.parametrize(("name", "size", "fps"), [("actions", (120, 214), 30), ("objects", (144, 176), 15)])
def test_shipped_checkpoints_know_encoded_scenes(name: str, size: tuple[int, int], fps: int) -> None:
    """Sizes, rates and qualities other than those of training; clips that begin at odd moments."""
    annotator = ANNOTATORS[name]("demo")
    [view] = annotator.views
    network = annotator.load("cpu")
    right = total = 0
    for i in range(15):
        shape, motion = SHAPES[i % 5], MOTIONS[i % 6]
        pixels = render(shape=shape, motion=motion, seconds=3.6, fps=fps, size=size, seed=HELD_OUT + 5000 + i)
        video = encode(pixels, fps=fps, crf=(22, 27, 32)[i % 3])
        data = first_samples(video, view, count=3, start_us=70_000 * (i % 7))
        times = np.arange(3) * view.stride_us
        [annotation] = network.annotate([{view: Samples(times, times + view.span_us, times, data)}])
        labels = annotation.rows["labels"].to_pylist()
        right += sum(row["rank"] == 1 and row["label"] == (shape if name == "objects" else motion) for row in labels)
        total += 3
    assert right / total >= 0.95


def test_an_encoded_video_keeps_its_frames() -> None:
    pixels = render(shape="cross", motion="right", seconds=1, fps=10, size=(64, 64), seed=9)
    [view] = ANNOTATORS["objects"]("demo").views
    [found] = first_samples(encode(pixels, fps=10, crf=10), replace(view, fps=10.0), count=1, start_us=510_000)
    errors = np.abs(pixels.astype(float) - found).mean(axis=(1, 2, 3))
    assert errors.argmin() == 5
    assert errors[5] < 8


@pytest.mark.parametrize("name", LEARNT)
def test_the_shipped_checkpoint_was_made_by_the_demo(name: str, tmp_path: Path) -> None:
    """Same network, same view, same options: who changes them trains and ships again."""
    config = train_config(name, tmp_path)
    weights = resolve_weights(f"demo:{name}")
    assert (weights.architecture, weights.options) == (config.architecture, config.options)
    assert weights.view == config.looks_at and weights.categories == tuple(sorted(CATEGORIES[name]))
    assert weights.provenance == config.provenance and weights.metrics["accuracy"] > 0.9


def test_drawn_scenes_are_alike_in_every_category(tmp_path: Path) -> None:
    draw_videos(tmp_path, "actions", scenes=1)
    files = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.mp4"))
    assert [str(path) for path in files] == [f"{motion}/scene-0000000.mp4" for motion in sorted(MOTIONS)]
    sizes = set()
    for path in files:
        with av.open(tmp_path / path) as video:
            stream = video.streams.video[0]
            sizes.add((stream.width, stream.average_rate, stream.frames))
    assert len(sizes) == 1


def test_fit_solves_a_simple_task() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
    x = torch.randn(64, 3, 2, 2)
    labels = (x[:, 0].sum(dim=(1, 2)) > 0).long()
    losses = fit(network, lambda _: (x, labels), steps=120, learning_rate=0.05, loss_of=cross_entropy)
    assert len(losses) == 120
    assert losses[-1] < 0.2 < losses[0]
    assert not network.training
