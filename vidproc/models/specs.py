"""Every residual network as a few numbers: `ResidualSpec` and the published ones by name. Needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

Conv = Literal["plain", "spatial", "factored"]
"""The 3-wide convolution of a block: over all dimensions, over space only, or (2+1)D: over space, then time."""

Stem = Literal["image", "cifar", "video", "video_factored"]


@dataclass(frozen=True, kw_only=True)
class ResidualSpec:
    """What distinguishes one residual network from another.

    `dims`: 2 for pictures, 3 for clips.
    `depths`: blocks per stage; `widths`: channels before a bottleneck's expansion; the stem makes `widths[0]`.
    `convs`: the convolution of each stage, one for all or one per stage (MC3: plain, then spatial).
    `cardinality`, `group_width`: groups, and channels per group at width 64 (ResNeXt: 32, 4; wide ResNet: 1, 128).
    `shortcut`: where shapes differ, "B" projects by a 1-wide convolution; "A" takes every second position and pads
    with zero channels (He et al. 2016, arXiv:1512.03385, section 3.3).
    """

    dims: Literal[2, 3]
    stem: Stem
    block: Literal["basic", "bottleneck"]
    depths: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512)
    convs: tuple[Conv, ...] = ("plain",)
    cardinality: int = 1
    group_width: int = 64
    shortcut: Literal["A", "B"] = "B"

    def __post_init__(self) -> None:
        if not 0 < len(self.depths) <= len(self.widths):
            raise ValueError(f"depths {self.depths} need as many widths, got {self.widths}")
        if len(self.convs) not in (1, len(self.depths)):
            raise ValueError(f"convs {self.convs} must be one for all stages, or one for each of {len(self.depths)}")
        numbers = (*self.depths, *self.widths, self.cardinality, self.group_width)
        if not all(isinstance(number, int) and 0 < number <= 4096 for number in numbers):
            raise ValueError("depths, widths, cardinality and group_width must be whole numbers in 1..4096")
        if not set(self.convs) <= set(get_args(Conv)) or (self.dims == 2 and self.convs != ("plain",)):
            raise ValueError(f"convs {self.convs} must be of {get_args(Conv)}, and 'plain' for pictures")
        if self.block not in ("basic", "bottleneck") or self.shortcut not in ("A", "B"):
            raise ValueError(f"block {self.block!r} must be basic or bottleneck, shortcut {self.shortcut!r} A or B")
        if (self.dims == 3) != self.stem.startswith("video"):
            raise ValueError(f"stem {self.stem!r} does not fit {self.dims} dimensions")


def _image(
    block: Literal["basic", "bottleneck"], *depths: int, cardinality: int = 1, group_width: int = 64
) -> ResidualSpec:
    return ResidualSpec(
        dims=2, stem="image", block=block, depths=depths, cardinality=cardinality, group_width=group_width
    )


def _video(stem: Stem, *convs: Conv) -> ResidualSpec:
    return ResidualSpec(dims=3, stem=stem, block="basic", depths=(2, 2, 2, 2), convs=convs)


def _cifar(depth: int) -> ResidualSpec:
    n = (depth - 2) // 6
    return ResidualSpec(dims=2, stem="cifar", block="basic", depths=(n, n, n), widths=(16, 32, 64), shortcut="A")


SPECS: dict[str, ResidualSpec] = {
    "resnet18": _image("basic", 2, 2, 2, 2),
    "resnet34": _image("basic", 3, 4, 6, 3),
    "resnet50": _image("bottleneck", 3, 4, 6, 3),
    "resnet101": _image("bottleneck", 3, 4, 23, 3),
    "resnet152": _image("bottleneck", 3, 8, 36, 3),
    "resnext50_32x4d": _image("bottleneck", 3, 4, 6, 3, cardinality=32, group_width=4),
    "resnext101_32x8d": _image("bottleneck", 3, 4, 23, 3, cardinality=32, group_width=8),
    "resnext101_64x4d": _image("bottleneck", 3, 4, 23, 3, cardinality=64, group_width=4),
    "wide_resnet50_2": _image("bottleneck", 3, 4, 6, 3, group_width=128),
    "wide_resnet101_2": _image("bottleneck", 3, 4, 23, 3, group_width=128),
    "r3d_18": _video("video", "plain"),
    "mc3_18": _video("video", "plain", "spatial", "spatial", "spatial"),
    "r2plus1d_18": _video("video_factored", "factored"),
    "cifar_resnet20": _cifar(20),
    "cifar_resnet32": _cifar(32),
    "cifar_resnet56": _cifar(56),
}
"""The names as the field has them → spec. He et al. 2016; Xie et al. 2017 (ResNeXt, arXiv:1611.05431); Zagoruyko and
Komodakis 2016 (wide, arXiv:1605.07146); Tran et al. 2018 (R3D, MC3, R(2+1)D, arXiv:1711.11248)."""


def spec_of(architecture: str, options: Mapping[str, Any] | None = None) -> ResidualSpec:
    """The named spec with `options` put in place of its fields. Raises ValueError saying what is allowed."""
    if architecture not in SPECS:
        raise ValueError(f"architecture {architecture!r} is unknown: use one of {sorted(SPECS)}")
    allowed = {field.name for field in fields(ResidualSpec)} - {"dims", "stem"}
    if unknown := set(options or {}) - allowed:
        raise ValueError(f"architecture options {sorted(unknown)} are unknown: use some of {sorted(allowed)}")
    given: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in (options or {}).items()
    }
    return replace(SPECS[architecture], **given)
