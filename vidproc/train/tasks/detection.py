"""Training a detector: boxes, their labels and perhaps keypoints in pictures. The network: `models/detection.py`."""

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vidproc.errors import UsageError
from vidproc.models.detection_spec import DetectionSpec
from vidproc.models.detector import Detector
from vidproc.train.boxes import changed, known
from vidproc.train.tasks.base import Batch

Array = npt.NDArray[np.float32]

_OKS_SIGMA = 0.025
"""How far a point may be off, as a share of its thing's size: COCO's for eyes, of all kinds the strictest."""
_MOST_THINGS = 20
"""Of a picture that COCO counts where it measures keypoints."""


@dataclass(frozen=True, kw_only=True)
class Detection:
    """A label is {"boxes": float [k, 4], "labels": [k]}: x1, y1, x2, y2 in 0..1 of what the network sees, which
    `train.boxes.in_view` makes of a whole picture's, and of `categories` the names or indices; k may be 0. Boxes
    without an area are left out. For a network of keypoints also {"keypoints": [k, points, 3]}, likewise, in the order
    of `keypoint_names`, or of the spec where those are left out.

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
        """One a picture, as `models.detection.Boxes`. Raises ValueError on a label that is no category, and
        `UsageError` on one without the keypoints that the network is to find."""
        return [
            {name: torch.from_numpy(values).to(device) for name, values in self._arrays(label).items()}
            for label in labels
        ]

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        inputs, truth = batch.inputs, batch.truth
        if self.flip or self.crop:
            mirrored = self.spec.keypoints.mirrored if self.spec.keypoints else ()
            inputs, truth = changed(inputs, truth, flip=self.flip, crop=self.crop, mirrored=mirrored)
        losses: dict[str, Tensor] = network(inputs, truth)
        return torch.stack(list(losses.values())).sum()

    @torch.no_grad()
    def outputs(self, network: nn.Module, batch: Batch) -> list[Array]:
        """One [k, 6] a picture, the best score first: x1, y1, x2, y2 in 0..1, score, index of the category. For a
        network of keypoints [k, 6 + 2 * points]: then x, y of each."""
        network.eval()
        return [torch.cat(_columns(one), dim=1).float().cpu().numpy() for one in network(batch.inputs)]

    def measures(self, outputs: Sequence[Array], labels: Sequence[Any]) -> Mapping[str, float]:
        """Mean average precision as COCO defines it, by pycocotools: of IoU 0.50 to 0.95, and of 0.50 alone. Both are
        -1 where there is no box at all. For a network of keypoints the same of their similarity (OKS) comes first."""
        from torchmetrics.detection import MeanAveragePrecision

        metric = MeanAveragePrecision(sync_on_compute=False)  # else it waits for ranks that do not measure
        metric.warn_on_many_detections = False  # COCO counts the best hundred
        truth = self.truth(labels, "cpu")
        metric.update([_found(output) for output in outputs], truth)
        result = metric.compute()
        of_boxes = {"map": float(result["map"]), "map_50": float(result["map_50"])}
        return of_boxes if self.spec.keypoints is None else {**_keypoint_precision(outputs, truth), **of_boxes}

    def state(self, network: nn.Module) -> dict[str, Tensor]:
        return {name.removeprefix("module."): value for name, value in network.state_dict().items()}

    def described(self, **common: Any) -> Detector:
        return Detector(detection=self.spec, categories=self.categories, **common)

    def _arrays(self, label: Mapping[str, Any]) -> dict[str, npt.NDArray[Any]]:
        boxes = np.asarray(label["boxes"], np.float32).reshape(-1, 4).clip(0, 1)
        known: dict[Any, int] = {name: i for i, name in enumerate(self.categories)}
        known |= {i: i for i in range(len(self.categories))}
        if unknown := [one for one in label["labels"] if one not in known]:
            raise ValueError(f"labels {unknown} are none of the categories {self.categories}, nor their indices")
        chosen = np.array([known[one] for one in label["labels"]], np.int64)
        kept = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        found = {"boxes": boxes[kept], "labels": chosen[kept]}
        return found if self.spec.keypoints is None else {**found, "keypoints": self._points(label, len(boxes))[kept]}

    def _points(self, label: Mapping[str, Any], count: int) -> Array:
        """The label's keypoints [count, points, 3] in the spec's order."""
        assert self.spec.keypoints is not None
        wanted = self.spec.keypoints.names
        if not count:
            return np.zeros((0, len(wanted), 3), np.float32)
        names = tuple(label.get("keypoint_names") or wanted)
        points = np.asarray(label.get("keypoints", ()), np.float32)
        if points.shape != (count, len(names), 3) or not set(wanted) <= set(names):
            raise UsageError(
                f"a keypoint_rcnn is trained on boxes with the keypoints {wanted}, and a picture of {count} has "
                f"{points.shape} of {names}: give COCO annotations with `keypoints`, and name them alike in their "
                "category and in --detector"
            )
        return known(torch.from_numpy(points[:, [names.index(name) for name in wanted]])).numpy()


def _found(output: Array) -> dict[str, Tensor]:
    rows = torch.from_numpy(output)
    return {"boxes": rows[:, :4], "scores": rows[:, 4], "labels": rows[:, 5].long()}


def _columns(found: Mapping[str, Tensor]) -> list[Tensor]:
    columns = [found["boxes"], found["scores"][:, None], found["labels"][:, None]]
    return [*columns, found["keypoints"][..., :2].flatten(1)] if "keypoints" in found else columns


def _keypoint_precision(outputs: Sequence[Array], truth: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """COCO's mean average precision of keypoints, over all sizes of things; -1 where no point is known.

    Distances are those of a square picture: another view counts as if it were stretched to one.
    """
    from pycocotools.coco import COCO  # type: ignore[import-untyped]
    from pycocotools.cocoeval import COCOeval  # type: ignore[import-untyped]

    true = [
        _thing(image, box.numpy(), points.numpy(), label)
        for image, one in enumerate(truth)
        for box, points, label in zip(one["boxes"], one["keypoints"], one["labels"], strict=True)
    ]
    said = [
        _thing(image, row[:4], np.insert(row[6:].reshape(-1, 2), 2, 1, axis=1), row[5], score=row[4])
        for image, rows in enumerate(outputs)
        for row in rows
    ]
    if not true:
        return {"keypoint_map": -1.0, "keypoint_map_50": -1.0}
    with redirect_stdout(io.StringIO()):
        sides = [COCO(), COCO()]
        for coco, things in zip(sides, (true, said), strict=True):
            coco.dataset = {
                "images": [{"id": image} for image in range(len(truth))],
                "categories": [{"id": number} for number in {one["category_id"] for one in true}],
                "annotations": [{**one, "id": number} for number, one in enumerate(things, start=1)],
            }
            coco.createIndex()
        judged = COCOeval(*sides, iouType="keypoints")
        judged.params.kpt_oks_sigmas = np.full(len(true[0]["keypoints"]) // 3, _OKS_SIGMA)
        judged.params.areaRng, judged.params.areaRngLbl = judged.params.areaRng[:1], judged.params.areaRngLbl[:1]
        judged.params.maxDets = [_MOST_THINGS]
        judged.evaluate()
        judged.accumulate()
    precision = judged.eval["precision"]  # [similarities from 0.5 on, recalls, categories, 1, 1]; -1: nothing is true
    means = [float(some[some > -1].mean()) if (some > -1).any() else -1.0 for some in (precision, precision[0])]
    return {"keypoint_map": means[0], "keypoint_map_50": means[1]}


def _thing(image: int, box: Array, points: Array, label: Any, *, score: Any = 1) -> dict[str, Any]:
    """What COCO tells of it. `box` [4] and `points` [points, 3] in shares of the picture."""
    x1, y1, x2, y2 = box.tolist()
    return {
        "image_id": image,
        "category_id": int(label),
        "score": float(score),
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": (x2 - x1) * (y2 - y1),
        "iscrowd": 0,
        "keypoints": points.flatten().tolist(),
        "num_keypoints": int((points[:, 2] > 0).sum()),
    }
