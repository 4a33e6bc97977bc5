"""Training a network that takes noise out of pictures: it sees the data's own frames with noise added."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidproc.models.restoration import RestorationNetwork
from vidproc.models.restorer import Restorer
from vidproc.models.specs import RestorationSpec
from vidproc.train.fidelity import noisy, psnr_db
from vidproc.train.tasks.base import Batch

MOST_NOISE, JUDGED_NOISE = 50.0, 25.0
"""Standard deviations, of 0..255: of the strongest noise that is learnt, and of that which is measured."""


@dataclass(frozen=True, kw_only=True)
class Restoration:
    """Labels say nothing here. `spec`: of the network. Inputs must be pixels in 0..1: mean 0 and std 1."""

    spec: RestorationSpec
    categories: tuple[str, ...] = ()

    def network(self) -> nn.Module:
        return RestorationNetwork(self.spec)

    def truth(self, labels: Sequence[Any], device: str) -> None:  # noqa: ARG002
        return None

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Mean absolute difference of what is restored from noise of any strength up to `MOST_NOISE`."""
        generator = torch.Generator().manual_seed(int(torch.randint(1 << 31, ())))  # torch's seed is the step's
        sigma = torch.rand(len(batch), generator=generator) * MOST_NOISE
        given = noisy(batch.inputs.cpu(), sigma, generator).to(batch.inputs.device)
        return F.l1_loss(network(given), batch.inputs)

    def outputs(self, network: nn.Module, batch: Batch) -> list[npt.NDArray[np.float32]]:
        """[PSNR in dB restored, PSNR as it was] of each picture, with noise of `JUDGED_NOISE`."""
        given = noisy(batch.inputs.cpu(), JUDGED_NOISE, torch.Generator().manual_seed(0)).to(batch.inputs.device)
        gained = torch.stack([psnr_db(network(given), batch.inputs), psnr_db(given, batch.inputs)], dim=1)
        return list(gained.float().cpu().numpy())

    def measures(self, outputs: Sequence[npt.NDArray[np.float32]], labels: Sequence[Any]) -> Mapping[str, float]:  # noqa: ARG002
        restored, given = np.mean(np.stack(outputs), axis=0).tolist()
        return {"psnr_db": restored, "psnr_db_noisy": given}

    def state(self, network: nn.Module) -> dict[str, Tensor]:
        return network.state_dict()

    def described(self, **common: Any) -> Restorer:
        """A restorer takes any frames: of the view nothing is said."""
        kept = {name: value for name, value in common.items() if name not in ("view", "mean", "std")}
        return Restorer(restoration=self.spec, **kept)
