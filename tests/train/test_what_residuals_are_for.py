"""Deep networks train with residuals and not without; shallow ones need none. See `tests/bench/residuals.py`."""

import pytest
from bench.residuals import KINDS, KNOWS_NOTHING, final_loss, first_gradient, network_of


def test_both_networks_have_the_same_parameters() -> None:
    shapes = [{name: value.shape for name, value in network_of(kind, 20).named_parameters()} for kind in KINDS]
    assert shapes[0] == shapes[1] == shapes[2]


def test_a_depth_between_two_networks_is_refused() -> None:
    with pytest.raises(ValueError, match="depth 21 must be 6n \\+ 2"):
        network_of("plain", 21)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_shallow_networks_need_no_residuals(one_thread: None, seed: int) -> None:
    """At 8 layers all of them learn."""
    assert all(final_loss(kind, depth=8, seed=seed) < 0.3 * KNOWS_NOTHING for kind in KINDS)


@pytest.mark.parametrize("seed", range(3))
def test_only_a_deep_plain_network_s_gradients_explode(seed: int) -> None:
    assert all(first_gradient(kind, depth=8, seed=seed) < 1 for kind in KINDS)
    residual, from_zero, plain = (first_gradient(kind, depth=56, seed=seed) for kind in KINDS)
    assert from_zero < residual < 10
    assert plain > 100


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_deep_networks_train_with_residuals_alone(one_thread: None, seed: int) -> None:
    """From zero on every seed; from the usual weights it takes luck at this rate, as the bench shows."""
    assert final_loss("residual from zero", depth=56, seed=seed) < 0.15 * KNOWS_NOTHING
    assert final_loss("plain", depth=56, seed=seed) > 0.85 * KNOWS_NOTHING
