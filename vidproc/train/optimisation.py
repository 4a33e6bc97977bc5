"""What one training step does to the weights: clip, decay, the optimiser's own step, sparsity, the moving average."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidproc.errors import UsageError
from vidproc.train.averaging import Average
from vidproc.train.options import OptimiserOptions
from vidproc.train.schedule import ScheduleOptions, rate_factor
from vidproc.train.sharding import own, shared_as, whole


class Step(NamedTuple):
    """What a step did. `gradient_norm`: a scalar on the network's device, before clipping."""

    learning_rate: float
    gradient_norm: Tensor


class Optimisation:
    """The optimiser of one network and all that goes with it. Its parameters that need gradients now are trained.

    Where DDP wraps the network, give the network inside: the parameters are the same, and names stay plain.
    `total_steps` and `steps_per_epoch` count calls of `step`.
    """

    def __init__(
        self,
        network: nn.Module,
        options: OptimiserOptions,
        *,
        schedule: ScheduleOptions,
        total_steps: int,
        steps_per_epoch: int,
    ) -> None:
        self.network, self.options, self.schedule = network, options, schedule
        self.total_steps, self.steps_per_epoch = total_steps, steps_per_epoch
        self.steps_done = 0
        self.average = Average(network, decay=options.ema) if options.ema else None
        self._parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self._optimiser = _made(options, self._parameters)
        self._optimiser.zero_grad()

    @torch.no_grad()
    def step(self) -> Step:
        """Use up the gradients: once for every batch, or for every so many that are added up.

        Weight decay is decoupled, w ← w - rate * l2 * w, whatever the optimiser (Loshchilov and Hutter 2019,
        arXiv:1711.05101, algorithms 1 and 2), and comes first, as in torch.optim.AdamW. L1 is the proximal step
        w ← sign(w) * max(|w| - rate * l1, 0) after the optimiser's (Parikh and Boyd 2014, "Proximal Algorithms",
        section 4.2), so that weights become exactly 0; under Adam it too is decoupled, against steps of about `rate`.
        """
        options = self.options
        trained: list[Tensor] = [parameter for parameter in self._parameters if parameter.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        if options.gradient_clip is not None:
            nn.utils.clip_grads_with_norm_(trained, options.gradient_clip, norm)
        rate = options.learning_rate * rate_factor(
            self.schedule, self.steps_done, total_steps=self.total_steps, steps_per_epoch=self.steps_per_epoch
        )
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        weights = [own(parameter) for parameter in trained if is_weight(parameter)]
        if options.l2 and weights:
            torch._foreach_mul_(weights, 1 - rate * options.l2)
        self._optimiser.step()
        if options.l1:
            for weight in weights:
                weight.copy_(F.softshrink(weight, rate * options.l1))
        self._optimiser.zero_grad()
        if self.average is not None:
            self.average.update(self.network, step=self.steps_done)
        self.steps_done += 1
        return Step(rate, whole(norm))

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """The network with its averaged weights, to evaluate and to save; with its own, where nothing is averaged."""
        if self.average is None:
            yield self.network
        else:
            with self.average.applied(self.network):
                yield self.network

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the network's state. Its tensors are live: save it before the next step."""
        return {
            "options": _plain(self.options),
            "steps_done": self.steps_done,
            "optimiser": self._optimiser.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state. Raises `UsageError` if it was made with other options of the optimiser."""
        asked, made_with = _plain(self.options), state["options"]
        if differing := [name for name in asked if asked[name] != made_with.get(name)]:
            told = ", ".join(f"{name} was {made_with.get(name)} and is now {asked[name]}" for name in differing)
            raise UsageError(f"training cannot go on with other options: {told}. Start a run of another name")
        self.steps_done = state["steps_done"]
        made: dict[str, Any] = deepcopy(state["optimiser"])
        for number, values in made["state"].items():
            parameter = self._parameters[number]
            made["state"][number] = {name: shared_as(value, parameter) for name, value in values.items()}
        self._optimiser.load_state_dict(made)
        if self.average is not None:
            self.average.load_state_dict(state["average"])


def is_weight(parameter: Tensor) -> bool:
    """Matrices and kernels, but neither norms' scales nor biases, which have one dimension."""
    return parameter.dim() > 1


def _made(options: OptimiserOptions, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    if options.optimiser in ("adam", "adamw"):
        return torch.optim.Adam(parameters, lr=options.learning_rate)
    nesterov = options.optimiser == "nesterov"
    return torch.optim.SGD(parameters, lr=options.learning_rate, momentum=options.momentum, nesterov=nesterov)


def _plain(options: OptimiserOptions) -> dict[str, Any]:
    """A larger group of options may hold these."""
    return {name: getattr(options, name) for name in OptimiserOptions.model_fields}
