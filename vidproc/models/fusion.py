"""A residual network over the embeddings of several streams, of which some may be missing."""

import torch
from torch import Tensor, nn

from vidproc.models.fuser import FusionSpec


class ResidualLayer(nn.Module):
    """`x + W2 gelu(W1 norm(x))`, W2 zero at first: pre-activation (He et al. 2016b, arXiv:1603.05027) of vectors."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.act, self.dropout = nn.GELU(), nn.Dropout(dropout)
        nn.init.zeros_(self.fc2.weight)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(self.dropout(self.act(self.fc1(self.norm(x)))))
        return x + y


class FusionNetwork(nn.Module):
    """[batch, embeddings + streams] → [batch, classes]: the embeddings side by side, then 1 or 0 of each stream.

    Where a stream is missing (0), a learnt vector stands for it, whatever its embedding says. `mean`, `scale`: of the
    embeddings' numbers in training, so that each counts alike.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, spec: FusionSpec, classes: int) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer("mean", torch.zeros(sum(spec.sizes)))
        self.register_buffer("scale", torch.ones(sum(spec.sizes)))
        self.streams = nn.ModuleList(nn.Linear(size, spec.width) for size in spec.sizes)
        self.missing = nn.Parameter(torch.zeros(len(spec.sizes), spec.width))
        self.join = nn.Linear(len(spec.sizes) * spec.width, spec.width)
        self.blocks = nn.Sequential(*(ResidualLayer(spec.width, spec.dropout) for _ in range(spec.depth)))
        self.norm, self.fc = nn.LayerNorm(spec.width), nn.Linear(spec.width, classes)

    def forward(self, x: Tensor) -> Tensor:
        total = sum(self.spec.sizes)
        embeddings = torch.split((x[:, :total] - self.mean) * self.scale, list(self.spec.sizes), dim=1)
        present = x[:, total:, None] > 0.5
        seen = [
            torch.where(present[:, i], stream(embedding), self.missing[i])
            for i, (stream, embedding) in enumerate(zip(self.streams, embeddings, strict=True))
        ]
        scores: Tensor = self.fc(self.norm(self.blocks(self.join(torch.cat(seen, dim=1)))))
        return scores

    def standardise(self, x: Tensor) -> None:
        """Take mean and scale from rows as `forward` gets them, of each stream where it is present.

        A number that never changes in training tells nothing, whatever it is later.
        """
        first = 0
        for i, size in enumerate(self.spec.sizes):
            rows = x[x[:, sum(self.spec.sizes) + i] > 0.5, first : first + size]
            if len(rows) > 1:
                spread = rows.std(dim=0)
                self.mean[first : first + size] = rows.mean(dim=0)
                self.scale[first : first + size] = torch.where(spread > 1e-6, 1 / spread, 0)
            first += size
