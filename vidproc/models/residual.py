"""A residual network from its spec: stem, stages of residual blocks, head, under torchvision's parameter names."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vidproc.models.blocks import Place, Residual, residual
from vidproc.models.layers import BATCH_NORMS
from vidproc.models.specs import ResidualSpec
from vidproc.models.stems import SCORES_BY, head, stem


class ResidualNetwork(nn.Module):
    """[batch, in_channels, *positions] → [batch, classes]; positions as `ResidualSpec.dims` says.

    `checkpointed`: in training keep activations at some blocks only and compute the others again: memory grows with
    the root of the depth, time by a third (Chen et al. 2016, arXiv:1604.06174).
    """

    def __init__(self, spec: ResidualSpec, classes: int) -> None:
        super().__init__()
        self.spec = spec
        self.checkpointed = False
        before, channels = stem(spec), spec.stem_width
        self.stem_names = tuple(before)
        self.stage_names = tuple(f"layer{i + 1}" for i in range(len(spec.depths)))
        for name, module in before.items():
            self.add_module(name, module)
        for i, name in enumerate(self.stage_names):
            self.add_module(name, stage(spec, index=i, inside=channels))
            channels = spec.out_width(i)
        after = head(spec, channels, classes)
        self.head_names = tuple(after)
        self.scores_name = SCORES_BY.get(spec.head.kind)
        for name, module in after.items():
            self.add_module(name, module)
        initialise(self, plain_linear=spec.dims != 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.feature_map(x)
        for name in self.head_names:
            x = self._modules[name](x)  # type: ignore[misc]
        return x

    def feature_map(self, x: Tensor) -> Tensor:
        """The last stage's map: [batch, channels, *positions]."""
        for name in self.stem_names:
            x = self._modules[name](x)  # type: ignore[misc]
        for name in self.stage_names:
            blocks: nn.Sequential = self._modules[name]  # type: ignore[assignment]
            x = run_checkpointed(blocks, x) if self.checkpointed and self.training else blocks(x)
        return x


def stage(spec: ResidualSpec, *, index: int, inside: int) -> nn.Sequential:
    """The blocks of one stage, the first of which takes `inside` channels and the stage's stride."""
    before = sum(spec.depths[:index])
    blocks: list[nn.Module] = []
    for i in range(spec.depths[index]):
        place = Place(
            stage=index,
            number=before + i,
            total=sum(spec.depths),
            inside=inside if i == 0 else spec.out_width(index),
            stride=spec.stride_of(index) if i == 0 else 1,
        )
        blocks.append(residual(spec, place))
    if spec.conv_of(index) == "p3d":
        blocks.append(nn.MaxPool3d((2, 1, 1)))
    return nn.Sequential(*blocks)


def initialise(network: nn.Module, *, plain_linear: bool) -> None:
    """Convolutions Kaiming normal, fan-out (He et al. 2015, arXiv:1502.01852); norms 1 and 0; a linear layer as torch
    makes it, or N(0, 0.01) as torchvision's video networks."""
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear) and not plain_linear:
            nn.init.normal_(module.weight, 0, 0.01)
            nn.init.zeros_(module.bias)


def start_at_identity(network: nn.Module) -> None:
    """Make every residual block begin as its shortcut: see `Residual.start_at_identity`."""
    for module in network.modules():
        if isinstance(module, Residual):
            module.start_at_identity()


# ---- training at 1,000 layers


def run_checkpointed(blocks: nn.Sequential, x: Tensor) -> Tensor:
    """`blocks(x)`, with activations kept between pieces of √n blocks."""
    size = math.ceil(math.sqrt(len(blocks)))
    for start in range(0, len(blocks), size):
        piece = blocks[start : start + size]
        x = checkpoint(piece, x, use_reentrant=False, context_fn=partial(_contexts, piece))
    return x


def _contexts(piece: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _recomputing(piece)


@contextmanager
def _recomputing(piece: nn.Module) -> Iterator[None]:
    """Batch norms take part without counting the same batch twice in their running statistics."""
    norms = [module for module in piece.modules() if isinstance(module, BATCH_NORMS) and module.track_running_stats]
    kept = [(module, module.momentum, module.num_batches_tracked.clone()) for module in norms]  # type: ignore[union-attr]
    for module in norms:
        module.momentum = 0.0
    try:
        yield
    finally:
        for module, momentum, batches in kept:
            module.momentum = momentum
            module.num_batches_tracked.copy_(batches)  # type: ignore[union-attr]
