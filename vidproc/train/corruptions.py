"""What can be wrong with a sample, in five severities: how much accuracy a network keeps on it is its robustness.

A sample is what the decoder hands over: uint8 [frames, height, width, 3] (a picture is one frame) or sound, int16
[time, channels]; it comes back in its shape and type, the given one untouched. The same seed draws the same chances at
every severity, so that a higher one does the same thing harder.

Pictures suffer what Hendrycks and Dietterich 2019 (arXiv:1903.12261) made them suffer, with the values of their code
(github.com/hendrycks/robustness). They have two sets: for ImageNet-C (224 pixels) and milder ones for CIFAR-10-C (32
pixels), as a small picture holds little that is redundant. Between these sides values go over linearly with the
logarithm of the shorter side. What happens to time and sound has no such source: the values are our own.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

Kind = Literal["picture", "clip", "sound"]
SEVERITIES = (1, 2, 3, 4, 5)
Sample: TypeAlias = npt.NDArray[Any]
Pixels: TypeAlias = npt.NDArray[np.uint8]
Five: TypeAlias = tuple[float, float, float, float, float]

SMALL, LARGE = 32, 224
"""Shorter sides, in pixels, of the pictures that the two published sets of values are for."""

QUIETEST = 33.0
"""Root mean square (of 32768: -60 dBFS) that noise is measured against where a sound is quieter or silent."""


@dataclass(frozen=True)
class Corruption:
    """One thing that can be wrong. `kinds`: the samples that it can happen to."""

    kinds: tuple[Kind, ...]
    values: Callable[[Sample, int], float]
    act: Callable[[Sample, float, np.random.Generator], Sample]

    def __call__(self, sample: Sample, *, severity: int, seed: int) -> Sample:
        """The sample, corrupted. `seed`: a number of the example's own, at least 0. Raises ValueError for misuse."""
        if kind_of(sample) not in self.kinds:
            raise ValueError(f"a {kind_of(sample)} {sample.shape} cannot suffer this: it is for {self.kinds}")
        if severity not in SEVERITIES:
            raise ValueError(f"severity {severity} must be one of {SEVERITIES}")
        return self.act(sample, self.values(sample, severity), np.random.default_rng([seed, 0xC0]))


def kind_of(sample: Sample) -> Kind:
    """What a sample is. Raises ValueError for what no decoder hands over."""
    if sample.dtype == np.uint8 and sample.ndim == 4 and sample.shape[3] == 3 and sample.size:
        return "picture" if len(sample) == 1 else "clip"
    if sample.dtype == np.int16 and sample.ndim == 2 and sample.size:
        return "sound"
    raise ValueError(
        f"{sample.dtype} {sample.shape} is no sample: it must be uint8 [frames, height, width, 3] or int16 "
        "[time, channels], not empty"
    )


def corruptions_for(kind: Kind) -> dict[str, Corruption]:
    """Those of `CORRUPTIONS` that can happen to such samples."""
    return {name: one for name, one in CORRUPTIONS.items() if kind in one.kinds}


def _by_size(*, small: Five, large: Five) -> Callable[[Sample, int], float]:
    def values(pixels: Sample, severity: int) -> float:
        side = min(pixels.shape[1:3])
        along = float(np.clip(np.log(side / SMALL) / np.log(LARGE / SMALL), 0, 1))
        return small[severity - 1] * (1 - along) + large[severity - 1] * along

    return values


def _always(*five: float) -> Callable[[Sample, int], float]:
    return lambda _, severity: five[severity - 1]


# ---- pictures, and every frame of a clip


def _noise(pixels: Pixels, sigma: float, rng: np.random.Generator) -> Pixels:
    """`sigma`: of 0..1. Every frame has noise of its own."""
    noisy = np.empty_like(pixels)
    for frame, out in zip(pixels, noisy, strict=True):  # one by one: noise for a whole clip is big
        out[:] = _to_bytes(frame + rng.standard_normal(frame.shape, dtype=np.float32) * np.float32(sigma * 255))
    return noisy


def _blur(pixels: Pixels, sigma_px: float, _: np.random.Generator) -> Pixels:
    """Along one axis, then along the other: the same as both at once, with far fewer products."""
    import torch
    from torchvision.transforms.functional import gaussian_blur

    blurred = torch.tensor(pixels.transpose(0, 3, 1, 2), dtype=torch.float32)
    for axis, side in enumerate((pixels.shape[2], pixels.shape[1])):  # torchvision's kernels are (x, y)
        kernel = [1, 1]
        kernel[axis] = min(2 * int(np.ceil(4 * sigma_px)) + 1, 2 * side - 1)  # it reflects less than the picture
        blurred = gaussian_blur(blurred, kernel, [sigma_px] * 2)
    return _to_bytes(blurred.numpy().transpose(0, 2, 3, 1))


def _jpeg(pixels: Pixels, quality: float, _: np.random.Generator) -> Pixels:
    """`quality`: Pillow's, whose encoder the published values are for."""
    through = np.empty_like(pixels)
    for frame, out in zip(pixels, through, strict=True):
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "JPEG", quality=round(quality))
        out[:] = np.asarray(Image.open(file))
    return through


def _contrast(pixels: Pixels, share: float, _: np.random.Generator) -> Pixels:
    """`share`: what is left of every pixel's distance from its frame's mean colour."""
    mean = pixels.mean(axis=(1, 2), keepdims=True, dtype=np.float32)
    return _to_bytes((pixels - mean) * np.float32(share) + mean)


def _brightness(pixels: Pixels, more: float, _: np.random.Generator) -> Pixels:
    """`more`: added to every pixel's largest channel (V of HSV, of 0..1); the others keep their ratio to it."""
    value = pixels.max(axis=3, keepdims=True).astype(np.float32)
    raised = np.minimum(value + np.float32(more * 255), 255)
    return _to_bytes(np.where(value > 0, pixels * (raised / np.maximum(value, 1)), raised))


# ---- clips


def _dropped_frames(clip: Pixels, share: float, rng: np.random.Generator) -> Pixels:
    """Each frame but the first is lost with a chance of `share`; the last one that is there stands in for it."""
    kept = rng.random(len(clip)) >= share
    kept[0] = True
    return _picked(clip, np.maximum.accumulate(np.where(kept, np.arange(len(clip)), 0)))


def _frozen(clip: Pixels, share: float, rng: np.random.Generator) -> Pixels:
    """The picture stands still at the end, for `share` of the clip on average: a quarter less to a quarter more."""
    still = int(np.ceil(len(clip) * share * rng.uniform(0.75, 1.25)))
    return _picked(clip, np.minimum(np.arange(len(clip)), max(len(clip) - 1 - still, 0)))


def _jittered_rate(clip: Pixels, most: float, rng: np.random.Generator) -> Pixels:
    """Frames come up to `most` frames early or late, still in order: some twice, others not at all."""
    late = rng.uniform(-1, 1, len(clip)) * most
    return _picked(clip, np.sort(np.clip(np.rint(np.arange(len(clip)) + late), 0, len(clip) - 1).astype(np.int64)))


def _picked(clip: Pixels, index: npt.NDArray[np.int64]) -> Pixels:
    picked: Pixels = clip[index]
    return picked


# ---- sound


def _sound_noise(sound: Sample, snr_db: float, rng: np.random.Generator) -> Sample:
    """White noise, `snr_db` below the root mean square of the whole sound."""
    rms = max(float(np.sqrt(np.square(sound, dtype=np.float64).mean())), QUIETEST)
    noise = rng.standard_normal(sound.shape, dtype=np.float32) * np.float32(rms * 10 ** (-snr_db / 20))
    noisy: Sample = (sound + noise).round().clip(-32768, 32767).astype(np.int16)
    return noisy


def _no_sound(sound: Sample, share: float, rng: np.random.Generator) -> Sample:
    """One stretch of silence, for `share` of the time: at the highest severity all of it."""
    silent = int(np.ceil(len(sound) * share))
    start = int(rng.random() * (len(sound) - silent))
    quiet = sound.copy()
    quiet[start : start + silent] = 0
    return quiet


def _to_bytes(pixels: npt.NDArray[np.float32]) -> Pixels:
    return np.ascontiguousarray(pixels.round().clip(0, 255).astype(np.uint8))


_SEEN: tuple[Kind, ...] = ("picture", "clip")

CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": Corruption(
        _SEEN, _by_size(small=(0.04, 0.06, 0.08, 0.09, 0.10), large=(0.08, 0.12, 0.18, 0.26, 0.38)), _noise
    ),
    "gaussian_blur": Corruption(_SEEN, _by_size(small=(0.4, 0.6, 0.7, 0.8, 1), large=(1, 2, 3, 4, 6)), _blur),
    "jpeg": Corruption(_SEEN, _by_size(small=(80, 65, 58, 50, 40), large=(25, 18, 15, 10, 7)), _jpeg),
    "contrast": Corruption(
        _SEEN, _by_size(small=(0.75, 0.5, 0.4, 0.3, 0.15), large=(0.4, 0.3, 0.2, 0.1, 0.05)), _contrast
    ),
    "brightness": Corruption(
        _SEEN, _by_size(small=(0.05, 0.1, 0.15, 0.2, 0.3), large=(0.1, 0.2, 0.3, 0.4, 0.5)), _brightness
    ),
    "dropped_frames": Corruption(("clip",), _always(0.1, 0.2, 0.35, 0.5, 0.7), _dropped_frames),
    "frozen": Corruption(("clip",), _always(0.15, 0.3, 0.45, 0.6, 0.75), _frozen),
    "jittered_rate": Corruption(("clip",), _always(0.75, 1.25, 2, 3, 4.5), _jittered_rate),
    "sound_noise": Corruption(("sound",), _always(25, 20, 15, 10, 5), _sound_noise),
    "no_sound": Corruption(("sound",), _always(0.2, 0.4, 0.6, 0.8, 1), _no_sound),
}
"""Name → what it does: `CORRUPTIONS["jpeg"](sample, severity=3, seed=example)`."""
