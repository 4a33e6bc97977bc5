"""A training's samples as its network takes them: the label job's arithmetic, and the layout that goes with it."""

from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from vidproc.annotators.upload import as_tensor
from vidproc.models.inputs import Inputs
from vidproc.train.options import LookOptions


def inputs_of(samples: npt.NDArray[Any], options: LookOptions, device: torch.device) -> Tensor:
    """uint8 or int16 samples, as they were decoded → float32 on `device`, as `Inputs` says."""
    made = Inputs(mean=options.mean, std=options.std, sound=options.listening is not None, device=device)
    return made(as_tensor(samples).to(device, non_blocking=True).float())


def memory_format(options: LookOptions) -> torch.memory_format:
    """Of a network's kernels, to match. On a CPU a 3D training step in the default layout takes eight times as long."""
    if options.listening is not None:
        return torch.contiguous_format
    return torch.channels_last_3d if options.view["kind"] == "clips" else torch.channels_last
