"""From a `DetectionSpec` to a network that finds boxes: torchvision's detectors on our residual networks.

Their modules have torchvision's names, so that its published detectors load. Theirs are the losses and the choice of
boxes too. What differs is what goes in and comes out: pictures come as a batch, normalised and in their final size;
boxes are shares of the picture; labels count from 0, and none is the background. Importing this takes torchvision's
three seconds.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import MultiScaleRoIAlign, clip_boxes_to_image, remove_small_boxes
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from vidproc.models.detection_spec import DetectionSpec
from vidproc.models.layers import norm
from vidproc.models.residual import ResidualNetwork

Boxes = dict[str, Tensor]
"""`boxes` float32 [k, 4]: x1, y1, x2, y2 in 0..1 of the picture; `labels` int64 [k]; of results also `scores` [k].

Where there are keypoints, also `keypoints` float32 [k, points, 3]: x and y in 0..1 of the picture, and COCO's
visibility (0: not known; all that are found have 1); of results also `keypoints_scores` [k, points]: their logits.
"""

_MULTIPLE = 32
"""Pictures are padded to it, right and below, as torchvision does: maps then lie exactly over the picture."""
_LEAST_SIDE = 0.01
"""Pixels: true boxes with a shorter side are left out, as torchvision leaves such results out. Their logarithm is not
finite."""


def build_detector(spec: DetectionSpec, *, classes: int) -> nn.Module:
    """The detector with fresh weights, drawn from torch's current seed.

    It is called as `network(images, truth)` with float [batch, 3, height, width] and one `Boxes` a picture, zero boxes
    allowed, and returns in training the losses by name, scalars; in eval mode, where `truth` may be left out, one
    `Boxes` a picture, the best score first.
    """
    return NETWORKS[spec.kind](spec, classes)


class _RetinaNet(RetinaNet):  # type: ignore[misc]
    def __init__(self, spec: DetectionSpec, classes: int) -> None:
        anchors = _anchors(spec)
        count = anchors.num_anchors_per_location()[0]
        head = RetinaNetHead(spec.fpn_channels, count, classes, norm_layer=_norm_layer(spec))
        super().__init__(
            _backbone(spec),
            classes,
            anchor_generator=anchors,
            head=head,
            score_thresh=spec.min_score,
            detections_per_img=spec.max_boxes,
        )
        self.transform = AsTheyCome()
        for last in (head.classification_head.cls_logits, head.regression_head.bbox_reg):
            last.register_forward_hook(in_float32)

    def forward(self, images: Tensor, truth: Sequence[Boxes] | None = None) -> Any:
        found = super().forward(images, in_pixels(truth, images))
        return found if self.training else [in_shares(one, images) for one in found]


class _FasterRCNN(FasterRCNN):  # type: ignore[misc]
    def __init__(self, spec: DetectionSpec, classes: int) -> None:
        levels = [str(level) for level in range(len(spec.pyramid_stages))]
        second = spec.second
        pool = MultiScaleRoIAlign(featmap_names=levels, output_size=7, sampling_ratio=2)
        super().__init__(
            _backbone(spec),
            rpn_anchor_generator=_anchors(spec),
            box_roi_pool=pool,
            box_head=TwoMLPHead(spec.fpn_channels * 7 * 7, second.width),
            box_predictor=FastRCNNPredictor(second.width, 1 + classes),
            rpn_post_nms_top_n_train=min(2000, 4 * second.proposals),
            rpn_post_nms_top_n_test=min(1000, 2 * second.proposals),
            box_batch_size_per_image=second.proposals,
            box_score_thresh=spec.min_score,
            box_detections_per_img=spec.max_boxes,
        )
        self.transform = AsTheyCome()
        first, last = self.rpn.head, self.roi_heads.box_predictor
        for module in (first.cls_logits, first.bbox_pred, last.cls_score, last.bbox_pred):
            module.register_forward_hook(in_float32)

    def forward(self, images: Tensor, truth: Sequence[Boxes] | None = None) -> Any:
        """torchvision's label 0 is the background, ours the first class."""
        wanted = in_pixels(truth, images)
        if wanted is not None:
            wanted = [{**one, "labels": one["labels"] + 1} for one in wanted]
        found = super().forward(images, wanted)
        if self.training:
            return found
        return [{**in_shares(one, images), "labels": one["labels"] - 1} for one in found]


class _KeypointRCNN(_FasterRCNN):
    """torchvision's, which has no head narrower than 512, is this: Faster R-CNN and three parts more."""

    def __init__(self, spec: DetectionSpec, classes: int) -> None:
        super().__init__(spec, classes)
        assert spec.keypoints is not None  # checked when made
        names, widths = spec.keypoints.names, spec.keypoints.widths
        levels = [str(level) for level in range(len(spec.pyramid_stages))]
        self.roi_heads.keypoint_roi_pool = MultiScaleRoIAlign(featmap_names=levels, output_size=14, sampling_ratio=2)
        self.roi_heads.keypoint_head = KeypointRCNNHeads(spec.fpn_channels, widths)
        self.roi_heads.keypoint_predictor = KeypointRCNNPredictor(widths[-1], len(names))
        self.roi_heads.keypoint_predictor.kps_score_lowres.register_forward_hook(in_float32)


NETWORKS: Mapping[str, Callable[[DetectionSpec, int], nn.Module]] = {
    "retinanet": _RetinaNet,
    "fasterrcnn": _FasterRCNN,
    "keypoint_rcnn": _KeypointRCNN,
}
"""A spec's `kind` → its network for so many classes."""


# ---- parts


def _backbone(spec: DetectionSpec) -> nn.Module:
    """The residual network without its head, under the pyramid. Maps are named "0", "1", … and "pool" or "p6", "p7"."""
    stages, width = spec.pyramid_stages, spec.fpn_channels
    widths = [spec.backbone.out_width(stage - 1) for stage in stages]
    made = BackboneWithFPN(
        ResidualNetwork(spec.backbone, 1),  # the head is dropped
        {f"layer{stage}": str(level) for level, stage in enumerate(stages)},
        widths,
        width,
        extra_blocks=LastLevelP6P7(width, width) if spec.extra_levels == 2 else LastLevelMaxPool(),
        norm_layer=_norm_layer(spec),
    )
    if not spec.extra_levels:
        made.fpn.extra_blocks = None
    return made  # type: ignore[no-any-return]


def _norm_layer(spec: DetectionSpec) -> Callable[[int], nn.Module] | None:
    return None if spec.norm is None else partial(norm, spec.norm, 2)


def _anchors(spec: DetectionSpec) -> AnchorGenerator:
    return AnchorGenerator(spec.anchor_sizes, (spec.anchor_ratios,) * len(spec.anchor_sizes))


class AsTheyCome(nn.Module):
    """In place of torchvision's transform, which normalises and resizes: it pads, and boxes stay in their pixels."""

    def forward(self, images: Tensor, targets: list[Boxes] | None = None) -> tuple[ImageList, list[Boxes] | None]:
        height, width = images.shape[-2:]
        padded = F.pad(images, (0, -width % _MULTIPLE, 0, -height % _MULTIPLE))
        return ImageList(padded, [(height, width)] * len(images)), targets

    def postprocess(self, result: list[Boxes], *_sizes: Any) -> list[Boxes]:
        return result


def in_pixels(truth: Sequence[Boxes] | None, images: Tensor) -> list[Boxes] | None:
    """What torchvision wants: boxes in pixels, within the picture, all with an area; their points in pixels too."""
    if truth is None:
        return None
    height, width = images.shape[-2:]
    result = []
    for one in truth:
        boxes = one["boxes"].float()
        boxes = clip_boxes_to_image(boxes * boxes.new_tensor([width, height, width, height]), (height, width))
        kept = remove_small_boxes(boxes, _LEAST_SIDE)
        result.append({"boxes": boxes[kept], "labels": one["labels"][kept]})
        if "keypoints" in one:
            points = one["keypoints"][kept].float()
            result[-1]["keypoints"] = points * points.new_tensor([width, height, 1])
    return result


def in_shares(found: Boxes, images: Tensor) -> Boxes:
    height, width = images.shape[-2:]
    shares = {**found, "boxes": found["boxes"] / found["boxes"].new_tensor([width, height, width, height])}
    if "keypoints" in found:
        shares["keypoints"] = found["keypoints"] / found["keypoints"].new_tensor([width, height, 1])
    return shares


def in_float32(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    """Scores and offsets, whatever autocast makes of the convolutions: bfloat16 has 8 bits for a place in a picture."""
    return output.float()
