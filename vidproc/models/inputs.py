"""From decoded samples to what a network takes, on its device: one arithmetic, for labelling and for training."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Inputs:
    """Pixels of 0..255, channels last → normalised, channels first; or 16-bit sound [batch, time, channels] → -1..1.

    `mean`, `std`: of pixels in 0..1, each channel. Changes what it is given, which is float32 on `device`.
    """

    def __init__(self, *, mean: Sequence[float], std: Sequence[float], sound: bool, device: torch.device) -> None:
        self._sound = sound
        # (x / 255 - mean) / std as one multiply and one add, for channels last and innermost
        spread = torch.tensor(std)
        self._scale = (1 / (255 * spread)).to(device)
        self._shift = (-torch.tensor(mean) / spread).to(device)

    def __call__(self, x: Tensor) -> Tensor:
        """[batch, (frames,) height, width, 3] → [batch, 3, (frames,) height, width]; sound → [batch, time], mixed."""
        if self._sound:
            return x.mean(dim=2).div_(32_768)
        # channels first by name only: in memory they stay last, as the convolutions like it
        return x.mul_(self._scale).add_(self._shift).movedim(-1, 1)
