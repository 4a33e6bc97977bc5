"""What people and things do: a video residual network on short clips fills `labels` with task "action"."""

from dataclasses import dataclass, replace
from typing import ClassVar

from vidproc.annotators.classify import Classifier
from vidproc.views import Clips


@dataclass(frozen=True, kw_only=True)
class Actions(Classifier):
    """`stride_s`: seconds from one clip's start to the next; None keeps what the weights' view says."""

    name: ClassVar[str] = "actions"
    default_weights: ClassVar[str] = "R3D_18_Weights.KINETICS400_V1"
    task: ClassVar[str] = "action"
    kind: ClassVar[type[Clips]] = Clips

    stride_s: float | None = None

    @property
    def view(self) -> Clips:
        view = self.weights.view
        assert isinstance(view, Clips)  # checked when made
        return view if self.stride_s is None else replace(view, stride_s=self.stride_s)
