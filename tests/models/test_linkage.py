"""Average linkage without a matrix of pairs: as scikit-learn's with one, in any order, whatever ties there are."""

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.cluster import AgglomerativeClustering

from vidproc.models import linkage
from vidproc.models.linkage import average_linkage

Groups = set[frozenset[int]]


def unit(vectors: npt.ArrayLike) -> npt.NDArray[np.float32]:
    made = np.asarray(vectors, np.float64)
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def scattered(seed: int, *, count: int = 150, size: int = 8, spread: float = 0.35) -> npt.NDArray[np.float32]:
    """Some around twenty centres, of which some are near each other; some anywhere."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(20, size))
    around = centres[rng.integers(0, 20, count)] + rng.normal(scale=spread * 3, size=(count, size))
    around[: count // 5] = rng.normal(size=(count // 5, size))
    return unit(around)


def groups(labels: npt.NDArray[np.int64]) -> Groups:
    return {frozenset(np.flatnonzero(labels == one).tolist()) for one in set(labels.tolist())}


def by_scikit_learn(vectors: npt.NDArray[np.float32], at_least: float) -> Groups:
    distances = 1 - vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    np.fill_diagonal(distances, 0)
    method = AgglomerativeClustering(
        n_clusters=None, metric="precomputed", linkage="average", distance_threshold=1 - at_least
    )
    return groups(method.fit_predict(np.maximum(distances, 0)))


@pytest.mark.parametrize("at_least", [0.2, 0.4, 0.6, 0.9])
@pytest.mark.parametrize("block", [linkage.BLOCK_COSINES, 400])
def test_it_groups_as_scikit_learn_does(at_least: float, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linkage, "BLOCK_COSINES", block)
    sizes = set()
    for seed in range(12):
        vectors = scattered(seed)
        found = groups(average_linkage(vectors, at_least=at_least))
        assert found == by_scikit_learn(vectors, at_least), seed
        sizes |= set(map(len, found))
    assert len(sizes) > 4 or at_least > 0.8


def test_the_order_does_not_matter_and_a_group_is_called_after_its_first() -> None:
    vectors = scattered(1)
    vectors[40:60] = vectors[:20]  # the same picture twice
    labels = average_linkage(vectors, at_least=0.4)
    assert all(labels[label] == label and label <= i for i, label in enumerate(labels))
    assert (labels[40:60] == labels[:20]).all()
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(vectors))
        shuffled = average_linkage(vectors[order], at_least=0.4)
        assert {frozenset(order[list(group)].tolist()) for group in groups(shuffled)} == groups(labels)


def test_a_chain_of_lookalikes_is_not_one_group() -> None:
    """Neighbours have a cosine of 0.9, ends are opposite: by single linkage all of them would be one."""
    angles = np.arange(8) * np.arccos(0.9)
    chain = unit(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    found = groups(average_linkage(chain, at_least=0.7))
    assert found == by_scikit_learn(chain, 0.7) and len(found) > 2


def test_sizes_count() -> None:
    """Fifty times the same face outweighs one other in the mean: a third is not near to both of their cluster."""
    one, other, third = unit([[1, 0, 0], [0.8, 0.6, 0], [0.6, 0.8, 0]])
    few, many = np.stack([one, other, third]), np.stack([*[one] * 50, other, third])
    assert len(groups(average_linkage(few, at_least=0.75))) == 2
    assert groups(average_linkage(many, at_least=0.75)) == by_scikit_learn(many, 0.75)
    nearly = np.concatenate([many[:50] + np.random.default_rng(0).normal(scale=1e-3, size=(50, 3)), many[50:]])
    assert groups(average_linkage(unit(nearly), at_least=0.75)) == groups(average_linkage(many, at_least=0.75))


def test_where_all_are_equally_near_it_ends() -> None:
    """All pairs of these have one cosine: 0.5 for the first forty, 0 for the axes."""
    alike = unit(np.eye(40) + (np.sqrt(41) - 1) / 40)
    assert np.allclose((alike @ alike.T)[~np.eye(40, dtype=bool)], 0.5, atol=1e-6)
    assert len(groups(average_linkage(alike, at_least=0.499))) == 1
    assert len(groups(average_linkage(alike, at_least=0.501))) == 40
    assert len(groups(average_linkage(np.eye(30, dtype=np.float32), at_least=0.1))) == 30
    assert average_linkage(np.empty((0, 8), np.float32), at_least=0.4).shape == (0,)
    assert average_linkage(np.eye(1, dtype=np.float32), at_least=0.4).tolist() == [0]


def test_nearest_of_nearest_that_are_no_pairs_still_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What rounding may do among equals: each one's nearest is the next, in a ring. The nearest two are merged."""
    near, cosine = np.array([1, 2, 0]), np.array([0.5, 0.7, 0.6])
    kept, gone = linkage._pairs(near, cosine)
    assert (kept.tolist(), gone.tolist()) == ([1], [2])
