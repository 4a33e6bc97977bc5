"""An identity set that is drawn: faces of ovals and bars, each in many pictures that differ in all but the face.

A face's geometry and colours come from its identity's number; where it is, how it is turned and lit, what lies over it
and how sharp the picture is come from the picture's number too. Nothing is downloaded.

    python -m vidproc.train.drawn_identities FOLDER [--identities 100] [--held-out 30] [--pictures 20] [--size 32]

writes a folder for each identity, in `train` and, others, in `val`.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

HELD_OUT = 1_000_000
"""Identities from here on are never trained on."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Face:
    """Lengths are in half faces: the face is 2 high, its middle at 0, 0, and y points down."""

    width: float
    skin: Array  # [3], 0..1, as are all colours
    hair: Array
    hairline: float  # y
    eyes: tuple[float, float, float, float]  # x, y, half width, half height
    iris: Array
    brows: tuple[float, float, float]  # height over the eyes, half thickness, slope
    nose: tuple[float, float]  # y of its tip, half width
    mouth: tuple[float, float, float, float]  # y, half width, half height, curvature
    lips: Array
    glasses: bool
    mole: tuple[float, float]  # x, y


def face(identity: int) -> Face:
    rng = np.random.default_rng([identity])
    dark, red = rng.uniform(0.35, 0.95), rng.uniform(0.05, 0.2)
    return Face(
        width=rng.uniform(0.62, 0.88),
        skin=np.array([dark, dark * (1 - red), dark * (1 - 2 * red)]),
        hair=rng.uniform(0.03, 0.85) * rng.uniform([0.7, 0.5, 0.2], [1, 0.9, 0.8]),
        hairline=rng.uniform(-0.8, -0.4),
        eyes=(rng.uniform(0.24, 0.42), rng.uniform(-0.25, 0.0), rng.uniform(0.1, 0.18), rng.uniform(0.05, 0.12)),
        iris=rng.uniform(0.05, 0.7, 3),
        brows=(rng.uniform(0.14, 0.26), rng.uniform(0.02, 0.06), rng.uniform(-0.4, 0.4)),
        nose=(rng.uniform(0.15, 0.4), rng.uniform(0.06, 0.2)),
        mouth=(rng.uniform(0.45, 0.68), rng.uniform(0.14, 0.36), rng.uniform(0.04, 0.1), rng.uniform(-0.8, 0.8)),
        lips=rng.uniform([0.4, 0.1, 0.1], [0.9, 0.5, 0.5]),
        glasses=rng.uniform() < 0.25,
        mole=(rng.uniform(-0.5, 0.5), rng.uniform(0.1, 0.7)),
    )


def picture(*, identity: int, take: int, size: int = 32) -> npt.NDArray[np.uint8]:
    """The identity's picture of that number: uint8 [size, size, 3]."""
    rng = np.random.default_rng([identity, take, 1])
    x, y, pixel = _seen_from(rng, size)
    canvas = np.broadcast_to(rng.uniform(0, 1, 3), (size, size, 3)).copy()
    _draw(canvas, face(identity), x, y, pixel)
    _occlude(canvas, rng)
    canvas = _lit(canvas, rng)
    canvas = _blurred(canvas, amount=rng.uniform(0, 0.8))
    canvas += rng.normal(0, rng.uniform(0, 0.05), canvas.shape)
    pixels: npt.NDArray[np.uint8] = (np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8)
    return pixels


def write_folders(folder: Path, *, identities: range, pictures: int, size: int = 32) -> None:
    """`folder/<identity>/<picture>.png`. Raises FileExistsError where there are such files already."""
    for identity in identities:
        own = folder / f"{identity:07d}"
        own.mkdir(parents=True, exist_ok=True)
        for take in range(pictures):
            with (own / f"{take:03d}.png").open("xb") as file:
                Image.fromarray(picture(identity=identity, take=take, size=size)).save(file, "PNG")


# ---- the face


def _draw(canvas: Array, drawn: Face, x: Array, y: Array, pixel: float) -> None:
    """Paint the face, from the back to the front, on float [size, size, 3]; x, y: places in the face's lengths."""

    def paint(colour: Array | float, distance: Array) -> None:
        """`distance`: about that to the edge, negative inside."""
        inside = np.clip(0.5 - distance / pixel, 0, 1)[..., None]
        canvas[:] += inside * (colour - canvas)

    def oval(cx: float, cy: float, rx: float, ry: float) -> Array:
        return (np.hypot((x - cx) / rx, (y - cy) / ry) - 1) * min(rx, ry)

    head = oval(0, 0, drawn.width, 1)
    paint(drawn.hair, oval(0, -0.12, drawn.width + 0.12, 1.05))
    paint(drawn.skin, np.maximum(head, drawn.hairline - y))
    ex, ey, ew, eh = drawn.eyes
    over, thick, slope = drawn.brows
    for side in (-1, 1):
        paint(0.95, oval(side * ex, ey, ew, eh))
        paint(drawn.iris, oval(side * ex, ey, eh, eh))
        away = side * x - ex
        brow = np.maximum(np.abs(y - (ey - over) - slope * away) - thick, np.abs(away) - 1.2 * ew)
        paint(drawn.hair, brow)
        if drawn.glasses:
            paint(0.1, np.abs(oval(side * ex, ey, 1.5 * ew, 1.5 * ew)) - 0.03)
    tip, wide = drawn.nose
    shade = np.maximum(np.abs(x) - wide * (y - ey) / (tip - ey), np.abs(y - (ey + tip) / 2) - (tip - ey) / 2)
    paint(drawn.skin * 0.8, shade)
    my, mw, mh, curve = drawn.mouth
    paint(drawn.lips, np.maximum(np.abs(y - my + curve * x * x) - mh, np.abs(x) - mw))
    paint(drawn.skin * 0.3, oval(*drawn.mole, 0.05, 0.05))


# ---- the rest of the picture


def _seen_from(rng: np.random.Generator, size: int) -> tuple[Array, Array, float]:
    """Each pixel's place in the face's lengths, x and y [size, size], and a pixel's side."""
    pixel = 2 / (size * rng.uniform(0.75, 0.95))
    angle = rng.uniform(-0.25, 0.25)
    rows, columns = (np.mgrid[:size, :size] + 0.5 - size / 2) * pixel
    down, right = rng.uniform(-0.15, 0.15, 2)
    x, y = columns - right, rows - down
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle), pixel


def _occlude(canvas: Array, rng: np.random.Generator) -> None:
    """In half of the pictures, a bar of one colour comes in from an edge."""
    if rng.uniform() < 0.5:
        size = len(canvas)
        start, wide, deep = rng.integers(0, size), rng.integers(size // 8, size // 3), rng.integers(2, size // 3)
        turned = np.rot90(canvas, int(rng.integers(0, 4)))
        turned[:deep, start : start + wide] = rng.uniform(0, 1, 3)


def _lit(canvas: Array, rng: np.random.Generator) -> Array:
    """Brighter or darker, from one side more than from the other, in a cast of some colour."""
    size = len(canvas)
    rows, columns = np.mgrid[:size, :size] / size - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    slope = rng.uniform(0, 0.6) * (rows * np.sin(angle) + columns * np.cos(angle))
    return canvas * (rng.uniform(0.55, 1.25) * (1 + slope))[..., None] * rng.uniform(0.9, 1.1, 3)  # type: ignore[no-any-return]


def _blurred(canvas: Array, *, amount: float) -> Array:
    """Mixed with its mean over 3×3."""
    size = len(canvas)
    padded = np.pad(canvas, [(1, 1), (1, 1), (0, 0)], mode="edge")
    soft = np.mean([padded[i : i + size, j : j + size] for i in range(3) for j in range(3)], axis=0)
    return canvas + amount * (soft - canvas)  # type: ignore[no-any-return]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--identities", type=int, default=100)
    parser.add_argument("--held-out", type=int, default=30, help="other identities")
    parser.add_argument("--pictures", type=int, default=20, help="of each identity")
    parser.add_argument("--size", type=int, default=32, help="pixels")
    asked = parser.parse_args()
    for split, first, count in (("train", 0, asked.identities), ("val", HELD_OUT, asked.held_out)):
        identities = range(first, first + count)
        write_folders(asked.folder / split, identities=identities, pictures=asked.pictures, size=asked.size)


if __name__ == "__main__":
    main()
