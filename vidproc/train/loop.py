"""A plain training loop in this process: AdamW, warm-up and cosine, reproducible from its seed."""

import time
from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from vidproc.train.optimisation import Optimisation
from vidproc.train.options import OptimiserOptions
from vidproc.train.schedule import ScheduleOptions

Batch = tuple[Tensor, Tensor]
"""Inputs float32 [batch, 3, …] and what they should become: labels int64 [batch], or what the loss takes."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""(outputs, what they should be) → a scalar."""

SMOOTHED: Loss = partial(F.cross_entropy, label_smoothing=0.02)


def fit(
    network: nn.Module,
    batch_at: Callable[[int], Batch],
    *,
    steps: int,
    learning_rate: float = 3e-3,
    l2: float = 0.02,
    warmup_steps: int = 20,
    loss_of: Loss = SMOOTHED,
    report: Callable[[str], None] = lambda _: None,
) -> list[float]:
    """Train in place for so many batches; returns the loss of each. `batch_at` must depend on the step alone."""
    options = OptimiserOptions(learning_rate=learning_rate, l2=l2)
    schedule = ScheduleOptions(warmup_steps=warmup_steps)
    optimisation = Optimisation(network, options, schedule=schedule, total_steps=steps, steps_per_epoch=steps)
    network.train()
    losses, began = [], time.monotonic()
    for step in range(steps):
        inputs, wanted = batch_at(step)
        loss = loss_of(network(inputs), wanted)
        loss.backward()  # type: ignore[no-untyped-call]
        optimisation.step()
        losses.append(float(loss.detach()))
        if step % 50 == 49 or step + 1 == steps:
            recent = sum(losses[-50:]) / len(losses[-50:])
            report(f"step {step + 1}/{steps}  loss {recent:.4g}  {time.monotonic() - began:.0f} s")
    network.eval()
    return losses
