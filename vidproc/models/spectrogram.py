"""From sound to what audio networks look at: log-mel spectrograms and MFCCs, on the network's device.

Mel scale and filters as Slaney's Auditory Toolbox has them (1998; linear to 1,000 Hz, then logarithmic, each filter of
equal area), framing as librosa's: frames are centred, and the ends mirrored.
"""

import math

import torch
from torch import Tensor, nn

from vidproc.models.spectrum import Spectrum

_HZ_PER_MEL, _BREAK_HZ = 200 / 3, 1000.0
_BREAK_MEL, _LOG_STEP = _BREAK_HZ / _HZ_PER_MEL, math.log(6.4) / 27


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
        with torch.autocast(sound.device.type, enabled=False):  # half a decibel is lost in bfloat16
            return self._features(sound)

    def _features(self, sound: Tensor) -> Tensor:
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
