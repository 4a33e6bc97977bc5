"""Where it is: an image residual network that knows places, on single frames, fills `labels` with task "scene"."""

from dataclasses import dataclass
from typing import ClassVar

from vidproc.annotators.classify import FrameClassifier


@dataclass(frozen=True, kw_only=True)
class Scenes(FrameClassifier):
    name: ClassVar[str] = "scenes"
    suggestion: ClassVar[str] = (
        "scenes=places365:resnet18 (or resnet50, densenet161: 365 places, licence CC-BY-4.0, fetched from CSAIL) or "
        "scenes=URL of a checkpoint with a sidecar beside it, as `python -m vidproc.models.describe` writes one and "
        "jobs/train.py leaves one"
    )
    task: ClassVar[str] = "scene"
