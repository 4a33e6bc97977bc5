"""What a kind of training is: its network, its loss and its measures. One small file each; the loop knows no more."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from vidproc.models.sidecar import Checkpoint


@dataclass(frozen=True, eq=False)
class Batch:
    """Examples as a network takes them, on its device.

    `inputs`: float32, normalised: pictures [batch, 3, height, width], clips [batch, 3, frames, height, width], sound
    [batch, samples] in -1..1. `truth`: what the task's `truth` made of the examples' labels.
    """

    inputs: Tensor
    truth: Any

    def __len__(self) -> int:
        return len(self.inputs)


class Task(Protocol):
    """Made from the run's options and categories; light, and sent to every worker."""

    @property
    def categories(self) -> tuple[str, ...]: ...

    def network(self) -> nn.Module:
        """A network with fresh weights, drawn from torch's current seed."""

    def truth(self, labels: Sequence[Any], device: str) -> Any:
        """The examples' labels as the loss takes them."""

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Mean over the batch's examples: a scalar. The network is called as `network(…)`, so that DDP sees it."""

    def outputs(self, network: nn.Module, batch: Batch) -> list[npt.NDArray[np.float32]]:
        """One array an example, on the CPU, in eval mode: scores before softmax, an embedding, or boxes."""

    def measures(self, outputs: Sequence[npt.NDArray[np.float32]], labels: Sequence[Any]) -> Mapping[str, float]:
        """How good the outputs are: name → figure. The first one, the higher the better, chooses the best epoch."""

    def state(self, network: nn.Module) -> dict[str, Tensor]:
        """What the checkpoint holds: the parameters that are used after training."""

    def described(self, **common: Any) -> Checkpoint:
        """The checkpoint's description. `common`: `Checkpoint`'s fields, and the data's view, mean and std."""
