"""A detector that is trained here, on real photos: things of the PASCAL VOC kinds, and raccoons, in boxes of people's.

    python tests/bench/real_boxes.py [--data ../shared/data] [--seed 0] [--epochs 20]

Some 60 photos to learn from, by `jobs/train.py`'s own way with one worker of one thread, from CIFAR-10's weights; the
others, three in ten by a hash of their names, are labelled by `jobs/label.py`'s. All kinds are one, `thing`: 83 photos
do not teach twenty. Figures are average precision at IoU 0.5 of the rows of `detections`, whose boxes are shares of
the original picture, against the annotators' boxes; beside a network of the same kind that was not trained, and the
mean of all training boxes, said of every photo. With seed 0, on two cores that many others used too (36 minutes):

    photos held out  boxes  learnt from  trained  untrained  mean box
                 29     74           54    0.163      0.000     0.021
"""

import argparse
import csv
import hashlib
import json
import shutil
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from vidproc.pipeline import label
from vidproc.pipeline.cluster import connected
from vidproc.pipeline.options import LabelConfig
from vidproc.tables.query import connect
from vidproc.train.options import TrainConfig
from vidproc.train.run import run
from vidproc.train.tasks import TASKS
from vidproc.train.tasks.detection import Detection

SIDE = 128
HELD_OUT = 0.3
WEIGHTS = "akamaster_cifar10_resnet20-12fca82f.th"
RECIPE: dict[str, Any] = {
    "task": "detection",
    "view": {"kind": "frames", "fps": 1, "picture": {"resize": [SIDE, SIDE], "letterbox": True}},
    "architecture": "cifar_resnet20",
    "options": {"strides": [2, 2, 2]},
    "detector": {
        "stages": [3],
        "fpn_channels": 64,
        "anchor_sizes": [[16, 26], [42, 60], [84, 112]],
        "norm": {"kind": "group"},
    },
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "augment": ("flip", "crop", "colour"),
    "samples": 8,
    "epochs": 20,
    "batch": 16,
    "learning_rate": 2e-3,
    "l2": 0.05,
    "gradient_clip": 5.0,
    "ema": 0.98,
    "keep": "last",
    "zero_init": False,
}
"""As `jobs/train.py --config` takes it. No photo that is held out has a say in it, nor in which epoch is kept."""

Boxes = dict[str, np.ndarray]
"""Photo → float [k, 4], shares of it."""


def photos(data: Path) -> dict[Path, Path]:
    """Photo → the file with its boxes."""
    images = data / "images"
    found = {images / "voc100" / "images" / f"{told.stem}.jpg": told for told in (images / "voc100").rglob("*.xml")}
    found |= {told.with_suffix(".jpg"): told for told in (images / "raccoon").glob("*.xml")}
    return {photo: told for photo, told in sorted(found.items()) if photo.exists()}


def is_held_out(photo: Path) -> bool:
    return int(hashlib.sha256(photo.name.encode()).hexdigest()[:8], 16) / 2**32 < HELD_OUT


def write_coco(data: Path, folder: Path) -> str:
    """VOC's XML as one COCO file; returns its URL. VOC's pixels count from 1, and a box holds its last one."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (photo, told) in enumerate(photos(data).items()):
        root = ET.parse(told).getroot()
        width, height = (int(root.findtext(f"size/{side}") or 0) for side in ("width", "height"))
        split = "test" if is_held_out(photo) else "train"
        images.append({"id": number, "file_name": str(photo), "width": width, "height": height, "split": split})
        for box in root.iterfind("object/bndbox"):
            x1, y1, x2, y2 = (float(box.findtext(side) or 0) for side in ("xmin", "ymin", "xmax", "ymax"))
            corners = [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1]
            annotations.append({"id": len(annotations), "image_id": number, "category_id": 0, "bbox": corners})
    folder.mkdir(parents=True)
    told_all = {"images": images, "annotations": annotations, "categories": [{"id": 0, "name": "thing"}]}
    (folder / "instances.json").write_text(json.dumps(told_all))
    return str(folder / "instances.json")


def truth(coco: str) -> tuple[Boxes, Boxes]:
    """The boxes of the training's photos, and of those held out."""
    told = json.loads(Path(coco).read_text())
    found: tuple[Boxes, Boxes] = {}, {}
    for image in told["images"]:
        own = [one["bbox"] for one in told["annotations"] if one["image_id"] == image["id"]]
        sides = np.tile([image["width"], image["height"]], 2)
        corners = np.array([[x, y, x + width, y + height] for x, y, width, height in own]).reshape(-1, 4)
        found[image["split"] == "test"][image["file_name"]] = (corners / sides).clip(0, 1)
    return found


def beginning(data: Path, folder: Path) -> str:
    """CIFAR-10's weights with a sidecar beside them."""
    path = Path(shutil.copy(data / "weights" / WEIGHTS, folder))
    sidecar = {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "licence": "BSD-2-Clause",
        "provenance": "akamaster/pytorch_resnet_cifar10", "architecture": "cifar_resnet20", "layout": "akamaster",
        "categories": [str(i) for i in range(10)], "mean": RECIPE["mean"], "std": RECIPE["std"],
        "view": {"kind": "frames", "fps": 1, "picture": {"resize": [32, 32]}},
    }  # fmt: skip
    Path(f"{path}.json").write_text(json.dumps(sidecar))
    return str(path)


def untrained(config: TrainConfig, weights: str) -> str:
    """The checkpoint of the same network with fresh weights."""
    torch.manual_seed(config.seed)
    data = safetensors.torch.save(TASKS["detection"](config, ("thing",)).network().state_dict())
    path = Path(weights).with_name("untrained.safetensors")
    path.write_bytes(data)
    sidecar = json.loads(Path(f"{weights}.json").read_text()) | {"sha256": hashlib.sha256(data).hexdigest()}
    Path(f"{path}.json").write_text(json.dumps(sidecar))
    return str(path)


def labelled(weights: str, pictures: list[str], folder: Path) -> Boxes:
    """What `label` says of the photos: [k, 5], with the scores."""
    folder.mkdir()
    with (folder / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["uri"], *([picture] for picture in pictures)])
    config = LabelConfig(
        archive=(str(folder / "list.csv"),), tables=str(folder / "tables"), annotators=("detections",),
        weights={"detections": weights}, allow_licences=("private",),
    )  # fmt: skip
    assert label.run(config) == 0
    rows = connect(config.tables).sql("SELECT uri, x1, y1, x2, y2, score FROM detections JOIN videos USING (video_id)")
    found: dict[str, list[Any]] = {picture: [] for picture in pictures}
    for uri, *numbers in rows.fetchall():
        found[uri].append(numbers)
    return {picture: np.array(one, np.float32).reshape(-1, 5) for picture, one in found.items()}


def precision(task: Detection, found: Boxes, true: Boxes) -> float:
    """Average precision at IoU 0.5, in the original pictures."""
    outputs = [np.pad(found[picture], ((0, 0), (0, 1))) for picture in true]
    labels = [{"boxes": boxes, "labels": [0] * len(boxes)} for boxes in true.values()]
    return task.measures(outputs, labels)["map_50"]


def measured(data: Path, folder: Path, **changes: Any) -> Mapping[str, float]:
    """Train, label and measure; `changes` of the recipe."""
    coco = write_coco(data, folder / "coco")
    config = TrainConfig(
        name="things", out=str(folder / "train"), data=(coco,), init=beginning(data, folder), **RECIPE | changes
    )
    seen, held = truth(coco)
    with connected(workers_speak=False):
        run(config)
        weights = f"{config.folder}/network.safetensors"
        task = TASKS["detection"](config, ("thing",))
        assert isinstance(task, Detection)
        found = {name: labelled(url, list(held), folder / name)
                 for name, url in (("trained", weights), ("untrained", untrained(config, weights)))}  # fmt: skip
    mean = np.concatenate(list(seen.values())).mean(axis=0)
    found["mean_box"] = {picture: np.array([[*mean, 1.0]], np.float32) for picture in held}
    counts = {"photos": len(held), "boxes": sum(map(len, held.values())), "learnt_from": len(seen)}
    return {**counts, **{name: round(precision(task, one, held), 3) for name, one in found.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[3] / "shared" / "data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=RECIPE["epochs"])
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vidproc-bench-") as folder:
        figures = measured(asked.data.absolute(), Path(folder), seed=asked.seed, epochs=asked.epochs)
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
