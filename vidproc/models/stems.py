"""What comes before the first stage and after the last: name → module, run in order, one function a kind."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vidproc.models.layers import ACTIVATIONS, AVG_POOLS, MAX_POOLS, Size, conv, norm
from vidproc.models.specs import ResidualSpec

Steps = dict[str, nn.Module]
Maker = Callable[[ResidualSpec], Steps]

_POOL = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}


def stem(spec: ResidualSpec) -> Steps:
    """[batch, in_channels, *positions] → [batch, spec.stem_width, *fewer positions]."""
    return STEMS[spec.stem.kind](spec)


def head(spec: ResidualSpec, channels: int, classes: int) -> Steps:
    """[batch, channels, *positions] → [batch, classes]."""
    steps: Steps = {}
    if spec.block.order in ("pre", "norm_first"):
        steps["norm"] = norm(spec.norm, spec.dims, channels)
    if spec.block.order == "pre":
        steps["act"] = ACTIVATIONS[spec.activation](channels)
    return steps | HEADS[spec.head.kind](spec, channels, classes)


# ---- stems


def _one(
    kernel: Size, stride: Size, *, pool: Size | None = None, pool_stride: Size = 2
) -> Callable[[ResidualSpec], Steps]:
    """One convolution, with a maximum pool after it or not."""

    def make(spec: ResidualSpec) -> Steps:
        out, dims = spec.stem_width, spec.dims
        made = conv(dims, spec.stem.in_channels, out, kernel=kernel, stride=stride)
        steps: Steps = {"conv1": made}
        if spec.block.order != "pre":  # else the first block begins with them
            steps |= {"bn1": norm(spec.norm, dims, out), "act1": ACTIVATIONS[spec.activation](out)}
        if dims == 3:
            steps = {"stem": nn.Sequential(*steps.values())}
        if pool is not None:
            padding = tuple((k - 1) // 2 for k in pool) if isinstance(pool, tuple) else (pool - 1) // 2
            steps["maxpool"] = MAX_POOLS[dims](pool, pool_stride, padding)
        return steps

    return make


def _deep(spec: ResidualSpec) -> Steps:
    """Three 3-wide convolutions for the 7-wide one (ResNet-D; He et al. 2019, arXiv:1812.01187)."""
    out, given = spec.stem_width, spec.stem.in_channels
    layers: list[nn.Module] = []
    for width, stride in ((out // 2, 2), (out // 2, 1), (out, 1)):
        made = conv(spec.dims, given, width, kernel=3, stride=stride)
        layers += [made, norm(spec.norm, spec.dims, width), ACTIVATIONS[spec.activation](width)]
        given = width
    steps: Steps = {"conv1": nn.Sequential(*layers[:-2])}
    if spec.block.order != "pre":
        steps |= {"bn1": layers[-2], "act1": layers[-1]}
    return steps | {"maxpool": MAX_POOLS[spec.dims](3, 2, 1)}


def _mobile_face(spec: ResidualSpec) -> Steps:
    """A convolution that halves the picture, then a depthwise one (Chen et al. 2018, arXiv:1804.07573)."""
    out = spec.stem_width
    halving = conv(2, spec.stem.in_channels, out, kernel=3, stride=2)
    depthwise = conv(2, out, out, kernel=3, groups=out)
    return {
        f"conv{i}": nn.Sequential(made, norm(spec.norm, 2, out), ACTIVATIONS[spec.activation](out))
        for i, made in enumerate((halving, depthwise), start=1)
    }


def _video_factored(spec: ResidualSpec) -> Steps:
    out = spec.stem_width
    middle = max(1, out * 45 // 64)  # 45 of 64 in Tran et al. 2018
    space = conv(3, spec.stem.in_channels, middle, kernel=(1, 7, 7), stride=(1, 2, 2))
    time = conv(3, middle, out, kernel=(3, 1, 1))
    layers = [space, norm(spec.norm, 3, middle), ACTIVATIONS[spec.activation](middle), time]
    if spec.block.order != "pre":
        layers += [norm(spec.norm, 3, out), ACTIVATIONS[spec.activation](out)]
    return {"stem": nn.Sequential(*layers)}


MEL_BINS = 64
"""Of the spectrograms that the audio networks look at."""


class MelNorm(nn.BatchNorm2d):
    """Batch norm of each mel bin, whatever the spec's norm: [batch, 1, time, bins]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 3)).transpose(1, 3)


def _two_convolutions(spec: ResidualSpec, inside: int, out: int) -> nn.Module:
    layers: list[nn.Module] = []
    for given in (inside, out):
        made = conv(2, given, out, kernel=3)
        layers += [made, norm(spec.norm, 2, out), ACTIVATIONS[spec.activation](out)]
    return nn.Sequential(*layers)


def _audio(spec: ResidualSpec) -> Steps:
    """Log-mel [batch, 1, time, 64] → [batch, width, time / 2, 32] (Kong et al. 2020, arXiv:1912.10211)."""
    return {
        "bn0": MelNorm(MEL_BINS),
        "conv1": _two_convolutions(spec, spec.stem.in_channels, spec.stem_width),
        "pool": AVG_POOLS[2](2),
        "dropout": nn.Dropout(spec.head.dropout),
    }


def _speech(spec: ResidualSpec) -> Steps:
    """MFCC [batch, 1, time, coefficients] → a quarter of the time, a third of them (Tang and Lin 2018, res8)."""
    made = conv(2, spec.stem.in_channels, spec.stem_width, kernel=3)
    return {"conv1": made, "act1": ACTIVATIONS[spec.activation](spec.stem_width), "pool": AVG_POOLS[2]((4, 3))}


_SPACE = (1, 2, 2)
STEMS: dict[str, Maker] = {
    "image": _one(7, 2, pool=3),
    "deep": _deep,
    "cifar": _one(3, 1),
    "face": _one(3, 1),
    "mobile_face": _mobile_face,
    "video": _one((3, 7, 7), _SPACE),
    "video_factored": _video_factored,
    "video_pooled": _one((3, 7, 7), _SPACE, pool=(1, 3, 3), pool_stride=_SPACE),
    "video_wide": _one((7, 7, 7), _SPACE, pool=3),
    "p3d": _one((1, 7, 7), _SPACE, pool=(2, 3, 3)),
    "slow": _one((1, 7, 7), _SPACE, pool=(1, 3, 3), pool_stride=_SPACE),
    "fast": _one((5, 7, 7), _SPACE, pool=(1, 3, 3), pool_stride=_SPACE),
    "audio": _audio,
    "speech": _speech,
}


# ---- heads


def _linear(spec: ResidualSpec, channels: int, classes: int) -> Steps:
    steps: Steps = {"avgpool": _POOL[spec.dims](1), "flatten": nn.Flatten(1)}
    if spec.head.dropout:
        steps["dropout"] = nn.Dropout(spec.head.dropout)
    return steps | {"fc": nn.Linear(channels, classes)}


def _face(spec: ResidualSpec, channels: int, classes: int) -> Steps:
    """Norm, all positions by one matrix, norm (Deng et al. 2019, arXiv:1801.07698, option E)."""
    rows, columns = spec.head.grid
    return {
        "bn2": norm(spec.norm, 2, channels),
        "dropout": nn.Dropout(spec.head.dropout),
        "flatten": nn.Flatten(1),
        "fc": nn.Linear(channels * rows * columns, classes),
        "features": norm(spec.norm, 1, classes),
    }


def _mobile_face_head(spec: ResidualSpec, channels: int, classes: int) -> Steps:
    """A depthwise convolution weighs each position of the map, in place of an average (arXiv:1804.07573)."""
    wide = 4 * channels
    expand = [conv(2, channels, wide, kernel=1), norm(spec.norm, 2, wide), ACTIVATIONS[spec.activation](wide)]
    weigh = nn.Conv2d(wide, wide, spec.head.grid, groups=wide, bias=False)
    return {
        "expand": nn.Sequential(*expand),
        "weigh": nn.Sequential(weigh, norm(spec.norm, 2, wide)),
        "project": nn.Sequential(conv(2, wide, classes, kernel=1), norm(spec.norm, 2, classes)),
        "flatten": nn.Flatten(1),
    }


class MeanAndMaximum(nn.Module):
    """[batch, channels, time, bins] → [batch, channels]: the bins' mean, then mean + maximum over time."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.mean(x, dim=3)
        return torch.amax(x, dim=2) + torch.mean(x, dim=2)


def _audio_head(spec: ResidualSpec, channels: int, classes: int) -> Steps:
    wide, rate = 4 * channels, spec.head.dropout
    return {
        "pool_last": AVG_POOLS[2](2),
        "dropout_last": nn.Dropout(rate),
        "conv_last": _two_convolutions(spec, channels, wide),
        "dropout_map": nn.Dropout(rate),
        "avgpool": MeanAndMaximum(),
        "dropout_mean": nn.Dropout(min(0.9, 2.5 * rate)),  # 0.5 where the others are 0.2
        "fc1": nn.Linear(wide, wide),
        "act_last": ACTIVATIONS[spec.activation](wide),
        "fc": nn.Linear(wide, classes),
    }


HEADS: dict[str, Callable[[ResidualSpec, int, int], Steps]] = {
    "linear": _linear,
    "face": _face,
    "mobile_face": _mobile_face_head,
    "audio": _audio_head,
}

SCORES_BY = {"linear": "fc", "audio": "fc"}
"""Head → its layer that makes scores. The others have none: what they make are embeddings."""
