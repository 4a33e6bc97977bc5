"""Mixup: examples that are blends of two, and whose truth is the same blend."""

import numpy as np
import torch
from torch import Tensor


def mixup(inputs: Tensor, targets: Tensor, *, alpha: float, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Blend each example with another of the batch (Zhang et al. 2018, arXiv:1710.09412, section 2).

    `inputs`: float [batch, …]. `targets`: float [batch, classes], shares that sum to 1. `alpha`: 0 leaves the batch as
    it is, 1 makes all shares equally likely. As in the authors' code, the whole batch has one share, drawn from
    Beta(alpha, alpha). It is that of the larger part: this gives the same pairs, and a small alpha changes little.
    The generator is numpy's, so that CPU and GPU draw alike.
    """
    if not alpha:
        return inputs, targets
    share = generator.beta(alpha, alpha)
    share = max(share, 1 - share)
    other = torch.from_numpy(generator.permutation(len(inputs))).to(inputs.device)
    return share * inputs + (1 - share) * inputs[other], share * targets + (1 - share) * targets[other]
