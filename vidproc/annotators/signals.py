"""The arithmetic of `quality`: measures of single frames and the loudness of sound. Imports torch."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vidproc.annotators.quality import DARK
from vidproc.annotators.upload import as_tensor

Floats = npt.NDArray[np.float64]

_FRAMES_AT_ONCE = 16
"""Bounds memory, and on a CPU keeps what is being worked on in the cache."""


@dataclass(frozen=True, eq=False)
class FrameMeasures:
    """Per frame, float64 [frames], luma in 0..1.

    `brightness`, `contrast`: mean and standard deviation of luma (RMS contrast: Peli 1990).
    `sharpness`: variance of the Laplacian, 4 neighbours less 4 times the pixel (Pech-Pacheco et al. 2000); noise too
    raises it. `noise`: sigma by Immerkær 1996, "Fast noise variance estimation": sqrt(pi/2) / 6 times the mean absolute
    response to [1 -2 1]' [1 -2 1], which edges and fine texture also raise.
    `dark`: share of pixels darker than a tenth of white.
    `change`: mean absolute difference to the frame before; the first has none (NaN).
    """

    brightness: Floats
    contrast: Floats
    sharpness: Floats
    noise: Floats
    dark: Floats
    change: Floats


def frame_measures(luma: npt.NDArray[np.uint8], *, device: str) -> FrameMeasures:
    """uint8 [frames, height, width] → the measures of each frame."""
    pixels = as_tensor(luma)
    chunks: list[Tensor] = []
    with torch.inference_mode():
        for start in range(0, len(pixels), _FRAMES_AT_ONCE):
            # one frame of the chunk before, to see what changed
            chunk = pixels[max(0, start - 1) : start + _FRAMES_AT_ONCE].to(device)
            chunks.append(_chunk_measures(chunk, has_previous=start > 0))
        table = torch.cat(chunks, dim=1).double().cpu().numpy()
    return FrameMeasures(**{field.name: row for field, row in zip(fields(FrameMeasures), table, strict=True)})


def _chunk_measures(pixels: Tensor, *, has_previous: bool) -> Tensor:
    """float [6, frames] in the order of `FrameMeasures`' fields."""
    x = pixels.float()
    change = (x[1:] - x[:-1]).abs_().mean((1, 2)) / 255
    if has_previous:
        pixels, x = pixels[1:], x[1:]
    else:
        change = torch.cat([torch.full_like(change[:1] if len(change) else x[:1, 0, 0], torch.nan), change])
    std, mean = torch.std_mean(x, dim=(1, 2), correction=0)
    across = x[:, :, :-2] + x[:, :, 2:] - 2 * x[:, :, 1:-1]  # [1 -2 1] along rows
    down = x[:, :-2] + x[:, 2:] - 2 * x[:, 1:-1]
    laplacian = across[:, 1:-1] + down[:, :, 1:-1]
    both = across[:, :-2] + across[:, 2:] - 2 * across[:, 1:-1]
    return torch.stack(
        [
            mean / 255,
            std / 255,
            laplacian.var(dim=(1, 2), correction=0) / 255**2,
            both.abs_().mean((1, 2)) * (np.sqrt(np.pi / 2) / 6 / 255),
            (pixels < DARK).float().mean((1, 2)),
            change,
        ]
    )


_SHELF = ((1.53512485958697, -2.69169618940638, 1.19839281085285), (1.0, -1.69065929318241, 0.73248077421585))
_HIGH_PASS = ((1.0, -2.0, 1.0), (1.0, -1.99004745483398, 0.99007225036621))
"""(b, a) of the two filters of ITU-R BS.1770-4, annex 1, tables 1 and 2, at 48 kHz."""

_RATE = 48_000
_PADDING = _RATE  # one second, in which the filters' response falls below 1e-9


def k_weighted_power(sound: npt.NDArray[np.int16], *, device: str) -> Floats:
    """int16 [time, channels] at 48 kHz → K-weighted power of each moment, summed over channels: float64 [time].

    The filters are applied as a product of spectra with a second of padding: the same as running them sample by sample
    from rest (checked against FFmpeg's ebur128 in the tests), and fast without a recursive filter in torch.
    """
    with torch.inference_mode():
        x = as_tensor(np.ascontiguousarray(sound.T)).to(device).float() / 32_768
        length = -(-(x.shape[1] + _PADDING) // 32_768) * 32_768
        spectrum = torch.fft.rfft(x, n=length)
        spectrum *= _response(length, device)
        weighted = torch.fft.irfft(spectrum, n=length)[:, : x.shape[1]]
        power: Floats = weighted.square().sum(dim=0).double().cpu().numpy()
    return power


def _response(length: int, device: str) -> Tensor:
    """The two filters' transfer function at the frequencies of a real transform of this length."""
    z = torch.exp(-2j * torch.pi * torch.arange(length // 2 + 1, dtype=torch.float64) / length)
    product = torch.ones_like(z)
    for b, a in (_SHELF, _HIGH_PASS):
        product *= (b[0] + b[1] * z + b[2] * z**2) / (a[0] + a[1] * z + a[2] * z**2)
    return product.to(device, torch.complex64)


def lufs(power: Any) -> Any:
    """Loudness of mean K-weighted power, BS.1770-4 equation 2. Digital silence is -120.7, as ebur128 has it."""
    return -0.691 + 10 * np.log10(np.maximum(power, 1e-12))
