"""An audio network with its spectrogram before it: from sound to scores."""

import torch
from torch import Tensor, nn

from vidproc.models.spectrogram import Spectrogram
from vidproc.models.spectrum import Listening


class Listener(nn.Module):
    """Sound [batch, samples] → scores: its spectrogram, stretches of which are hidden in training, then the network.

    Hidden are up to an eighth of bins and time, twice each (SpecAugment: Park et al. 2019, arXiv:1904.08779).
    """

    def __init__(self, listening: Listening, network: nn.Module, *, hide: bool = False) -> None:
        super().__init__()
        self.spectrogram = Spectrogram(listening.spectrum)
        self.network = network
        self.hide = hide

    def forward(self, sound: Tensor) -> Tensor:
        x = self.spectrogram(sound)
        if self.training and self.hide:
            x = hidden(x)
        scores: Tensor = self.network(x)
        return scores


def hidden(x: Tensor) -> Tensor:
    """[batch, 1, time, bins] with two stretches of each axis at the batch's mean, drawn for each sample."""
    mean = x.mean()
    for axis in (2, 3, 2, 3):
        size = x.shape[axis]
        width = (torch.rand(len(x), device=x.device) * size / 8)[:, None]
        start = torch.rand(len(x), device=x.device)[:, None] * (size - width)
        at = torch.arange(size, device=x.device)[None]
        inside = (at >= start) & (at < start + width)
        x = torch.where(inside[:, None, :, None] if axis == 2 else inside[:, None, None, :], mean, x)
    return x
