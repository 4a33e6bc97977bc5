"""Each part of the optimisation does what it claims: none of these tests passes if its part does nothing."""

import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidproc.command import parse
from vidproc.errors import UsageError
from vidproc.train.loop import SMOOTHED
from vidproc.train.mixup import mixup
from vidproc.train.optimisation import Optimisation, Step
from vidproc.train.options import OptimiserOptions
from vidproc.train.schedule import ScheduleOptions

EVERY = ("sgd", "nesterov", "adam", "adamw")
"""The optimisers."""


def optimisation(network: nn.Module, *, schedule: ScheduleOptions | None = None, **options: Any) -> Optimisation:
    """Over 10 steps, two epochs; the learning rate is constant, and nothing decays, unless said."""
    return Optimisation(
        network,
        OptimiserOptions(**{"learning_rate": 0.1, "l2": 0.0} | options),
        schedule=schedule or ScheduleOptions(schedule="constant", warmup_steps=0),
        total_steps=10,
        steps_per_epoch=5,
    )


def convolution() -> nn.Sequential:
    """A weight, a bias, a norm with scale and bias, and its running statistics."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def weights(*values: float) -> nn.Linear:
    """A network that is one row of weights."""
    network = nn.Linear(len(values), 1, bias=False)
    network.weight.data = torch.tensor([values])
    return network


def with_gradient(made: Optimisation, *gradient: float) -> Step:
    """One step of `weights` with this gradient."""
    [weight] = made.network.parameters()
    weight.grad = torch.tensor([gradient])
    return made.step()


def train(made: Optimisation, *, steps: range) -> None:
    """Batches that depend on the step alone."""
    made.network.train()
    for step in steps:
        x = torch.randn(6, 3, 5, 5, generator=torch.Generator().manual_seed(step))
        (made.network(x) - 1).square().mean().backward()
        made.step()


def values(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# ---- the optimisers


def test_first_steps_are_as_computed_by_hand() -> None:
    """Gradients 2 and -1, learning rate 0.1, from weight 1: two steps of each rule."""
    m, v = 0.9 * 0.2 - 0.1, 0.999 * 0.004 + 0.001
    adam = [1 - 0.1, 1 - 0.1 - 0.1 * (m / (1 - 0.9**2)) / math.sqrt(v / (1 - 0.999**2))]
    expected = {
        "sgd": [1 - 0.1 * 2, 0.8 - 0.1 * (0.9 * 2 - 1)],
        "nesterov": [1 - 0.1 * (2 + 0.9 * 2), 0.62 - 0.1 * (-1 + 0.9 * (0.9 * 2 - 1))],
        "adam": adam,
        "adamw": adam,
    }
    for name in EVERY:
        made = optimisation(weights(1.0), optimiser=name)
        found = []
        for gradient in (2.0, -1.0):
            with_gradient(made, gradient)
            found.append(made.network.weight.item())
        assert found == pytest.approx(expected[name]), name


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_decoupled_adam_is_torch_s_adamw_to_the_bit(name: str) -> None:
    ours, theirs = convolution(), convolution()
    train(optimisation(ours, optimiser=name, l2=0.5), steps=range(6))
    kernel, *others = theirs.parameters()
    groups = [{"params": [kernel], "weight_decay": 0.5}, {"params": others, "weight_decay": 0.0}]
    rival = torch.optim.AdamW(groups, lr=0.1)
    for step in range(6):
        x = torch.randn(6, 3, 5, 5, generator=torch.Generator().manual_seed(step))
        rival.zero_grad()
        (theirs(x) - 1).square().mean().backward()
        rival.step()
    assert same(values(ours), values(theirs))


def test_gradients_are_used_up() -> None:
    """Those from before do not count, those of several batches add up, and none is left."""
    network = weights(1.0)
    network.weight.grad = torch.tensor([[100.0]])
    made = optimisation(network, optimiser="sgd", momentum=0.0)
    for share in (0.5, 1.5):
        (network(torch.ones(1, 1)) * share).sum().backward()
    made.step()
    assert network.weight.item() == pytest.approx(1 - 0.1 * 2)
    assert network.weight.grad is None


def test_gradients_are_clipped_over_all_parameters_together() -> None:
    network = nn.ParameterDict({"a": torch.zeros(1, 1), "b": torch.zeros(1, 1)})
    made = optimisation(network, optimiser="sgd", momentum=0.0, learning_rate=1.0, gradient_clip=1.0)
    network["a"].grad, network["b"].grad = torch.tensor([[3.0]]), torch.tensor([[4.0]])
    assert float(made.step().gradient_norm) == pytest.approx(5)
    assert [network[name].item() for name in "ab"] == pytest.approx([-0.6, -0.8], rel=1e-5)
    network["a"].grad, network["b"].grad = torch.tensor([[0.3]]), torch.tensor([[0.4]])
    made.step()
    assert [network[name].item() for name in "ab"] == pytest.approx([-0.9, -1.2], rel=1e-5), "short ones stay"


def test_gradients_are_not_clipped_unasked() -> None:
    made = optimisation(weights(0.0, 0.0), optimiser="sgd", learning_rate=1.0)
    assert float(with_gradient(made, 30.0, 40.0).gradient_norm) == pytest.approx(50)
    assert made.network.weight.tolist() == [[-30, -40]]


# ---- weight decay and sparsity


@pytest.mark.parametrize("name", EVERY)
def test_decay_takes_exactly_its_share_without_any_gradient(name: str) -> None:
    network = convolution()
    made = optimisation(network, optimiser=name, l2=0.5)
    before = values(network)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    made.step()
    after = values(network)
    assert torch.equal(after.pop("0.weight"), before.pop("0.weight") * (1 - 0.1 * 0.5))
    assert same(after, before), "biases and norms stay"


def test_decay_follows_the_schedule() -> None:
    made = optimisation(
        weights(1.0), optimiser="sgd", l2=0.5, schedule=ScheduleOptions(schedule="constant", warmup_steps=4)
    )
    with_gradient(made, 0.0)
    assert made.network.weight.item() == pytest.approx(1 - 0.1 * 0.25 * 0.5)


def test_l1_finds_the_lasso_s_solution() -> None:
    """With an orthogonal design it is known: least squares' weights, each smaller by l1, or 0 (Tibshirani 1996)."""
    design = torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])
    wanted = design @ torch.tensor([[3.0], [0.2], [-1.0], [-0.05]])

    def solution(l1: float) -> list[float]:
        made = optimisation(weights(1.0, -1.0, 1.0, -1.0), optimiser="sgd", momentum=0.0, learning_rate=0.5, l1=l1)
        for _ in range(60):
            (0.5 * (made.network(design) - wanted).square().mean()).backward()
            made.step()
        return made.network.weight[0].tolist()

    found = solution(0.5)
    assert found == pytest.approx([2.5, 0, -0.5, 0], abs=1e-5)
    assert found[1] == found[3] == 0, "exactly"
    assert solution(0.0) == pytest.approx([3, 0.2, -1, -0.05], abs=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_l1_makes_zeros_where_inputs_say_nothing(name: str) -> None:
    """The truth is the first of 20 inputs; without L1 no weight is ever exactly 0."""

    def zeros(l1: float) -> float:
        torch.manual_seed(0)
        network = nn.Linear(20, 1)
        made = optimisation(network, optimiser=name, learning_rate=0.01, l1=l1)
        for _ in range(200):
            x = torch.randn(64, 20)
            (network(x) - 2 * x[:, :1]).square().mean().backward()
            made.step()
        assert network.weight[0, 0].item() > 1
        return float((network.weight == 0).float().mean())

    assert zeros(0.3) > 0.5
    assert zeros(0.0) == 0


def test_l1_leaves_norms_and_biases() -> None:
    network = convolution()
    made = optimisation(network, optimiser="sgd", l1=1e6)
    before = values(network)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    made.step()
    after = values(network)
    assert not after.pop("0.weight").any() and before.pop("0.weight").all()
    assert same(after, before) and after["1.weight"].all()


def test_frozen_weights_stay() -> None:
    network = convolution()
    network[0].requires_grad_(False)
    made = optimisation(network, l2=0.5, l1=0.5)
    before = values(network)
    train(made, steps=range(2))
    after = values(network)
    assert torch.equal(after["0.weight"], before["0.weight"]) and torch.equal(after["0.bias"], before["0.bias"])
    assert not torch.equal(after["1.weight"], before["1.weight"])


# ---- the schedule


def test_steps_are_as_long_as_the_schedule_says() -> None:
    schedule = ScheduleOptions(schedule="cosine", warmup_steps=4)
    made = optimisation(weights(0.0), optimiser="sgd", momentum=0.0, schedule=schedule)
    at = [0.0]
    rates = []
    for _ in range(10):
        rates.append(with_gradient(made, -1.0).learning_rate)
        at.append(made.network.weight.item())
    assert rates[:5] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1])
    assert rates[7] == pytest.approx(0.05) and rates[9] < 0.01
    assert np.diff(at).tolist() == pytest.approx(rates, abs=1e-6)


# ---- the moving average


def test_the_average_lags_by_its_decay() -> None:
    made = optimisation(weights(0.0), optimiser="sgd", momentum=0.0, learning_rate=1.0, ema=0.25)
    expected = []
    average = 0.0
    for step in range(4):
        with_gradient(made, -1.0)  # the weight is the number of steps
        decay = min(0.25, (2 + step) / (11 + step))
        average = decay * average + (1 - decay) * (step + 1)
        with made.averaged() as network:
            expected.append(network.weight.item())
        assert expected[-1] == pytest.approx(average) and expected[-1] < step + 1
        assert made.network.weight.item() == step + 1, "its own again"
    assert expected[0] == pytest.approx(9 / 11), "the first weights are soon forgotten"


def test_the_average_has_buffers_of_its_own() -> None:
    made = optimisation(convolution(), ema=0.9)
    train(made, steps=range(4))
    own = values(made.network)
    with made.averaged() as network:
        averaged = values(network)
        scores = network.eval()(torch.ones(1, 3, 5, 5))
    assert not torch.equal(averaged["1.running_mean"], own["1.running_mean"]) and averaged["1.running_mean"].any()
    assert not torch.equal(averaged["1.running_var"], own["1.running_var"])
    assert int(averaged["1.num_batches_tracked"]) == 4
    assert not torch.equal(network(torch.ones(1, 3, 5, 5)), scores)


def test_the_network_has_its_own_values_after_a_failed_evaluation() -> None:
    made = optimisation(convolution(), ema=0.9)
    train(made, steps=range(2))
    before = values(made.network)
    with pytest.raises(RuntimeError, match="interrupted"), made.averaged() as network:
        assert not same(values(network), before)
        raise RuntimeError("interrupted")
    assert same(values(made.network), before)


def test_without_an_average_the_network_is_as_it_is() -> None:
    made = optimisation(convolution())
    train(made, steps=range(2))
    before = values(made.network)
    with made.averaged() as network:
        assert same(values(network), before)


# ---- going on


@pytest.mark.parametrize("name", EVERY)
def test_a_resumed_run_is_the_undisturbed_one_to_the_bit(name: str, one_thread: None) -> None:
    options = {"optimiser": name, "l1": 0.1, "l2": 0.1, "ema": 0.5, "gradient_clip": 0.5, "learning_rate": 0.02}

    def fresh() -> Optimisation:
        return optimisation(convolution(), schedule=ScheduleOptions(schedule="cosine", warmup_steps=2), **options)

    undisturbed, first, second, forgetful = fresh(), fresh(), fresh(), fresh()
    train(undisturbed, steps=range(8))
    train(first, steps=range(4))
    file = io.BytesIO()
    torch.save({"network": first.network.state_dict(), "optimisation": first.state_dict()}, file)
    train(first, steps=range(4, 6))  # what is saved does not change with it
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    for made in (second, forgetful):
        made.network.load_state_dict(saved["network"])
    second.load_state_dict(saved["optimisation"])
    for made in (second, forgetful):
        train(made, steps=range(4, 8))
    assert second.steps_done == 8
    assert same(values(second.network), values(undisturbed.network))
    assert not same(values(forgetful.network), values(undisturbed.network))
    with second.averaged() as one, undisturbed.averaged() as other:
        assert same(values(one), values(other))


def test_one_state_serves_two_runs() -> None:
    """What is loaded is copied: the one's steps do not reach the other."""
    first, one, other = (optimisation(convolution(), ema=0.5) for _ in range(3))
    train(first, steps=range(2))
    for made in (one, other):
        made.network.load_state_dict(first.network.state_dict())
        made.load_state_dict(first.state_dict())
    train(one, steps=range(2, 5))
    train(other, steps=range(2, 5))
    assert same(values(one.network), values(other.network))


def test_other_options_are_refused_at_resume() -> None:
    state = optimisation(convolution(), optimiser="sgd").state_dict()
    with pytest.raises(UsageError, match=r"optimiser was sgd and is now adam, ema was 0\.0 and is now 0\.9"):
        optimisation(convolution(), optimiser="adam", ema=0.9).load_state_dict(state)


def test_options_are_flags() -> None:
    given = parse(OptimiserOptions, None, ["--optimiser", "nesterov", "--l1", "1e-4", "--gradient-clip", "2"])
    assert (given.optimiser, given.l1, given.gradient_clip) == ("nesterov", 1e-4, 2.0)
    with pytest.raises(UsageError, match="nesterov needs a momentum above 0"):
        parse(OptimiserOptions, None, ["--optimiser", "nesterov", "--momentum", "0"])


# ---- mixed examples and smoothed labels


def test_mixup_blends_inputs_and_truth_alike() -> None:
    """Each input is its own truth, so that both must come out the same."""
    each = torch.eye(8)
    inputs, targets = mixup(each, each, alpha=1.0, generator=np.random.default_rng(0))
    assert torch.equal(inputs, targets) and not torch.equal(inputs, each)
    assert torch.allclose(targets.sum(dim=1), torch.ones(8))
    assert len({round(float(row.max()), 5) for row in targets} - {1.0}) == 1, "one share for the batch"
    assert torch.allclose(targets.sum(dim=0), torch.ones(8)), "each is once the larger and once the smaller part"


def test_mixup_draws_from_beta() -> None:
    """The larger of two shares of a uniform cut is 3/4 in the mean."""
    rng = np.random.default_rng(0)
    pair = torch.eye(2)
    shares = [float(mixup(pair, pair, alpha=1.0, generator=rng)[1].diagonal().max()) for _ in range(800)]
    mixed = [share for share in shares if share < 1]
    assert 300 < len(mixed) < 500, "half of the permutations of two change places"
    assert np.mean(mixed) == pytest.approx(0.75, abs=0.03)


def test_mixup_repeats_itself_and_changes_little_with_a_small_alpha() -> None:
    x, y = torch.randn(8, 3, 4, 4), torch.eye(8)
    one, again, other = (mixup(x, y, alpha=0.4, generator=np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(one[0], again[0]) and torch.equal(one[1], again[1])
    assert not torch.equal(one[0], other[0])
    for alpha in (1e-6, 0.0):
        inputs, targets = mixup(x, y, alpha=alpha, generator=np.random.default_rng(1))
        assert torch.allclose(inputs, x, atol=1e-5) and torch.allclose(targets, y, atol=1e-5)


def test_smoothed_labels_cost_what_they_should() -> None:
    """Two of a hundred parts of the truth are spread over all three classes."""
    logits = torch.tensor([[2.0, 0.0, 0.0]])
    total = math.log(math.exp(2) + 2)
    expected = 0.98 * (total - 2) + 0.02 / 3 * (3 * total - 2)
    assert float(SMOOTHED(logits, torch.tensor([0]))) == pytest.approx(expected)
    soft = torch.tensor([[0.98 + 0.02 / 3, 0.02 / 3, 0.02 / 3]])
    assert float(F.cross_entropy(logits, soft)) == pytest.approx(expected), "as soft targets, which mixup makes"
