"""Calibration: the temperature is found again, and thresholds keep the wanted precision on data they never saw."""

import numpy as np
import numpy.typing as npt
import pytest

from vidproc.errors import NotFinite, UsageError
from vidproc.train.calibration import (
    COLDEST,
    HOTTEST,
    LEAST_SAID,
    calibrated,
    precision_reached,
    temperature,
    thresholds,
)
from vidproc.train.measures import measured

Floats = npt.NDArray[np.float32]
LABELS = 6
UNSEEN = 100_000


def logits_of(examples: int, *, seed: int, apart: float) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Scores of a network that tells some labels apart better than others; on average `apart` deviations."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, LABELS, examples)
    logits = rng.normal(size=(examples, LABELS))
    logits[np.arange(examples), truth] += (np.linspace(0.6, 1.4, LABELS) * apart)[truth]
    return (logits * 1.5).astype(np.float32), truth


def posterior_logits(examples: int, *, seed: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Logits whose softmax is exactly how likely each label is: truth is drawn from it."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(examples, LABELS)) * 2
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    truth = (rng.random((examples, 1)) > chances.cumsum(axis=1)).sum(axis=1)
    return logits.astype(np.float32), np.minimum(truth, LABELS - 1)


@pytest.mark.parametrize("heat", [0.5, 1.0, 3.0])
def test_the_temperature_of_heated_logits_is_found_again(heat: float) -> None:
    logits, truth = posterior_logits(20_000, seed=1)
    assert temperature(logits * np.float32(heat), truth, multi_label=False) == pytest.approx(heat, rel=0.03)
    rng = np.random.default_rng(2)
    many = rng.random(logits.shape) < 1 / (1 + np.exp(-logits))
    assert temperature(logits * np.float32(heat), many, multi_label=True) == pytest.approx(heat, rel=0.03)


def test_calibration_lowers_the_error_on_other_data_and_changes_no_order() -> None:
    fitted, truth = posterior_logits(2000, seed=3)
    found = temperature(fitted * 4, truth, multi_label=False)
    other, other_truth = posterior_logits(5000, seed=4)
    errors = {}
    for name, heat in (("before", 1.0), ("after", found)):
        scores = calibrated(other * 4, heat, multi_label=False)
        assert scores.dtype == np.float32
        assert (scores.argmax(axis=1) == other.argmax(axis=1)).all()
        rows = measured(scores, other_truth, categories=[*"abcdef"], multi_label=False)
        errors[name] = {row.metric: row.value for row in rows if not row.slice}
    assert errors["before"]["ece"] > 0.15
    assert errors["after"]["ece"] < 0.03
    assert errors["after"]["nll"] < errors["before"]["nll"] - 0.2


def test_the_temperature_stays_within_bounds() -> None:
    truth = np.arange(60) % LABELS
    right = np.eye(LABELS, dtype=np.float32)[truth]
    assert COLDEST <= temperature(right, truth, multi_label=False) < 0.2
    assert temperature(-right, truth, multi_label=False) == pytest.approx(HOTTEST)
    assert COLDEST <= temperature(right[:1], truth[:1], multi_label=False) <= HOTTEST
    assert temperature(right * 0, truth, multi_label=False) == 1  # nothing to choose by


def test_a_threshold_by_hand() -> None:
    """40 examples at 0.9 (36 right), 40 at 0.5 (20), 20 at 0.1 (1): of the upper 80, 56 are right."""
    scores = np.repeat(np.array([0.9, 0.5, 0.1], np.float32), (40, 40, 20))[:, None]
    truth = np.concatenate([np.arange(40) < 36, np.arange(40) < 20, np.arange(20) < 1])[:, None]
    share = 57 / 100
    assert thresholds(scores, truth, precision=0.5) == (pytest.approx(0.1),)
    assert thresholds(scores, truth, precision=(56 + share) / 81) == (pytest.approx(0.5),)
    assert thresholds(scores, truth, precision=(56 + share) / 81 + 1e-6) == (pytest.approx(0.9),)
    assert thresholds(scores, truth, precision=0.9) == (None,)  # 36 of 40, less what the prior takes
    reached = precision_reached(scores, truth, [0.5])
    assert (reached.micro, reached.precision, reached.said) == (0.7, (0.7,), (80,))
    assert reached.recall == (pytest.approx(56 / 57),)


def test_a_threshold_needs_evidence() -> None:
    scores = np.linspace(0, 1, 200, dtype=np.float32)[:, None]
    for right, said in ((LEAST_SAID - 1, False), (LEAST_SAID + 1, True)):
        truth = (np.arange(200) >= 200 - right)[:, None]
        assert (thresholds(scores, truth, precision=0.95)[0] is not None) == said


def test_nothing_said_reaches_nothing() -> None:
    scores, truth = np.full((5, 2), 0.5, np.float32), np.array([0, 0, 1, 0, 0])
    reached = precision_reached(scores, truth, [None, 0.6])
    assert (reached.micro, reached.precision, reached.recall, reached.said) == (None, (None, None), (0, 0), (0, 0))
    assert precision_reached(scores, truth, [0.5, None]).micro == 0.8
    assert thresholds(scores[:1], truth[:1], precision=0.9) == (None, None)


def off(examples: int, precision: float, *, apart: float, seeds: int = 16) -> tuple[list[float], list[float], float]:
    """How far unseen data is off the wanted precision: micro-averaged of each seed, of each label, and never said."""
    unseen, truth = logits_of(UNSEEN, seed=99, apart=apart)
    micro, single, never = [], [], 0
    for seed in range(seeds):
        logits, fitted = logits_of(examples, seed=seed, apart=apart)
        heat = temperature(logits, fitted, multi_label=False)
        chosen = thresholds(calibrated(logits, heat, multi_label=False), fitted, precision=precision)
        reached = precision_reached(calibrated(unseen, heat, multi_label=False), truth, chosen)
        micro += [reached.micro - precision] if reached.micro is not None else []
        single += [one - precision for one in reached.precision if one is not None]
        never += chosen.count(None)
    return micro, single, never / (seeds * LABELS)


def told(examples: int, precision: float, *, apart: float) -> tuple[list[float], list[float], float]:
    micro, single, never = off(examples, precision, apart=apart)
    line = f"apart {apart}, wanted {precision}, fitted on {examples}: {never:.0%} never said"
    if micro:
        line += f", micro {np.mean(micro):+.3f} (std {np.std(micro):.3f})"
        line += f", each label {np.mean(single):+.3f} (std {np.std(single):.3f}, worst {min(single):+.3f})"
    print(line)
    return micro, single, never


@pytest.mark.parametrize("precision", [0.8, 0.9, 0.95])
def test_simulated_thresholds_deliver_the_wanted_precision_on_unseen_data(precision: float) -> None:
    micro, single, never = told(2000, precision, apart=2.6)
    assert max(map(abs, micro)) < 0.03
    assert np.mean(np.abs(single) < 0.05) > 0.97
    assert abs(np.mean(single)) < 0.01
    assert never < 0.1


@pytest.mark.parametrize(("examples", "tolerance"), [(500, 0.05), (200, 0.08)])
def test_simulated_thresholds_from_fewer_examples_are_off_by_more(examples: int, tolerance: float) -> None:
    micro, single, _ = told(examples, 0.9, apart=2.6)
    assert np.mean(np.abs(micro) < tolerance) > 0.9
    assert abs(np.mean(single)) < 0.03


def test_simulated_weak_labels_are_mostly_never_said() -> None:
    """Where no threshold reaches the precision, the lucky ones must be rare."""
    _, single, never = told(2000, 0.9, apart=1.0)
    assert never > 0.75
    assert all(one > -0.2 for one in single)


def test_what_cannot_be_calibrated_is_refused() -> None:
    logits, truth = posterior_logits(50, seed=5)
    broken = logits.copy()
    broken[2, 2] = np.inf
    with pytest.raises(NotFinite):
        temperature(broken, truth, multi_label=False)
    with pytest.raises(UsageError, match="no example"):
        temperature(logits[:0], truth[:0], multi_label=False)
    with pytest.raises(UsageError, match="network knows 0 to 5"):
        temperature(logits, truth + 6, multi_label=False)
    scores = calibrated(logits, 1.0, multi_label=False)
    for precision in (0, 1.1):
        with pytest.raises(UsageError, match="cannot be had"):
            thresholds(scores, truth, precision=precision)
    with pytest.raises(ValueError, match="1 thresholds for 6 labels"):
        precision_reached(scores, truth, [0.5])
    with pytest.raises(NotFinite):
        thresholds(scores * np.float32(np.nan), truth, precision=0.9)
