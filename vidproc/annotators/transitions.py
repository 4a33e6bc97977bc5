"""The arithmetic of `shots`: where one picture gives way to another, at once (cut) or through black or white (fade).

A cut is judged by two distances of small pictures, of pixels and of colour histograms: how far apart the frames on its
two sides are, and how far compared with what else changes around them. What looks back at the picture from before is a
flash. Every judgement sees the same stretch around its frame, `CONTEXT` samples before and after, wherever a timeline
begins or ends: so it does not depend on how a video was cut into segments. numpy alone, integers up to the last step.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

CONTEXT = 32
"""Samples before and after a frame that may decide about it."""

_NEIGHBOURS = 12
"""Changes before and after that one is compared with: the second largest, as one more cut may lie among them."""
_TELLING, _MOTION = 4, np.array([0.03, 0.08])
"""Fewer changes in sight than this say little: then motion of these distances is taken for usual."""
_ACROSS = 5
"""Frames on either side that must all differ across a cut: a flash of fewer frames than this is none."""

_BINS, _BIN = 16, 17
"""Bins of a histogram, and their width: a value counts for the two nearest bins, so 255 falls into the last alone."""
_CELLS = 2
"""Histograms are of each quarter of the picture."""
_CHUNK = 64
"""Frames whose histograms are made at once: bounds memory."""

_FLOOR = np.array([0.004, 0.01])
"""Distances below these are noise: of pixels, of histograms."""
_FAR, _FARTHER = np.array([0.94, 1.56]), np.array([2.32, 2.96])
_INTERCEPT = 0.44
"""Logistic regression on log distances, and log distances compared: fitted by `tests/bench/shots.py --fit`."""
LEAST_SCORE = 0.5

_FLAT, _SEEN = 32, 64
"""Of 255: a frame with 98 % of its pixels within the first of black (of white) is flat; beyond the second it shows."""
_FLAT_SAMPLES = 5
"""A flat stretch is shorter by chance."""
_SETTLED = 2
_SAME = 0.03
"""Pictures before and after a flat stretch that differ by less are one shot that flickered."""

Pixels = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Transition:
    """Frame number `frame` is the first of a new shot. `sample`: which decided, no earlier than the frame's first.

    `score`, 0..1: of a cut, how likely it is one, by the regression; of a fade, how much of the range from black to
    white (or back) the picture rises by within `CONTEXT` samples.
    """

    frame: int
    sample: int
    kind: Literal["cut", "fade"]
    score: float


def transitions(pixels: Pixels, at: Ints, length: int) -> list[Transition]:
    """Cuts and fades of a timeline of frames, by their frame, at most one at each.

    `pixels`: uint8 [frames, height, width, 3], each frame once. `at`: int64 [frames], the sample at which each sets in,
    from 0. `length`: of the timeline, in samples.
    """
    if len(pixels) < 2:
        return []
    pictures = Pictures(pixels)
    timeline = Timeline(at, np.append(at[1:], length))
    found = {one.frame: one for one in _fades(pictures, timeline)}
    found |= {one.frame: one for one in _cuts(pictures, timeline)}
    return [found[frame] for frame in sorted(found)]


def is_flat(picture: Pixels) -> bool:
    """Whether uint8 [height, width, 3] is black or white all over."""
    luma = _luma_and_colour(picture[None])[..., 0]
    return bool(min(_levels(luma)[0], _levels(255 - luma)[0]) < _FLAT)


class Timeline:
    """When frames set in and end, in samples."""

    def __init__(self, at: Ints, end: Ints) -> None:
        self.at, self.end = at, end

    def seen(self, frames: Ints, around: Ints) -> npt.NDArray[np.bool_]:
        """Whether each of `frames` exists and shows within the context of those `around`."""
        inside = (frames >= 0) & (frames < len(self.at))
        held = frames.clip(0, len(self.at) - 1)
        middle = self.at[around]
        shown: npt.NDArray[np.bool_] = (self.end[held] > middle - CONTEXT) & (self.at[held] < middle + CONTEXT)
        return inside & shown

    def context(self, frame: int) -> tuple[int, int]:
        """The first frame that shows in the context of `frame`, and the one after the last."""
        middle = self.at[frame]
        first = int(np.searchsorted(self.end, middle - CONTEXT, side="right"))
        return first, int(np.searchsorted(self.at, middle + CONTEXT))


class Pictures:
    """Frames and their distances. `pixels`: uint8 [frames, height, width, 3], as luma and two differences of colour."""

    def __init__(self, rgb: Pixels) -> None:
        self.pixels = pixels = _luma_and_colour(rgb)
        self._histograms = np.concatenate([_histograms(pixels[i : i + _CHUNK]) for i in range(0, len(pixels), _CHUNK)])

    def distances(self, one: Ints, other: Ints) -> Floats:
        """Mean difference of pixels, and half the summed difference of histograms, each 0..1: float64 [pairs, 2]."""
        size = self.pixels[0].size
        found = np.empty((len(one), 2))
        for i in range(0, len(one), _CHUNK):
            a, b = one[i : i + _CHUNK], other[i : i + _CHUNK]
            pixels = np.abs(self.pixels[a].astype(np.int16) - self.pixels[b]).sum(axis=(1, 2, 3), dtype=np.int64)
            colours = np.abs(self._histograms[a] - self._histograms[b]).sum(axis=1, dtype=np.int64)
            found[i : i + _CHUNK] = np.stack([pixels / (255 * size), colours / (2 * _BIN * size)], axis=1)
        return found


def _histograms(pixels: Pixels) -> npt.NDArray[np.int32]:
    """int32 [frames, cells × channels × bins]: of each cell's channels; a pixel counts for `_BIN`."""
    frames, height, width, channels = pixels.shape
    row, column = np.arange(height) * _CELLS // height, np.arange(width) * _CELLS // width
    cell = (row[:, None] * _CELLS + column)[..., None] * channels + np.arange(channels)
    bins = _CELLS**2 * channels * _BINS
    place = np.arange(frames)[:, None, None, None] * bins + cell * _BINS + pixels // _BIN
    upper = (pixels % _BIN).ravel()
    counts = np.bincount(place.ravel(), weights=_BIN - upper.astype(np.int64), minlength=frames * bins)
    counts += np.bincount((place.ravel() + (upper > 0)), weights=upper, minlength=frames * bins)
    return counts.reshape(frames, bins).astype(np.int32)


def _cuts(pictures: Pictures, timeline: Timeline) -> Iterator[Transition]:
    frames = np.arange(1, len(pictures.pixels))
    change = pictures.distances(frames - 1, frames)
    usual = usual_change(change, frames, timeline)
    candidates = np.flatnonzero(_scores(change, usual) >= LEAST_SCORE)
    apart = least_across(pictures, frames[candidates], timeline)
    for i, score in zip(candidates, _scores(apart, usual[candidates]), strict=True):
        if score >= LEAST_SCORE:
            frame = int(frames[i])
            yield Transition(frame, int(timeline.at[frame]), "cut", float(score))


def usual_change(change: Floats, frames: Ints, timeline: Timeline) -> Floats:
    """Of the changes in sight around each but its own, the second largest: float64 [frames, 2]."""
    around, counts = np.zeros((2 * _NEIGHBOURS, *change.shape)), np.zeros(len(frames), np.int64)
    for row, step in enumerate(step for step in range(-_NEIGHBOURS, _NEIGHBOURS + 1) if step):
        other = frames + step
        seen = timeline.seen(other - 1, frames) & timeline.seen(other, frames)
        around[row, seen] = change[other[seen] - 1]
        counts += seen
    second: Floats = np.partition(around, -2, axis=0)[-2]
    second[counts < _TELLING] = np.maximum(second[counts < _TELLING], _MOTION)
    return second


def least_across(pictures: Pictures, frames: Ints, timeline: Timeline) -> Floats:
    """The least distances between frames before and frames after: float64 [frames, 2]."""
    least = np.ones((len(frames), 2))
    for before in range(1, _ACROSS + 1):
        for after in range(_ACROSS):
            one, other = frames - before, frames + after
            seen = timeline.seen(one, frames) & timeline.seen(other, frames)
            least[seen] = np.minimum(least[seen], pictures.distances(one[seen], other[seen]))
    return least


def _scores(apart: Floats, usual: Floats) -> Floats:
    logits = compared(apart, usual) @ np.concatenate([_FAR, _FARTHER]) + _INTERCEPT
    return np.asarray(1 / (1 + np.exp(-logits)))


def compared(apart: Floats, usual: Floats) -> Floats:
    """What a cut is judged by: log distances, then these less those of the usual change: float64 [frames, 4]."""
    far = np.log(apart + _FLOOR)
    return np.concatenate([far, far - np.log(usual + _FLOOR)], axis=1)


def _fades(pictures: Pictures, timeline: Timeline) -> Iterator[Transition]:
    luma = pictures.pixels[..., 0]
    for levels in (_levels(luma), _levels(255 - luma)):
        flat = levels < _FLAT
        for end in np.flatnonzero(flat[:-1] & ~flat[1:]) + 1:
            found = _fade(pictures, timeline, levels, int(end))
            if found is not None:
                yield found


def _fade(pictures: Pictures, timeline: Timeline, levels: Ints, end: int) -> Transition | None:
    """The fade out of a flat stretch before frame `end`, if it is gradual and leads to another picture."""
    first, stop = timeline.context(end)
    stretch = end
    while stretch > first and levels[stretch - 1] < _FLAT:
        stretch -= 1
    risen = int(levels[end:stop].max())
    if timeline.at[end] - timeline.at[stretch] < _FLAT_SAMPLES or risen < _SEEN:
        return None
    floor = int(levels[stretch:end].min())
    begin = end
    while begin - 1 > stretch and levels[begin - 1] > floor + _SETTLED:
        begin -= 1
    if levels[begin] - floor > (risen - floor) // 2:
        return None
    if stretch > first and _is_same(pictures, first, stop - 1):
        return None
    return Transition(begin, int(timeline.at[end]), "fade", (risen - floor) / 255)


def _is_same(pictures: Pictures, one: int, other: int) -> bool:
    return bool(pictures.distances(np.array([one]), np.array([other]))[0, 0] < _SAME)


def _luma_and_colour(rgb: Pixels) -> Pixels:
    """Y', Cb and Cr of BT.601 at full range, uint8: brightness is one channel of three here, in RGB it is in all."""
    red, green, blue = np.moveaxis(rgb.astype(np.int32), -1, 0)
    luma = (77 * red + 150 * green + 29 * blue) >> 8
    colours = [128 + ((blue - luma) * 144 >> 8), 128 + ((red - luma) * 183 >> 8)]
    return np.stack([luma, *colours], axis=-1).clip(0, 255).astype(np.uint8)


def _levels(luma: Pixels) -> Ints:
    """What 98 % of each frame's pixels do not exceed: int64 [frames], from uint8 [frames, height, width]."""
    flat = luma.reshape(len(luma), -1)
    rank = flat.shape[1] * 98 // 100
    return np.partition(flat, rank, axis=1)[:, rank].astype(np.int64)
