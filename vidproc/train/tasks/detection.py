"""Training a detector: boxes and their labels in pictures. The network is `vidproc/models/detection.py`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vidproc.models.detection_spec import DetectionSpec
from vidproc.models.detector import Detector
from vidproc.train.boxes import changed
from vidproc.train.tasks.base import Batch

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Detection:
    """A label is {"boxes": float [k, 4], "labels": [k]}: x1, y1, x2, y2 in 0..1 of what the network sees, which
    `train.boxes.in_view` makes of a whole picture's, and of `categories` the names or indices; k may be 0. Boxes
    without an area are left out.

    `flip`, `crop`: changes at random that move boxes with their pictures, of each batch: `boxes.changed`.
    """

    categories: tuple[str, ...]
    spec: DetectionSpec
    flip: bool = False
    crop: bool = False

    def network(self) -> nn.Module:
        from vidproc.models.detection import build_detector  # takes torchvision's three seconds

        return build_detector(self.spec, classes=len(self.categories))

    def truth(self, labels: Sequence[Any], device: str) -> list[dict[str, Tensor]]:
        """One a picture, as `models.detection.Boxes`. Raises ValueError on a label that is no category."""
        return [
            {"boxes": torch.from_numpy(boxes).to(device), "labels": torch.from_numpy(chosen).to(device)}
            for boxes, chosen in map(self._arrays, labels)
        ]

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        inputs, truth = batch.inputs, batch.truth
        if self.flip or self.crop:
            inputs, truth = changed(inputs, truth, flip=self.flip, crop=self.crop)
        losses: dict[str, Tensor] = network(inputs, truth)
        return torch.stack(list(losses.values())).sum()

    @torch.no_grad()
    def outputs(self, network: nn.Module, batch: Batch) -> list[Array]:
        """One [k, 6] a picture, the best score first: x1, y1, x2, y2 in 0..1, score, index of the category."""
        network.eval()
        return [
            torch.cat([one["boxes"], one["scores"][:, None], one["labels"][:, None]], dim=1).float().cpu().numpy()
            for one in network(batch.inputs)
        ]

    def measures(self, outputs: Sequence[Array], labels: Sequence[Any]) -> Mapping[str, float]:
        """Mean average precision as COCO defines it, by pycocotools: of IoU 0.50 to 0.95, and of 0.50 alone. Both are
        -1 where there is no box at all."""
        from torchmetrics.detection import MeanAveragePrecision

        metric = MeanAveragePrecision(sync_on_compute=False)  # else it waits for ranks that do not measure
        metric.warn_on_many_detections = False  # COCO counts the best hundred
        metric.update([_found(output) for output in outputs], self.truth(labels, "cpu"))
        result = metric.compute()
        return {"map": float(result["map"]), "map_50": float(result["map_50"])}

    def state(self, network: nn.Module) -> dict[str, Tensor]:
        return {name.removeprefix("module."): value for name, value in network.state_dict().items()}

    def described(self, **common: Any) -> Detector:
        return Detector(detection=self.spec, categories=self.categories, **common)

    def _arrays(self, label: Mapping[str, Any]) -> tuple[Array, npt.NDArray[np.int64]]:
        boxes = np.asarray(label["boxes"], np.float32).reshape(-1, 4).clip(0, 1)
        known: dict[Any, int] = {name: i for i, name in enumerate(self.categories)}
        known |= {i: i for i in range(len(self.categories))}
        if unknown := [one for one in label["labels"] if one not in known]:
            raise ValueError(f"labels {unknown} are none of the categories {self.categories}, nor their indices")
        chosen = np.array([known[one] for one in label["labels"]], np.int64)
        kept = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        return boxes[kept], chosen[kept]


def _found(output: Array) -> dict[str, Tensor]:
    rows = torch.from_numpy(output)
    return {"boxes": rows[:, :4], "scores": rows[:, 4], "labels": rows[:, 5].long()}
