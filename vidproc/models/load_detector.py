"""From a detector's description to its network, which finds boxes as `detection.build_detector` says it does."""

from typing import Any

import torch
from torch import Tensor, nn

from vidproc.errors import WeightsError
from vidproc.models.detection import AsTheyCome, Boxes, build_detector, in_float32, in_shares
from vidproc.models.detector import Detector, PublishedDetector
from vidproc.models.load import load_saved

LAST = ("cls_logits", "bbox_pred", "bbox_reg", "cls_score", "kps_score_lowres")
"""torchvision's names of the layers whose numbers are scores, boxes and places of points."""


class Published(nn.Module):
    """A network of torchvision's, called as ours are: pictures as they come, boxes as shares, categories from 0."""

    outputs: Tensor

    def __init__(self, network: nn.Module, outputs: tuple[int, ...]) -> None:
        super().__init__()
        self.network = network
        self.network.transform = AsTheyCome()
        self.register_buffer("outputs", torch.tensor(outputs), persistent=False)
        for module in last_layers(network):
            module.register_forward_hook(in_float32)

    def forward(self, images: Tensor) -> list[Boxes]:
        return [self._named(in_shares(found, images)) for found in self.network(images)]

    def _named(self, found: Boxes) -> Boxes:
        labels = self.outputs[found["labels"]]
        kept = labels >= 0
        return {"boxes": found["boxes"][kept], "scores": found["scores"][kept], "labels": labels[kept]}


def last_layers(network: nn.Module) -> list[nn.Module]:
    """The layers whose numbers become scores, boxes and points."""
    return [module for name, module in network.named_modules() if name.rpartition(".")[2] in LAST]


def load_detector(detector: Detector | PublishedDetector, device: str) -> nn.Module:
    """The network on `device`, ready for inference. Raises `WeightsError` when names or shapes do not fit.

    Batch norms are not folded: torchvision takes the backbone apart, and its own are frozen to begin with.
    """
    saved = load_saved(detector)
    try:
        network = _built(detector)
        inner = network.network if isinstance(network, Published) else network
        inner.load_state_dict(saved, strict=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"weights {detector.url} do not fit {detector.architecture} with {len(detector.categories)} categories: "
            f"{error}"
        ) from error
    return network.eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)


def _built(detector: Detector | PublishedDetector) -> nn.Module:
    if isinstance(detector, Detector):
        return build_detector(detector.detection, classes=len(detector.categories))
    from torchvision.models import get_model

    made: Any = get_model(detector.architecture, weights=None, weights_backbone=None, num_classes=len(detector.outputs))
    return Published(made, detector.outputs)
