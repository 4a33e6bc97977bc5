"""What is in the picture: an image residual network on single frames fills `labels` with task "object"."""

from dataclasses import dataclass, replace
from typing import ClassVar

from vidproc.annotators.classify import Classifier
from vidproc.views import Frames


@dataclass(frozen=True, kw_only=True)
class Objects(Classifier):
    """`fps`: frames looked at in a second; None keeps what the weights' view says."""

    name: ClassVar[str] = "objects"
    default_weights: ClassVar[str] = "ResNet50_Weights.IMAGENET1K_V2"
    task: ClassVar[str] = "object"
    kind: ClassVar[type[Frames]] = Frames

    fps: float | None = None

    @property
    def view(self) -> Frames:
        view = self.weights.view
        assert isinstance(view, Frames)  # checked when made
        return view if self.fps is None else replace(view, fps=self.fps)
