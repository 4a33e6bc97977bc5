"""The curve of the learning rate, value by value, and when a training has learnt enough."""

import math
from typing import Any

import pytest

from vidproc.train.schedule import Patience, ScheduleOptions, rate_factor


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"schedule": "constant"}, {0: 1, 99: 1}),
        ({"schedule": "step"}, {0: 1, 29: 1, 30: 0.5, 59: 0.5, 60: 0.25, 99: 0.125}),
        ({"schedule": "exponential"}, {0: 1, 15: 0.5**0.5, 30: 0.5, 45: 0.5**1.5, 60: 0.25}),
        ({"schedule": "cosine"}, {0: 1, 25: 0.5 + 0.5**1.5, 50: 0.5, 75: 0.5 - 0.5**1.5, 100: 0, 130: 0}),
        ({"schedule": "cosine", "cosine_floor": 0.2}, {0: 1, 50: 0.6, 100: 0.2, 130: 0.2}),
        ({"schedule": "constant", "warmup_steps": 10}, {0: 0.1, 4: 0.5, 9: 1, 10: 1, 99: 1}),
        ({"schedule": "cosine", "warmup_steps": 10}, {0: 0.1, 4: 0.5, 9: 1, 10: 1, 55: 0.5, 100: 0}),
        ({"schedule": "step", "warmup_steps": 40}, {0: 1 / 40, 19: 0.5, 30: 0.5 * 31 / 40, 40: 0.5, 60: 0.25}),
    ],
)
def test_schedules_value_by_value(options: dict[str, Any], expected: dict[int, float]) -> None:
    """100 steps, of 10 an epoch; step and exponential halve the rate every three epochs."""
    made = ScheduleOptions(**{"warmup_steps": 0, "decay_every_epochs": 3, "decay_factor": 0.5} | options)
    found = {step: rate_factor(made, step, total_steps=100, steps_per_epoch=10) for step in expected}
    assert found == pytest.approx(expected, abs=1e-12)


# ---- stopping early


def test_patience_runs_out_where_nothing_gets_better() -> None:
    patience = Patience(2)
    assert [patience.update(value) for value in (0.5, 0.6, 0.6, 0.7, math.nan)] == [True, True, False, True, False]
    assert patience.best == 0.7 and not patience.exhausted
    resumed = Patience(2)
    resumed.load_state_dict(patience.state_dict())
    assert not resumed.update(0.69) and resumed.exhausted
    assert not patience.exhausted


def test_patience_of_a_run_that_only_fails_ends() -> None:
    patience = Patience(2)
    assert [patience.update(math.nan) for _ in range(2)] == [False, False]
    assert patience.exhausted


def test_patience_without_end() -> None:
    patience = Patience(None)
    assert not any(patience.update(-math.inf) for _ in range(50)) and not patience.exhausted
    with pytest.raises(ValueError, match="patience of 0 updates must be 1 or more"):
        Patience(0)
