"""Detectors and embeddings that one core trains in minutes, held against their untrained selves.

    python tests/bench/small_tasks.py [retinanet fasterrcnn arcface cosface softmax] [--steps N]    450 s of one core

Detectors learn 4000 pictures of `vidproc/train/drawn_boxes.py`, 64 pixels wide, in 1200 steps, and are measured on 200
others. Before and after training, and seconds of one core with the drawing and measuring:

                 mAP              mAP at IoU 0.5
    retinanet    0.001 → 0.813    0.006 → 0.991     141 s
    fasterrcnn   0.001 → 0.818    0.005 → 0.990     158 s

Embeddings learn 300 identities of `vidproc/train/drawn_identities.py`, 20 pictures each, 32 pixels wide, in 600 steps,
and are measured on all pairs of 8 pictures each of 100 identities that they never saw: 2,800 of one identity and
316,800 of two. `softmax` is ArcFace without its margin, which shows what the margin is for:

                 TAR at FAR 0.01   TAR at FAR 0.001   rank 1
    arcface      0.029 → 0.959     0.003 → 0.849      0.050 → 0.991    52 s
    cosface      0.029 → 0.954     0.003 → 0.857      0.050 → 0.990    42 s, the pictures being drawn already
    softmax      0.029 → 0.898     0.003 → 0.700      0.050 → 0.968    40 s, likewise
"""

import argparse
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vidproc.models.detection_spec import DetectionSpec, SecondLook
from vidproc.models.specs import Block, Head, Norm, ResidualSpec, Stem
from vidproc.train import drawn_boxes, drawn_identities
from vidproc.train.synthetic import SHAPES
from vidproc.train.tasks.base import Batch, Task
from vidproc.train.tasks.detection import Detection
from vidproc.train.tasks.embedding import Embedding

Figures = Mapping[str, float]
DETECTORS = ("retinanet", "fasterrcnn")
EMBEDDINGS = ("arcface", "cosface", "softmax")
IDENTITIES, TAKES = 300, 20
_MEASURED_AT_ONCE = 100


@dataclass(frozen=True, eq=False)
class Examples:
    """`pictures`: uint8 [pictures, size, size, 3]; `labels`: one a picture, as the task takes them."""

    pictures: np.ndarray
    labels: list[Any]

    def batch(self, task: Task, numbers: Any) -> Batch:
        return Batch(self.inputs(numbers), task.truth([self.labels[number] for number in numbers], "cpu"))

    def inputs(self, numbers: Any) -> Tensor:
        return torch.from_numpy(self.pictures[numbers]).permute(0, 3, 1, 2).float() / 64 - 2


def detector(kind: str) -> Detection:
    """Two levels, of 16 × 16 and 8 × 8 places, and one more for Faster R-CNN."""
    backbone = ResidualSpec(
        dims=2, stem=Stem(kind="cifar", width=16), depths=(1, 1, 1), widths=(16, 32, 48), strides=(2, 2, 2)
    )
    spec = DetectionSpec(
        kind=kind,
        backbone=backbone,
        stages=(2, 3),
        fpn_channels=32,
        anchor_sizes=((12, 18), (24, 32)) if kind == "retinanet" else ((16,), (24,), (36,)),
        anchor_ratios=(1.0,),
        norm=Norm(kind="group"),
        second=SecondLook(proposals=32, width=64),
        min_score=0.005,  # below what RetinaNet begins with: an untrained one, too, gives its boxes
    )
    return Detection(categories=SHAPES, spec=spec)


def embedding(kind: str, *, identities: int = IDENTITIES) -> Embedding:
    spec = ResidualSpec(
        dims=2,
        stem=Stem(kind="face", width=16),
        block=Block(order="ir"),
        depths=(1, 1, 1),
        widths=(16, 32, 64),
        strides=(2, 2, 2),
        activation="prelu",
        head=Head(kind="face", grid=(4, 4)),
    )
    return Embedding(
        categories=tuple(str(identity) for identity in range(identities)),
        spec=spec,
        size=64,
        kind="cosface" if kind == "cosface" else "arcface",
        scale=16.0,
        margin=0.0 if kind == "softmax" else 0.3,
    )


@cache
def boxes(*, first: int, count: int) -> Examples:
    drawn = [drawn_boxes.picture(seed=seed) for seed in range(first, first + count)]
    return Examples(np.stack([one.pixels for one in drawn]), [{"boxes": o.boxes, "labels": o.labels} for o in drawn])


@cache
def identities(*, first: int, count: int, takes: int) -> Examples:
    pairs = [(identity, take) for identity in range(first, first + count) for take in range(takes)]
    pictures = [drawn_identities.picture(identity=identity, take=take) for identity, take in pairs]
    return Examples(np.stack(pictures), [identity - first for identity, _ in pairs])


def measured(task: Task, network: nn.Module, held: Examples) -> Figures:
    numbers = np.arange(len(held.labels))
    outputs = []
    for start in range(0, len(numbers), _MEASURED_AT_ONCE):
        inputs = held.inputs(numbers[start : start + _MEASURED_AT_ONCE])
        outputs += task.outputs(network, Batch(inputs, None))
    return task.measures(outputs, held.labels)


def train(task: Task, network: nn.Module, examples: Examples, *, steps: int, batch: int, rate: float) -> list[float]:
    """AdamW with a warm-up of 20 steps and half a cosine; returns the losses."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / 20, 0.5 + 0.5 * math.cos(math.pi * step / steps))
    )
    order, losses = np.random.default_rng(0), []
    network.train()
    for _ in range(steps):
        loss = task.loss(network, examples.batch(task, order.integers(0, len(examples.labels), batch)))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def before_and_after(kind: str, *, steps: int | None = None, seed: int = 0) -> tuple[Figures, Figures]:
    """What the task of this kind measures with fresh weights, and after its training."""
    if kind in DETECTORS:
        task: Task = detector(kind)
        examples, held = boxes(first=0, count=4000), boxes(first=drawn_boxes.HELD_OUT, count=200)
        default, batch, rate = 1200, 16, 4e-3
    else:
        task = embedding(kind)
        examples = identities(first=0, count=IDENTITIES, takes=TAKES)
        held = identities(first=drawn_identities.HELD_OUT, count=100, takes=8)
        default, batch, rate = 600, 64, 5e-3
    torch.manual_seed(seed)
    network = task.network()
    before = measured(task, network, held)
    train(task, network, examples, steps=steps or default, batch=batch, rate=rate)
    return before, measured(task, network, held)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", choices=[*DETECTORS, *EMBEDDINGS, []], help="default: all")
    parser.add_argument("--steps", type=int, help="of training: 1200 for detectors, 600 for embeddings")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for kind in asked.kinds or (*DETECTORS, *EMBEDDINGS):
        began = time.process_time()
        figures = before_and_after(kind, steps=asked.steps, seed=asked.seed)
        before, after = ({name: round(value, 3) for name, value in found.items()} for found in figures)
        line = {"kind": kind, "before": before, "after": after}
        print(json.dumps(line | {"cpu_s": round(time.process_time() - began)}), flush=True)


if __name__ == "__main__":
    main()
