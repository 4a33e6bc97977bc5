"""The weights of a detector, and what they are. Needs no torch; `detection.py` builds the network."""

from typing import Annotated

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from vidproc.models.detection_spec import DetectionSpec
from vidproc.models.sidecar import Checkpoint, as_view
from vidproc.views import Frames


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Detector(Checkpoint):
    """One checkpoint of a network that finds boxes. `view`: what it looks at; `mean`, `std`: of pixels in 0..1."""

    detection: DetectionSpec
    categories: tuple[str, ...] = Field(min_length=1)
    view: Annotated[Frames, BeforeValidator(as_view)]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
