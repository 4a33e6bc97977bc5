"""The device's side of `detections`: batches of frames up, boxes in a fixed form down. Imports torch."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidproc.annotators.forward import DeviceNetwork
from vidproc.models.detector import Detector, PublishedDetector
from vidproc.models.load import load_restorer
from vidproc.models.load_detector import last_layers, load_detector
from vidproc.models.restorer import Restorer

MOST = 300
"""Boxes of one frame that come down from the device."""

DEFAULT_BATCH = {"cpu": 1, "cuda": 8}
"""On a CPU one at a time, which costs nothing: the second look of Faster R-CNN multiplies all proposals of a batch at
once, and how many there are may change the last bits of each."""

_NUMBERS = 6


class FixedForm(nn.Module):
    """A detector whose result is one tensor: float [batch, MOST × 6], rows as `Detections.rows` takes them, score -1
    where there is no box. NaN for all pictures of a batch in which a layer gave what is no number: torchvision would
    silently find nothing there.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._broken: list[Tensor] = []
        for module in last_layers(network):
            module.register_forward_hook(self._look)

    def _look(self, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        self._broken.append(~torch.isfinite(output).all())

    def forward(self, images: Tensor) -> Tensor:
        self._broken.clear()
        rows = torch.stack([_padded(found) for found in self.network(images)]).flatten(1)
        broken = torch.stack(self._broken).any()
        return torch.where(broken, torch.nan, rows)


def _padded(found: dict[str, Tensor]) -> Tensor:
    best = torch.argsort(found["scores"], descending=True, stable=True)[:MOST]
    rows = torch.cat([found["boxes"], found["scores"][:, None], found["labels"][:, None]], dim=1)[best].float()
    return F.pad(rows, (0, 0, 0, MOST - len(rows)), value=-1.0)


class BoxNetwork(DeviceNetwork):
    """A detector on its device."""

    def boxes(self, data: Sequence[npt.NDArray[np.uint8]]) -> list[npt.NDArray[np.float32]]:
        """uint8 [samples, height, width, 3] each → [samples, MOST, 6] each, as `FixedForm` has them.

        Raises as `outputs` does.
        """
        return [found.reshape(-1, MOST, _NUMBERS) for found in self.outputs(data)]


def load_finder(
    detector: Detector | PublishedDetector, *, device: str, batch: int | None, restorer: Restorer | None = None
) -> BoxNetwork:
    """Raises `WeightsError` when a checkpoint is not what its description says."""
    return BoxNetwork(
        FixedForm(load_detector(detector, device)),
        detector,
        device=device,
        batch=batch or DEFAULT_BATCH[torch.device(device).type],
        restorer=None if restorer is None else load_restorer(restorer, device),
        least=1,
    )
