"""SlowFast: a slow pathway that sees what things are, a fast one that sees how they move, joined by lateral
convolutions (Feichtenhofer et al. 2019, arXiv:1812.03982, section 3)."""

import torch
from torch import Tensor, nn

from vidproc.models.layers import ACTIVATIONS, conv, mean_of_positions, norm
from vidproc.models.residual import initialise, stage
from vidproc.models.specs import ResidualSpec, SlowFastSpec
from vidproc.models.stems import stem


class Pathway(nn.Module):
    """Stem and stages of one pathway. `joined`: channels of the other that come in before each stage."""

    def __init__(self, spec: ResidualSpec, joined: tuple[int, ...]) -> None:
        super().__init__()
        steps = stem(spec)
        self.stem_names = tuple(steps)
        for name, module in steps.items():
            self.add_module(name, module)
        channels = spec.stem_width
        for i, extra in enumerate(joined):
            self.add_module(f"layer{i + 1}", stage(spec, index=i, inside=channels + extra))
            channels = spec.out_width(i)
        self.channels = channels

    def start(self, x: Tensor) -> Tensor:
        """What comes before the first stage."""
        for name in self.stem_names:
            x = self._modules[name](x)  # type: ignore[misc]
        return x


class SlowFastNetwork(nn.Module):
    """[batch, 3, frames, height, width] → [batch, classes]. `frames`: those of the fast pathway.

    The slow pathway sees frames / alpha of them, evenly, the first and the last among them.
    """

    def __init__(self, spec: SlowFastSpec, classes: int) -> None:
        super().__init__()
        self.spec = spec
        stages = len(spec.slow.depths)
        widths = [spec.fast.stem_width, *(spec.fast.out_width(i) for i in range(stages - 1))]
        self.fast = Pathway(spec.fast, (0,) * stages)
        self.slow = Pathway(spec.slow, tuple(spec.fusion_ratio * width for width in widths))
        self.lateral = nn.ModuleList(self._lateral(width) for width in widths)
        self.dropout = nn.Dropout(spec.dropout)
        self.fc = nn.Linear(self.slow.channels + self.fast.channels, classes)
        self.scores_name = "fc"
        initialise(self, plain_linear=False)

    def _lateral(self, width: int) -> nn.Module:
        """Every alpha-th frame of the fast pathway, with more channels."""
        spec, out = self.spec, width * self.spec.fusion_ratio
        made = conv(3, width, out, kernel=(spec.fusion_kernel, 1, 1), stride=(spec.alpha, 1, 1))
        return nn.Sequential(made, norm(spec.slow.norm, 3, out), ACTIVATIONS[spec.slow.activation](out))

    def forward(self, x: Tensor) -> Tensor:
        frames = x.shape[2]
        few = max(1, frames // self.spec.alpha)
        chosen = torch.linspace(0, frames - 1, few, device=x.device).long()
        slow, fast = self.slow.start(x.index_select(2, chosen)), self.fast.start(x)
        for i, lateral in enumerate(self.lateral, start=1):
            slow = torch.cat([slow, lateral(fast)], dim=1)
            slow, fast = getattr(self.slow, f"layer{i}")(slow), getattr(self.fast, f"layer{i}")(fast)
        means = torch.cat([mean_of_positions(slow), mean_of_positions(fast)], dim=1)
        return self.fc(self.dropout(means))  # type: ignore[no-any-return]
