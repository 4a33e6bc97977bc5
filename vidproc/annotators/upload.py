"""From numpy to torch without a copy. Imports torch."""

import warnings
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor


def as_tensor(array: npt.NDArray[Any]) -> Tensor:
    """The array's memory as a tensor. Callers only read it, so memory that must not be written is fine."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
