"""Every residual network as a few words and numbers: `ResidualSpec` and its parts. Needs no torch.

    ResidualSpec(dims=2, block=Block(kind="bottleneck"), depths=(3, 4, 6, 3))             ResNet-50
    ResidualSpec(dims=3, stem=Stem(kind="video"), depths=(2, 2, 2, 2))                    R3D-18

`zoo.py` has the published ones by name, `dense.py`, `slowfast.py` and `restoration.py` the three that are not a chain.
"""

from collections.abc import Iterator
from itertools import chain
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

Conv = Literal["plain", "spatial", "factored", "factored_each", "p3d", "slow", "depthwise", "separable", "pooled"]
"""What stands for a block's 3-wide convolution, in each stage:

plain          3 wide in all dimensions
spatial        1x3x3: over space only (Tran et al. 2018, arXiv:1711.11248: MC2 to MC5)
factored       (2+1)D: 1x3x3 then 3x1x1, as many parameters as 3x3x3, counted once a block (same paper, section 3.5)
factored_each  the same, counted for each convolution (the networks trained on IG-65M)
p3d            1x3x3 and 3x1x1 in series, in parallel, in series with a skip, by turns; each stage ends by halving time
               (Qiu et al. 2017, arXiv:1711.10305)
slow           1x3x3, after a 3x1x1 in place of the first 1x1x1 (Feichtenhofer et al. 2019, arXiv:1812.03982)
depthwise      3x3x3, each channel by itself: ir-CSN (Tran et al. 2019, arXiv:1904.02811)
separable      1x1x1 between channels, then depthwise: ip-CSN (same paper)
pooled         strides as an average pool before the convolution (Kong et al. 2020, arXiv:1912.10211: PANNs)
"""

StemKind = Literal[
    "image", "deep", "cifar", "face", "mobile_face", "video", "video_factored", "video_pooled", "video_wide", "p3d",
    "slow", "fast", "audio", "speech",
]  # fmt: skip
"""The layers before the first stage: `stems.py` has them, one function each."""

_ONE_OR_MORE = Field(ge=1, le=8192)
_Positive = Annotated[int, _ONE_OR_MORE]
_NEEDS_TIME = {"spatial", "factored", "factored_each", "p3d", "slow"}


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Norm:
    """`layer` normalises each sample over all channels and positions; `frozen` is batch norm that never adapts."""

    kind: Literal["batch", "sync_batch", "layer", "group", "frozen"] = "batch"
    eps: float = Field(default=1e-5, gt=0)
    affine: bool = True


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Stem:
    """What comes before the first stage. `width`: channels that it makes; None makes as many as the first stage has."""

    kind: StemKind = "image"
    width: int | None = Field(default=None, ge=1, le=8192)
    in_channels: int = Field(default=3, ge=1, le=8192)


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Block:
    """The residual block `y = a(S(x) + F(x))`.

    `kind`: F is two 3-wide convolutions (basic); 1-wide, 3-wide, 1-wide (bottleneck; He et al. 2016,
    arXiv:1512.03385); or 1-wide to more channels, depthwise, 1-wide (inverted; Sandler et al. 2018, arXiv:1801.04381).
    `order`: "post" conv-norm-act, with `a` after the sum; "pre" norm-act-conv, with nothing after it (He et al. 2016b,
    arXiv:1603.05027); "ir" norm-conv-norm-act-conv-norm (Deng et al. 2019, arXiv:1801.07698); "norm_first"
    norm-conv-act (Tang and Lin 2018, arXiv:1710.10361).
    `shortcut`: where shapes differ S is "A" every second position and zero channels, "B" a 1-wide convolution, "D" an
    average pool and a 1-wide convolution (He et al. 2019, arXiv:1812.01187); "C" is B everywhere; "identity" leaves S
    out where shapes differ; "none" leaves it out everywhere: the plain network, as the control.
    `cardinality`, `group_width`: groups, and channels per group at width 64 (ResNeXt: 32, 4; wide ResNet: 1, 128).
    `expansion`: of an inverted block's inside, one for all stages or one for each.
    `squeeze`: reduction of squeeze-and-excitation (Hu et al. 2018, arXiv:1709.01507); 0 leaves it out.
    `shift`: one in so many channels is moved a frame ahead, one a frame back, inside F (TSM: Lin et al. 2019,
    arXiv:1811.08383); 0 leaves it out.
    `dropout`: between the convolutions (Zagoruyko and Komodakis 2016, arXiv:1605.07146).
    `drop_path`: stochastic depth's rate at the last block, falling to 0 at the first (Huang et al. 2016,
    arXiv:1603.09382).
    """

    kind: Literal["basic", "bottleneck", "inverted"] = "basic"
    order: Literal["post", "pre", "ir", "norm_first"] = "post"
    shortcut: Literal["A", "B", "C", "D", "identity", "none"] = "B"
    cardinality: int = Field(default=1, ge=1, le=4096)
    group_width: int = Field(default=64, ge=1, le=4096)
    expansion: tuple[int, ...] = (1,)
    squeeze: int = Field(default=0, ge=0, le=4096)
    shift: int = Field(default=0, ge=0, le=4096)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    drop_path: float = Field(default=0.0, ge=0, lt=1)


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Head:
    """What makes scores of the last stage: `stems.py` has them too.

    "linear" averages all positions; "face" and "mobile_face" make embeddings, of as many numbers as there are
    classes, from a map of `grid` positions; "audio" takes mean and maximum over time.
    """

    kind: Literal["linear", "face", "mobile_face", "audio"] = "linear"
    grid: tuple[int, int] = (7, 7)
    dropout: float = Field(default=0.0, ge=0, lt=1)


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class ResidualSpec:
    """What distinguishes one residual network from another.

    `dims`: 1 for waves, 2 for pictures and spectrograms, 3 for clips.
    `depths`: blocks of each stage; `widths`: its channels, before a bottleneck's fourfold expansion.
    `convs`: one for all stages or one for each. `strides`: of each stage; () is 1, then 2.
    """

    dims: Literal[1, 2, 3]
    stem: Stem = Stem()
    block: Block = Block()
    depths: tuple[int, ...] = Field(min_length=1)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    convs: tuple[Conv, ...] = ("plain",)
    strides: tuple[int, ...] = ()
    norm: Norm = Norm()
    activation: Literal["relu", "prelu", "silu", "gelu"] = "relu"
    head: Head = Head()

    def __post_init__(self) -> None:
        if problem := next(chain(_problems_in_size(self), _problems_in_kind(self)), None):
            raise ValueError(problem)

    def conv_of(self, stage: int) -> Conv:
        return self.convs[stage % len(self.convs)]

    def stride_of(self, stage: int) -> int:
        return self.strides[stage] if self.strides else min(stage, 1) + 1

    @property
    def stem_width(self) -> int:
        return self.stem.width or self.widths[0]

    def out_width(self, stage: int) -> int:
        """Channels that the stage makes."""
        return self.widths[stage] * (4 if self.block.kind == "bottleneck" else 1)


_DIMS = {
    **dict.fromkeys(("image", "deep", "cifar"), (1, 2)),
    **dict.fromkeys(("face", "mobile_face", "audio", "speech"), (2,)),
    **dict.fromkeys(("video", "video_factored", "video_pooled", "video_wide", "p3d", "slow", "fast"), (3,)),
}
"""Stem or head → the dimensions that it is for; a head that is not here is for all."""


def _problems_in_size(spec: ResidualSpec) -> Iterator[str]:
    """Which numbers do not go together, and what is allowed."""
    stages, block = len(spec.depths), spec.block
    if stages > len(spec.widths):
        yield f"depths {spec.depths} need as many widths, got {spec.widths}"
    if spec.strides and stages > len(spec.strides):
        yield f"depths {spec.depths} need as many strides (or none), got {spec.strides}"
    for name, given in (("convs", spec.convs), ("expansion", block.expansion)):
        if 1 < len(given) < stages or not given:
            yield f"{name} {given} must be one for all stages, or one for each of {stages}"
    numbers = (*spec.depths, *spec.widths, *spec.strides, *block.expansion)
    if not all(0 < number <= 8192 for number in numbers):
        yield "depths, widths, strides and expansion must be whole numbers in 1..8192"
    if block.kind == "bottleneck":
        if not all(width * block.group_width // 64 for width in spec.widths[:stages]):
            yield f"group_width {block.group_width} leaves no channels at widths {spec.widths[:stages]}"
    elif block.kind == "basic" and any(width % block.cardinality for width in (spec.stem_width, *spec.widths)):
        yield f"cardinality {block.cardinality} must divide the widths {spec.widths} and the stem's {spec.stem_width}"
    if block.shortcut == "A" and list(spec.widths[:stages]) != sorted(spec.widths[:stages]):
        yield f"shortcut A adds channels and takes none away: widths {spec.widths} must not fall"


def _problems_in_kind(spec: ResidualSpec) -> Iterator[str]:
    """Which parts do not go together, and what is allowed."""
    block, convs = spec.block, set(spec.convs)
    if spec.dims < 3 and (needs := (_NEEDS_TIME & convs) or (block.shift and {"shift"})):
        yield f"{sorted(needs)} need dims=3, not {spec.dims}"
    for part, kind in (("stem", spec.stem.kind), ("head", spec.head.kind)):
        if spec.dims not in _DIMS.get(kind, (1, 2, 3)):
            fitting = [name for name, dims in _DIMS.items() if spec.dims in dims]
            yield f"{part} {kind!r} does not fit dims={spec.dims}, for which there are {fitting}"
    if block.kind == "basic" and {"depthwise", "separable", "p3d", "slow"} & convs:
        yield "depthwise, separable, p3d and slow convolutions stand in the middle of a bottleneck"
    if block.kind == "inverted" and convs != {"plain"}:
        yield f"an inverted block's 3-wide convolution is depthwise already: leave convs out, not {spec.convs}"
    if "pooled" in convs and block.shortcut not in ("D", "none"):
        yield f"pooled convolutions round odd sizes down, as shortcut D does, and {block.shortcut!r} does not: use D"
    if block.drop_path and block.shortcut in ("identity", "none"):
        yield f"drop_path drops a block's branch, and with shortcut {block.shortcut!r} nothing would be left"


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class DenseSpec:
    """DenseNet: a layer sees all that came before it in its block (Huang et al. 2017, arXiv:1608.06993).

    `growth`: channels that a layer adds; `bottleneck`: its 1-wide convolution makes so many times that; `transition`:
    share of channels kept between blocks. `dims` 3: for clips (Hara et al. 2018, arXiv:1711.09577).
    """

    dims: Literal[2, 3] = 2
    growth: int = Field(default=32, ge=1, le=4096)
    depths: tuple[_Positive, ...] = Field(min_length=1)
    stem_width: int = Field(default=64, ge=1, le=4096)
    bottleneck: int = Field(default=4, ge=1, le=64)
    transition: float = Field(default=0.5, ge=0.1, le=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class SlowFastSpec:
    """Two pathways: few frames with many channels, and many frames with few; the fast one's features join the slow
    one's after the stem and each stage but the last (Feichtenhofer et al. 2019, arXiv:1812.03982).

    `alpha`: frames of the fast pathway for each of the slow one; `fusion_kernel`: frames that a lateral convolution
    spans; `fusion_ratio`: channels that it makes of each of its own.
    """

    slow: ResidualSpec
    fast: ResidualSpec
    alpha: int = Field(default=4, ge=1, le=64)
    fusion_kernel: int = Field(default=7, ge=1, le=15)
    fusion_ratio: int = Field(default=2, ge=1, le=16)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    def __post_init__(self) -> None:
        pathways = (self.slow, self.fast)
        if any(one.dims != 3 or one.block.order != "post" for one in pathways):
            raise ValueError("both pathways must have dims=3 and blocks in the order 'post'")
        if len(self.slow.depths) != len(self.fast.depths):
            raise ValueError(f"pathways need as many stages: {self.slow.depths} and {self.fast.depths} differ")
        if self.fusion_kernel % 2 == 0:
            raise ValueError(f"fusion_kernel {self.fusion_kernel} must be odd")

    @property
    def dims(self) -> Literal[3]:
        return 3


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class RestorationSpec:
    """A residual encoder-decoder that takes the noise out of pictures or clips: `restoration.py`.

    `widths`: channels at full size, at half, at a quarter and so on. `depths`: residual blocks of each size, as many on
    the way down as on the way up; the larger sizes have none by default, because there a block costs most. Clips keep
    their frames at every size.
    """

    dims: Literal[2, 3] = 2
    widths: Annotated[tuple[Annotated[int, _ONE_OR_MORE], ...], Field(min_length=1, max_length=8)] = (16, 32, 48, 64)
    depths: tuple[Annotated[int, Field(ge=0, le=1000)], ...] = (0, 0, 1, 1)

    def __post_init__(self) -> None:
        if len(self.widths) != len(self.depths):
            raise ValueError(f"widths {self.widths} and depths {self.depths} must be as many")


Spec = ResidualSpec | DenseSpec | SlowFastSpec
