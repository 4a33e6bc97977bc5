"""How sound becomes a picture, as values that a sidecar holds. Needs no torch: `spectrogram.py` does the arithmetic."""

from typing import Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Spectrum:
    """How sound becomes a picture: `window` and `hop` in samples, `mels` bins from `low_hz` to `high_hz`.

    `scale`: "decibel" is 10 log10 of the power; "cepstrum" its natural logarithm, turned by a discrete cosine
    transform into as many coefficients (MFCC).
    """

    rate: int = Field(gt=0)
    window: int = Field(gt=0)
    hop: int = Field(gt=0)
    mels: int = Field(gt=0)
    low_hz: float = Field(ge=0)
    high_hz: float = Field(gt=0)
    scale: Literal["decibel", "cepstrum"] = "decibel"

    def __post_init__(self) -> None:
        if not self.low_hz < self.high_hz <= self.rate / 2:
            raise ValueError(f"high_hz {self.high_hz} must be above low_hz {self.low_hz}, at most {self.rate / 2}")


PANNS = Spectrum(rate=32_000, window=1024, hop=320, mels=64, low_hz=50, high_hz=14_000)
"""Kong et al. 2020, arXiv:1912.10211, section III-A."""
HONK = Spectrum(rate=16_000, window=480, hop=160, mels=40, low_hz=20, high_hz=4_000, scale="cepstrum")
"""Tang and Lin 2018, arXiv:1710.10361, section 3.1."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Listening:
    """What an audio network hears at once: `seconds` of sound, a new stretch every `stride_s`, as this spectrum."""

    spectrum: Spectrum
    seconds: float = Field(gt=0, le=60)
    stride_s: float = Field(gt=0, le=3600)

    @property
    def sound_us(self) -> int:
        return round(self.seconds * 1_000_000)
