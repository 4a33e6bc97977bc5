"""Vectors grouped by average linkage: exact, deterministic, and without a matrix of all pairs. Pure numpy.

The mean cosine of all pairs of two groups of unit vectors is the dot product of their means, so that a group is its
mean and its size. Groups that are each other's nearest are merged, all such pairs at once, until no two are near
enough: for average linkage that gives the groups of merging the nearest pair of all, one at a time (Sumengen et al.
2021, arXiv:2105.11653: the linkage is reducible, no merge brings anything nearer to a third). A chain of lookalikes
does not make a group, as it would with single linkage.
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

BLOCK_COSINES = 1 << 23
"""Cosines that are in memory at once: 64 MiB."""
DECIMALS = 9
"""Cosines are rounded to so many: in which order a product is summed must not decide which of two is nearer."""


def average_linkage(vectors: npt.NDArray[np.float32], *, at_least: float) -> Ints:
    """The group of each vector, int64 [vectors]: groups with a mean cosine of at least `at_least` are merged.

    `vectors`: float32 [vectors, size] of length 1. A group's number is that of its first vector. Who is together does
    not depend on the order. In memory are 32 bytes for each number of `vectors`, and `BLOCK_COSINES`.
    """
    if not len(vectors):
        return np.empty(0, np.int64)
    distinct, which, counts = np.unique(vectors, axis=0, return_inverse=True, return_counts=True)
    group = _merged(distinct.astype(np.float64), counts.astype(np.int64), at_least)[which.reshape(-1)]
    _, first, of = np.unique(group, return_index=True, return_inverse=True)
    return first[of].astype(np.int64)


def _merged(means: Floats, sizes: Ints, at_least: float) -> Ints:
    """The group of each of the vectors, which differ and come in an order of their own, as one of their numbers."""
    parent = np.arange(len(means))
    group = np.arange(len(means))  # of each row of what is still open
    near = np.zeros(len(means), np.int64)
    cosine = np.zeros(len(means))
    stale = np.arange(len(means))
    while len(group) > 1:
        near[stale], cosine[stale] = _nearest(means, stale)
        is_open = cosine >= at_least
        if not is_open.any():
            break
        is_open[near[is_open]] = True
        kept, gone = _pairs(near, np.where(is_open, cosine, -np.inf))
        both = sizes[kept] + sizes[gone]
        weighted = means[kept] * sizes[kept, None] + means[gone] * sizes[gone, None]
        means[kept], sizes[kept] = weighted / both[:, None], both
        parent[group[gone]] = group[kept]
        touched = np.zeros(len(group), bool)
        touched[kept] = touched[gone] = True
        touched |= touched[near]  # the nearest of all others are as near as they were, and nothing came nearer
        is_open[gone] = False
        place = np.cumsum(is_open) - 1
        near, cosine, stale = place[near[is_open]], cosine[is_open], np.flatnonzero(touched[is_open])
        group, means, sizes = group[is_open], means[is_open], sizes[is_open]
    while (parent[parent] != parent).any():
        parent = parent[parent]
    return parent


def _pairs(near: Ints, cosine: Floats) -> tuple[Ints, Ints]:
    """Rows that are each other's nearest, the lower numbers and the higher ones; among equals at least the nearest."""
    low = np.flatnonzero((near[near] == np.arange(len(near))) & (near > np.arange(len(near))) & np.isfinite(cosine))
    if not len(low):
        low = np.array([int(np.argmax(cosine))])
    pairs = np.sort(np.stack([low, near[low]]), axis=0)
    return pairs[0], pairs[1]


def _nearest(means: Floats, rows: Ints) -> tuple[Ints, Floats]:
    """Of some rows each the nearest other one, the first of equals, and the cosine to it."""
    near, cosine = np.empty(len(rows), np.int64), np.empty(len(rows))
    step = max(1, BLOCK_COSINES // len(means))
    for first in range(0, len(rows), step):
        some = rows[first : first + step]
        cosines = means[some] @ means.T
        np.round(cosines, DECIMALS, out=cosines)
        cosines[np.arange(len(some)), some] = -np.inf
        best = cosines.argmax(axis=1)
        near[first : first + step], cosine[first : first + step] = best, cosines[np.arange(len(some)), best]
    return near, cosine
