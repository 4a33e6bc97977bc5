"""How well embeddings tell whether two pictures show one identity: over all pairs, in bounded memory."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

_BINS = 1 << 16
"""Of cosines from -1 to 1: thresholds are exact to 3e-5."""
_AT_ONCE = 1 << 22
"""Pairs, each of which takes about 30 bytes."""


def true_accepts(embeddings: Array, labels: Sequence[Any], *, fars: Sequence[float]) -> tuple[dict[float, float], int]:
    """True accept rate at each false accept rate, and how many impostor pairs there are, of which at most that share
    is accepted. A rate below one in so many pairs means that none is.

    `embeddings`: [pictures, size], of length 1. Raises ValueError where no two pictures show the same identity, where
    all do, or where a number is not finite.
    """
    same, other = np.zeros(_BINS, np.int64), np.zeros(_BINS, np.int64)
    for first, cosines, equal in _rows_of_pairs(embeddings, labels):
        later = np.arange(cosines.shape[1]) > first + np.arange(len(cosines))[:, None]  # each pair once
        bins = ((cosines + 1) * (_BINS / 2)).astype(np.int64).clip(0, _BINS - 1)
        same += np.bincount(bins[later & equal], minlength=_BINS)
        other += np.bincount(bins[later & ~equal], minlength=_BINS)
    genuine, impostors = int(same.sum()), int(other.sum())
    if not genuine or not impostors:
        raise ValueError(f"{genuine} pairs of one identity and {impostors} of two: there must be some of each")
    accepted, falsely = (np.append(counts[::-1].cumsum()[::-1], 0) for counts in (same, other))
    lowest = {far: int(np.argmax(falsely <= far * impostors)) for far in fars}
    return {far: float(accepted[start] / genuine) for far, start in lowest.items()}, impostors


def rank_one(embeddings: Array, labels: Sequence[Any]) -> float:
    """Share of pictures whose nearest other one shows the same identity, of those that have such another."""
    right = asked = 0
    for first, cosines, equal in _rows_of_pairs(embeddings, labels):
        rows = np.arange(len(cosines))
        cosines[rows, first + rows] = -np.inf
        nearest = cosines.argmax(axis=1)
        has_another = equal.sum(axis=1) > 1
        right += int((equal[rows, nearest] & has_another).sum())
        asked += int(has_another.sum())
    if not asked:
        raise ValueError("no two pictures show the same identity")
    return right / asked


def _rows_of_pairs(embeddings: Array, labels: Sequence[Any]) -> Iterator[tuple[int, Array, npt.NDArray[np.bool_]]]:
    """Some pictures against all: number of the first, cosines [some, pictures], whether identities are the same."""
    if not np.isfinite(embeddings).all():
        raise ValueError("embeddings must be finite: the training has diverged")
    identity = np.unique(np.asarray(labels), return_inverse=True)[1]
    rows = max(1, _AT_ONCE // max(1, len(embeddings)))
    for first in range(0, len(embeddings), rows):
        some = slice(first, first + rows)
        yield first, embeddings[some] @ embeddings.T, identity[some, None] == identity
