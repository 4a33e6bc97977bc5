"""Weights: a checkpoint with all that its use needs. Resolved, fetched and checked before any work, without torch.

A spec names them in one of three ways:

    demo:actions, demo:objects          the checkpoints that this package ships
    ResNet50_Weights.IMAGENET1K_V2      one of torchvision's enum entries
    s3://bucket/net.safetensors         any fsspec URL (also .pt, .pth, .th), with its sidecar at <url>.json
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from vidproc.errors import WeightsError
from vidproc.models.fetch import checked_bytes, read_text
from vidproc.models.specs import ResidualSpec, spec_of
from vidproc.views import Audio, Clips, Frames, view_from_json

DEMO = Path(__file__).parent / "demo"
OPEN_LICENCES = ("Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC-BY-4.0", "CC0-1.0", "MIT")
"""Licences that need no word from the user; any other must be allowed by its name."""

_ENUM_NAME = re.compile(r"[A-Za-z0-9_]+_Weights\.[A-Za-z0-9_]+")
_ENDINGS = (".safetensors", ".pt", ".pth", ".th")


def _view(value: Any) -> Any:
    return view_from_json(value) if isinstance(value, Mapping) else value


def _text_first(value: Any) -> Any:
    if isinstance(value, str):
        raise ValueError("must be a list")
    return value


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Weights:
    """One checkpoint. All but `url` is what the sidecar holds, in JSON under the same names.

    `architecture`, `options`: a name of `models.specs.SPECS` and what to change in it.
    `view`: what to ask the decoder for; `mean`, `std`: per channel, of pixels in 0..1.
    `multi_label`: scores are sigmoids (several labels may hold) instead of a softmax.
    `protocol`: on what data and how the accuracy in it was measured. `sha256`: of the checkpoint's bytes.
    """

    url: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    architecture: str
    options: dict[str, Any] = Field(default_factory=dict)
    categories: Annotated[tuple[str, ...], BeforeValidator(_text_first)] = Field(min_length=1)
    view: Annotated[Frames | Clips | Audio, BeforeValidator(_view)]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    multi_label: bool = False
    licence: str = Field(min_length=1)
    provenance: str = Field(min_length=1)
    protocol: str = ""

    @model_validator(mode="after")
    def _fits(self) -> "Weights":
        spec = self.spec
        if not isinstance(self.view, {2: Frames, 3: Clips}[spec.dims]):
            raise ValueError(f"{self.architecture} needs a {'frames' if spec.dims == 2 else 'clips'} view")
        if self.view.picture.colour != "rgb":  # type: ignore[union-attr]
            raise ValueError("the view's colour must be rgb")
        if min(self.std) <= 0:
            raise ValueError("std must be positive")
        return self

    @property
    def spec(self) -> ResidualSpec:
        return spec_of(self.architecture, self.options)


def resolve_weights(spec: str, *, allow_licences: Sequence[str] = ()) -> Weights:
    """The weights that `spec` names, their bytes already here and checked against their SHA-256.

    Raises `WeightsError` when they cannot be had, were altered, do not fit their sidecar, or have a licence
    neither open nor allowed by `allow_licences`.
    """
    if spec.startswith("demo"):
        weights = _demo(spec)
    elif _ENUM_NAME.fullmatch(spec):
        from vidproc.models.published import entry_fields

        weights = Weights(**entry_fields(spec))
    else:
        weights = _with_sidecar(spec)
    if weights.licence not in (*OPEN_LICENCES, *allow_licences):
        raise WeightsError(
            f"weights {spec} have licence {weights.licence!r}, and only {', '.join(OPEN_LICENCES)} need no asking: "
            f"if you may use them, allow {weights.licence!r} by name"
        )
    return weights


def _demo(spec: str) -> Weights:
    names = sorted(path.stem for path in DEMO.glob("*.safetensors"))
    if spec.removeprefix("demo:") not in names:
        raise WeightsError(f"weights {spec!r} do not exist: use one of {[f'demo:{name}' for name in names]}")
    return _with_sidecar(str(DEMO / f"{spec.removeprefix('demo:')}.safetensors"))


def _with_sidecar(url: str) -> Weights:
    if not url.endswith(_ENDINGS):
        raise WeightsError(
            f"weights {url!r} are no checkpoint: use demo, a torchvision name such as ResNet50_Weights.IMAGENET1K_V2, "
            f"or a URL ending in {', '.join(_ENDINGS)} with a sidecar beside it"
        )
    text = read_text(f"{url}.json")
    try:
        fields = json.loads(text)
        if not isinstance(fields, dict) or "url" in fields:
            raise ValueError("it must be a JSON object without a url")
        weights = Weights(url=url, **fields)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'it'}: {e['msg']}" for e in error.errors())
        raise WeightsError(f"sidecar {url}.json does not describe weights: {problems}") from error
    except (ValueError, TypeError) as error:
        raise WeightsError(f"sidecar {url}.json does not describe weights: {error}") from error
    checked_bytes(weights.url, sha256=weights.sha256)
    return weights
