"""Changes at random of one decoded sample, all its frames alike, drawn from the sample's own seed.

A picture or clip goes through torchvision's transforms.v2, sound through a few lines of numpy. The seed names the run,
the epoch and the sample, so that neither the number of workers nor a restart changes what is learnt.
"""

import re
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from vidproc.errors import UsageError

Sample = npt.NDArray[Any]

DIRECTIONS = frozenset({"left", "right", "clockwise", "counterclockwise", "anticlockwise"})
"""Words in a category's name that a mirror would make wrong."""


def _crop(height: int, width: int) -> Any:
    from torchvision.transforms import v2

    return v2.RandomResizedCrop((height, width), scale=(0.5, 1.0), ratio=(0.85, 1.18), antialias=True)


def _shift(height: int, width: int) -> Any:
    """Move by up to an eighth, what was outside is grey: the classic of CIFAR (He et al. 2016, section 4.2)."""
    from torchvision.transforms import v2

    return v2.RandomCrop((height, width), padding=max(1, height // 8), fill=114)


def _flip(_: int, __: int) -> Any:
    from torchvision.transforms import v2

    return v2.RandomHorizontalFlip()


def _colour(_: int, __: int) -> Any:
    from torchvision.transforms import v2

    return v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3)


def _blur(_: int, __: int) -> Any:
    from torchvision.transforms import v2

    return v2.RandomApply([v2.GaussianBlur(3, sigma=(0.1, 1.2))], p=0.5)


def _rotate(_: int, __: int, *, degrees: int = 12) -> Any:
    from torchvision.transforms import InterpolationMode, v2

    return v2.RandomRotation(degrees, interpolation=InterpolationMode.BILINEAR, fill=114)


PICTURES: dict[str, Callable[[int, int], Any]] = {
    "crop": _crop,
    "shift": _shift,
    "flip": _flip,
    "colour": _colour,
    "blur": _blur,
    "rotate": _rotate,
    "turn": partial(_rotate, degrees=180),
}
"""Name → what makes the transform for (height, width)."""

GEOMETRIC = frozenset({"crop", "shift", "flip", "rotate", "turn"})

BY_THE_TASK = {
    "single": frozenset({"hide"}),
    "multi": frozenset({"hide"}),
    "detection": frozenset({"flip", "crop"}),
}
"""Changes that a kind of training makes itself, batch by batch: they are of spectrograms, or move boxes too."""


def _roll(sound: Sample, rng: np.random.Generator) -> Sample:
    return np.roll(sound, int(rng.integers(len(sound))), axis=0)


def _gain(sound: Sample, rng: np.random.Generator) -> Sample:
    """Up to 6 dB louder or softer."""
    louder = sound.astype(np.float32) * np.float32(10 ** (rng.uniform(-6, 6) / 20))
    return louder.clip(-32768, 32767).astype(np.int16)


def _hiss(sound: Sample, rng: np.random.Generator) -> Sample:
    """White noise, 20 to 50 dB below the sound."""
    level = float(np.sqrt(np.mean(sound.astype(np.float32) ** 2)))
    noise = rng.normal(0, level * 10 ** (-rng.uniform(20, 50) / 20) + 1e-9, sound.shape)
    return (sound + noise).clip(-32768, 32767).astype(np.int16)


SOUNDS: dict[str, Callable[[Sample, np.random.Generator], Sample]] = {"roll": _roll, "gain": _gain, "hiss": _hiss}


def check_mirror(names: Collection[str], categories: Sequence[str]) -> None:
    """Raises `UsageError` where a mirror would make a category's name wrong."""
    directed = [name for name in categories if DIRECTIONS & set(re.split("[^a-z]+", name.lower()))]
    if "flip" in names and directed:
        raise UsageError(f"--augment flip would make {directed[:3]} wrong: leave it out")


class Augment:
    """The chosen changes in order. Raises `UsageError` on an unknown name, or a mirror where labels say directions."""

    def __init__(self, names: Sequence[str], *, sample_shape: tuple[int, ...], categories: Sequence[str] = ()) -> None:
        self.names = tuple(names)
        self._sound = len(sample_shape) == 2
        known = SOUNDS if self._sound else PICTURES
        if unknown := sorted(set(names) - set(known)):
            raise UsageError(f"--augment {', '.join(unknown)} is unknown here: use some of {', '.join(known)}")
        check_mirror(names, categories)
        self._size = sample_shape[-3:-1]
        self._transforms: list[Any] | None = None

    def __call__(self, sample: Sample, seed: Sequence[int]) -> Sample:
        """The sample changed: same shape and type."""
        if not self.names:
            return sample
        if self._sound:
            rng = np.random.default_rng(list(seed))
            for name in self.names:
                sample = SOUNDS[name](sample, rng)
            return sample
        return self._pictures(sample, seed)

    def _pictures(self, sample: Sample, seed: Sequence[int]) -> Sample:
        import torch
        from torchvision import tv_tensors

        if self._transforms is None:
            self._transforms = [PICTURES[name](*self._size) for name in self.names]
        frames = torch.from_numpy(np.ascontiguousarray(sample.reshape(-1, *sample.shape[-3:]))).movedim(-1, 1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence(list(seed)).generate_state(1)[0]))
            changed = tv_tensors.Video(frames)
            for transform in self._transforms:
                changed = transform(changed)
        result: Sample = changed.movedim(1, -1).reshape(sample.shape).numpy()
        return result
