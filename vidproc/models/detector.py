"""The weights of a detector, and what they are: resolved and checked before any work, without torch where possible.

A spec names them in one of three ways:

    demo:detections                                  the checkpoint that this package ships
    FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1       one of torchvision's Faster R-CNN or RetinaNet entries
    s3://bucket/net.safetensors                      any fsspec URL, with its sidecar at <url>.json
"""

import re
from collections.abc import Sequence
from typing import Annotated

from pydantic import BeforeValidator, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from vidproc.models.detection_spec import DetectionSpec
from vidproc.models.sidecar import Checkpoint, as_view, check_licence, described, shipped_url
from vidproc.views import Frames

_ENUM_NAME = re.compile(r"[A-Za-z0-9_]+_Weights\.[A-Za-z0-9_]+")


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class BoxFinder(Checkpoint):
    """What every detector's checkpoint says. `view`: what it looks at; `mean`, `std`: of pixels in 0..1."""

    categories: tuple[str, ...] = Field(min_length=1)
    view: Annotated[Frames, BeforeValidator(as_view)]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @model_validator(mode="after")
    def _sees_colours(self) -> "BoxFinder":
        if self.view.picture.colour != "rgb":
            raise ValueError("the view's colour must be rgb")
        if min(self.std) <= 0:
            raise ValueError("std must be positive")
        return self


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Detector(BoxFinder):
    """One checkpoint of a network that finds boxes; `detection.py` builds the network."""

    detection: DetectionSpec

    @property
    def architecture(self) -> str:
        return self.detection.kind


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class PublishedDetector(BoxFinder):
    """One of torchvision's own. `architecture`: the name of its builder.

    `outputs`: of each number that the network may say, the index in `categories`; -1 for the background, and for
    numbers that stand for nothing.
    """

    architecture: str
    outputs: tuple[int, ...]


def resolve_detector(spec: str, *, allow_licences: Sequence[str] = ()) -> Detector | PublishedDetector:
    """The detector that `spec` names ("demo" is this package's own), its bytes already here and checked.

    Raises `WeightsError` when it cannot be had, was altered, does not fit its sidecar, is no detector, or has a licence
    neither open nor allowed by `allow_licences`.
    """
    found: Detector | PublishedDetector
    if _ENUM_NAME.fullmatch(spec):
        from vidproc.models.published_detectors import entry_fields

        found = PublishedDetector(**entry_fields(spec))
    else:
        name = "demo:detections" if spec == "demo" else spec
        url = shipped_url(name) if name.startswith("demo:") else name
        named = "demo, a torchvision name such as FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1"
        found = described(url, Detector, what="a detector", or_use=named)
    check_licence(spec, found.licence, allowed=allow_licences)
    return found
