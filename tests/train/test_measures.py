"""Measures: equal to scikit-learn's or to values by hand, and never undefined."""

import math
import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest
from sklearn import metrics

from vidproc.errors import NotFinite, UsageError
from vidproc.train.measures import (
    Measure,
    average_precision,
    confusion,
    curve,
    mean_average_precision,
    measured,
    reliability,
)

NAMES = [*"abcdefg"]


def softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (raised / raised.sum(axis=1, keepdims=True)).astype(np.float32)


def single(seed: int = 0) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Seven labels, of which the last two never occur."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 5, 400)
    logits = rng.normal(size=(400, 7)) * 2
    logits[np.arange(400), truth] += 2
    return softmax(logits), truth


def multi(seed: int = 0) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Four labels, of which the last never occurs; some examples have none."""
    rng = np.random.default_rng(seed)
    truth = rng.random((300, 4)) < (0.4, 0.2, 0.05, 0)
    return (1 / (1 + np.exp(-rng.normal(size=(300, 4)) - 2 * truth + 1))).astype(np.float32), truth


def by_name(rows: list[Measure], where: str = "") -> dict[str, float]:
    return {row.metric: row.value for row in rows if row.slice == where}


def test_single_label_measures_are_scikit_learns() -> None:
    scores, truth = single()
    rows = measured(scores, truth, categories=NAMES, multi_label=False)
    found, top = by_name(rows), scores.argmax(axis=1)
    hot = truth[:, None] == np.arange(7)
    assert found == {
        "examples": 400,
        "top1": pytest.approx(metrics.accuracy_score(truth, top)),
        "top5": pytest.approx(metrics.top_k_accuracy_score(truth, scores, k=5, labels=range(7))),
        "nll": pytest.approx(metrics.log_loss(truth, scores, labels=range(7)), rel=1e-5),
        "ece": pytest.approx(error_by_hand(scores.max(axis=1), top == truth), abs=1e-6),
        "balanced_accuracy": pytest.approx(metrics.recall_score(truth, top, labels=range(5), average="macro")),
        "f1_macro": pytest.approx(metrics.f1_score(truth, top, labels=range(5), average="macro")),
        "mean_average_precision": pytest.approx(
            np.mean([metrics.average_precision_score(hot[:, i], scores[:, i]) for i in range(5)]), rel=1e-5
        ),
    }
    precision, recall, f1, count = metrics.precision_recall_fscore_support(truth, top, labels=[1])
    assert by_name(rows, "label=b") == {
        "examples": count[0],
        "recall": pytest.approx(recall[0]),
        "precision": pytest.approx(precision[0]),
        "f1": pytest.approx(f1[0]),
        "average_precision": pytest.approx(metrics.average_precision_score(hot[:, 1], scores[:, 1]), rel=1e-5),
    }
    assert {row.slice for row in rows} == {"", *(f"label={name}" for name in "abcde")}


def error_by_hand(confidence: npt.NDArray[np.float32], right: npt.NDArray[np.bool_]) -> float:
    """Guo et al. 2017, equation 3, with 15 bins."""
    total = 0.0
    for i in range(15):
        inside = (confidence > i / 15) & (confidence <= (i + 1) / 15)
        if inside.any():
            total += inside.mean() * abs(float(confidence[inside].mean()) - float(right[inside].mean()))
    return total


def test_multi_label_measures_are_scikit_learns() -> None:
    scores, truth = multi()
    thresholds = [0.5, 0.3, None, 0.9]
    said = np.stack([scores[:, 0] >= 0.5, scores[:, 1] >= 0.3, np.zeros(300, bool), scores[:, 3] >= 0.9], axis=1)
    rows = measured(scores, truth, categories=NAMES[:4], multi_label=True, thresholds=thresholds)
    assert by_name(rows) == {
        "examples": 300,
        "mean_average_precision": pytest.approx(
            metrics.average_precision_score(truth[:, :3], scores[:, :3], average="macro"), rel=1e-5
        ),
        "f1_micro": pytest.approx(metrics.f1_score(truth, said, average="micro"), rel=1e-5),
        "f1_macro": pytest.approx(metrics.f1_score(truth[:, :3], said[:, :3], average="macro", zero_division=0)),
        "recall_macro": pytest.approx(metrics.recall_score(truth[:, :3], said[:, :3], average="macro")),
        "nll": pytest.approx(metrics.log_loss(truth.ravel(), scores.ravel().astype(np.float64)), rel=1e-5),
        "ece": pytest.approx(error_by_hand(scores.ravel(), truth.ravel()), abs=1e-6),
    }
    assert by_name(rows, "label=c")["recall"] == 0
    assert "precision" not in by_name(rows, "label=c")  # it is never said
    assert by_name(rows, "label=d") == {}  # it never occurs
    at_half = measured(scores, truth, categories=NAMES[:4], multi_label=True)
    assert by_name(at_half)["f1_micro"] == pytest.approx(metrics.f1_score(truth, scores >= 0.5, average="micro"))


def test_scores_by_hand() -> None:
    scores = np.array([[0.7, 0.2, 0.1], [0.4, 0.5, 0.1], [0.3, 0.3, 0.4], [0.0, 0.0, 1.0]], np.float32)
    rows = measured(scores, np.array([0, 0, 2, 1]), categories=["a", "b", "c"], multi_label=False)
    assert by_name(rows)["top1"] == 0.5
    assert by_name(rows)["nll"] == pytest.approx(-(math.log(0.7) + 2 * math.log(0.4) + math.log(2.0**-126)) / 4)
    assert by_name(rows, "label=a") == {
        "examples": 2,
        "recall": 0.5,
        "precision": 1,
        "f1": pytest.approx(2 / 3),
        "average_precision": 1,
    }
    assert "top5" not in by_name(rows)
    matrix = confusion(scores, np.array([0, 0, 2, 1]))
    assert matrix.tolist() == [[1, 1, 0], [0, 0, 1], [0, 0, 1]]


@pytest.mark.parametrize("labels", [1, 2, 7])
def test_one_example_and_one_label_leave_no_figure_undefined(labels: int) -> None:
    scores = np.full((1, labels), 1 / labels, np.float32)
    rows = measured(scores, np.array([0]), categories=NAMES[:labels], multi_label=False)
    assert by_name(rows)["top1"] == 1
    assert all(math.isfinite(row.value) for row in rows)
    for truth in (np.ones((1, labels), bool), np.zeros((1, labels), bool)):
        rows = measured(scores * 0, truth, categories=NAMES[:labels], multi_label=True)
        assert all(math.isfinite(row.value) for row in rows)
        assert ("mean_average_precision" in by_name(rows)) == bool(truth.any())


def test_labels_of_the_same_name_stay_apart() -> None:
    scores, truth = single()
    rows = measured(scores, truth, categories=["crane", "dog", "crane", *"defg"], multi_label=False)
    assert {row.slice for row in rows if row.metric == "recall"} >= {"label=crane #0", "label=dog", "label=crane #2"}
    assert len({(row.metric, row.slice) for row in rows}) == len(rows)


def test_what_cannot_be_measured_is_refused() -> None:
    scores, truth = single()
    broken = scores.copy()
    broken[[3, 9], 1] = np.nan
    with pytest.raises(NotFinite, match=r"of 2 of 400 examples are no numbers \(the first is 3\)"):
        measured(broken, truth, categories=NAMES, multi_label=False)
    with pytest.raises(UsageError, match="no example"):
        measured(scores[:0], truth[:0], categories=NAMES, multi_label=False)
    with pytest.raises(UsageError, match="labels 0 to 7, and the network knows 0 to 6"):
        measured(scores, np.append(truth[1:], 7), categories=NAMES, multi_label=False)
    for wrong in (
        {"scores": scores * 3},
        {"truth": truth[:-1]},
        {"truth": truth.astype(np.int32)},
        {"categories": NAMES[:-1]},
        {"multi_label": True},
    ):
        given = {"scores": scores, "truth": truth, "categories": NAMES, "multi_label": False} | wrong
        with pytest.raises(ValueError, match=r"must be|categories are named"):
            measured(given.pop("scores"), given.pop("truth"), **given)  # type: ignore[arg-type]
    multi_scores, multi_truth = multi()
    with pytest.raises(ValueError, match="3 thresholds for 4 labels"):
        measured(multi_scores, multi_truth, categories=NAMES[:4], multi_label=True, thresholds=[0.5] * 3)


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_reliability_diagram_shows_the_calibration_error(multi_label: bool) -> None:
    scores, truth = multi() if multi_label else single()
    found = reliability(scores, truth, multi_label=multi_label)
    rows = measured(scores, truth, categories=NAMES[: scores.shape[1]], multi_label=multi_label)
    error = float((found.share * np.abs(found.confidence - found.accuracy)).sum())
    assert error == pytest.approx(by_name(rows)["ece"], abs=1e-5)
    assert found.share.sum() == pytest.approx(1)
    assert (np.diff(found.confidence) > 0).all()


def test_average_precision_sees_the_order_of_scores_alone() -> None:
    """In float32, sigmoid(20) and sigmoid(30) are both 1: logits must not go through it."""
    scores, truth = multi()
    spread = (np.log(scores) * 100 + 90).astype(np.float32)
    for i in range(3):
        by_sklearn = metrics.average_precision_score(truth[:, i], spread[:, i])
        assert average_precision(spread[:, i], truth[:, i]) == pytest.approx(by_sklearn, rel=1e-5)
    mean = mean_average_precision(spread, truth)
    assert mean == pytest.approx(metrics.average_precision_score(truth[:, :3], spread[:, :3]), rel=1e-5)
    tied = average_precision(np.zeros(300, np.float32), truth[:, 0])
    assert tied == pytest.approx(truth[:, 0].mean())
    with pytest.raises(UsageError, match="no example has any label"):
        mean_average_precision(scores, np.zeros_like(truth))
    with pytest.raises(NotFinite, match="diverged"):
        mean_average_precision(scores * np.float32(np.nan), truth)


def test_a_curve_is_scikit_learns() -> None:
    scores, truth = multi()
    precision, recall = curve(scores[:, 0], truth[:, 0])
    expected = metrics.precision_recall_curve(truth[:, 0], scores[:, 0])
    np.testing.assert_allclose(precision, expected[0], rtol=1e-5)
    np.testing.assert_allclose(recall, expected[1], rtol=1e-5)


def test_only_a_measurement_loads_torchmetrics() -> None:
    code = (
        "import sys, vidproc.train.measures, vidproc.train.calibration; print({'torchmetrics', 'ray'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
