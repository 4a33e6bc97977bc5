"""A checkpoint's sidecar: read, held against the checkpoint's bytes, its licence allowed. Needs no torch.

What `weights.Weights`, `restorer.Restorer`, `detector.Detector` and `embedder.Embedder` share.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from vidproc.errors import WeightsError
from vidproc.models.fetch import checked_bytes, read_text
from vidproc.views import view_from_json, view_to_json

DEMO = Path(__file__).parent / "demo"
OPEN_LICENCES = ("Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC-BY-4.0", "CC0-1.0", "MIT")
"""Licences that need no word from the user; any other must be allowed by its name."""

_ENDINGS = (".safetensors", ".pt", ".pth", ".th", ".pyth", ".ckpt", ".pth.tar")


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Checkpoint:
    """What every sidecar says; all but `url` under these names.

    `sha256`: of the checkpoint's bytes. `protocol`: on what data and how the figures in it were measured, which
    `metrics` has as numbers. `origin`: hashes of the data and the configuration, the code's version.
    """

    url: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    licence: str = Field(min_length=1)
    provenance: str = Field(min_length=1)
    protocol: str = ""
    metrics: dict[str, float] = Field(default_factory=dict)
    origin: dict[str, str] = Field(default_factory=dict)


def as_view(value: Any) -> Any:
    """A view from its JSON form, for fields that hold one."""
    return view_from_json(value) if isinstance(value, Mapping) else value


def sidecar_text(checkpoint: Checkpoint) -> str:
    """The sidecar's JSON, from which `described` makes the checkpoint's description again."""
    fields = asdict(checkpoint)
    if (view := getattr(checkpoint, "view", None)) is not None:
        fields["view"] = json.loads(view_to_json(view))
    del fields["url"]
    return json.dumps(fields, indent=1) + "\n"


Described = TypeVar("Described", bound=Checkpoint)


def shipped_url(spec: str) -> str:
    """Where the checkpoint `demo:NAME` is. Raises `WeightsError` when the package ships no such one."""
    names = sorted(path.stem for path in DEMO.glob("*.safetensors"))
    if spec.removeprefix("demo:") not in names:
        raise WeightsError(f"weights {spec!r} do not exist: use one of {[f'demo:{name}' for name in names]}")
    return str(DEMO / f"{spec.removeprefix('demo:')}.safetensors")


def described(url: str, kind: Callable[..., Described], *, what: str, or_use: str) -> Described:
    """The checkpoint at `url` as its sidecar describes it, its bytes already here and checked.

    `what` it should describe and what one may `or_use` are told where it raises `WeightsError`.
    """
    if not url.endswith(_ENDINGS):
        raise WeightsError(
            f"weights {url!r} are no checkpoint: use {or_use}, or a URL ending in {', '.join(_ENDINGS)} with a "
            "sidecar beside it"
        )
    text = read_text(f"{url}.json")
    try:
        fields = json.loads(text)
        if not isinstance(fields, dict) or "url" in fields:
            raise ValueError("it must be a JSON object without a url")
        found = kind(url=url, **fields)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'it'}: {e['msg']}" for e in error.errors())
        raise WeightsError(f"sidecar {url}.json does not describe {what}: {problems}") from error
    except (ValueError, TypeError) as error:
        raise WeightsError(f"sidecar {url}.json does not describe {what}: {error}") from error
    checked_bytes(found.url, sha256=found.sha256)
    return found


def check_licence(spec: str, licence: str, *, allowed: Sequence[str]) -> None:
    """Raises `WeightsError` unless the licence is open or one of `allowed`."""
    if licence not in (*OPEN_LICENCES, *allowed):
        raise WeightsError(
            f"weights {spec} have licence {licence!r}, and only {', '.join(OPEN_LICENCES)} need no asking: "
            f"if you may use them, allow {licence!r} by name"
        )
