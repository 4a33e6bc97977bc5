"""The device's side of networks: batches filled across segments, uint8 up, scores or embeddings down. Imports torch."""

import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vidproc.annotators.upload import as_tensor
from vidproc.errors import NotFinite
from vidproc.models.build import Network, without_scores
from vidproc.models.detector import BoxFinder
from vidproc.models.inputs import Inputs
from vidproc.models.listener import Listener
from vidproc.models.load import load_network, load_restorer
from vidproc.models.optimise import for_inference
from vidproc.models.restoration import restore_frames
from vidproc.models.restorer import Restorer
from vidproc.models.weights import Weights

log = logging.getLogger(__name__)

LEAST = 4
"""Samples of the smallest forward pass, as a rule, and what larger ones are multiples of. Then a sample's scores do not
depend, bit for bit, on how many share its batch: oneDNN and MKL take fewer than four, and what is left over from fours,
by other kernels. So a run that was killed and resumed, with other batches, writes the same numbers."""

DEFAULT_BATCH = {"cpu": 8, "cuda": 64}


class DeviceNetwork:
    """A network on its device that looks at uint8 samples: float32 on a CPU, bfloat16 autocast on CUDA.

    `restorer`: a network on the same device that takes the noise out of frames before they are looked at.
    `least`: forward passes have a multiple of so many samples; fewer are padded. A compiled network wants all batches
    alike.
    """

    def __init__(
        self,
        network: nn.Module,
        weights: Weights | BoxFinder,
        *,
        device: str,
        batch: int | None = None,
        restorer: nn.Module | None = None,
        least: int | None = None,
    ) -> None:
        self.network = network
        self.weights = weights
        self.restorer = restorer
        self.device = torch.device(device)
        self.batch = batch or DEFAULT_BATCH[self.device.type]
        self.least = min(least or LEAST, self.batch)
        sound = isinstance(weights, Weights) and weights.listening is not None
        self.inputs = Inputs(mean=weights.mean, std=weights.std, sound=sound, device=self.device)

    def outputs(
        self, data: Sequence[npt.NDArray[Any]], *, finish: Callable[[Tensor], Tensor] | None = None
    ) -> list[npt.NDArray[np.float32]]:
        """[samples, *shape] each → [samples, numbers] each, as the network gives them, or as `finish` makes them on its
        device. Batches run across the arrays' borders.

        A CUDA out-of-memory halves the batch, for this call and those after it. Raises `NotFinite`.
        """
        lengths = [len(array) for array in data]
        if not sum(lengths):
            return [np.empty((0, 0), np.float32) for _ in data]
        pieces = [as_tensor(array) for array in data]
        done: list[Tensor] = []
        at, total = 0, sum(lengths)
        with torch.inference_mode():
            while at < total:
                size = min(self.batch, total - at)
                try:
                    found = self._forward(_slice(pieces, at, at + size))
                    done.append(found if finish is None else finish(found))
                    at += size
                    continue
                except torch.OutOfMemoryError:
                    tried = max(size, self.least)
                    if tried == 1:
                        raise
                self._halve(tried)  # here: while the error is handled, its traceback holds the activations
            outputs: npt.NDArray[np.float32] = torch.cat(done).cpu().numpy()
        if not np.isfinite(outputs).all():
            raise NotFinite(
                f"{int((~np.isfinite(outputs).all(axis=1)).sum())} of {total} samples were scored with no number: "
                "the network overflows on them, or its weights are damaged; nothing was written for them"
            )
        return np.split(outputs, np.cumsum(lengths)[:-1])

    def _halve(self, size: int) -> None:
        self.batch = size // 2
        self.least = min(self.least, self.batch)
        log.warning("out of device memory at %d samples: going on with batches of %d", size, self.batch)
        torch.cuda.empty_cache()

    def _forward(self, pixels: Tensor) -> Tensor:
        """uint8 [samples, (frames,) height, width, channels] or int16 [samples, time, channels] → float32 outputs."""
        count = len(pixels)
        if missing := -count % self.least:
            pixels = torch.cat([pixels, pixels[-1:].expand(missing, *pixels.shape[1:])])
        x = pixels.to(self.device, non_blocking=True).to(torch.float32)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            if self.restorer is not None:
                x = restore_frames(self.restorer, x)
            outputs: Tensor = self.network(self.inputs(x))[:count].float()
        return outputs


class ScoringNetwork(DeviceNetwork):
    """A network that scores labels, one of them by softmax or several by sigmoids."""

    weights: Weights

    def scores(self, data: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[np.float32]]:
        """[samples, *shape] each → [samples, labels] each, in 0..1. Raises as `outputs` does."""
        return self.outputs(data, finish=self._activated)

    def logits(self, data: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[np.float32]]:
        """The same before temperature and softmax or sigmoid: what a temperature is fitted on."""
        return self.outputs(data)

    def _activated(self, logits: Tensor) -> Tensor:
        logits = logits / self.weights.temperature
        return logits.sigmoid() if self.weights.multi_label else logits.softmax(dim=1)


def load_scoring_network(
    weights: Weights,
    *,
    device: str,
    batch: int | None,
    restorer: Restorer | None = None,
    compiled: bool = False,
) -> ScoringNetwork:
    """Raises `WeightsError` when a checkpoint is not what its sidecar says."""
    network = _placed(load_network(weights), weights, device, compiled=compiled)
    return ScoringNetwork(network, weights, **_how(device, batch, restorer, compiled=compiled))


def load_embedding_network(
    weights: Weights,
    *,
    device: str,
    batch: int | None,
    restorer: Restorer | None = None,
    compiled: bool = False,
) -> DeviceNetwork:
    """The same network without the layer that makes scores: its outputs are embeddings. Raises `WeightsError`."""
    network = _placed(without_scores(load_network(weights)), weights, device, compiled=compiled)
    return DeviceNetwork(network, weights, **_how(device, batch, restorer, compiled=compiled))


def _placed(network: Network, weights: Weights, device: str, *, compiled: bool) -> nn.Module:
    placed = for_inference(network, device, compiled=compiled)
    return placed if weights.listening is None else Listener(weights.listening, placed).to(device).eval()


def _how(device: str, batch: int | None, restorer: Restorer | None, *, compiled: bool) -> dict[str, Any]:
    loaded = None if restorer is None else load_restorer(restorer, device)
    return {"device": device, "batch": batch, "restorer": loaded, "least": sys.maxsize if compiled else LEAST}


def _slice(pieces: Sequence[Tensor], start: int, stop: int) -> Tensor:
    """Samples start..stop of the pieces laid end to end; no copy where they lie in one piece."""
    found, at = [], 0
    for piece in pieces:
        if (low := max(start, at)) < (high := min(stop, at + len(piece))):
            found.append(piece[low - at : high - at])
        at += len(piece)
    return found[0] if len(found) == 1 else torch.cat(found)
