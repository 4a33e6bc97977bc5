"""Scores that mean what they say: one temperature for a network, and per label the score from which to say it.

Both are fitted on examples that the network was not trained on, and must be judged on yet others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from vidproc.errors import NotFinite, UsageError
from vidproc.train.measures import Scores, Truth, check, one_hot

COLDEST, HOTTEST = 0.05, 20.0
"""Bounds of a temperature: held-out examples without one mistake ask for 0, and pure chance asks for infinity."""

PRIOR_EXAMPLES = 1.0
"""How many examples of average precision (the label's share of all examples) every estimate starts from."""

LEAST_SAID = 20
"""Fewer examples than this at or above a threshold say too little of it: the label is then never said."""


@dataclass(frozen=True)
class Reached:
    """What thresholds come to on some data. None where nothing was said, or (recall) nothing was to be said.

    `precision`, `recall`: one of each label. `micro`: the precision of all that was said, whatever its label.
    """

    micro: float | None
    precision: tuple[float | None, ...]
    recall: tuple[float | None, ...]
    said: tuple[int, ...]


def temperature(logits: npt.NDArray[np.float32], truth: Truth, *, multi_label: bool) -> float:
    """The T for which softmax(logits / T), or with `multi_label` sigmoid(logits / T), makes the truth most likely.

    Temperature scaling of Guo et al. 2017, section 4.2 (arXiv:1706.04599). It changes no order within an example.
    `logits`: float32 [examples, labels]. `truth`: as for `measured`. Raises as `measured` does.
    """
    _check_logits(logits, truth, multi_label=multi_label)
    given = torch.tensor(logits, dtype=torch.float64)
    labels = torch.tensor(truth, dtype=torch.float64 if multi_label else torch.int64)
    loss = F.binary_cross_entropy_with_logits if multi_label else F.cross_entropy
    heat = torch.zeros((), dtype=torch.float64, requires_grad=True)  # log T
    optimiser = torch.optim.LBFGS([heat], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        value: torch.Tensor = loss(given / heat.clamp(np.log(COLDEST), np.log(HOTTEST)).exp(), labels)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return float(heat.detach().exp().clamp(COLDEST, HOTTEST))


def calibrated(logits: npt.NDArray[np.float32], temperature: float, *, multi_label: bool) -> Scores:
    """float32 scores in 0..1 of float32 logits, both [examples, labels]."""
    given = torch.tensor(logits, dtype=torch.float64) / temperature
    scores: Scores = (given.sigmoid() if multi_label else given.softmax(dim=1)).float().numpy()
    return scores


def thresholds(scores: Scores, truth: Truth, *, precision: float) -> tuple[float | None, ...]:
    """Per label the lowest score from which it is right to say it, `precision` of the times; None: never say it.

    Precision at a threshold is the share of examples with a score at or above it that have the label, also where
    examples have one label each (`truth` int64 [examples]; bool [examples, labels] for many). The plain share picks
    lucky thresholds, as it takes the best of many noisy ones. So every share is shrunk to the label's overall one by
    `PRIOR_EXAMPLES`, and needs `LEAST_SAID` examples. How far unseen data is off a wanted 0.9, for 6 labels told apart
    with 85 % accuracy (`pytest tests/train/test_calibration.py -k simulated -s`):

        fitted on       micro-averaged (std)   each label (std, worst)    never said
        2000 examples   +0.001 (0.009)         +0.001 (0.017, -0.049)     0 %
        500             +0.002 (0.009)         +0.005 (0.029, -0.102)     1 %
        200             +0.003 (0.021)         +0.004 (0.044, -0.108)     19 %

    A label that hardly reaches the precision anywhere falls short of it, as its best threshold was a lucky one: at 45 %
    accuracy (2000 examples) 85 % of labels are never said, and the others are 0.05 short on average. Isotonic
    regression was tried and did no better. Raises as `measured` does.
    """
    if not 0 < precision <= 1:
        raise UsageError(f"a precision of {precision} cannot be had: ask for more than 0 and at most 1")
    check(scores, truth, multi_label=truth.ndim == 2)
    labels = one_hot(truth, scores.shape[1])
    return tuple(_threshold(scores[:, i], labels[:, i], precision) for i in range(scores.shape[1]))


def precision_reached(scores: Scores, truth: Truth, thresholds: Sequence[float | None]) -> Reached:
    """What `thresholds` come to on other data than they were fitted on."""
    check(scores, truth, multi_label=truth.ndim == 2)
    labels = one_hot(truth, scores.shape[1])
    if len(thresholds) != scores.shape[1]:
        raise ValueError(f"{len(thresholds)} thresholds for {scores.shape[1]} labels")
    saying = scores >= np.array([np.inf if one is None else one for one in thresholds])
    right, said, has = (saying & labels).sum(axis=0), saying.sum(axis=0), labels.sum(axis=0)
    return Reached(
        micro=_share(right.sum(), said.sum()),
        precision=tuple(map(_share, right, said)),
        recall=tuple(map(_share, right, has)),
        said=tuple(said.tolist()),
    )


def _threshold(scores: npt.NDArray[np.float32], has: npt.NDArray[np.bool_], precision: float) -> float | None:
    values, index = np.unique(scores, return_inverse=True)  # equal scores are said together
    said, right = (_from_here_up(np.bincount(index, weights=of)) for of in (np.ones(len(has)), has))
    shrunk = (right + PRIOR_EXAMPLES * has.mean()) / (said + PRIOR_EXAMPLES)
    good = np.flatnonzero((shrunk >= precision) & (said >= LEAST_SAID))
    return float(values[good[0]]) if len(good) else None


def _from_here_up(counts: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Sums of `counts` from each position to the end."""
    return np.cumsum(counts[::-1])[::-1]


def _share(part: np.int64, whole: np.int64) -> float | None:
    return float(part / whole) if whole else None


def _check_logits(logits: npt.NDArray[np.float32], truth: Truth, *, multi_label: bool) -> None:
    if not np.isfinite(logits).all():
        raise NotFinite("logits that are no numbers cannot be calibrated: check the weights")
    check(calibrated(logits, 1.0, multi_label=multi_label), truth, multi_label=multi_label)
