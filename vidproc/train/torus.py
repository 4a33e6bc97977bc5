"""A task that only time can solve: a texture moves over a torus, and its class is the direction.

What leaves the picture at one edge comes in at the other, so each frame is a texture drawn alike for all classes: one
frame says nothing. A clip played backwards is a clip of the opposite class. All comes from the seed alone.
"""

from typing import TypeVar

import numpy as np
import numpy.typing as npt

DIRECTIONS = ("right", "down", "left", "up")
_ROWS_AND_COLUMNS = ((0, 1), (1, 0), (0, -1), (-1, 0))

Clips = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
_Label = TypeVar("_Label", int, Labels)


def opposite(label: _Label) -> _Label:
    """The class of the clip played backwards."""
    return (label + 2) % len(DIRECTIONS)


def clips(
    *, seed: int, count: int, frames: int = 8, size: tuple[int, int] = (16, 16), step: int = 1
) -> tuple[Clips, Labels]:
    """Clips uint8 [count, frames, height, width, 3] and their labels int64 [count], as many of each as can be.

    Textures move `step` pixels a frame; `size` is (height, width). Raises ValueError if a step is half of the way
    round or more, where a direction could be its opposite.
    """
    if not 0 < 2 * step < min(size):
        raise ValueError(f"step {step} must be at least 1 and less than half of the picture's {size}")
    rng = np.random.default_rng([seed])
    textures = _textures(rng, count, size)
    labels = np.arange(count) % len(DIRECTIONS)
    moving = np.empty((count, frames, *size, 3), np.uint8)
    for label, (down, right) in enumerate(_ROWS_AND_COLUMNS):
        chosen = labels == label
        for i in range(frames):
            moving[chosen, i] = np.roll(textures[chosen], (i * step * down, i * step * right), axis=(1, 2))
    return moving, labels


def _textures(rng: np.random.Generator, count: int, size: tuple[int, int]) -> Clips:
    """Smoothed noise that wraps around. Each channel is its own; no place on the torus differs from another."""
    noise = rng.standard_normal((count, *size, 3), dtype=np.float32)
    for axis in (1, 2):
        noise = 0.5 * noise + 0.25 * (np.roll(noise, 1, axis) + np.roll(noise, -1, axis))
    noise *= 48 / noise.std()
    return np.clip(noise + 128, 0, 255).astype(np.uint8)
