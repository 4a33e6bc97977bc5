"""What is in the picture: an image residual network on single frames fills `labels` with task "object"."""

from dataclasses import dataclass
from typing import ClassVar

from vidproc.annotators.classify import FrameClassifier


@dataclass(frozen=True, kw_only=True)
class Objects(FrameClassifier):
    name: ClassVar[str] = "objects"
    default_weights: ClassVar[str] = "ResNet50_Weights.IMAGENET1K_V2"
    task: ClassVar[str] = "object"
