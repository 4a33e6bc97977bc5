"""DenseNet for pictures and clips: where a residual block adds to x, a dense layer puts beside it all it made.

`x_l = H([x_0, x_1, …, x_(l-1)])`, H norm-act-conv1-norm-act-conv3 (Huang et al. 2017, arXiv:1608.06993, equation 2).
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidproc.models.layers import AVG_POOLS, MAX_POOLS, conv, mean_of_positions, norm
from vidproc.models.specs import DenseSpec, Norm

_NORM = Norm()


class DenseLayer(nn.Module):
    """All maps so far → `growth` more: list of [batch, channels, *positions] → [batch, growth, *positions]."""

    def __init__(self, spec: DenseSpec, inside: int) -> None:
        super().__init__()
        middle = spec.bottleneck * spec.growth
        self.norm1, self.relu1 = norm(_NORM, spec.dims, inside), nn.ReLU(inplace=True)
        self.conv1 = conv(spec.dims, inside, middle, kernel=1)
        self.norm2, self.relu2 = norm(_NORM, spec.dims, middle), nn.ReLU(inplace=True)
        self.conv2 = conv(spec.dims, middle, spec.growth, kernel=3)
        self.dropout = nn.Dropout(spec.dropout)

    def forward(self, maps: list[Tensor]) -> Tensor:
        x = self.conv1(self.relu1(self.norm1(torch.cat(maps, dim=1))))
        return self.dropout(self.conv2(self.relu2(self.norm2(x))))  # type: ignore[no-any-return]


class DenseBlock(nn.ModuleDict):
    """`depth` layers: [batch, inside, *positions] → [batch, inside + depth * growth, *positions]."""

    def __init__(self, spec: DenseSpec, inside: int, depth: int) -> None:
        super().__init__({f"denselayer{i + 1}": DenseLayer(spec, inside + i * spec.growth) for i in range(depth)})

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for layer in self.values():
            maps.append(layer(maps))
        return torch.cat(maps, dim=1)


class DenseNetwork(nn.Module):
    """[batch, 3, *positions] → [batch, classes], under torchvision's names (also for clips)."""

    def __init__(self, spec: DenseSpec, classes: int) -> None:
        super().__init__()
        self.spec = spec
        dims, channels = spec.dims, spec.stem_width
        stride = (1, 2, 2) if dims == 3 else 2  # a clip keeps its frames in the stem, as Hara et al.'s
        steps: OrderedDict[str, nn.Module] = OrderedDict(
            conv0=conv(dims, 3, channels, kernel=(7,) * dims, stride=stride),
            norm0=norm(_NORM, dims, channels),
            relu0=nn.ReLU(inplace=True),
            pool0=MAX_POOLS[dims](3, 2, 1),
        )
        for i, depth in enumerate(spec.depths, start=1):
            steps[f"denseblock{i}"] = DenseBlock(spec, channels, depth)
            channels += depth * spec.growth
            if i < len(spec.depths):
                kept = int(channels * spec.transition)
                steps[f"transition{i}"] = nn.Sequential(
                    OrderedDict(
                        norm=norm(_NORM, dims, channels),
                        relu=nn.ReLU(inplace=True),
                        conv=conv(dims, channels, kept, kernel=1),
                        pool=AVG_POOLS[dims](2, 2),
                    )
                )
                channels = kept
        steps["norm5"] = norm(_NORM, dims, channels)
        self.features = nn.Sequential(steps)
        self.classifier = nn.Linear(channels, classes)
        self.scores_name = "classifier"
        self._initialise()

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.features(x), inplace=True)
        return self.classifier(mean_of_positions(x))  # type: ignore[no-any-return]

    def _initialise(self) -> None:
        """Kaiming normal, fan-in, as published."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(module.weight)
            elif isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
