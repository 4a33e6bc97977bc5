"""The weights of a restoration network, and what they are: resolved and checked before any work, without torch.

A spec names them in one of two ways:

    demo:restore                        the checkpoint that this package ships
    s3://bucket/net.safetensors         any fsspec URL, with its sidecar at <url>.json
"""

from collections.abc import Sequence

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from vidproc.errors import WeightsError
from vidproc.models.sidecar import Checkpoint, check_licence, described, shipped_url
from vidproc.models.specs import RestorationSpec


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Restorer(Checkpoint):
    """One checkpoint of a network that takes noise out of frames: `restoration`."""

    restoration: RestorationSpec


def resolve_restorer(spec: str, *, allow_licences: Sequence[str] = ()) -> Restorer:
    """The restorer that `spec` names ("demo" is this package's own), its bytes already here and checked.

    Raises `WeightsError` when it cannot be had, was altered, does not fit its sidecar, is for clips (frames are
    restored one by one), or has a licence neither open nor allowed by `allow_licences`.
    """
    name = "demo:restore" if spec == "demo" else spec
    url = shipped_url(name) if name.startswith("demo:") else name
    restorer = described(url, Restorer, what="a restorer", or_use="demo")
    if restorer.restoration.dims != 2:
        raise WeightsError(f"restorer {spec} is for clips (dims=3), but frames are restored one by one: use dims=2")
    check_licence(spec, restorer.licence, allowed=allow_licences)
    return restorer
