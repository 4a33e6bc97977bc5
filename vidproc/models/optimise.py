"""Prepare a network for inference: batch norms folded into convolutions, channels last, compiled if asked.

ResNet-18 at 224×224, float32, batch 8, one AVX-512 core: 27.7 frames/s as built, 41.9 prepared so. bfloat16 without AMX
reaches 22.9, so the CPU stays in float32; oneDNN's fused conv+add+relu would add 1 to 6 % and is private to torch.
`python -m pytest tests/models/test_optimise.py` holds the outputs to 1e-5 of the network as built;
`python tests/bench/inference.py` measures it beside torchvision's.
"""

import copy
from typing import cast

import torch
from torch import Tensor, nn

from vidproc.models.blocks import Residual
from vidproc.models.build import Network
from vidproc.models.dense import DenseLayer
from vidproc.models.layers import BATCH_NORMS
from vidproc.models.residual import ResidualNetwork
from vidproc.models.slowfast import Pathway

_IN_ORDER = (nn.Sequential, Residual, ResidualNetwork, DenseLayer, Pathway)
"""Modules whose children run one after the other, as they were registered."""


def for_inference(network: Network, device: str, *, compiled: bool = False) -> nn.Module:
    """A copy in eval mode on `device`, in channels-last layout, its batch norms folded where that is exact: where one
    directly follows a convolution. `network` stays as it is.

    `compiled`: by torch.compile; on CUDA with CUDA graphs. The first batch of each shape then takes a minute or so,
    and shapes must not change from batch to batch.
    """
    copied = copy.deepcopy(network).eval().requires_grad_(False)
    for module in copied.modules():
        if isinstance(module, _IN_ORDER):
            _fold_children(module)
    layout = {2: torch.channels_last, 3: torch.channels_last_3d}.get(network.spec.dims, torch.contiguous_format)
    placed = copied.to(device).to(memory_format=layout)
    if not compiled:
        return placed
    mode = "reduce-overhead" if torch.device(device).type == "cuda" else "default"
    return cast(nn.Module, torch.compile(placed, mode=mode, dynamic=False))


def _fold_children(module: nn.Module) -> None:
    """Wherever a batch norm directly follows a convolution among the children, one convolution does both."""
    conv: nn.Module | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, BATCH_NORMS) and conv is not None:
            tail = conv[-1] if isinstance(conv, nn.Sequential) else conv  # a (2+1)D convolution ends in its own
            if isinstance(tail, nn.Conv1d | nn.Conv2d | nn.Conv3d):
                tail.weight, tail.bias = _folded(tail.weight, child)
                setattr(module, name, nn.Identity())
        conv = child


def _folded(weight: Tensor, norm: nn.Module) -> tuple[nn.Parameter, nn.Parameter]:
    """`g (Wx - m) / sqrt(v + e) + b` is `(gW / sqrt(v + e)) x + (b - gm / sqrt(v + e))`; computed in float64."""
    assert isinstance(norm, BATCH_NORMS) and norm.running_mean is not None and norm.running_var is not None
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    bias = -norm.running_mean.double() * scale
    if norm.affine:
        scale, bias = scale * norm.weight.double(), bias * norm.weight.double() + norm.bias.double()
    scaled = weight.double() * scale.reshape(-1, *(1,) * (weight.dim() - 1))
    return tuple(nn.Parameter(value.to(weight.dtype), requires_grad=False) for value in (scaled, bias))  # type: ignore[return-value]
