"""This repository's own task: a shape moves over a drifting texture. One frame tells which shape, a clip how it moves.

The truth is known, nothing is downloaded, and each scene comes from its seed alone. Scenes are functions of continuous
time and space, so the same scene can be a 64-pixel training clip or a 30 frames-a-second video to be encoded.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

SHAPES = ("circle", "square", "triangle", "star", "cross")
MOTIONS = ("left", "right", "up", "down", "grow", "shrink")
HELD_OUT = 1_000_000
"""Seeds from here on are never trained on."""

Array = npt.NDArray[np.float32]

_CHUNK = 32
"""Frames rendered at once: bounds memory."""


@dataclass(frozen=True, eq=False)
class Scene:
    """One scene. Lengths are in frame heights; the frame is `aspect` wide and 1 high.

    The shape goes through its motion in `period_s`, beginning at `phase` of it, and then starts all over again.
    """

    shape: str
    motion: str
    aspect: float
    centre: tuple[float, float]
    radius: float
    angle: float
    spin: float  # radians a second
    period_s: float
    phase: float
    colour: Array  # [3], 0..1
    background: Array  # [3]
    waves: Array  # [waves, 4]: x and y frequency, phase, drift in radians a second
    contrast: Array  # [3]: how strongly the texture shows in each channel
    noise: float  # standard deviation of the camera's noise, of 0..1
    seed: int


def scene(shape: str, motion: str, *, seed: int, aspect: float = 4 / 3) -> Scene:
    """The scene of this shape and motion that the seed stands for. Raises ValueError on an unknown name."""
    if shape not in SHAPES or motion not in MOTIONS:
        raise ValueError(f"shape {shape!r} must be one of {SHAPES}, motion {motion!r} one of {MOTIONS}")
    rng = np.random.default_rng([seed])
    radius = rng.uniform(0.15, 0.27)
    scales = motion in ("grow", "shrink")
    edge = 0.36 if scales else radius  # stay inside the frame at the largest
    travel = (aspect if motion in ("left", "right") else 1.0) - 2 * radius
    background = rng.uniform(0.15, 0.85, 3)
    return Scene(
        shape=shape,
        motion=motion,
        aspect=aspect,
        centre=(rng.uniform(edge, aspect - edge), rng.uniform(edge, 1 - edge)),
        radius=radius,
        angle=rng.uniform(0, 2 * np.pi),
        spin=rng.uniform(-0.3, 0.3),
        period_s=rng.uniform(1.6, 2.6) if scales else travel / rng.uniform(0.22, 0.45),
        phase=rng.uniform(),
        colour=contrasting(background, rng),
        background=background.astype(np.float32),
        waves=np.column_stack(
            [rng.normal(0, 12, (3, 2)), rng.uniform(0, 2 * np.pi, 3), rng.uniform(-1.5, 1.5, 3)]
        ).astype(np.float32),
        contrast=rng.uniform(0.0, 0.05, 3).astype(np.float32),
        noise=rng.uniform(0.0, 0.03),
        seed=seed,
    )


def render(
    *, shape: str, motion: str, seconds: float, fps: float, size: tuple[int, int], seed: int
) -> npt.NDArray[np.uint8]:
    """A video of the scene: uint8 [frames, height, width, 3], to be encoded at `fps`. `size` is (height, width)."""
    moving = scene(shape, motion, seed=seed, aspect=size[1] / size[0])
    return frames(moving, np.arange(round(seconds * fps)) / fps, size=size)


def frames(moving: Scene, times_s: npt.NDArray[np.float64], *, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """The scene at these times: uint8 [times, height, width, 3]. Pixels need not be square: views squash."""
    rng = np.random.default_rng([moving.seed, 1])
    chunks = [_chunk(moving, times_s[i : i + _CHUNK], size, rng) for i in range(0, len(times_s), _CHUNK)]
    return np.concatenate(chunks)


def _chunk(
    moving: Scene, times_s: npt.NDArray[np.float64], size: tuple[int, int], rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    height, width = size
    t = times_s.astype(np.float32)[:, None, None]
    y = ((np.arange(height, dtype=np.float32) + 0.5) / height)[None, :, None]
    x = ((np.arange(width, dtype=np.float32) + 0.5) / width * moving.aspect)[None, None, :]
    texture = sum(np.sin(fx * x + fy * y + phase + drift * t) for fx, fy, phase, drift in moving.waves)
    picture = moving.background + texture[..., None] * moving.contrast
    cx, cy, radius = _place(moving, t)
    angle = moving.angle + moving.spin * t
    dx, dy = x - cx, y - cy
    u, v = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
    pixel = max(1 / height, moving.aspect / width)
    inside = np.clip(0.5 - distance(moving.shape, u, v, radius) / pixel, 0, 1)[..., None]
    picture += inside * (moving.colour - picture)
    picture += rng.standard_normal(picture.shape, dtype=np.float32) * np.float32(moving.noise)
    pixels: npt.NDArray[np.uint8] = (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)
    return pixels


def _place(moving: Scene, t: Array) -> tuple[Any, Any, Any]:
    """Centre x, y and radius at the times."""
    done = (moving.phase + t / np.float32(moving.period_s)) % 1
    cx, cy = moving.centre
    r = moving.radius
    if moving.motion in ("left", "right"):
        forth = done if moving.motion == "right" else 1 - done
        return r + forth * (moving.aspect - 2 * r), cy, r
    if moving.motion in ("up", "down"):
        forth = done if moving.motion == "down" else 1 - done
        return cx, r + forth * (1 - 2 * r), r
    size = done if moving.motion == "grow" else 1 - done
    return cx, cy, np.float32(0.14) * np.float32(0.36 / 0.14) ** size


def distance(shape: str, u: Array, v: Array, r: Array | float) -> Any:
    """About the signed distance of points to the edge of a shape that fits a circle of radius r: negative inside."""
    if shape == "circle":
        return np.hypot(u, v) - 0.85 * r
    if shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) - 0.72 * r
    if shape == "triangle":
        side = np.float32(np.sqrt(3) / 2) * np.abs(u)
        return np.maximum(side + 0.5 * v, -v) - 0.5 * r
    if shape == "cross":
        a, b = np.abs(u), np.abs(v)
        return np.maximum(np.minimum(a, b) - 0.27 * r, np.maximum(a, b) - 0.95 * r)
    # star: fold the plane into one half of a point, whose edge is a line from the tip to the notch
    sector = np.float32(2 * np.pi / 5)
    fold = np.abs((np.arctan2(v, u) + sector / 2) % sector - sector / 2)
    length = np.hypot(u, v)
    notch = np.float32(0.4) * np.array([np.cos(np.pi / 5), np.sin(np.pi / 5)], np.float32)
    edge = notch - np.array([1, 0], np.float32)
    normal = np.array([edge[1], -edge[0]], np.float32) / np.hypot(*edge)
    return (length * np.cos(fold) - r) * normal[0] + length * np.sin(fold) * normal[1]


def contrasting(background: npt.NDArray[np.float64], rng: np.random.Generator) -> Array:
    """A colour that differs from the background by at least 0.3 in brightness, which survives chroma subsampling."""
    weights = np.array([0.299, 0.587, 0.114])
    while True:
        colour = rng.uniform(0, 1, 3)
        if abs(weights @ (colour - background)) > 0.3:
            return colour.astype(np.float32)
