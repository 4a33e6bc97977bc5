"""One residual block: `y = a(S(x) + F(x))`, whatever its convolutions, their order and its shortcut. See `specs.Block`.

F learns what to add to x (He et al. 2016, arXiv:1512.03385, equations 1 and 2). Simple: S is the identity. Deep: where
shapes change, S is a convolution, or a pool and a convolution. Wide: `restoration.py` joins encoder and decoder by S.
Strides sit on the first 3-wide convolution (the field's v1.5), in "ir" on the second, in P3D on the 1-wide before it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from vidproc.models.layers import (
    ACTIVATIONS,
    AVG_POOLS,
    Pseudo3d,
    SqueezeExcitation,
    StochasticDepth,
    SubsampleAndPad,
    TemporalShift,
    conv,
    norm,
)
from vidproc.models.specs import ResidualSpec


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a block stands: in which stage, as which of `total` blocks (from 0), and what it is given."""

    stage: int
    number: int
    total: int
    inside: int
    stride: int


class Residual(nn.Module):
    """`a(S(x) + F(x))`: F's steps are children under their published names, run in order.

    `shared`: how many of the first steps S sees too (a pre-activation's norm and activation, where S is no identity).
    `plain`: leave S out.
    """

    def __init__(
        self,
        steps: Mapping[str, nn.Module],
        shortcut: nn.Module | None,
        *,
        after: nn.Module | None,
        shared: int = 0,
        plain: bool = False,
        in_place: bool = True,
    ) -> None:
        super().__init__()
        for name, step in steps.items():
            self.add_module(name, step)
        self.shortcut_name: str | None = None
        if shortcut is not None:
            self.shortcut_name = "downsample" if isinstance(shortcut, nn.Sequential) else "shortcut"
            self.add_module(self.shortcut_name, shortcut)
        if after is not None:
            self.add_module("after", after)
        self.shared_names, self.step_names = tuple(steps)[:shared], tuple(steps)[shared:]
        self.ends_in_activation, self.plain, self.in_place = after is not None, plain, in_place

    def forward(self, x: Tensor) -> Tensor:
        modules = self._modules
        for name in self.shared_names:
            x = modules[name](x)  # type: ignore[misc]
        y = x
        for name in self.step_names:
            y = modules[name](y)  # type: ignore[misc]
        if not self.plain:
            shortcut = x if self.shortcut_name is None else modules[self.shortcut_name](x)  # type: ignore[misc]
            y = y.add_(shortcut) if self.in_place else y + shortcut
        return modules["after"](y) if self.ends_in_activation else y  # type: ignore[misc]

    def start_at_identity(self) -> None:
        """Zero the last norm's scale (else the last convolution), so that F(x) = 0 at first (Goyal et al. 2017,
        arXiv:1706.02677, section 5.1). A plain block has nothing to begin from, and stays as it is."""
        if self.plain:
            return
        if not self.in_place:
            raise ValueError("blocks that end F in an activation cannot begin at zero: no gradient would come through")
        modules = [module for name in self.step_names for module in self.get_submodule(name).modules()]
        learning = [m for m in modules if isinstance(getattr(m, "weight", None), Tensor) and m.weight.requires_grad]
        last = [m for m in learning if not isinstance(m, nn.Linear | nn.PReLU)][-1]
        nn.init.zeros_(last.weight)  # type: ignore[arg-type]


def residual(spec: ResidualSpec, place: Place) -> Residual:
    """The block of `spec` for one place; makes `spec.out_width(place.stage)` channels."""
    block = spec.block
    shortcut, fits = _shortcut(spec, place)
    steps = _arranged(spec, _convolutions(spec, place), first=place.number == 0)
    if block.squeeze:
        steps["se"] = SqueezeExcitation(spec.out_width(place.stage), block.squeeze)
    if block.drop_path:
        steps["drop_path"] = StochasticDepth(block.drop_path * place.number / max(1, place.total - 1))
    ends_linear = block.order != "post" or block.kind == "inverted"
    return Residual(
        steps,
        shortcut,
        after=None if ends_linear else ACTIVATIONS[spec.activation](spec.out_width(place.stage)),
        shared=2 if block.order == "pre" and shortcut is not None else 0,
        plain=not fits,
        in_place=block.order != "norm_first",  # there F ends in a relu, whose gradient needs what it gave
    )


def strides(spec: ResidualSpec, place: Place) -> tuple[int, ...]:
    """Per dimension: convolutions over space leave time as it is."""
    keeps_time = spec.conv_of(place.stage) in ("spatial", "slow", "p3d")
    return (1, place.stride, place.stride) if keeps_time else (place.stride,) * spec.dims


def _shortcut(spec: ResidualSpec, place: Place) -> tuple[nn.Module | None, bool]:
    """S (None is the identity), and whether there is any."""
    kind, out, stride = spec.block.shortcut, spec.out_width(place.stage), strides(spec, place)
    if kind == "none":
        return None, False
    same = set(stride) == {1} and place.inside == out
    if same and kind != "C":
        return None, True
    if kind == "identity":
        return None, False
    if kind == "A":
        return SubsampleAndPad(out - place.inside, stride=stride), True
    steps: list[nn.Module] = []
    if kind == "D" and set(stride) != {1}:
        odd_kept = spec.conv_of(place.stage) != "pooled"  # a strided convolution rounds up, a pool down
        steps.append(AVG_POOLS[spec.dims](stride, stride, ceil_mode=odd_kept, count_include_pad=False))
        stride = (1,) * spec.dims
    steps.append(conv(spec.dims, place.inside, out, kernel=(1,) * spec.dims, stride=stride))
    if spec.block.order != "pre":
        steps.append(norm(spec.norm, spec.dims, out))
    return nn.Sequential(*steps), True


# ---- F's convolutions


@dataclass(frozen=True)
class _Convolution:
    module: nn.Module
    inside: int
    out: int
    complete: bool = False
    """Brings its own norm and activation."""


def _convolutions(spec: ResidualSpec, place: Place) -> list[_Convolution]:
    block, planes, out = spec.block, spec.widths[place.stage], spec.out_width(place.stage)
    dims, inside, stride = spec.dims, place.inside, strides(spec, place)
    one, still = (1,) * dims, (1,) * dims
    if block.kind == "basic":
        first, second = (still, stride) if block.order == "ir" else (stride, still)
        return [
            _wide(spec, place, inside, planes, stride=first, groups=block.cardinality),
            _wide(spec, place, planes, planes, stride=second, groups=block.cardinality),
        ]
    kind, stride_first = spec.conv_of(place.stage), "p3d" in spec.convs
    if block.kind == "inverted":
        width = inside * block.expansion[place.stage % len(block.expansion)]
        deep = conv(dims, width, width, kernel=(3,) * dims, stride=stride, groups=width)
        wide = _Convolution(deep, width, width)
    else:
        width = planes * block.group_width // 64 * block.cardinality
        wide = _wide(spec, place, width, width, stride=still if stride_first else stride, groups=block.cardinality)
    narrow = conv(
        dims,
        inside,
        width,
        kernel=(3, 1, 1) if kind == "slow" and block.kind == "bottleneck" else one,
        stride=stride if stride_first else still,
    )
    last = conv(dims, width, out, kernel=one)
    return [_Convolution(narrow, inside, width), wide, _Convolution(last, width, out)]


def _wide(
    spec: ResidualSpec, place: Place, inside: int, out: int, *, stride: tuple[int, ...], groups: int
) -> _Convolution:
    """The 3-wide convolution in the stage's kind."""
    dims, kind = spec.dims, spec.conv_of(place.stage)
    three = (3,) * dims
    made: nn.Module
    if kind in ("factored", "factored_each"):
        made = _factored(spec, place, inside, out, stride=stride, groups=groups)
    elif kind == "p3d":
        return _Convolution(_pseudo_3d(spec, place, inside, out), inside, out, complete=True)
    elif kind in ("spatial", "slow"):
        made = conv(dims, inside, out, kernel=(1, 3, 3), stride=stride, groups=groups)
    elif kind == "depthwise":
        made = conv(dims, inside, out, kernel=three, stride=stride, groups=inside)
    elif kind == "separable":
        between = conv(dims, inside, inside, kernel=(1,) * dims)
        made = nn.Sequential(
            between, norm(spec.norm, dims, inside), conv(dims, inside, out, kernel=three, stride=stride, groups=inside)
        )
    elif kind == "pooled" and set(stride) != {1}:
        pool = AVG_POOLS[dims](stride, stride)
        made = nn.Sequential(pool, conv(dims, inside, out, kernel=three, groups=groups))
    else:
        made = conv(dims, inside, out, kernel=three, stride=stride, groups=groups)
    return _Convolution(made, inside, out)


def _factored(
    spec: ResidualSpec, place: Place, inside: int, out: int, *, stride: tuple[int, ...], groups: int
) -> nn.Module:
    """(2+1)D. Its middle has so many channels that it counts as many parameters as 3x3x3 (Tran et al. 2018, 3.5)."""
    counted, planes = (inside, out) if spec.conv_of(place.stage) == "factored_each" else (place.inside, out)
    middle = max(1, (counted * planes * 27) // (counted * 9 + 3 * planes))
    space = conv(3, inside, middle, kernel=(1, 3, 3), stride=(1, *stride[1:]), groups=groups)
    time = conv(3, middle, out, kernel=(3, 1, 1), stride=(stride[0], 1, 1), groups=groups)
    return nn.Sequential(space, norm(spec.norm, 3, middle), ACTIVATIONS[spec.activation](middle), time)


def _pseudo_3d(spec: ResidualSpec, place: Place, inside: int, out: int) -> nn.Module:
    way = "ABC"[place.number % 3]

    def over(kernel: tuple[int, ...], given: int) -> nn.Module:
        act = ACTIVATIONS[spec.activation](out)
        return nn.Sequential(conv(3, given, out, kernel=kernel), norm(spec.norm, 3, out), act)

    return Pseudo3d(way, over((1, 3, 3), inside), over((3, 1, 1), inside if way == "B" else out))


# ---- the order of convolutions, norms and activations


def _arranged(spec: ResidualSpec, convolutions: list[_Convolution], *, first: bool) -> dict[str, nn.Module]:
    """F's steps under torchvision's names: flat, but for clips in the usual order, where each conv is a sequence."""
    order, last = spec.block.order, len(convolutions)
    steps: dict[str, nn.Module] = {}

    def add_norm(channels: int, number: int | None = None) -> None:
        number = number or 1 + sum(name.startswith("bn") for name in steps)
        steps[f"bn{number}"] = norm(spec.norm, spec.dims, channels)

    for i, one in enumerate(convolutions, start=1):
        if order == "pre" or (order == "norm_first" and not (first and i == 1)) or (order == "ir" and i == 1):
            add_norm(one.inside)
        if order == "pre":
            steps[f"act{i}"] = ACTIVATIONS[spec.activation](one.inside)
        if i == 1 and spec.block.shift:
            steps["shift"] = TemporalShift(spec.block.shift)
        if i == last and spec.block.dropout:
            steps["dropout"] = nn.Dropout(spec.block.dropout)
        steps[f"conv{i}"] = one.module
        if order in ("post", "ir") and not one.complete:
            add_norm(one.out, i if order == "post" else None)
        if (order == "norm_first" or (order in ("post", "ir") and i < last)) and not one.complete:
            steps[f"act{i}"] = ACTIVATIONS[spec.activation](one.out)
    return _nested(steps, last) if spec.dims == 3 and order == "post" else steps


def _nested(steps: dict[str, nn.Module], convolutions: int) -> dict[str, nn.Module]:
    """conv1, bn1, act1 … as one sequence each."""
    for i in range(1, convolutions + 1):
        parts = [steps.pop(name) for name in (f"bn{i}", f"act{i}") if name in steps]
        steps[f"conv{i}"] = nn.Sequential(steps[f"conv{i}"], *parts)
    return steps
