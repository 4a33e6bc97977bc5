"""From decoded samples to what a network takes, on its device: the label job's arithmetic, for training too."""

import warnings
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from vidproc.train.options import LookOptions


def inputs_of(samples: npt.NDArray[Any], options: LookOptions, device: torch.device) -> Tensor:
    """uint8 [batch, (frames,) height, width, 3] → float32 [batch, 3, (frames,) height, width], normalised.

    Sound int16 [batch, time, channels] → float32 [batch, time] in -1..1, its channels averaged.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        raw = torch.from_numpy(samples)  # only read
    x = raw.to(device, non_blocking=True).float()
    if options.listening is not None:
        return x.mean(dim=2) / 32_768
    std = torch.tensor(options.std, device=device)
    mean = torch.tensor(options.mean, device=device)
    # channels first by name only: in memory they stay last, as convolutions like it
    return x.mul_(1 / (255 * std)).sub_(mean / std).movedim(-1, 1)


def memory_format(options: LookOptions) -> torch.memory_format:
    """Of a network's kernels, to match. On a CPU a 3D training step in the default layout takes eight times as long."""
    if options.listening is not None:
        return torch.contiguous_format
    return torch.channels_last_3d if options.view["kind"] == "clips" else torch.channels_last
