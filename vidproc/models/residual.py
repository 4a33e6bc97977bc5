"""One builder for the residual networks of pictures and clips, under torchvision's parameter names.

A residual block computes `y = relu(F(x) + S(x))`: F two or three convolutions, S the identity, or a projection where
shapes differ (He et al. 2016, arXiv:1512.03385, equations 1 and 2). Strides sit on the 3-wide convolution (v1.5).
"""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from vidproc.models.specs import Conv, ResidualSpec

Size = tuple[int, ...]

_CONVS = {2: nn.Conv2d, 3: nn.Conv3d}
_NORMS = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class Residual(nn.Module):
    """`relu(branch(x) + shortcut(x))`. The branch's steps are children under their published names, run in order."""

    def __init__(self, steps: Mapping[str, nn.Module], shortcut: nn.Module | None, *, shortcut_name: str) -> None:
        super().__init__()
        for name, step in steps.items():
            self.add_module(name, step)
        if shortcut is not None:
            self.add_module(shortcut_name, shortcut)
        self.step_names = tuple(steps)
        self.shortcut_name = shortcut_name if shortcut is not None else None
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for name in self.step_names:
            y = self._modules[name](y)  # type: ignore[misc]
        y += x if self.shortcut_name is None else self._modules[self.shortcut_name](x)  # type: ignore[misc]
        return self.relu(y)  # type: ignore[no-any-return]


class SubsampleAndPad(nn.Module):
    """Shortcut A: every second position, and zero channels added evenly on both sides. No parameters."""

    def __init__(self, added: int, *, dims: int, stride: int) -> None:
        super().__init__()
        self.before, self.after = added // 2, added - added // 2
        self.dims, self.stride = dims, stride

    def forward(self, x: Tensor) -> Tensor:
        every_second = slice(None, None, self.stride)
        x = x[..., every_second, every_second] if self.dims == 2 else x[..., *(every_second,) * 3]
        return F.pad(x, (*(0, 0) * self.dims, self.before, self.after))


class ResidualNetwork(nn.Module):
    """[batch, 3, height, width] or [batch, 3, frames, height, width] → logits [batch, classes]."""

    def __init__(self, spec: ResidualSpec, classes: int) -> None:
        super().__init__()
        self.spec = spec
        stem = _stem(spec)
        self.head_names = tuple(stem)
        for name, module in stem.items():
            self.add_module(name, module)
        self.stage_names = tuple(f"layer{i + 1}" for i in range(len(spec.depths)))
        channels = spec.widths[0]
        for i, name in enumerate(self.stage_names):
            stage, channels = _stage(spec, index=i, channels=channels)
            self.add_module(name, stage)
        self.fc = nn.Linear(channels, classes)
        self._initialise()

    def forward(self, x: Tensor) -> Tensor:
        for name in (*self.head_names, *self.stage_names):
            x = self._modules[name](x)  # type: ignore[misc]
        pool = F.adaptive_avg_pool2d if self.spec.dims == 2 else F.adaptive_avg_pool3d
        return self.fc(pool(x, 1).flatten(1))  # type: ignore[no-any-return]

    def _initialise(self) -> None:
        """Kaiming normal, fan-out, as torchvision and He et al. 2015 (arXiv:1502.01852)."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear) and self.spec.dims == 3:
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)


def _conv(spec: ResidualSpec, inside: int, out: int, *, kernel: Size, stride: Size, groups: int = 1) -> nn.Module:
    padding = tuple(k // 2 for k in kernel)
    return _CONVS[spec.dims](inside, out, kernel, stride, padding, groups=groups, bias=False)  # type: ignore[arg-type]


def _wide_conv(
    spec: ResidualSpec, kind: Conv, inside: int, out: int, *, stride: int, middle: int, groups: int
) -> nn.Module:
    """A block's 3-wide convolution in one of its kinds. `middle`: the (2+1)D's channels between space and time."""
    if kind == "factored":
        return nn.Sequential(
            _conv(spec, inside, middle, kernel=(1, 3, 3), stride=(1, stride, stride), groups=groups),
            _NORMS[3](middle),
            nn.ReLU(inplace=True),
            _conv(spec, middle, out, kernel=(3, 1, 1), stride=(stride, 1, 1), groups=groups),
        )
    kernel = (1, 3, 3) if kind == "spatial" else (3,) * spec.dims
    return _conv(spec, inside, out, kernel=kernel, stride=_stride(spec, kind, stride), groups=groups)


def _stride(spec: ResidualSpec, kind: Conv, stride: int) -> Size:
    return (1, stride, stride) if kind == "spatial" else (stride,) * spec.dims


def _stem(spec: ResidualSpec) -> dict[str, nn.Module]:
    out, relu = spec.widths[0], nn.ReLU(inplace=True)
    if spec.stem in ("image", "cifar"):
        large = spec.stem == "image"
        kernel, stride = ((7, 7), (2, 2)) if large else ((3, 3), (1, 1))
        steps = {"conv1": _conv(spec, 3, out, kernel=kernel, stride=stride), "bn1": _NORMS[2](out), "relu": relu}
        return steps | {"maxpool": nn.MaxPool2d(3, 2, 1)} if large else steps
    if spec.stem == "video":
        conv = _conv(spec, 3, out, kernel=(3, 7, 7), stride=(1, 2, 2))
        return {"stem": nn.Sequential(conv, _NORMS[3](out), relu)}
    middle = out * 45 // 64  # 45 of 64 in Tran et al. 2018
    space = _conv(spec, 3, middle, kernel=(1, 7, 7), stride=(1, 2, 2))
    time = _conv(spec, middle, out, kernel=(3, 1, 1), stride=(1, 1, 1))
    return {"stem": nn.Sequential(space, _NORMS[3](middle), nn.ReLU(inplace=True), time, _NORMS[3](out), relu)}


def _stage(spec: ResidualSpec, *, index: int, channels: int) -> tuple[nn.Sequential, int]:
    """The blocks of one stage, the first of which halves the resolution (not in stage 0), and their channels."""
    expansion = 4 if spec.block == "bottleneck" else 1
    out = spec.widths[index] * expansion
    kind = spec.convs[index % len(spec.convs)]
    blocks: list[nn.Module] = []
    for i in range(spec.depths[index]):
        stride = 2 if index > 0 and i == 0 else 1
        shortcut = _shortcut(spec, kind, channels, out, stride=stride)
        steps = _branch(spec, kind, channels, spec.widths[index], stride=stride)
        name = "downsample" if spec.shortcut == "B" else "shortcut"
        blocks.append(Residual(steps, shortcut, shortcut_name=name))
        channels = out
    return nn.Sequential(*blocks), out


def _shortcut(spec: ResidualSpec, kind: Conv, inside: int, out: int, *, stride: int) -> nn.Module | None:
    if stride == 1 and inside == out:
        return None
    if spec.shortcut == "A":
        return SubsampleAndPad(out - inside, dims=spec.dims, stride=stride)
    one = _conv(spec, inside, out, kernel=(1,) * spec.dims, stride=_stride(spec, kind, stride))
    return nn.Sequential(one, _NORMS[spec.dims](out))


def _branch(spec: ResidualSpec, kind: Conv, inside: int, planes: int, *, stride: int) -> dict[str, nn.Module]:
    """F(x) without the last relu: 3-wide, 3-wide (basic); or 1-wide, 3-wide, 1-wide (bottleneck)."""
    # Chosen so that a (2+1)D convolution has as many parameters as the 3D one: Tran et al. 2018, section 3.5.
    middle = max(1, (inside * planes * 27) // (inside * 9 + 3 * planes))
    one = (1,) * spec.dims
    if spec.block == "basic":
        convs = [
            (_wide_conv(spec, kind, inside, planes, stride=stride, middle=middle, groups=spec.cardinality), planes),
            (_wide_conv(spec, kind, planes, planes, stride=1, middle=middle, groups=spec.cardinality), planes),
        ]
    else:
        width = planes * spec.group_width // 64 * spec.cardinality
        wide = _wide_conv(spec, kind, width, width, stride=stride, middle=middle, groups=spec.cardinality)
        convs = [
            (_conv(spec, inside, width, kernel=one, stride=one), width),
            (wide, width),
            (_conv(spec, width, planes * 4, kernel=one, stride=one), planes * 4),
        ]
    return _named(spec, convs)


def _named(spec: ResidualSpec, convs: list[tuple[nn.Module, int]]) -> dict[str, nn.Module]:
    """Convolutions with their norms and activations under torchvision's names: flat for pictures, nested for clips."""
    steps: dict[str, nn.Module] = {}
    for i, (conv, out) in enumerate(convs, start=1):
        norm = _NORMS[spec.dims](out)
        relu = [nn.ReLU(inplace=True)] if i < len(convs) else []
        if spec.dims == 2:
            steps |= {f"conv{i}": conv, f"bn{i}": norm} | {f"relu{i}": module for module in relu}
        else:
            steps[f"conv{i}"] = nn.Sequential(conv, norm, *relu)
    return steps


def parameters_count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def build(spec: ResidualSpec, *, classes: int) -> ResidualNetwork:
    """The network with fresh weights, drawn from torch's current seed."""
    return ResidualNetwork(spec, classes)
