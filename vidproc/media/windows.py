"""What an audio network hears at once: pieces of equal length, cut out of sound. For labelling and for training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vidproc.media.samples import Samples
from vidproc.views import MICROSECONDS, Audio

Sound = npt.NDArray[Any]
"""int16 [time, channels]."""

Times = npt.NDArray[np.int64]

LEAST_STRIDE_US = 20_000
"""A closer grid than this would say nothing more, and fill memory."""
_LEAST_SOUND_US = 100_000
"""Of shorter sound nothing is said."""


def piece_length(view: Audio, length_us: int) -> int:
    """Sound samples of a piece that is so long."""
    return length_us * view.rate // MICROSECONDS


def pieces(sound: Sound, view: Audio, *, offsets_us: Sequence[int], length_us: int) -> list[Sound]:
    """Pieces [time, channels] that start so long after the sound's start; what lies behind its end is silence.

    They share the sound's memory where they lie inside it.
    """
    length = piece_length(view, length_us)
    first = [offset * view.rate // MICROSECONDS for offset in offsets_us]
    return [_padded(sound[start : start + length], length) for start in first]


def _padded(piece: Sound, length: int) -> Sound:
    missing = length - len(piece)
    return np.pad(piece, [(0, missing), (0, 0)]) if missing else piece


@dataclass(frozen=True, eq=False)
class Windows:
    """One segment's sound as a network hears it: for each step of a grid the window around it.

    `start_us`, `end_us`: int64 [steps], the half-open stretches that are spoken for; they neither overlap nor leave a
    gap where windows are at least as long as steps. `level_db`: float64 [steps], how loud each is: its mean power
    relative to a full-scale square wave, -inf of digital silence. `window`: int64 [steps], which of `offsets_us` is
    each one's window: at a segment's borders several share one.
    """

    start_us: Times
    end_us: Times
    level_db: npt.NDArray[np.float64]
    window: Times
    offsets_us: Times


def windows(sound: Samples, view: Audio, *, length_us: int, stride_us: int) -> Windows:
    """The windows of one segment.

    The grid starts with the segment: as segments are 30 s long, steps that divide 30 s lie on one grid over the whole
    video. Each window stands around the middle of its step, and is moved just so far that it lies inside the segment,
    which has no sound but its own. Sound that is shorter than a window fills its beginning, and silence the rest, as in
    training. A step that is longer than the window is spoken for only where it was heard.
    """
    start_us, end_us = int(sound.start_us[0]), int(sound.end_us[0])
    duration_us = end_us - start_us
    steps = -(-duration_us // stride_us) if duration_us >= _LEAST_SOUND_US else 0
    low = np.arange(steps, dtype=np.int64) * stride_us
    high = np.minimum(low + stride_us, duration_us)
    first = ((low + high - length_us) // 2).clip(0, max(0, duration_us - length_us))
    low, high = np.maximum(low, first), np.minimum(high, first + length_us)
    offsets_us, window = np.unique(first, return_inverse=True)
    return Windows(start_us + low, start_us + high, _levels(sound.data, view, low, high), window, offsets_us)


def _levels(sound: Sound, view: Audio, low_us: Times, high_us: Times) -> npt.NDArray[np.float64]:
    """Mean power of each stretch in decibels below full scale."""
    power = np.square(sound, dtype=np.int64).sum(axis=1)
    sums = np.concatenate([[0], np.cumsum(power)])  # whole numbers: the same in any order
    first, last = ((us * view.rate // MICROSECONDS).clip(0, len(power)) for us in (low_us, high_us))
    means = (sums[last] - sums[first]) / np.maximum(last - first, 1) / view.channels
    with np.errstate(divide="ignore"):
        levels: npt.NDArray[np.float64] = 10 * np.log10(means / 32_768**2)
    return levels
