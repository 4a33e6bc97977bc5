"""The weights of a network that makes embeddings, such as of faces, and what they are. Needs no torch."""

from typing import Annotated

from pydantic import BeforeValidator, ConfigDict, Field, field_validator
from pydantic.dataclasses import dataclass

from vidproc.models.checkpoints import LAYOUTS
from vidproc.models.sidecar import Checkpoint, as_view
from vidproc.models.specs import ResidualSpec
from vidproc.views import Frames


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Embedder(Checkpoint):
    """One checkpoint whose network makes `size` numbers of a picture. `mean`, `std`: of pixels in 0..1.

    `layout`: whose names the parameters have: one of `models.checkpoints.LAYOUTS`.
    """

    embedding: ResidualSpec
    size: int = Field(ge=2, le=8192)
    layout: str = "torchvision"
    view: Annotated[Frames, BeforeValidator(as_view)]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @field_validator("layout")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in LAYOUTS:
            raise ValueError(f"layout {value!r} is unknown: use one of {sorted(LAYOUTS)}")
        return value
