"""The weights of a network that judges picture, sound and text together, and what they are. Needs no torch."""

from collections.abc import Sequence

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from vidproc.errors import WeightsError
from vidproc.models.sidecar import Checkpoint, check_licence, described
from vidproc.models.weights import Weights, resolve_weights
from vidproc.views import Audio

STREAMS = ("picture", "sound", "text")
"""The last one is left out where a network was trained without it."""

PATTERNS = ("picture+sound", "picture", "sound")
"""What there can be of a moment: text alone makes none. `FusionSpec.patterns` has them with text, too."""

TEXT_MEASURES = ("shown", "covered", "pace", "lines")
"""The text stream's embedding: see `annotators.fusion.text_of`."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class FusionSpec:
    """A small residual network over embeddings: `models.fusion.FusionNetwork`.

    `sizes`: numbers of each stream's embedding, in the order of `STREAMS`; two where text does not count, else the
    third is that of `TEXT_MEASURES`. `width`: of its layers; `depth`: blocks.
    """

    sizes: tuple[int, int] | tuple[int, int, int]
    width: int = Field(default=64, ge=2, le=8192)
    depth: int = Field(default=2, ge=1, le=1000)
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _measured(self) -> "FusionSpec":
        if self.sizes[2:] not in ((), (len(TEXT_MEASURES),)):
            raise ValueError(f"sizes {self.sizes}: the third must be {len(TEXT_MEASURES)}, of {TEXT_MEASURES}")
        return self

    @property
    def text(self) -> bool:
        """Whether it takes text."""
        return len(self.sizes) == len(STREAMS)

    @property
    def patterns(self) -> tuple[str, ...]:
        """`PATTERNS`, then the same with text, if it takes that."""
        return PATTERNS + tuple(f"{name}+text" for name in PATTERNS if self.text)


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Base:
    """A network whose embeddings are fused: `spec` as `--weights` names it, and the SHA-256 of its checkpoint."""

    spec: str = Field(min_length=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class FusionWeights(Checkpoint):
    """One checkpoint of a fusing network. `temperatures`: of each of the spec's patterns, as `Weights.temperature`."""

    fusion: FusionSpec
    picture: Base
    sound: Base
    categories: tuple[str, ...] = Field(min_length=1)
    temperatures: dict[str, float]

    @model_validator(mode="after")
    def _fits(self) -> "FusionWeights":
        patterns = self.fusion.patterns
        if set(self.temperatures) != set(patterns) or min(self.temperatures.values()) <= 0:
            raise ValueError(f"temperatures must name {patterns}, each above 0")
        return self


def resolve_fusion(spec: str, *, allow_licences: Sequence[str] = ()) -> tuple[FusionWeights, Weights, Weights]:
    """The fusing network's weights, and those of the two networks it is made for, all here and checked.

    Raises `WeightsError` where one cannot be had, was altered, is not the one it was trained with, or is not free.
    """
    fused = described(spec, FusionWeights, what="a fusion", or_use="what python -m vidproc.train.fusion left")
    check_licence(spec, fused.licence, allowed=allow_licences)
    picture, sound = (_base(spec, base, allow_licences) for base in (fused.picture, fused.sound))
    check_bases(picture, sound)
    return fused, picture, sound


def check_bases(picture: Weights, sound: Weights) -> None:
    """Raises `WeightsError` unless the one looks and the other listens."""
    if isinstance(picture.view, Audio):
        raise WeightsError(f"weights {picture.url} listen to sound: as picture choose weights for clips or frames")
    if not isinstance(sound.view, Audio) or sound.listening is None:
        raise WeightsError(f"weights {sound.url} hear nothing: as sound choose weights whose sidecar has `listening`")


def _base(spec: str, base: Base, allow_licences: Sequence[str]) -> Weights:
    weights = resolve_weights(base.spec, allow_licences=allow_licences)
    if weights.sha256 != base.sha256:
        raise WeightsError(
            f"fusion {spec} was trained on embeddings of {base.spec} with SHA-256 {base.sha256[:8]}…, but that is now "
            f"{weights.sha256[:8]}…: put the old checkpoint back, or train the fusion again"
        )
    return weights
