"""How fast a network learns at each step, and when it has learnt enough."""

import math
from typing import Any, Literal

from pydantic import Field

from vidproc.command import Options


class ScheduleOptions(Options):
    """How the learning rate changes from its highest, which the optimiser's options name."""

    schedule: Literal["constant", "step", "exponential", "cosine"] = Field(
        "cosine",
        description="step multiplies by --decay-factor every --decay-every-epochs; exponential does so smoothly; "
        "cosine falls to --cosine-floor at the end",
    )
    warmup_steps: int = Field(20, ge=0, description="steps over which the learning rate grows from nothing")
    decay_every_epochs: int = Field(30, ge=1, description="epochs, for step and exponential")
    decay_factor: float = Field(0.1, gt=0, le=1, description="for step and exponential")
    cosine_floor: float = Field(0.0, ge=0, le=1, description="where cosine ends, as a share of the learning rate")


def rate_factor(options: ScheduleOptions, step: int, *, total_steps: int, steps_per_epoch: int) -> float:
    """What the learning rate is multiplied by at `step`, from 0: a function of these alone, so that runs can resume.

    Warm-up is linear and reaches 1 at its last step (Goyal et al. 2017, arXiv:1706.02677, section 2.2). Epochs count
    from the first step; the cosine (Loshchilov and Hutter 2017, arXiv:1608.03983) begins after the warm-up.
    """
    decays = step / steps_per_epoch / options.decay_every_epochs
    if options.schedule == "step":
        factor = options.decay_factor ** (step // (steps_per_epoch * options.decay_every_epochs))
    elif options.schedule == "exponential":
        factor = options.decay_factor**decays
    elif options.schedule == "cosine":
        done = max(0, step - options.warmup_steps) / max(1, total_steps - options.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        factor = options.cosine_floor + (1 - options.cosine_floor) * cosine
    else:
        factor = 1.0
    return factor * (step + 1) / options.warmup_steps if step < options.warmup_steps else factor


class Patience:
    """Early stopping: `exhausted` after so many updates in a row that were no better. Higher is better, NaN never.

    `updates`: None waits for ever.
    """

    def __init__(self, updates: int | None) -> None:
        if updates is not None and updates < 1:
            raise ValueError(f"patience of {updates} updates must be 1 or more, or None for no end")
        self.updates = updates
        self.best = -math.inf
        self.waited = 0

    def update(self, value: float) -> bool:
        """Whether `value` is better than all before it."""
        better = value > self.best
        self.best, self.waited = (value, 0) if better else (self.best, self.waited + 1)
        return better

    @property
    def exhausted(self) -> bool:
        return self.updates is not None and self.waited >= self.updates

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.waited = state["best"], state["waited"]
