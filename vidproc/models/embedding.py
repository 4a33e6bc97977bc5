"""From faces and their five points to embeddings of length 1. Imports torch."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidproc.errors import WeightsError
from vidproc.models.alignment import Floats
from vidproc.models.build import build
from vidproc.models.embedder import Embedder
from vidproc.models.inputs import Inputs
from vidproc.models.load import load_saved, named_state

_FINER = 2
"""Pixels are read at twice the density and averaged: a face of up to four times the size does not alias."""
_BATCH = {"cpu": 8, "cuda": 64}


def load_embedder(embedder: Embedder, device: str) -> nn.Module:
    """The network on `device`, for inference. Raises `WeightsError` when names or shapes do not fit."""
    network = build(embedder.embedding, classes=embedder.size)
    saved = load_saved(embedder)
    try:
        network.load_state_dict(named_state(saved, layout=embedder.layout, network=network), strict=True)
    except (RuntimeError, ValueError) as error:
        raise WeightsError(
            f"weights {embedder.url} do not fit {embedder.embedding}, read as layout {embedder.layout!r}: {error}"
        ) from error
    return network.eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)


class Embeddings:
    """An embedding network on a device, for faces that are aligned first."""

    def __init__(self, embedder: Embedder, device: str) -> None:
        self.network = load_embedder(embedder, device)
        self.device = torch.device(device)
        self.size = embedder.size
        self.shape = embedder.view.picture.shape[:2]
        self.batch = _BATCH[self.device.type]
        self.inputs = Inputs(mean=embedder.mean, std=embedder.std, sound=False, device=self.device)

    @torch.inference_mode()
    def aligned(self, frame: Tensor, matrices: Floats) -> Tensor:
        """Cut faces out of one frame: uint8 [height, width, 3] and [faces, 2, 3], which brings frame to picture.

        float32 [faces, height, width, 3] of 0..255; what lies outside the frame is black.
        """
        height, width = self.shape
        inverse = torch.from_numpy(np.linalg.inv(_square(matrices))[:, :2]).to(self.device, torch.float32)
        x = frame.to(self.device).permute(2, 0, 1)[None].float()
        rows = (torch.arange(height * _FINER, device=self.device) + 0.5) / _FINER - 0.5
        columns = (torch.arange(width * _FINER, device=self.device) + 0.5) / _FINER - 0.5
        y, across = torch.meshgrid(rows, columns, indexing="ij")
        at = torch.stack([across, y, torch.ones_like(y)], dim=-1) @ inverse.mT[:, None]
        sizes = at.new_tensor([x.shape[3], x.shape[2]])
        grid = (2 * at + 1) / sizes - 1
        pieces = [F.grid_sample(x, one[None], align_corners=False) for one in grid]
        cut = torch.cat(pieces) if pieces else x.new_empty(0, 3, height * _FINER, width * _FINER)
        return F.avg_pool2d(cut, _FINER).permute(0, 2, 3, 1)

    @torch.inference_mode()
    def vectors(self, faces: Tensor) -> npt.NDArray[np.float32]:
        """[faces, height, width, 3] of 0..255 → [faces, size] of length 1: the mean with the mirror image's."""
        found = [self._embedded(faces[i : i + self.batch]) for i in range(0, len(faces), self.batch)]
        return np.concatenate([np.empty((0, self.size), np.float32), *found])

    def _embedded(self, faces: Tensor) -> npt.NDArray[np.float32]:
        count = len(faces)
        # always as many: a face's numbers do not depend on how many others there are
        faces = torch.cat([faces, faces[-1:].expand(self.batch - count, *faces.shape[1:])])
        both = self.inputs(torch.cat([faces, faces.flip(2)]).float())
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            each: Tensor = F.normalize(self.network(both).float())
        mean = F.normalize(each[: self.batch] + each[self.batch :])
        found: npt.NDArray[np.float32] = mean[:count].cpu().numpy()
        return found


def _square(matrices: Floats) -> Floats:
    last = np.broadcast_to([0.0, 0.0, 1.0], (len(matrices), 1, 3))
    return np.concatenate([matrices, last], axis=1)


def sharpness(faces: Tensor) -> Sequence[float]:
    """Standard deviation of the Laplacian of each face's luma, in its middle: [faces, height, width, 3] of 0..255."""
    if not len(faces):  # of which the deviation is no number
        return []
    luma = faces.mean(dim=3)
    height, width = luma.shape[1:]
    luma = luma[:, height // 4 : -(height // 8), width // 6 : -(width // 6)]
    around = luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1] + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:]
    found: list[float] = (around - 4 * luma[:, 1:-1, 1:-1]).flatten(1).std(dim=1, correction=0).tolist()
    return found
