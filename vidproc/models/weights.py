"""Weights: a checkpoint with all that its use needs. Resolved, fetched and checked before any work, without torch.

A spec names them in one of four ways:

    demo:actions, demo:objects          the checkpoints that this package ships
    ResNet50_Weights.IMAGENET1K_V2      one of torchvision's enum entries
    places365:resnet18, panns:resnet38  what others published, as `named.py` lists it
    s3://bucket/net.safetensors         any fsspec URL (also .pt, .pth, .th), with its sidecar at <url>.json
"""

import re
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from vidproc.models.checkpoints import LAYOUTS
from vidproc.models.named import is_named, named_fields
from vidproc.models.sidecar import Checkpoint, as_view, check_licence, described, shipped_url
from vidproc.models.specs import DenseSpec, ResidualSpec, SlowFastSpec, Spec
from vidproc.models.spectrum import Listening
from vidproc.models.taxonomy import Taxonomy, lineage
from vidproc.models.zoo import spec_of
from vidproc.views import Audio, Clips, Frames

_ENUM_NAME = re.compile(r"[A-Za-z0-9_]+_Weights\.[A-Za-z0-9_]+")


def _text_first(value: Any) -> Any:
    if isinstance(value, str):
        raise ValueError("must be a list")
    return value


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Weights(Checkpoint):
    """One checkpoint of a network that scores labels.

    `architecture`, `options`: a name of `models.zoo.ZOO` and what to change in it.
    `layout`: whose names the parameters have: one of `models.checkpoints.LAYOUTS`.
    `view`: what to ask the decoder for; `mean`, `std`: per channel, of pixels in 0..1.
    `multi_label`: scores are sigmoids (several labels may hold) instead of a softmax.
    `listening`: of an audio network, how much it hears at once, and how.
    `temperature`: what scores before softmax or sigmoid are divided by (Guo et al. 2017, arXiv:1706.04599).
    `thresholds`: per category the least score at which it is said; None: never. () leaves that to the annotator.
    `taxonomy`: which labels are kinds of which.
    """

    architecture: str
    options: dict[str, Any] = Field(default_factory=dict)
    layout: str = "torchvision"
    categories: Annotated[tuple[str, ...], BeforeValidator(_text_first)] = Field(min_length=1)
    view: Annotated[Frames | Clips | Audio, BeforeValidator(as_view)]
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    multi_label: bool = False
    listening: Listening | None = None
    temperature: float = Field(default=1.0, gt=0)
    thresholds: tuple[float | None, ...] = ()
    taxonomy: Taxonomy | None = None

    @model_validator(mode="after")
    def _fits(self) -> "Weights":
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout {self.layout!r} is unknown: use one of {sorted(LAYOUTS)}")
        kind = view_kind(self.spec)
        if not isinstance(self.view, kind):
            raise ValueError(f"{self.architecture} needs a {kind.__name__.lower()} view")
        if self.thresholds and len(self.thresholds) != len(self.categories):
            raise ValueError(f"{len(self.thresholds)} thresholds must be as many as categories, {len(self.categories)}")
        lineage(self.taxonomy, self.categories)
        if isinstance(self.view, Audio):
            if self.listening is not None and self.listening.spectrum.rate != self.view.rate:
                raise ValueError(f"the spectrum's rate {self.listening.spectrum.rate} must be the view's")
            return self
        self._fits_pictures(self.view)
        return self

    def _fits_pictures(self, view: Frames | Clips) -> None:
        spec = self.spec
        if isinstance(spec, ResidualSpec) and spec.stem.in_channels != 3:
            raise ValueError(f"the network takes {spec.stem.in_channels} channels, and pictures have 3")
        if isinstance(spec, SlowFastSpec) and isinstance(view, Clips) and view.num_frames % spec.alpha:
            raise ValueError(f"clips of {view.num_frames} frames must be a multiple of alpha, {spec.alpha}")
        if view.picture.colour != "rgb":
            raise ValueError("the view's colour must be rgb")
        if min(self.std) <= 0:
            raise ValueError("std must be positive")

    @property
    def spec(self) -> Spec:
        return spec_of(self.architecture, self.options)


def view_kind(spec: Spec) -> type[Frames] | type[Clips] | type[Audio]:
    """What a network looks at, or listens to."""
    if isinstance(spec, DenseSpec | SlowFastSpec):
        return Clips if spec.dims == 3 else Frames
    if spec.dims == 1 or spec.stem.kind in ("audio", "speech"):
        return Audio
    return Clips if spec.dims == 3 else Frames


def resolve_weights(spec: str, *, allow_licences: Sequence[str] = ()) -> Weights:
    """The weights that `spec` names, their bytes already here and checked against their SHA-256.

    Raises `WeightsError` when they cannot be had, were altered, do not fit their sidecar, or have a licence
    neither open nor allowed by `allow_licences`.
    """
    if _ENUM_NAME.fullmatch(spec):
        from vidproc.models.published import entry_fields

        weights = Weights(**entry_fields(spec))
    elif is_named(spec):
        weights = Weights(**named_fields(spec))
    else:
        url = shipped_url(spec) if spec == "demo" or spec.startswith("demo:") else spec
        named = "demo, a torchvision name such as ResNet50_Weights.IMAGENET1K_V2"
        weights = described(url, Weights, what="weights", or_use=named)
    check_licence(spec, weights.licence, allowed=allow_licences)
    if weights.taxonomy is not None:
        check_licence(f"{spec}'s taxonomy", weights.taxonomy.licence, allowed=allow_licences)
    return weights
