"""The residual networks that the field knows by name: each a spec, and what it looks at. Needs no torch.

`python -m vidproc.models` lists them with their sizes; `tests/models/test_published_sizes.py` holds the sizes against
the papers' tables.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal

from pydantic import TypeAdapter

from vidproc.models.specs import Block, Conv, DenseSpec, Head, Norm, ResidualSpec, SlowFastSpec, Spec, Stem

_Kind = Literal["basic", "bottleneck"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One network. `input`: [channels, *positions] of what its size is counted on; `source`: the paper."""

    spec: Spec
    classes: int
    input: tuple[int, ...]
    source: str


def _picture(kind: _Kind, *depths: int, source: str = "arXiv:1512.03385", **block: Any) -> Entry:
    stem = Stem(kind="deep" if block.get("shortcut") == "D" else "image")
    spec = ResidualSpec(dims=2, stem=stem, block=Block(kind=kind, **block), depths=depths)
    return Entry(spec=spec, classes=1000, input=(3, 224, 224), source=source)


_RESNEXT, _WIDE, _DENSE = "arXiv:1611.05431", "arXiv:1605.07146", "arXiv:1608.06993"

_PICTURES = {
    "resnet18": _picture("basic", 2, 2, 2, 2),
    "resnet34": _picture("basic", 3, 4, 6, 3),
    "resnet50": _picture("bottleneck", 3, 4, 6, 3),
    "resnet101": _picture("bottleneck", 3, 4, 23, 3),
    "resnet152": _picture("bottleneck", 3, 8, 36, 3),
    "resnext50_32x4d": _picture("bottleneck", 3, 4, 6, 3, cardinality=32, group_width=4, source=_RESNEXT),
    "resnext101_32x8d": _picture("bottleneck", 3, 4, 23, 3, cardinality=32, group_width=8, source=_RESNEXT),
    "resnext101_64x4d": _picture("bottleneck", 3, 4, 23, 3, cardinality=64, group_width=4, source=_RESNEXT),
    "wide_resnet50_2": _picture("bottleneck", 3, 4, 6, 3, group_width=128, source=_WIDE),
    "wide_resnet101_2": _picture("bottleneck", 3, 4, 23, 3, group_width=128, source=_WIDE),
    "se_resnet50": _picture("bottleneck", 3, 4, 6, 3, squeeze=16, source="arXiv:1709.01507"),
    "resnet50d": _picture("bottleneck", 3, 4, 6, 3, shortcut="D", source="arXiv:1812.01187"),
}


def _dense(*depths: int, growth: int = 32, stem_width: int = 64, dims: Literal[2, 3] = 2) -> Entry:
    spec = DenseSpec(dims=dims, growth=growth, depths=depths, stem_width=stem_width)
    if dims == 3:
        return Entry(spec=spec, classes=400, input=(3, 16, 112, 112), source="arXiv:1711.09577")
    return Entry(spec=spec, classes=1000, input=(3, 224, 224), source=_DENSE)


_DENSE_ONES = {
    "densenet121": _dense(6, 12, 24, 16),
    "densenet169": _dense(6, 12, 32, 32),
    "densenet201": _dense(6, 12, 48, 32),
    "densenet161": _dense(6, 12, 36, 24, growth=48, stem_width=96),
    "densenet121_3d": _dense(6, 12, 24, 16, dims=3),
    "densenet201_3d": _dense(6, 12, 48, 32, dims=3),
}


def _cifar(depth: int, **block: Any) -> Entry:
    """6n + 2 layers of two a block; with `kind="bottleneck"`, 9n + 2 of three."""
    n = (depth - 2) // (9 if block.get("kind") == "bottleneck" else 6)
    made = Block(**{"shortcut": "A", **block})
    spec = ResidualSpec(dims=2, stem=Stem(kind="cifar", width=16), block=made, depths=(n, n, n), widths=(16, 32, 64))
    source = "arXiv:1603.05027" if made.order == "pre" else "arXiv:1512.03385"
    return Entry(spec=spec, classes=10, input=(3, 32, 32), source=source)


def _wide_cifar(depth: int, factor: int) -> Entry:
    n = (depth - 4) // 6
    spec = ResidualSpec(
        dims=2,
        stem=Stem(kind="cifar", width=16),
        block=Block(order="pre", dropout=0.3),
        depths=(n, n, n),
        widths=(16 * factor, 32 * factor, 64 * factor),
    )
    return Entry(spec=spec, classes=10, input=(3, 32, 32), source=_WIDE)


_CIFAR = {
    **{f"cifar_resnet{depth}": _cifar(depth) for depth in (20, 32, 44, 56, 110, 1202)},
    **{f"cifar_plain{depth}": _cifar(depth, shortcut="none") for depth in (20, 56)},
    "cifar_preact_resnet164": _cifar(164, kind="bottleneck", order="pre", shortcut="B"),
    "cifar_preact_resnet1001": _cifar(1001, kind="bottleneck", order="pre", shortcut="B"),
    "wide_resnet16_8": _wide_cifar(16, 8),
    "wide_resnet28_10": _wide_cifar(28, 10),
    "wide_resnet40_4": _wide_cifar(40, 4),
}

_TRAN = "arXiv:1711.11248"


def _clip(stem: Any, *convs: Conv, depths: tuple[int, ...] = (2, 2, 2, 2), norm: Norm | None = None) -> Entry:
    spec = ResidualSpec(dims=3, stem=Stem(kind=stem), depths=depths, convs=convs, norm=norm or Norm())
    return Entry(spec=spec, classes=400, input=(3, 16, 112, 112), source=_TRAN)


def _hara(kind: _Kind, *depths: int) -> Entry:
    """`video_wide`: a 7x7x7 stem with a pool; counted on the 700 classes of Kinetics, as their table is."""
    spec = ResidualSpec(dims=3, stem=Stem(kind="video_wide"), block=Block(kind=kind), depths=depths)
    return Entry(spec=spec, classes=700, input=(3, 16, 112, 112), source="arXiv:2004.04968")


def _bottleneck_clip(
    depths: tuple[int, ...], *convs: Conv, input: tuple[int, ...], source: str, stem: Any = "slow", **block: Any
) -> Entry:
    made = Block(kind="bottleneck", **block)
    spec = ResidualSpec(dims=3, stem=Stem(kind=stem), block=made, depths=depths, convs=convs, head=Head(dropout=0.5))
    return Entry(spec=spec, classes=400, input=input, source=source)


_SLOWFAST = "arXiv:1812.03982"
_SLOW = _bottleneck_clip((3, 4, 6, 3), "spatial", "spatial", "slow", "slow", input=(3, 8, 256, 256), source=_SLOWFAST)


def _slowfast() -> Entry:
    """The fast pathway has an eighth of the channels, and convolutions over time in all stages."""
    slow = _SLOW.spec
    assert isinstance(slow, ResidualSpec)
    fast = replace(slow, stem=Stem(kind="fast"), widths=(8, 16, 32, 64), convs=("slow",))
    spec = SlowFastSpec(slow=slow, fast=fast, dropout=0.5)
    return Entry(spec=spec, classes=400, input=(3, 32, 256, 256), source=_SLOWFAST)


_P3D, _CSN = "arXiv:1711.10305", "arXiv:1904.02811"
_P3D_INPUT = (3, 16, 160, 160)
_CLIPS = {
    "r3d_18": _clip("video", "plain"),
    "r3d_34": _clip("video", "plain", depths=(3, 4, 6, 3)),
    "mc2_18": _clip("video", "spatial"),
    "mc3_18": _clip("video", "plain", "spatial", "spatial", "spatial"),
    "mc4_18": _clip("video", "plain", "plain", "spatial", "spatial"),
    "mc5_18": _clip("video", "plain", "plain", "plain", "spatial"),
    "r2plus1d_18": _clip("video_factored", "factored"),
    "r2plus1d_34": _clip("video_factored", "factored_each", depths=(3, 4, 6, 3), norm=Norm(eps=1e-3)),
    "resnet3d_18": _hara("basic", 2, 2, 2, 2),
    "resnet3d_34": _hara("basic", 3, 4, 6, 3),
    "resnet3d_50": _hara("bottleneck", 3, 4, 6, 3),
    "resnet3d_101": _hara("bottleneck", 3, 4, 23, 3),
    "resnet3d_152": _hara("bottleneck", 3, 8, 36, 3),
    "resnet3d_200": _hara("bottleneck", 3, 24, 36, 3),
    "p3d_63": _bottleneck_clip(
        (3, 4, 6, 3), "p3d", "p3d", "p3d", "spatial", input=(3, 16, 160, 160), source=_P3D, stem="p3d"
    ),
    "p3d_199": _bottleneck_clip(
        (3, 8, 36, 3), "p3d", "p3d", "p3d", "spatial", input=(3, 16, 160, 160), source=_P3D, stem="p3d"
    ),
    "ir_csn_101": _bottleneck_clip(
        (3, 4, 23, 3), "depthwise", input=(3, 32, 256, 256), source=_CSN, stem="video_pooled"
    ),
    "ip_csn_152": _bottleneck_clip(
        (3, 8, 36, 3), "separable", input=(3, 32, 256, 256), source=_CSN, stem="video_pooled"
    ),
    "tsm_r50": _bottleneck_clip((3, 4, 6, 3), "spatial", input=(3, 8, 224, 224), source="arXiv:1811.08383", shift=8),
    "slow_r50": _SLOW,
    "slowfast_r50": _slowfast(),
}


def _face(*depths: int) -> Entry:
    spec = ResidualSpec(
        dims=2,
        stem=Stem(kind="face"),
        block=Block(order="ir"),
        depths=depths,
        strides=(2, 2, 2, 2),
        activation="prelu",
        head=Head(kind="face"),
    )
    return Entry(spec=spec, classes=512, input=(3, 112, 112), source="arXiv:1801.07698")


_MOBILE_FACE = ResidualSpec(
    dims=2,
    stem=Stem(kind="mobile_face", width=64),
    block=Block(kind="inverted", shortcut="identity", expansion=(2, 4, 2, 4, 2)),
    depths=(5, 1, 6, 1, 2),
    widths=(64, 128, 128, 128, 128),
    strides=(2, 2, 1, 2, 1),
    activation="prelu",
    head=Head(kind="mobile_face", grid=(7, 6)),
)
_FACES = {
    "ir_resnet18": _face(2, 2, 2, 2),
    "ir_resnet34": _face(3, 4, 6, 3),
    "ir_resnet50": _face(3, 4, 14, 3),
    "ir_resnet100": _face(3, 13, 30, 3),
    "mobilefacenet": Entry(spec=_MOBILE_FACE, classes=128, input=(3, 112, 96), source="arXiv:1804.07573"),
}


def _sound(kind: _Kind, *depths: int) -> Entry:
    """Ten seconds at 32,000 Hz as 1,001 log-mel frames of 64 bins; 527 classes of AudioSet."""
    spec = ResidualSpec(
        dims=2,
        stem=Stem(kind="audio", in_channels=1),
        block=Block(kind=kind, shortcut="D", dropout=0.1),
        depths=depths,
        convs=("pooled",),
        head=Head(kind="audio", dropout=0.2),
    )
    return Entry(spec=spec, classes=527, input=(1, 1001, 64), source="arXiv:1912.10211")


def _speech(blocks: int, width: int) -> Entry:
    """One second at 16,000 Hz as 101 frames of 40 MFCCs; 12 keywords."""
    spec = ResidualSpec(
        dims=2,
        stem=Stem(kind="speech", in_channels=1),
        block=Block(order="norm_first"),
        depths=(blocks,),
        widths=(width,),
        norm=Norm(affine=False),
    )
    return Entry(spec=spec, classes=12, input=(1, 101, 40), source="arXiv:1710.10361")


_WAVES = ResidualSpec(dims=1, stem=Stem(in_channels=1), depths=(2, 2, 2, 2))
_SOUNDS = {
    "panns_resnet22": _sound("basic", 2, 2, 2, 2),
    "panns_resnet38": _sound("basic", 3, 4, 6, 3),
    "res8": _speech(3, 45),
    "res8_narrow": _speech(3, 19),
    "resnet1d_18": Entry(spec=_WAVES, classes=10, input=(1, 16_000), source="arXiv:1512.03385, over time"),
}

ZOO: dict[str, Entry] = {**_PICTURES, **_DENSE_ONES, **_CIFAR, **_CLIPS, **_FACES, **_SOUNDS}
"""Every network by the name that the field has for it."""


def spec_of(architecture: str, options: Mapping[str, Any] | None = None) -> Spec:
    """The named spec with `options` put in place of its fields: `{"depths": [1, 1], "block": {"squeeze": 16}}`.

    Raises ValueError saying what is allowed.
    """
    if architecture not in ZOO:
        raise ValueError(f"architecture {architecture!r} is unknown: use one of {sorted(ZOO)}")
    spec: Spec = _changed(ZOO[architecture].spec, options or {})
    return spec


def _changed(spec: Any, options: Mapping[str, Any]) -> Any:
    if not is_dataclass(spec):
        raise ValueError(f"architecture options {dict(options)} stand for one value, not for several")
    allowed = {field.name for field in fields(spec)} - {"dims"}
    if unknown := set(options) - allowed:
        raise ValueError(f"architecture options {sorted(unknown)} are unknown: use some of {sorted(allowed)}")
    given = {field.name: getattr(spec, field.name) for field in fields(spec)}
    for name, value in options.items():
        given[name] = _changed(given[name], value) if isinstance(value, Mapping) else value
    changed: Any = TypeAdapter(type(spec)).validate_python(given)
    return changed
