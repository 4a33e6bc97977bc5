"""A plain training loop: AdamW, warm-up and cosine, no decay on norms and biases, reproducible from its seed."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Batch = tuple[Tensor, Tensor]
"""Inputs float32 [batch, 3, …] and what they should become: labels int64 [batch], or what the loss takes."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""(outputs, what they should be) → a scalar."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    steps: int
    learning_rate: float = 3e-3
    weight_decay: float = 0.02
    warmup_steps: int = 20
    label_smoothing: float = 0.02


def fit(
    network: nn.Module,
    batch_at: Callable[[int], Batch],
    recipe: Recipe,
    *,
    loss_of: Loss | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> list[float]:
    """Train in place for `recipe.steps` batches; returns the loss of each. `batch_at` must depend on the step alone.

    `loss_of`: None is cross-entropy with the recipe's smoothing.
    """
    loss_of = loss_of or partial(F.cross_entropy, label_smoothing=recipe.label_smoothing)
    optimiser = torch.optim.AdamW(parameter_groups(network, recipe.weight_decay), lr=recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: pace(step, recipe))
    network.train()
    losses, began = [], time.monotonic()
    for step in range(recipe.steps):
        inputs, wanted = batch_at(step)
        loss = loss_of(network(inputs), wanted)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if step % 50 == 49 or step + 1 == recipe.steps:
            recent = sum(losses[-50:]) / len(losses[-50:])
            report(f"step {step + 1}/{recipe.steps}  loss {recent:.4g}  {time.monotonic() - began:.0f} s")
    network.eval()
    return losses


def pace(step: int, recipe: Recipe) -> float:
    """The learning rate's factor: linear warm-up, then half a cosine to 0 (Loshchilov and Hutter, arXiv:1608.03983)."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * done))


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Matrices and kernels decay; norms' scales and all biases (one-dimensional) do not."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
