"""How good scores are, as rows for the `evaluations` table: accuracy, precision, calibration, over all and by label.

`torchmetrics` does the sums. Its import takes seven seconds beyond torch's, so it happens in the first measurement: who
only wants a `Measure`, or trains, does not wait for it.
"""

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from vidproc.errors import NotFinite, UsageError

Scores = npt.NDArray[np.float32]
Truth = npt.NDArray[np.int64] | npt.NDArray[np.bool_]

BINS = 15
"""Bins of equal width for calibration, as in Guo et al. 2017, section 4.1 (arXiv:1706.04599)."""

LEAST_SCORE = float(np.finfo(np.float32).tiny)
"""A score of 0 counts as this one in a likelihood: one wrong certainty must not make it infinite."""

SAID_FROM = 0.5
"""Without thresholds, a label of a multi-label example is said from this score on."""


@dataclass(frozen=True)
class Measure:
    """One figure. `slice` is "" for all examples, or what they have in common, such as "label=dog"."""

    metric: str
    slice: str
    value: float


@dataclass(frozen=True, eq=False)
class Reliability:
    """What a reliability diagram shows of each bin of scores that holds any: three float64 [bins].

    `confidence`: mean score. `accuracy`: how often it was right. `share`: of all that was scored.
    """

    confidence: npt.NDArray[np.float64]
    accuracy: npt.NDArray[np.float64]
    share: npt.NDArray[np.float64]

    @property
    def error(self) -> float:
        """The expected calibration error: how far confidence is off, on average (Guo et al. 2017, equation 3)."""
        return float((np.abs(self.confidence - self.accuracy) * self.share).sum())


def measured(
    scores: Scores,
    truth: Truth,
    *,
    categories: Sequence[str],
    multi_label: bool,
    thresholds: Sequence[float | None] | None = None,
) -> list[Measure]:
    """Everything that can be said of these scores; what is undefined is left out, so no value is ever NaN.

    `scores`: float32 [examples, labels] in 0..1, after softmax or sigmoid. `truth`: int64 [examples] (the label), or
    with `multi_label` bool [examples, labels]. `thresholds` (multi-label only): the score from which each label is
    said, None for never. Means over labels (`…_macro`, `mean_…`, `balanced_accuracy`) are over those that occur.

    Raises NotFinite for scores that are no numbers (leaving such examples out would flatter the network), UsageError
    for data without examples or with labels that the network does not know, ValueError for shapes that do not fit.
    """
    check(scores, truth, multi_label=multi_label)
    if scores.shape[1] != len(categories):
        raise ValueError(f"scores are for {scores.shape[1]} labels, and {len(categories)} categories are named")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchmetrics warns of labels that never occur; they are left out here
        labels = one_hot(truth, len(categories))
        if multi_label:
            said = _said(scores, thresholds)
            overall = list(_multi_label(scores, labels, said))
        else:
            said = one_hot(scores.argmax(axis=1), len(categories))
            overall = list(_single_label(scores, truth))
        by_label = list(_by_label(scores, labels, said, distinct(categories)))
    rows = [Measure("examples", "", float(len(scores)))]
    rows += [Measure(metric, "", value) for metric, value in overall]
    rows += list(_means(by_label, multi_label=multi_label))
    return rows + by_label


def check(scores: Scores, truth: Truth, *, multi_label: bool) -> None:
    """Raise what `measured` says of data that cannot be measured."""
    if scores.ndim != 2 or truth.shape != (scores.shape if multi_label else scores.shape[:1]):
        kind = "[examples, labels]" if multi_label else "[examples]"
        raise ValueError(f"scores {scores.shape} must be [examples, labels], and truth {truth.shape} must be {kind}")
    if truth.dtype != (np.bool_ if multi_label else np.int64):
        raise ValueError(f"truth is {truth.dtype}; it must be {'bool' if multi_label else 'int64'}")
    if not scores.size:
        raise UsageError("there is nothing to measure: the data holds no example; check its split and its labels")
    broken = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if len(broken):
        raise NotFinite(
            f"the scores of {len(broken)} of {len(scores)} examples are no numbers (the first is {broken[0]}): "
            "check the weights and the precision that they run in"
        )
    if scores.min() < 0 or scores.max() > 1 + 1e-5:
        raise ValueError(f"scores are {scores.min()} to {scores.max()}; they must be in 0..1, after softmax or sigmoid")
    if not multi_label and not (truth.min() >= 0 and truth.max() < scores.shape[1]):
        raise UsageError(
            f"the data has labels {truth.min()} to {truth.max()}, and the network knows 0 to {scores.shape[1] - 1}: "
            "map the data's labels to the network's"
        )


def one_hot(truth: Truth, labels: int) -> npt.NDArray[np.bool_]:
    """Either kind of truth as bool [examples, labels]."""
    hot: npt.NDArray[np.bool_] = truth.astype(np.bool_) if truth.ndim == 2 else truth[:, None] == np.arange(labels)
    return hot


def distinct(categories: Sequence[str]) -> list[str]:
    """The names, with their number added where several labels have the same: a slice must mean one label."""
    times = Counter(categories)
    return [name if times[name] == 1 else f"{name} #{i}" for i, name in enumerate(categories)]


def confusion(scores: Scores, truth: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Examples by (true label, label with the highest score): int64 [labels, labels]. Single label only."""
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    check(scores, truth, multi_label=False)
    top = torch.tensor(scores.argmax(axis=1))
    counted = multiclass_confusion_matrix(top, torch.tensor(truth), scores.shape[1], validate_args=False)
    matrix: npt.NDArray[np.int64] = counted.numpy()
    return matrix


def reliability(scores: Scores, truth: Truth, *, multi_label: bool, bins: int = BINS) -> Reliability:
    """Of the highest score of each example, or with `multi_label` of every score, by bins of equal width."""
    check(scores, truth, multi_label=multi_label)
    if multi_label:
        confidence, right = scores.ravel().astype(np.float64), truth.ravel()
    else:
        confidence, right = scores.max(axis=1).astype(np.float64), scores.argmax(axis=1) == truth
    index = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    count = np.bincount(index, minlength=bins)
    some = count > 0
    means = [np.bincount(index, weights=of, minlength=bins)[some] / count[some] for of in (confidence, right)]
    return Reliability(confidence=means[0], accuracy=means[1], share=count[some] / len(confidence))


def average_precision(scores: npt.NDArray[np.float32], truth: npt.NDArray[np.bool_]) -> float:
    """Of one label, over its examples' order alone. Both inputs [examples], one at least has the label.

    `scores`: also logits, of any range. torchmetrics would put those through a sigmoid, in which the highest become
    equal: so it gets their ranks.
    """
    from torchmetrics.functional.classification import binary_average_precision

    _, ranks = np.unique(scores, return_inverse=True)
    ordered, labels = torch.tensor(ranks / max(ranks.max(), 1)), torch.tensor(truth).long()
    return float(binary_average_precision(ordered, labels, validate_args=False))


def mean_average_precision(scores: npt.NDArray[np.float32], truth: npt.NDArray[np.bool_]) -> float:
    """Over the labels that occur. Both inputs [examples, labels]; `scores` may be logits. Raises NotFinite, UsageError.

    A light `measured`, to choose an epoch by.
    """
    if not truth.any():
        raise UsageError("there is nothing to measure: no example has any label; check the data's split and its labels")
    if not np.isfinite(scores).all():
        raise NotFinite("some scores are no numbers: the training has diverged; lower the learning rate")
    occurring = np.flatnonzero(truth.any(axis=0)).tolist()
    return float(np.mean([average_precision(scores[:, i], truth[:, i]) for i in occurring]))


def curve(scores: Scores, truth: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """(precision, recall) of one label at all thresholds, from the lowest on. Both inputs [examples]; some have it."""
    from torchmetrics.functional.classification import binary_precision_recall_curve

    given, labels = torch.tensor(scores).clamp(0, 1), torch.tensor(truth).long()
    found = binary_precision_recall_curve(given, labels, validate_args=False)
    return found[0].numpy(), found[1].numpy()


def _single_label(scores: Scores, truth: Truth) -> Iterator[tuple[str, float]]:
    from torchmetrics.functional.classification import multiclass_accuracy

    given, labels, n = torch.tensor(scores), torch.tensor(truth), scores.shape[1]
    yield "top1", float(np.mean(scores.argmax(axis=1) == truth))
    if n > 5:
        top5 = multiclass_accuracy(given, labels, n, average="micro", top_k=5, validate_args=False)
        yield "top5", float(top5)
    if n > 1:
        yield "ece", reliability(scores, truth, multi_label=False).error
    likely = scores[np.arange(len(truth)), truth].astype(np.float64)
    yield "nll", float(np.log(1 / np.clip(likely, LEAST_SCORE, 1)).mean())


def _multi_label(scores: Scores, truth: Truth, said: npt.NDArray[np.bool_]) -> Iterator[tuple[str, float]]:
    from torchmetrics.functional.classification import binary_f1_score

    yield "ece", reliability(scores, truth, multi_label=True).error
    likely = np.where(truth, scores, 1 - scores.astype(np.float64))
    yield "nll", float(np.log(1 / np.clip(likely, LEAST_SCORE, 1)).mean())
    if truth.any() or said.any():
        given, labels = torch.tensor(said).flatten().long(), torch.tensor(truth).flatten().long()
        yield "f1_micro", float(binary_f1_score(given, labels, validate_args=False))


def _by_label(
    scores: Scores, truth: npt.NDArray[np.bool_], said: npt.NDArray[np.bool_], categories: Sequence[str]
) -> Iterator[Measure]:
    """Of every label that occurs, against all others. Label by label, as thousands of labels at once fill memory."""
    for i in np.flatnonzero(truth.any(axis=0)).tolist():
        has, says, where = truth[:, i], said[:, i], f"label={categories[i]}"
        right = int((has & says).sum())
        yield Measure("examples", where, float(has.sum()))
        yield Measure("recall", where, right / int(has.sum()))
        if says.any():
            yield Measure("precision", where, right / int(says.sum()))
        yield Measure("f1", where, 2 * right / int(has.sum() + says.sum()))
        yield Measure("average_precision", where, average_precision(scores[:, i], has))


def _means(by_label: Sequence[Measure], *, multi_label: bool) -> Iterator[Measure]:
    names = {"average_precision": "mean_average_precision", "f1": "f1_macro"}
    names |= {"recall": "recall_macro" if multi_label else "balanced_accuracy"}
    for metric, mean in names.items():
        values = [row.value for row in by_label if row.metric == metric]
        if values:
            yield Measure(mean, "", float(np.mean(values)))


def _said(scores: Scores, thresholds: Sequence[float | None] | None) -> npt.NDArray[np.bool_]:
    if thresholds is None:
        thresholds = [SAID_FROM] * scores.shape[1]
    if len(thresholds) != scores.shape[1]:
        raise ValueError(f"{len(thresholds)} thresholds for {scores.shape[1]} labels")
    said: npt.NDArray[np.bool_] = scores >= np.array([np.inf if one is None else one for one in thresholds])
    return said
