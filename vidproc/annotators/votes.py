"""Which samples have a say in what a whole video shows, and how what they say adds up. numpy alone.

What is black says nothing, and what stands still says it once: of frames that are all the same the first has a vote, a
clip in which nothing moves has none. Nor has what holds a frame that the decoder calls corrupt. So a stretch that is
dark, frozen, damaged, or could not be decoded at all (then the nearest frame stands in for it) outvotes nothing.
Annotators judge by the pixels that they look at anyway, not by the table `quality`: what a video's labels are must not
depend on who else looked at it, and when. If no sample of a whole video has a vote, all have one.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vidproc.annotators.quality import BLACK_SHARE, DARK, FROZEN_DIFFERENCE
from vidproc.media.samples import Samples

Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]

BEST = 3
"""Of labels of which several may hold, a video's score is the mean of so many samples' that score highest: what is
there for a few seconds is in the video, and a single sample may err."""

_SIDE = 56
"""Pixels along the short side, at the least, of what is compared: a fraction of what networks look at."""
_ABSENT = -1.0


@dataclass(frozen=True, eq=False)
class Said:
    """bool [samples] each. `known`: it was scored; `fit`: and shows something; `votes`: which is not said again."""

    known: Flags
    fit: Flags
    votes: Flags

    @classmethod
    def where(cls, known: Flags) -> "Said":
        return cls(known, known, known)


def said_by(samples: Samples) -> Said:
    """Of pictures or clips in RGB: by green, which is most of luma, on a grid of pixels.

    Black and frozen are what they are to `quality`. A segment's first frame follows on nothing, and votes.
    """
    data = samples.data
    whole = np.ones(len(data), bool) if samples.corrupt is None else ~samples.corrupt.any(axis=1)
    step = max(1, min(data.shape[-3:-1]) // _SIDE)
    seen = data[..., ::step, ::step, 1]
    bright = ~((seen < DARK).mean(axis=(-2, -1)) >= BLACK_SHARE)
    if seen.ndim == 3:
        fresh = np.ones(len(seen), bool)
        fresh[1:] = _changes(seen[:-1], seen[1:])
        fit = whole & bright
        return Said(np.ones_like(fit), fit, fit & fresh)
    fit = whole & bright.any(axis=1)
    if seen.shape[1] > 1:
        fit &= _changes(seen[:, :-1], seen[:, 1:]).any(axis=1)
    return Said(np.ones_like(fit), fit, fit)


def _changes(before: npt.NDArray[np.uint8], after: npt.NDArray[np.uint8]) -> Flags:
    less, more = np.minimum(before, after), np.maximum(before, after)
    changed: Flags = (more - less).mean(axis=(-2, -1)) > 255 * FROZEN_DIFFERENCE
    return changed


@dataclass(frozen=True)
class Tallies:
    """Scores of any number of samples as one row of numbers; rows add up to one of the same form, in any grouping.

    The last number counts the votes. 0: nobody had one, and the others speak for all samples; such a row counts only
    among its like. The rest are sums over samples [labels], or, if `several` labels may hold, each label's `BEST`
    scores [BEST × labels], falling, -1 where there are fewer.
    """

    labels: int
    several: bool

    def of(self, scores: Floats, votes: Flags) -> Floats:
        """The row of float32 [samples, labels]."""
        count = int(votes.sum())
        counted = scores[votes] if count else scores
        told = self._best(counted) if self.several else counted.sum(axis=0, dtype=np.float64)
        return np.append(told, count).astype(np.float32)

    def joined(self, rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """float64 [rows, numbers] → [numbers]."""
        if rows[:, -1].any():
            rows = rows[rows[:, -1] > 0]
        told = rows[:, :-1]
        told = self._best(told.reshape(-1, self.labels)) if self.several else told.sum(axis=0)
        return np.append(told, rows[:, -1].sum())

    def means(self, row: npt.NDArray[np.float64], samples: int) -> Floats:
        """float32 [labels], the scores of a whole video of so many samples, at least one."""
        if not self.several:
            return (row[:-1] / (row[-1] or samples)).astype(np.float32)
        best = row[:-1].reshape(BEST, self.labels)
        there = best != _ABSENT
        return np.asarray(np.where(there, best, 0).sum(axis=0) / there.sum(axis=0), np.float32)

    def _best(self, scores: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        padded = np.concatenate([scores, np.full((BEST, self.labels), _ABSENT)])
        return -np.sort(-padded, axis=0)[:BEST].reshape(-1)
