"""Noise, how much of it is left, and the classical way to remove it.

Pictures are float [batch, 3, height, width] of 0..1.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def noisy(pictures: Tensor, sigma: float | Tensor, generator: torch.Generator) -> Tensor:
    """With Gaussian noise, rounded and clipped as the 8 bits of a frame are.

    `sigma`: its standard deviation of 0..255, one for all or [batch].
    """
    noise = torch.randn(pictures.shape, generator=generator)
    scale = torch.as_tensor(sigma, dtype=torch.float32).reshape(-1, 1, 1, 1)
    return (pictures * 255 + noise * scale).round_().clamp_(0, 255) / 255


def psnr_db(found: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture, float64 [batch], in dB; 100 where there is no difference to see."""
    error = (found.clamp(0, 1) - truth).double().square().flatten(1).mean(dim=1)
    return -10 * torch.log10(error.clamp_min(1e-10))


def median_filtered(pictures: Tensor, size: int) -> Tensor:
    """Each channel's median over `size` × `size` pixels, the borders reflected."""
    around = F.pad(pictures, (size // 2,) * 4, mode="reflect")
    windows = around.unfold(2, size, 1).unfold(3, size, 1)
    return windows.flatten(-2).median(dim=-1).values
