"""Training an embedding, such as of faces: pictures of one identity come to lie together, whoever they show.

The network learns to tell the training identities apart by the angles between its embedding and one direction for each
identity, with a margin that makes it harder than it needs to be. The directions are of no use afterwards: they are
trained beside the network and left out of the checkpoint.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidproc.models.build import build
from vidproc.models.embedder import Embedder
from vidproc.models.specs import ResidualSpec
from vidproc.train.tasks.base import Batch
from vidproc.train.verification import rank_one, true_accepts

Array = npt.NDArray[np.float32]

_LEAST_SQUARED_SINE = 1e-6
"""The sine's slope by the cosine is endless at 1 and -1; below this it counts as flat."""


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """A label is an identity: in training one of `categories`, by name or index; in `measures` any name or number.

    `spec`: with the head "face", "mobile_face" or "linear"; `size`: numbers of the embedding. `kind`, `scale` and
    `margin`: see `Margin`.
    """

    categories: tuple[str, ...]
    spec: ResidualSpec
    size: int = 512
    kind: Literal["arcface", "cosface"] = "arcface"
    scale: float = 64.0
    margin: float = 0.5

    def network(self) -> nn.Module:
        directions = Margin(self.size, len(self.categories), kind=self.kind, scale=self.scale, margin=self.margin)
        return WithMargin(build(self.spec, classes=self.size), directions)

    def truth(self, labels: Sequence[Any], device: str) -> Tensor:
        """int64 [batch], -1 for identities that are not trained on: those have no loss, and it raises IndexError."""
        known: dict[Any, int] = {name: i for i, name in enumerate(self.categories)}
        known |= {i: i for i in range(len(self.categories))}
        return torch.tensor([known.get(label, -1) for label in labels], dtype=torch.int64, device=device)

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(network(batch.inputs, batch.truth), batch.truth)

    @torch.no_grad()
    def outputs(self, network: nn.Module, batch: Batch) -> list[Array]:
        """One [size] a picture, of length 1."""
        network.eval()
        return list(network(batch.inputs).cpu().numpy())

    def measures(self, outputs: Sequence[Array], labels: Sequence[Any]) -> Mapping[str, float]:
        """Over all pairs of the pictures, which should show identities that were never trained on.

        `tar_at_far_0.01`, `tar_at_far_0.001`: share of the pairs of one identity that are accepted where at most one in
        100, or 1000, of the `impostor_pairs` is. `rank_1`: share of the pictures whose nearest other one shows the same
        identity, of those that have such another.
        """
        embeddings = np.stack(outputs)
        tars, impostors = true_accepts(embeddings, labels, fars=(0.01, 0.001))
        named = {f"tar_at_far_{far}": tar for far, tar in tars.items()}
        return {**named, "rank_1": rank_one(embeddings, labels), "impostor_pairs": float(impostors)}

    def state(self, network: nn.Module) -> dict[str, Tensor]:
        """The embedding's network alone."""
        named = {name.removeprefix("module."): value for name, value in network.state_dict().items()}
        return {name.removeprefix("network."): v for name, v in named.items() if name.startswith("network.")}

    def described(self, **common: Any) -> Embedder:
        return Embedder(embedding=self.spec, size=self.size, **common)


class WithMargin(nn.Module):
    """The network and the directions, as one module, because DDP sees one forward.

    With labels: float32 [batch, identities], what cross-entropy takes. Without: embeddings, float32 [batch, size], of
    length 1.
    """

    def __init__(self, network: nn.Module, directions: "Margin") -> None:
        super().__init__()
        self.network = network
        self.directions = directions

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        embeddings: Tensor = self.network(images)
        if labels is None:
            return F.normalize(embeddings.float())
        return self.directions(embeddings, labels)  # type: ignore[no-any-return]


class Margin(nn.Module):
    """Scores of the identities, each a direction: `scale` · cos θ, and for the true one less by the margin.

    arcface    cos(θ + margin) (Deng et al. 2019, arXiv:1801.07698). Beyond π - margin, where it would rise again, the
               score is cos θ - margin · sin(margin), as in the authors' code (without their "easy margin").
    cosface    cos θ - margin (Wang et al. 2018, arXiv:1801.09414)
    """

    def __init__(
        self, size: int, identities: int, *, kind: Literal["arcface", "cosface"], scale: float, margin: float
    ) -> None:
        super().__init__()
        if scale <= 0 or not 0 <= margin < math.pi / 2:
            raise ValueError(f"scale {scale} must be positive, and margin {margin} in 0..{math.pi / 2:.2f}")
        self.kind, self.scale, self.margin = kind, scale, margin
        self.weight = nn.Parameter(nn.init.normal_(torch.empty(identities, size), std=0.01))

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """[batch, size], of any length, and int64 [batch] → float32 [batch, identities]."""
        with torch.autocast(embeddings.device.type, enabled=False):  # bfloat16 has three digits for a cosine
            cosines = F.linear(F.normalize(embeddings.float()), F.normalize(self.weight.float()))
            rows = torch.arange(len(labels), device=labels.device)
            harder = self._harder(cosines[rows, labels])
            return self.scale * cosines.index_put((rows, labels), harder)

    def _harder(self, cosine: Tensor) -> Tensor:
        if self.kind == "cosface":
            return cosine - self.margin
        sine = (1 - cosine.square()).clamp(min=_LEAST_SQUARED_SINE).sqrt()
        turned = cosine * math.cos(self.margin) - sine * math.sin(self.margin)
        beyond = cosine < math.cos(math.pi - self.margin)
        return torch.where(beyond, cosine - self.margin * math.sin(self.margin), turned)
