"""Train the demo detector on pictures that this repository draws: `--weights detections=demo`.

    python -m vidproc.train.demo_detector [--out out/demo-detector] [--ship]

One CPU worker, some five minutes. The last line has the mean average precision on 200 pictures that it never saw.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from vidproc.command import end_with
from vidproc.media.geometry import GREY
from vidproc.models.sidecar import DEMO
from vidproc.pipeline.cluster import connected
from vidproc.train.drawn_boxes import HELD_OUT, picture
from vidproc.train.options import TrainConfig
from vidproc.train.run import run
from vidproc.train.synthetic import SHAPES

SIDE = 64
PICTURES, UNSEEN = 4000, 200
_LEAST_SHARE = 0.6
"""Of a shape's box inside the cut picture; of what is cut away further, the rest is no longer called by its name."""

LEARNT: dict[str, Any] = {
    "task": "detection",
    "view": {"kind": "frames", "fps": 5, "picture": {"resize": [SIDE, SIDE], "letterbox": True}},
    "architecture": "cifar_resnet20",
    "options": {"depths": [1, 1, 1], "widths": [16, 32, 48], "strides": [2, 2, 2]},
    "detector": {
        "kind": "retinanet",
        "stages": [2, 3],
        "fpn_channels": 32,
        "anchor_sizes": [[12, 18], [24, 32]],
        "anchor_ratios": [1.0],
        "norm": {"kind": "group"},
    },
    "mean": (0.5, 0.5, 0.5),
    "std": (0.25, 0.25, 0.25),
    "epochs": 5,
    "batch": 16,
    "learning_rate": 4e-3,
    "gradient_clip": 5.0,
    "zero_init": False,
}
"""What the network is, and how it learns: `tests/bench/small_tasks.py` has the same one."""


def letterboxed(seed: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """(pixels [SIDE, SIDE, 3], boxes in pixels [k, 4], labels [k]): a drawn picture as the label job would show it.

    One in two is square, the others are cut to wide or tall ones, with grey where a letterbox has it.
    """
    drawn, rng = picture(seed=seed, size=SIDE), np.random.default_rng([seed, 1])
    pixels, boxes = drawn.pixels.copy(), drawn.boxes * SIDE
    width, height = (SIDE, SIDE)
    if rng.random() < 0.5:
        short = int(rng.integers(SIDE // 2, SIDE))
        width, height = (SIDE, short) if rng.random() < 0.7 else (short, SIDE)
    pixels[height:], pixels[:, width:] = GREY, GREY
    cut = np.minimum(boxes, np.array([width, height] * 2, np.float32))
    share = np.prod(cut[:, 2:] - cut[:, :2], axis=1) / np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    kept = share >= _LEAST_SHARE
    return pixels, cut[kept], drawn.labels[kept]


def write_pictures(folder: Path) -> None:
    """PNG files and `instances.json`, in COCO's format, as the training reads it."""
    folder.mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for seed in (*range(PICTURES), *range(HELD_OUT, HELD_OUT + UNSEEN)):
        pixels, boxes, labels = letterboxed(seed)
        name = f"{seed:07d}.png"
        Image.fromarray(pixels).save(folder / name)
        split = "val" if seed >= HELD_OUT else "train"
        images.append({"id": seed, "file_name": name, "width": SIDE, "height": SIDE, "split": split})
        for (x1, y1, x2, y2), label in zip(boxes.tolist(), labels.tolist(), strict=True):
            box = [x1, y1, x2 - x1, y2 - y1]
            annotations.append({"id": len(annotations), "image_id": seed, "category_id": label, "bbox": box})
    categories = [{"id": number, "name": name} for number, name in enumerate(SHAPES)]
    told = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(told))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/demo-detector"), help="folder to work in (emptied first)")
    parser.add_argument("--ship", action="store_true", help=f"copy the checkpoint to {DEMO.name}/ in the package")
    given = parser.parse_args()
    shutil.rmtree(given.out, ignore_errors=True)
    write_pictures(given.out / "pictures")
    config = TrainConfig(
        name="detections",
        out=str(given.out / "train"),
        data=(str(given.out / "pictures" / "instances.json"),),
        categories=SHAPES,
        licence="Apache-2.0",
        provenance="python -m vidproc.train.demo_detector",
        **LEARNT,
    )
    with connected(workers_speak=False):
        run(config)
    checkpoint = given.out / "train" / "detections" / "network.safetensors"
    measured = json.loads(Path(f"{checkpoint}.json").read_text())["metrics"]
    if given.ship:
        for ending in ("", ".json"):
            shutil.copyfile(f"{checkpoint}{ending}", DEMO / f"detections.safetensors{ending}")
    print(f"map_50 {measured['map_50']:.3f}", flush=True)
    return 0 if measured["map_50"] >= 0.9 else 1


if __name__ == "__main__":
    end_with(main)
