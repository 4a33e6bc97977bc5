"""Make the two checkpoints that the package ships: `python -m vidproc.train.demo [--out DIR] [actions|objects …]`.

About four minutes on two cores. Both learn the scenes of `train/synthetic.py` from renderings, and are measured on
scenes with other seeds, through H.264.
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional as F

from vidproc.models.build import Network, build
from vidproc.models.sidecar import DEMO
from vidproc.models.weights import Weights
from vidproc.models.zoo import spec_of
from vidproc.train.encoded import encode, first_samples
from vidproc.train.loop import Batch, fit
from vidproc.train.synthetic import MOTIONS, SHAPES, frames, render, scene
from vidproc.views import Clips, Frames, Picture, view_to_json

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
HELD_OUT = 1_000_000
"""Seeds from here on are never trained on."""
SCENES = 60
"""Unseen scenes that measure a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What one checkpoint learns. `batch`: scenes a step, each seen at one moment."""

    name: str
    categories: tuple[str, ...]
    architecture: str
    options: dict[str, Any]
    view: Clips | Frames
    batch: int
    steps: int
    learning_rate: float


TASKS = {
    "actions": Task(
        name="actions",
        categories=MOTIONS,
        architecture="r3d_18",
        options={"depths": [1, 1, 1], "widths": [12, 24, 36]},
        view=Clips(num_frames=8, fps=8, stride_s=1.0, picture=Picture(resize=(48, 48))),
        batch=24,
        steps=700,
        learning_rate=2e-3,
    ),
    "objects": Task(
        name="objects",
        categories=SHAPES,
        architecture="resnet18",
        options={"depths": [1, 1, 1], "widths": [16, 32, 56]},
        view=Frames(fps=1.0, picture=Picture(resize=(64, 64))),
        batch=60,
        steps=600,
        learning_rate=3e-3,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"of {', '.join(TASKS)}; default: all")
    parser.add_argument("--out", type=Path, default=DEMO, help="folder of the checkpoints")
    arguments = parser.parse_args()
    if unknown := set(arguments.tasks) - set(TASKS):
        parser.error(f"tasks {sorted(unknown)} are unknown: use some of {', '.join(TASKS)}")
    with ProcessPoolExecutor(max_workers=2, mp_context=get_context("spawn")) as pool:
        for line in pool.map(make, arguments.tasks or TASKS, repeat(arguments.out)):
            print(line)


def make(name: str, out: Path) -> str:
    """Train, measure and save one checkpoint; says what came of it."""
    torch.set_num_threads(1)  # sums in the same order on every machine
    task = TASKS[name]
    network = train(task, report=lambda text: print(f"{name}: {text}", flush=True))
    accuracy = held_out_accuracy(network, task, scenes=SCENES)
    return f"{name}: held-out accuracy {accuracy:.3f} -> {save(network, task, out, accuracy=accuracy)}"


def train(task: Task, *, report: Any) -> Network:
    """A network trained from the fixed seed 0."""
    torch.manual_seed(0)
    network = build(spec_of(task.architecture, task.options), classes=len(task.categories))
    # a 3D training step in the default layout takes eight times as long on a CPU
    network = network.to(memory_format=layout(task.view))
    batches = partial(batch_at, task)
    fit(network, batches, steps=task.steps, learning_rate=task.learning_rate, report=report)
    return network


def batch_at(task: Task, step: int) -> Batch:
    """The step's scenes, each seen at one moment, damaged as cameras and encoders do.

    Every scene comes once in each category, alike in all else: without such pairs the motion task stays at chance for
    300 steps, with them it is half learnt after 100.
    """
    classes = len(task.categories)
    scenes = [step * task.batch + i // classes for i in range(task.batch)]
    labels = np.arange(task.batch) % classes
    pixels = np.stack([_glimpse(task, int(label), seed) for label, seed in zip(labels, scenes, strict=True)])
    generator = torch.Generator().manual_seed(step)
    inputs = _damaged(normalised(pixels), generator).contiguous(memory_format=layout(task.view))
    return inputs, torch.from_numpy(labels)


def layout(view: Clips | Frames) -> torch.memory_format:
    return torch.channels_last_3d if isinstance(view, Clips) else torch.channels_last


def _glimpse(task: Task, label: int, seed: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """One sample of a scene. Times are a little uneven: the nearest frames of a real video are so."""
    rng = np.random.default_rng([seed, 7])
    shape = SHAPES[label] if task.name == "objects" else str(rng.choice(SHAPES))
    motion = MOTIONS[label] if task.name == "actions" else str(rng.choice(MOTIONS))
    moving = scene(shape, motion, seed=seed, aspect=float(rng.choice([1.0, 4 / 3, 16 / 9])))
    offsets = np.array(task.view.offsets_us) / 1e6
    times = offsets + rng.uniform(-0.02, 0.02, len(offsets))
    return frames(moving, times, size=task.view.picture.shape[:2]).reshape(task.view.sample_shape)


def normalised(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
    """uint8 [batch, …, height, width, 3] → float32 [batch, 3, …, height, width], as at inference."""
    x = torch.from_numpy(pixels).float().div_(255)
    return x.sub_(torch.tensor(MEAN)).div_(torch.tensor(STD)).movedim(-1, 1)


def _damaged(x: Tensor, generator: torch.Generator) -> Tensor:
    """Blur, coarse quantisation and a change of contrast and brightness, of each sample by another amount."""

    def amount(low: float, high: float) -> Tensor:
        return torch.empty(len(x), *(1,) * (x.dim() - 1)).uniform_(low, high, generator=generator)

    flat = x.transpose(1, 2).flatten(0, 1) if x.dim() == 5 else x
    soft = F.avg_pool2d(F.pad(flat, (1, 1, 1, 1), mode="replicate"), 3, 1)
    soft = soft.reshape(len(x), -1, *soft.shape[1:]).transpose(1, 2) if x.dim() == 5 else soft
    x = torch.lerp(x, soft, amount(0, 0.9))
    step = amount(0.01, 0.15)
    x = torch.round(x / step) * step
    return x * amount(0.8, 1.2) + amount(-0.25, 0.25)


def held_out_accuracy(network: Network, task: Task, *, scenes: int) -> float:
    """The share of samples of unseen scenes, encoded as H.264 at 180×240 and decoded, whose best label is right."""
    right, total = 0, 0
    for i in range(scenes):
        label = i % len(task.categories)
        other = i // len(task.categories)
        shape = SHAPES[label] if task.name == "objects" else SHAPES[other % len(SHAPES)]
        motion = MOTIONS[label] if task.name == "actions" else MOTIONS[other % len(MOTIONS)]
        video = encode(
            render(shape=shape, motion=motion, seconds=4.2, fps=25, size=(180, 240), seed=HELD_OUT + i), fps=25
        )
        with torch.inference_mode():
            found = network(normalised(first_samples(video, task.view, count=3, start_us=300_000))).argmax(dim=1)
        right += int((found == label).sum())
        total += len(found)
    return right / total


def save(network: Network, task: Task, folder: Path, *, accuracy: float) -> Path:
    """Write the checkpoint and its sidecar; returns the checkpoint's path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{task.name}.safetensors"
    data = safetensors.torch.save({name: value.contiguous() for name, value in network.state_dict().items()})
    weights = Weights(
        url=str(path),
        sha256=sha256(data).hexdigest(),
        architecture=task.architecture,
        options=task.options,
        categories=task.categories,
        view=task.view,
        mean=MEAN,
        std=STD,
        licence="Apache-2.0",
        provenance=f"python -m vidproc.train.demo {task.name}",
        protocol=f"top-1 {accuracy:.3f}: {SCENES} unseen scenes, 3 samples each, H.264 crf 26, 240x180, 25 fps",
    )
    path.write_bytes(data)
    fields = asdict(weights) | {"view": json.loads(view_to_json(task.view))}
    del fields["url"]
    path.with_name(f"{path.name}.json").write_text(json.dumps(fields, indent=1) + "\n")
    return path


if __name__ == "__main__":
    main()
