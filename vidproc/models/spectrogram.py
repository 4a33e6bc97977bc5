"""From sound to what audio networks look at: log-mel spectrograms and MFCCs, on the network's device.

Mel scale and filters as Slaney's Auditory Toolbox has them (1998; linear to 1,000 Hz, then logarithmic, each filter of
equal area), framing as librosa's: frames are centred, and the ends mirrored.
"""

import math
from typing import Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

_HZ_PER_MEL, _BREAK_HZ = 200 / 3, 1000.0
_BREAK_MEL, _LOG_STEP = _BREAK_HZ / _HZ_PER_MEL, math.log(6.4) / 27


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


class Spectrogram(nn.Module):
    """float32 [batch, samples] in -1..1 → float32 [batch, 1, 1 + samples // hop, mels]."""

    window: Tensor
    filters: Tensor
    cosines: Tensor

    def __init__(self, spectrum: Spectrum) -> None:
        super().__init__()
        self.spectrum = spectrum
        self.register_buffer("window", torch.hann_window(spectrum.window), persistent=False)
        self.register_buffer("filters", mel_filters(spectrum), persistent=False)
        self.register_buffer("cosines", cosine_transform(spectrum.mels), persistent=False)

    def forward(self, sound: Tensor) -> Tensor:
        spectrum = self.spectrum
        waves = torch.stft(
            sound, spectrum.window, spectrum.hop, window=self.window, pad_mode="reflect", return_complex=True
        )
        power = waves.abs().square().transpose(1, 2) @ self.filters.T
        if spectrum.scale == "decibel":
            return 10 * torch.log10(power.clamp(min=1e-10))[:, None]
        # silence stays 0, as honk has it: the logarithm is taken where there is something
        return (torch.where(power > 0, power.log(), power) @ self.cosines.T)[:, None]


def _mel(hz: Tensor) -> Tensor:
    return torch.where(
        hz < _BREAK_HZ, hz / _HZ_PER_MEL, _BREAK_MEL + torch.log(hz.clamp(min=1) / _BREAK_HZ) / _LOG_STEP
    )


def _hz(mel: Tensor) -> Tensor:
    return torch.where(mel < _BREAK_MEL, mel * _HZ_PER_MEL, _BREAK_HZ * torch.exp(_LOG_STEP * (mel - _BREAK_MEL)))


def mel_filters(spectrum: Spectrum) -> Tensor:
    """Triangles of area 1 over the frequencies of a transform: float32 [mels, window // 2 + 1]."""
    ends = _mel(torch.tensor([spectrum.low_hz, spectrum.high_hz], dtype=torch.float64))
    edges = _hz(torch.linspace(float(ends[0]), float(ends[1]), spectrum.mels + 2, dtype=torch.float64))
    at = torch.linspace(0, spectrum.rate / 2, spectrum.window // 2 + 1, dtype=torch.float64)
    low, middle, high = (edges[i : i + spectrum.mels, None] for i in range(3))
    triangles = torch.minimum((at - low) / (middle - low), (high - at) / (high - middle)).clamp(min=0)
    return (triangles * 2 / (high - low)).float()


def cosine_transform(size: int) -> Tensor:
    """The orthonormal discrete cosine transform of the second kind: float32 [coefficients, size], both `size`."""
    angles = torch.arange(size, dtype=torch.float64)[:, None] * (torch.arange(size, dtype=torch.float64) + 0.5)
    basis = torch.cos(angles * math.pi / size) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis.float()
