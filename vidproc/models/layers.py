"""The layers that residual networks are made of, for 1, 2 and 3 dimensions. Tensors are [batch, channels, *positions],
positions [time], [height, width] or [time, height, width]."""

import math
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidproc.models.specs import Norm

Size = int | tuple[int, ...]

CONVS: dict[int, type[nn.Conv1d] | type[nn.Conv2d] | type[nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
MAX_POOLS = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVG_POOLS = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}


def conv(dims: int, inside: int, out: int, *, kernel: Size, stride: Size = 1, groups: int = 1) -> nn.Module:
    """A convolution without bias that keeps positions at stride 1 (odd kernels)."""
    padding = tuple(k // 2 for k in kernel) if isinstance(kernel, tuple) else kernel // 2
    return CONVS[dims](inside, out, kernel, stride, padding, groups=groups, bias=False)  # type: ignore[arg-type]


class _Frozen(nn.Module):
    """Uses its statistics and learns nothing; mixed into torch's batch norms, so that names and shapes stay."""

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002  frozen is frozen
        return super().train(False).requires_grad_(False)


class FrozenBatchNorm1d(_Frozen, nn.BatchNorm1d): ...


class FrozenBatchNorm2d(_Frozen, nn.BatchNorm2d): ...


class FrozenBatchNorm3d(_Frozen, nn.BatchNorm3d): ...


def norm(spec: Norm, dims: int, channels: int) -> nn.Module:
    """Batch (Ioffe and Szegedy 2015, arXiv:1502.03167), synchronised or frozen batch, layer (Ba et al. 2016,
    arXiv:1607.06450), group (32 groups, or as many as divide the channels; Wu and He 2018, arXiv:1803.08494)."""
    if spec.kind in ("layer", "group"):
        groups = 1 if spec.kind == "layer" else math.gcd(32, channels)
        return nn.GroupNorm(groups, channels, eps=spec.eps, affine=spec.affine)
    kinds = {
        "batch": BATCH_NORMS[dims - 1],
        "sync_batch": nn.SyncBatchNorm,
        "frozen": (FrozenBatchNorm1d, FrozenBatchNorm2d, FrozenBatchNorm3d)[dims - 1],
    }
    made: nn.Module = kinds[spec.kind](channels, eps=spec.eps, affine=spec.affine)
    return made.train()  # a frozen one freezes


ACTIVATIONS: dict[str, Callable[[int], nn.Module]] = {
    "relu": lambda _: nn.ReLU(inplace=True),
    "prelu": nn.PReLU,
    "silu": lambda _: nn.SiLU(inplace=True),
    "gelu": lambda _: nn.GELU(),
}
"""Name → activation for so many channels."""


def mean_of_positions(x: Tensor) -> Tensor:
    """[batch, channels, *positions] → [batch, channels]."""
    return x.mean(dim=tuple(range(2, x.dim())))


class SubsampleAndPad(nn.Module):
    """Shortcut A: every stride-th position, and zero channels added evenly on both sides. No parameters."""

    def __init__(self, added: int, *, stride: tuple[int, ...]) -> None:
        super().__init__()
        self.before, self.after = added // 2, added - added // 2
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        for dim, step in enumerate(self.stride, start=2):
            x = x[(slice(None),) * dim + (slice(None, None, step),)]
        return F.pad(x, (*(0, 0) * len(self.stride), self.before, self.after))


class SqueezeExcitation(nn.Module):
    """`x * sigmoid(W2 relu(W1 mean(x)))`: channels weighed by what the whole picture shows. Shapes stay."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, max(1, channels // reduction))
        self.fc2 = nn.Linear(max(1, channels // reduction), channels)

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.sigmoid(self.fc2(F.relu(self.fc1(mean_of_positions(x)))))
        return x * weight.reshape(*weight.shape, *(1,) * (x.dim() - 2))


class StochasticDepth(nn.Module):
    """In training, drops the whole branch of a sample with probability `rate`, and scales what stays."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.rate:
            return x
        kept = torch.rand((len(x), *(1,) * (x.dim() - 1)), device=x.device) >= self.rate
        return x * (kept / (1 - self.rate)).to(x.dtype)


class TemporalShift(nn.Module):
    """One in `share` channels sees the next frame, one the frame before; zeros come in at the ends.

    [batch, channels, time, height, width], shape unchanged. Costs no multiplication.
    """

    def __init__(self, share: int) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        fold = x.shape[1] // self.share
        following = F.pad(x[:, :fold, 1:], (0, 0, 0, 0, 0, 1))
        before = F.pad(x[:, fold : 2 * fold, :-1], (0, 0, 0, 0, 1, 0))
        return torch.cat([following, before, x[:, 2 * fold :]], dim=1)


class Pseudo3d(nn.Module):
    """P3D's three ways to join a convolution over space `S` and one over time `T`, both with norm and activation:
    A `T(S(x))`, B `S(x) + T(x)`, C `S(x) + T(S(x))`."""

    def __init__(self, way: str, space: nn.Module, time: nn.Module) -> None:
        super().__init__()
        self.way, self.space, self.time = way, space, time

    def forward(self, x: Tensor) -> Tensor:
        space: Tensor = self.space(x)
        if self.way == "A":
            return self.time(space)  # type: ignore[no-any-return]
        return space + self.time(x if self.way == "B" else space)  # type: ignore[no-any-return]
