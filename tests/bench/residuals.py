"""What residuals are for: 56 layers train with them and hardly without; 8 layers need none.

    python tests/bench/residuals.py [--depths 8 56] [--seeds 3] [--steps 300] [--rate 0.1]    200 s of one core

Both are He et al.'s networks for small pictures (2016, arXiv:1512.03385, section 4.2), half as wide, with batch norm.
They have the same parameters, as shortcut A has none; pictures, order and optimiser are the same too. They learn 200
pictures of `vidproc/train/synthetic.py` by heart. `loss` is that of the last tenth of the steps, where ln 5 = 1.61 is
knowing nothing. "From zero": blocks begin as their shortcuts (Goyal et al. 2017, arXiv:1706.02677). Means of three
seeds, and the range of one that varies:

    layers   residual                residual from zero   plain
    8        0.005                   0.191                0.004   shallow networks need no residuals
    56       0.739 (0.007 to 1.302)  0.022                1.596   deep ones do, and a start that fits

They differ before any training: gradients of a plain network with batch norm grow with depth (Yang et al. 2019,
arXiv:1902.08129). The first convolution's (`gradient`) has norm 0.3 at 8 layers and 600 at 56, where the residual
network's has 2.9, and 0.08 from zero. Smaller steps help the plain one a little (`--depths 56 --kinds plain
--seeds 1`): 1.60 with `--rate 0.001`, 1.53 with `--rate 0.01`, and then 0.90 with `--steps 2000`: slow, not unable.
Nor are residuals the only cure: other first weights train 10,000 plain layers (Xiao et al. 2018, arXiv:1806.05393).
"""

import argparse
import json
import math
import time
from functools import partial
from statistics import mean
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from vidproc.models.build import build
from vidproc.models.specs import Block, ResidualSpec, Stem
from vidproc.train.inputs import inputs_of
from vidproc.train.loop import Batch
from vidproc.train.options import LookOptions
from vidproc.train.schedule import ScheduleOptions, rate_factor
from vidproc.train.synthetic import SHAPES, frames, scene

Kind = Literal["residual", "residual from zero", "plain"]
KINDS: tuple[Kind, ...] = ("residual", "residual from zero", "plain")
PICTURES, BATCH = 200, 50
INPUTS = LookOptions(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
KNOWS_NOTHING = math.log(len(SHAPES))
"""The loss of a network that takes all classes for equally likely."""


def network_of(kind: Kind, depth: int) -> nn.Module:
    """The network of `depth` = 6n + 2 layers, drawn from torch's current seed."""
    if depth < 8 or depth % 6 != 2:
        raise ValueError(f"depth {depth} must be 6n + 2: 8, 14, 20 …")
    spec = ResidualSpec(
        dims=2,
        stem=Stem(kind="cifar"),
        block=Block(shortcut="none" if kind == "plain" else "A"),
        depths=(depth // 6,) * 3,
        widths=(8, 16, 32),
    )
    return build(spec, classes=len(SHAPES), zero_init=kind == "residual from zero")


def pictures() -> Batch:
    """Still scenes, float32 [pictures, 3, 16, 16], and their shapes, int64 [pictures]."""
    labels = np.arange(PICTURES) % len(SHAPES)
    scenes = [scene(SHAPES[label], "right", seed=seed, aspect=1.0) for seed, label in enumerate(labels)]
    pixels = np.concatenate([frames(one, np.zeros(1), size=(32, 32)) for one in scenes])
    return F.avg_pool2d(inputs_of(pixels, INPUTS, torch.device("cpu")), 2), torch.from_numpy(labels)


def final_loss(kind: Kind, *, depth: int, seed: int, steps: int = 300, rate: float = 0.1) -> float:
    """Train by SGD with Nesterov's momentum and a cosine; returns the mean loss of the last tenth of the steps."""
    inputs, labels = pictures()
    torch.manual_seed(seed)
    network = network_of(kind, depth).train()
    optimiser = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=1e-4)
    factor = partial(rate_factor, ScheduleOptions(warmup_steps=20), total_steps=steps, steps_per_epoch=steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
    order = torch.Generator().manual_seed(seed)
    losses = []
    for _ in range(steps):
        chosen = torch.randint(PICTURES, (BATCH,), generator=order)
        loss = F.cross_entropy(network(inputs[chosen]), labels[chosen])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return mean(losses[-max(1, steps // 10) :])


def first_gradient(kind: Kind, *, depth: int, seed: int) -> float:
    """Norm of the first convolution's gradient, before any training."""
    inputs, labels = pictures()
    torch.manual_seed(seed)
    network = network_of(kind, depth).train()
    F.cross_entropy(network(inputs[:BATCH]), labels[:BATCH]).backward()
    return float(next(network.parameters()).grad.norm())


def measured(kind: Kind, *, depth: int, seeds: int, steps: int, rate: float) -> dict[str, Any]:
    """One line of figures: `loss` after training, `gradient` before it."""
    began = time.process_time()
    losses = [final_loss(kind, depth=depth, seed=seed, steps=steps, rate=rate) for seed in range(seeds)]
    gradients = [first_gradient(kind, depth=depth, seed=seed) for seed in range(seeds)]
    line: dict[str, Any] = {"network": kind, "depth": depth, "seeds": seeds, "steps": steps, "rate": rate}
    for name, values in (("loss", losses), ("gradient", gradients)):
        line |= {f"{name}_{of.__name__}": round(of(values), 3) for of in (mean, min, max)}
    return line | {"cpu_s": round(time.process_time() - began)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depths", type=int, nargs="+", default=[8, 56], help="layers: 6n + 2")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--seeds", type=int, default=3, help="how many networks of each kind and depth")
    parser.add_argument("--steps", type=int, default=300, help=f"of training, {BATCH} pictures each")
    parser.add_argument("--rate", type=float, default=0.1, help="the learning rate at its highest")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for depth in asked.depths:
        for kind in asked.kinds:
            line = measured(kind, depth=depth, seeds=asked.seeds, steps=asked.steps, rate=asked.rate)
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
