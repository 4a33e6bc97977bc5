"""The weights of a network that makes embeddings, such as of faces, and what they are. Needs no torch."""

from typing import Annotated

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from vidproc.models.sidecar import Checkpoint, as_view
from vidproc.models.specs import ResidualSpec
from vidproc.views import Frames


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Embedder(Checkpoint):
    """One checkpoint whose network makes `size` numbers of a picture. `mean`, `std`: of pixels in 0..1."""

    embedding: ResidualSpec
    size: int = Field(ge=2, le=8192)
    view: Annotated[Frames, BeforeValidator(as_view)]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
