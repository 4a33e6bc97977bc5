"""The wide residual network: encoder and decoder joined by sums, for pictures or clips with noise in them.

Convolutions take the picture down, transposed convolutions bring it up again, and at each size the encoder's map is
added to the decoder's (RED-Net: Mao et al. 2016, arXiv:1603.09056). Between them stand residual blocks without norms
(EDSR: Lim et al. 2017, arXiv:1707.02921). All of it learns what to add to the noisy picture (DnCNN: Zhang et al. 2017,
arXiv:1608.03981). No layer has a bias: such a network also does well at noise levels that it never saw (Mohan et al.
2020, arXiv:1906.05478), and it is never told the level.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidproc.models.blocks import Residual
from vidproc.models.layers import conv
from vidproc.models.residual import initialise
from vidproc.models.specs import RestorationSpec

_DECONVS: dict[int, type[nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_HALF = {2: (2, 2), 3: (1, 2, 2)}
"""Strides from one size to the next."""


class RestorationNetwork(nn.Module):
    """`x + F(x)`: float [batch, 3, *positions] of about 0..1 → the same shape, of any height and width.

    Begins as the identity. Results may leave 0..1 a little: whoever shows them clamps them.
    """

    def __init__(self, spec: RestorationSpec) -> None:
        super().__init__()
        self.spec = spec
        self.entry = conv(spec.dims, 3, spec.widths[0], kernel=3)
        self.blocks_in, self.blocks_out = (
            nn.ModuleList(_blocks(spec, level) for level in range(len(spec.widths))) for _ in range(2)
        )
        self.down = nn.ModuleList(
            conv(spec.dims, *pair, kernel=3, stride=_HALF[spec.dims]) for pair in pairwise(spec.widths)
        )
        self.up = nn.ModuleList(_up(spec, *pair) for pair in pairwise(spec.widths))
        self.exit = conv(spec.dims, spec.widths[0], 3, kernel=3)
        initialise(self, plain_linear=True)
        nn.init.zeros_(self.exit.weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        y = F.relu(self.entry(_padded(x, multiple=2 ** len(self.down))), inplace=True)
        passed = []
        for blocks, down in zip(self.blocks_in, self.down, strict=False):
            y = blocks(y)
            passed.append(y)
            y = F.relu(down(y), inplace=True)
        y = self.blocks_out[-1](self.blocks_in[-1](y))
        for level in reversed(range(len(self.up))):
            y = self.blocks_out[level](F.relu(passed.pop() + self.up[level](y), inplace=True))
        return x + self.exit(y)[..., :height, :width]  # type: ignore[no-any-return]


def _blocks(spec: RestorationSpec, level: int) -> nn.Sequential:
    """EDSR's blocks at one size: convolution, activation, convolution; no norm and nothing after the sum."""
    width = spec.widths[level]
    return nn.Sequential(
        *(
            Residual(
                {
                    "conv1": conv(spec.dims, width, width, kernel=3),
                    "relu": nn.ReLU(inplace=True),
                    "conv2": conv(spec.dims, width, width, kernel=3),
                },
                None,
                after=None,
            )
            for _ in range(spec.depths[level])
        )
    )


def _up(spec: RestorationSpec, out: int, inside: int) -> nn.Module:
    """Each position becomes 2×2 of its own: kernels that overlap unevenly leave a checkerboard."""
    size = _HALF[spec.dims]
    return _DECONVS[spec.dims](inside, out, size, stride=size, bias=False)


def _padded(x: Tensor, *, multiple: int) -> Tensor:
    """Height and width made multiples by repeating the last row and column."""
    right, below = -x.shape[-1] % multiple, -x.shape[-2] % multiple
    if not right and not below:
        return x
    return F.pad(x, (0, right, 0, below, *(0, 0) * (x.dim() - 4)), mode="replicate")


def restore_frames(network: nn.Module, pixels: Tensor) -> Tensor:
    """Float32 [batch, (frames,) height, width, 3] of 0..255 → the same without noise.

    Of clips all first frames, then all second ones and so on: each call sees a whole batch, and caches hold it.
    """
    if pixels.dim() == 5:
        return torch.stack([restore_frames(network, frames) for frames in pixels.unbind(dim=1)], dim=1)
    pictures = pixels.movedim(-1, 1) / 255  # channels first by name only, as in annotators/forward.py
    restored: Tensor = network(pictures).float().clamp(0, 1) * 255
    return restored.movedim(1, -1)
