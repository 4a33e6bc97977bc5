"""A detection set that is drawn: several shapes on a textured background, and the box of what is seen of each.

Shapes are those of `synthetic.py`. Nothing is downloaded, and each picture comes from its seed alone.

    python -m vidproc.train.drawn_boxes FOLDER [--pictures 1000] [--held-out 200] [--size 64]    as a COCO folder
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from vidproc.train.synthetic import SHAPES, contrasting, distance

HELD_OUT = 1_000_000
"""Seeds from here on are never trained on."""

_MOST = 4
"""Shapes in a picture."""
_RADII = (0.1, 0.24)
"""Of the circle that a shape fits, in picture sides."""
_APART = 0.7
"""Distance of two shapes' centres at the least, in sums of their radii: what lies below stays mostly in sight."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """`boxes`: float32 [k, 4], x1, y1, x2, y2 in 0..1 of the picture, from the first to behind the last pixel that is
    more shape than not. `labels`: int64 [k], indices of `SHAPES`. `areas`: int64 [k], those pixels."""

    pixels: npt.NDArray[np.uint8]  # [size, size, 3]
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    areas: npt.NDArray[np.int64]


def picture(*, seed: int, size: int = 64) -> Drawn:
    """The picture of size × size pixels that the seed stands for; one in twelve has no shape at all."""
    rng = np.random.default_rng([seed])
    background = rng.uniform(0.15, 0.85, 3)
    canvas = _texture(rng, size) * rng.uniform(0, 0.06, 3) + background
    y, x = ((np.arange(size) + 0.5) / size)[:, None], ((np.arange(size) + 0.5) / size)[None]
    owner = np.full((size, size), -1)
    places = _places(rng)
    labels = rng.integers(0, len(SHAPES), len(places))
    for number, (cx, cy, radius) in enumerate(places):
        angle = rng.uniform(0, 2 * np.pi)
        u, v = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle), (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
        inside = np.clip(0.5 - distance(SHAPES[labels[number]], u, v, radius) * size, 0, 1)
        canvas += inside[..., None] * (contrasting(background, rng) - canvas)
        owner[inside > 0.5] = number
    canvas += rng.normal(0, rng.uniform(0, 0.03), canvas.shape)
    seen = [owner == number for number in range(len(places))]
    return Drawn(
        pixels=(np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8),
        boxes=np.array([_box(mask) for mask in seen], np.float32).reshape(-1, 4) / np.float32(size),
        labels=labels,
        areas=np.array([mask.sum() for mask in seen], np.int64),
    )


def write_coco(folder: Path, *, seeds: Sequence[int], size: int = 64) -> None:
    """The seeds' pictures as PNG, and `instances.json` beside them, in COCO's format: category ids count from 1.

    Each picture also tells its `split`, which COCO does not know: "train", or "val" from `HELD_OUT` on.
    Raises FileExistsError where the folder has such files already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for seed in seeds:
        drawn, name = picture(seed=seed, size=size), f"{seed:07d}.png"
        with (folder / name).open("xb") as file:
            Image.fromarray(drawn.pixels).save(file, "PNG")
        images.append({"id": seed, "file_name": name, "width": size, "height": size, "split": _split(seed)})
        for box, label, area in zip(drawn.boxes * size, drawn.labels, drawn.areas, strict=True):
            x1, y1, x2, y2 = box.tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": seed,
                    "category_id": int(label) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": int(area),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(SHAPES, start=1)]
    described = {"images": images, "annotations": annotations, "categories": categories}
    with (folder / "instances.json").open("x") as file:
        json.dump(described, file)


def _split(seed: int) -> str:
    return "val" if seed >= HELD_OUT else "train"


def _places(rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """Centres and radii, in picture sides, apart from each other and within the picture."""
    places: list[tuple[float, float, float]] = []
    for _ in range(rng.integers(0, 3 * _MOST)):
        radius = rng.uniform(*_RADII)
        cx, cy = rng.uniform(radius, 1 - radius, 2)
        near = (np.hypot(cx - x, cy - y) < _APART * (radius + r) for x, y, r in places)
        if len(places) < _MOST and not any(near):
            places.append((cx, cy, radius))
    return places


def _texture(rng: np.random.Generator, size: int) -> npt.NDArray[np.float64]:
    """Three waves across the picture: float [size, size, 1]."""
    y, x = np.mgrid[:size, :size] / size
    waves = [np.sin(fx * x + fy * y + phase) for fx, fy, phase in rng.normal(0, 12, (3, 3))]
    return np.sum(waves, axis=0)[..., None]  # type: ignore[no-any-return]


def _box(mask: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--held-out", type=int, default=200, help="pictures of the split val, beside them")
    parser.add_argument("--size", type=int, default=64, help="pixels")
    asked = parser.parse_args()
    seeds = [*range(asked.pictures), *range(HELD_OUT, HELD_OUT + asked.held_out)]
    write_coco(asked.folder, seeds=seeds, size=asked.size)


if __name__ == "__main__":
    main()
