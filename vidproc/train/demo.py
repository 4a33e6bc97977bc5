"""Train a demo network on videos that this repository draws, and label others with it: `make demo-train`.

    python -m vidproc.train.demo [actions|objects …] [--out out/demo-train] [--ship]

Two CPU workers, about three minutes a network. The last line, `accuracy …`, is that of `label` with the new checkpoint
on encoded videos of scenes that training never saw. `--ship` puts the checkpoint where `--weights actions=demo` looks.
"""

import argparse
import shutil
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from vidproc.command import end_with
from vidproc.models.sidecar import DEMO
from vidproc.pipeline import label
from vidproc.pipeline.cluster import connected
from vidproc.pipeline.options import LabelConfig
from vidproc.tables.query import connect
from vidproc.train.encoded import encode
from vidproc.train.options import TrainConfig
from vidproc.train.run import run
from vidproc.train.synthetic import HELD_OUT, MOTIONS, SHAPES, render

CATEGORIES = {"actions": MOTIONS, "objects": SHAPES}
SCENES = {"actions": (160, 3.0), "objects": (800, 0.5)}
"""How many scenes are trained on or choose the epoch, each drawn once in every category, and how many seconds each."""
UNSEEN = 12
"""Scenes that are labelled."""

SIZES = ((96, 128), (108, 192), (120, 120), (144, 176))
RATES = (12, 16, 25)

LEARNT: dict[str, dict[str, Any]] = {
    "actions": {
        "architecture": "r3d_18",
        "options": {"depths": [1, 1, 1], "widths": [12, 24, 36]},
        "view": {"kind": "clips", "num_frames": 8, "fps": 8, "stride_s": 1.0, "picture": [48, 48]},
        "augment": ("colour", "blur"),
        "samples": 4,
        "epochs": 3,
        "batch": 24,
        "learning_rate": 2e-3,
    },
    "objects": {
        "architecture": "resnet18",
        "options": {"depths": [1, 1, 1], "widths": [16, 32, 56]},
        "view": {"kind": "frames", "fps": 1.0, "picture": [64, 64]},
        "augment": ("shift", "flip", "turn", "colour", "blur"),
        "samples": 1,
        "epochs": 12,
        "batch": 60,
        "learning_rate": 3e-3,
    },
}
"""What each network is, and how it learns."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"of {', '.join(LEARNT)}; default: actions")
    parser.add_argument("--out", type=Path, default=Path("out/demo-train"), help="folder to work in (emptied first)")
    parser.add_argument("--ship", action="store_true", help=f"copy the checkpoints to {DEMO.name}/ in the package")
    given = parser.parse_args()
    if unknown := set(given.tasks) - set(LEARNT):
        parser.error(f"tasks {sorted(unknown)} are unknown: use some of {', '.join(LEARNT)}")
    accuracy = 1.0
    with connected(workers_speak=False):
        for task in given.tasks or ["actions"]:
            accuracy = demo(task, given.out / task)
            if given.ship:
                ship(task, given.out / task)
            print(f"{task}: accuracy of `label` on {UNSEEN * len(CATEGORIES[task])} unseen videos")
            print(f"accuracy {accuracy:.2f}", flush=True)
    return 0 if accuracy >= 0.9 else 1


def demo(task: str, out: Path) -> float:
    """Draw, train, label. Returns the accuracy of `label`."""
    shutil.rmtree(out, ignore_errors=True)
    scenes, seconds = SCENES[task]
    print(f"drawing {scenes} scenes in {len(CATEGORIES[task])} categories each …", flush=True)
    draw_videos(out / "clips", task, scenes=scenes, seconds=seconds)
    draw_videos(out / "unseen", task, scenes=UNSEEN, first=HELD_OUT)
    run(train_config(task, out))
    return labelled_accuracy(task, out)


def train_config(task: str, out: Path) -> TrainConfig:
    """The training of one network on the drawn clips: what `jobs/train.py` is given."""
    fixed: dict[str, Any] = {
        "name": f"demo-{task}",
        "out": str(out / "train"),
        "data": (str(out / "clips"),),
        "group": r"scene-\d+",
        "held_out": "0.1",
        "together": True,  # the same scene in every category: what differs is then what is to be learnt
        "even_samples": 2,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
        "label_smoothing": 0.02,
        "ema": 0.98,
        "zero_init": False,
        "workers": 2,
        "licence": "Apache-2.0",
        "provenance": f"python -m vidproc.train.demo {task}",
    }
    return TrainConfig(**fixed | LEARNT[task])


def draw_videos(folder: Path, task: str, *, scenes: int, first: int = 0, seconds: float = 3.0) -> None:
    """Each scene in every category, alike in all else: `CATEGORY/scene-NUMBER.mp4`. Sizes, rates, qualities vary."""
    with ProcessPoolExecutor(max_workers=2, mp_context=get_context("spawn")) as pool:
        list(pool.map(partial(_draw, folder, task, seconds), range(first, first + scenes), chunksize=8))


def _draw(folder: Path, task: str, seconds: float, number: int) -> None:
    rng = np.random.default_rng([number, 7])
    size, fps = SIZES[int(rng.integers(len(SIZES)))], int(rng.choice(RATES))
    crf, other = int(rng.integers(20, 33)), int(rng.integers(30))
    for category in CATEGORIES[task]:
        shape = category if task == "objects" else SHAPES[other % len(SHAPES)]
        motion = category if task == "actions" else MOTIONS[other % len(MOTIONS)]
        frames = render(shape=shape, motion=motion, seconds=seconds, fps=fps, size=size, seed=number)
        path = folder / category / f"scene-{number:07d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(frames, fps=fps, crf=crf))


def labelled_accuracy(task: str, out: Path) -> float:
    """Label the unseen videos with the trained checkpoint: the share whose best label over all is their folder's."""
    config = LabelConfig(
        archive=(str(out / "unseen"),),
        tables=str(out / "tables"),
        annotators=(task,),
        weights={task: str(_checkpoint(task, out))},
    )
    if code := label.run(config):
        raise RuntimeError(f"label ended with exit code {code}")
    found = connect(config.tables).sql("SELECT uri, label FROM video_labels WHERE rank = 1").fetchall()
    right = sum(Path(uri).parent.name == name for uri, name in found)
    return float(right / (UNSEEN * len(CATEGORIES[task])))


def ship(task: str, out: Path) -> None:
    for ending in ("", ".json"):
        shutil.copyfile(f"{_checkpoint(task, out)}{ending}", DEMO / f"{task}.safetensors{ending}")


def _checkpoint(task: str, out: Path) -> Path:
    return out / "train" / f"demo-{task}" / "network.safetensors"


if __name__ == "__main__":
    end_with(main)
