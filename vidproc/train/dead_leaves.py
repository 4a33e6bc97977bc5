"""Pictures without a camera: leaves of all sizes fall over each other, each with its colour, shading and texture.

Radii follow a power law, so that what covers what looks alike at every scale, as it does in photographs: the dead
leaves model (Lee, Mumford and Huang 2001, "Occlusion models for natural images", IJCV 41). Networks that learn from
such pictures to remove noise do nearly as well as those that learn from photographs (Achddou, Gousseau and Ladjal 2021,
"Synthetic images as a regularity prior for image restoration neural networks"; arXiv:2504.10201). Each picture comes
from its seed alone.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

_COVER = 5.0
"""How often the leaves' area covers the picture: e^-5 of it stays bare."""
_FINER = 2
"""Leaves fall on a canvas so much finer, which is averaged: edges are soft, as a lens makes them."""


def picture(*, size: int, seed: int) -> npt.NDArray[np.uint8]:
    """uint8 [size, size, 3]."""
    rng = np.random.default_rng([seed])
    side = size * _FINER
    least = 2 * 15 ** rng.uniform()
    leaves = _Leaves.fallen(rng, side=side, least=float(least))
    textures = [_texture(rng, side, decay=decay) for decay in (0.7, 1.3, 2.0)]
    canvas = np.empty((side, side, 3), np.float32)
    canvas[:] = leaves.colour[0]
    for number in range(len(leaves.radius)):
        _paint(canvas, leaves, number, textures)
    seen = canvas.reshape(size, _FINER, size, _FINER, 3).mean(axis=(1, 3))
    seen = _softened(seen, amount=float(rng.uniform(0, 0.8)))
    pixels: npt.NDArray[np.uint8] = (np.clip(seen, 0, 1) * 255 + 0.5).astype(np.uint8)
    return pixels


@dataclass(frozen=True, eq=False)
class _Leaves:
    """From the lowest to the topmost. Lengths are in pixels of the canvas."""

    centre: Array  # [leaves, 2]: x, y
    radius: Array  # [leaves]
    aspect: Array  # [leaves]: the short radius over the long one
    turn: Array  # [leaves, 2]: cosine and sine of the angle
    form: npt.NDArray[np.int64]  # [leaves]: 0 ellipse, 1 diamond, 2 rectangle
    colour: Array  # [leaves, 3]
    shading: Array  # [leaves, 3]: how much lighter each channel is at the tip
    texture: npt.NDArray[np.int64]  # [leaves]: 0 none, 1 stripes, from 2 on one of the textures
    contrast: Array  # [leaves]
    stripes: Array  # [leaves, 2]: frequency across the leaf, sharpness of the edges

    @classmethod
    def fallen(cls, rng: np.random.Generator, *, side: int, least: float) -> "_Leaves":
        """Radii from `least` on with density r^-3, enough to cover a canvas of side × side."""
        most = side / 2
        mean_area = 2 * np.pi * least**2 * np.log(most / least) * 0.6  # of ellipses with aspects around 0.6
        count = int(_COVER * side**2 / mean_area)
        share = rng.uniform(0, 1, count)
        angle = rng.uniform(0, np.pi, count)
        saturation = rng.uniform(0, 0.2)
        contrast = rng.uniform(0, 0.12) * rng.uniform(0, 1, count) ** 2
        return cls(
            centre=_floats(rng.uniform(0, side, (count, 2))),
            radius=_floats((least**-2 + share * (most**-2 - least**-2)) ** -0.5),
            aspect=_floats(rng.uniform(0.25, 1, count)),
            turn=_floats(np.column_stack([np.cos(angle), np.sin(angle)])),
            form=rng.integers(0, 3, count),
            colour=_floats(rng.beta(0.9, 1.1, (count, 1)) + rng.normal(0, saturation, (count, 3))),
            shading=_floats(rng.normal(0, 0.1, (count, 1)) + rng.normal(0, 0.03, (count, 3))),
            texture=rng.integers(0, 5, count),
            contrast=_floats(contrast),
            stripes=_floats(np.column_stack([rng.uniform(2, 40, count), rng.uniform(0.5, 6, count)])),
        )


def _floats(values: npt.NDArray[np.float64]) -> Array:
    return values.astype(np.float32)


def _paint(canvas: Array, leaves: _Leaves, number: int, textures: list[Array]) -> None:
    radius, (cx, cy), (cosine, sine) = leaves.radius[number], leaves.centre[number], leaves.turn[number]
    top, left = max(0, int(cy - radius)), max(0, int(cx - radius))
    bottom, right = int(cy + radius) + 2, int(cx + radius) + 2
    piece = canvas[top:bottom, left:right]
    y = np.arange(top, top + piece.shape[0], dtype=np.float32)[:, None] - cy
    x = np.arange(left, left + piece.shape[1], dtype=np.float32)[None] - cx
    u = (x * cosine + y * sine) / radius
    v = (y * cosine - x * sine) / (radius * leaves.aspect[number])
    form = leaves.form[number]
    if form == 0:
        inside = u * u + v * v <= 1
    elif form == 1:
        inside = np.abs(u) + np.abs(v) <= 1
    else:
        inside = np.maximum(np.abs(u), np.abs(v)) <= 0.7
    u = u[inside]
    shade = leaves.colour[number] + u[:, None] * leaves.shading[number]
    kind = leaves.texture[number]
    if kind == 1:
        frequency, sharpness = leaves.stripes[number]
        shade += (np.tanh(sharpness * np.sin(u * frequency)) * leaves.contrast[number])[:, None]
    elif kind > 1:
        texture = textures[kind - 2][top:bottom, left:right][inside]
        shade += (texture * leaves.contrast[number])[:, None]
    piece[inside] = shade


def _texture(rng: np.random.Generator, side: int, *, decay: float) -> Array:
    """Noise with a spectrum of 1 / frequency^decay, mean 0 and deviation 1: float32 [side, side]."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((side, side))) / frequency**decay
    field = np.fft.irfft2(spectrum, s=(side, side))
    return _floats(field / field.std())


def _softened(seen: Array, *, amount: float) -> Array:
    """Mixed with its mean over 3×3: frames of videos are softer than photographs."""
    height, width, _ = seen.shape
    padded = np.pad(seen, [(1, 1), (1, 1), (0, 0)], mode="edge")
    soft = np.mean([padded[i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=0)
    mixed: Array = seen + np.float32(amount) * (soft - seen)
    return mixed
