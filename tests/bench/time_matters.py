"""What convolutions over time are for: a task of which single frames say nothing, and four controls.

    python tests/bench/time_matters.py [--seeds 3] [--steps 80]    20 s of one core

The task is `vidproc/train/torus.py`: in which of four directions does a texture move? Three networks of the same depth
and widths learn it with the same recipe: `3d`; `2d_and_pool`, which averages the scores of single frames; and `1x3x3`,
the 3D network without its extent over time. They are measured on clips that none was trained on, `3d` also on clips
that are frozen at their first frame, shuffled, and played backwards. Means of three seeds, as the command prints them:

    3d                              1.00
    2d_and_pool                     0.25   chance is 0.25
    1x3x3                           0.27
    3d, frozen                      0.24
    3d, shuffled                    0.43   of eight frames, some still follow each other
    3d, backwards is the opposite   1.00

A network that does not know the order of frames cannot tell a direction from its opposite. It might tell rows from
columns, which would make 0.5; after 600 steps `2d_and_pool` and `1x3x3` are still at 0.23 and 0.24 (`--steps 600
--seeds 2`).
"""

import argparse
import json
from dataclasses import replace
from statistics import mean

import numpy as np
import torch
from torch import Tensor, nn

from vidproc.models.build import build
from vidproc.models.specs import ResidualSpec, Stem
from vidproc.train.inputs import inputs_of
from vidproc.train.loop import Batch, fit
from vidproc.train.options import LookOptions
from vidproc.train.torus import DIRECTIONS, Clips, clips, opposite

INPUTS = LookOptions(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
CHANCE = 1 / len(DIRECTIONS)
BATCH, HELD_OUT = 32, 400
"""Clips a step, and clips that measure."""

_SPEC_3D = ResidualSpec(dims=3, stem=Stem(kind="video_pooled"), depths=(1, 1), widths=(16, 32))
NETWORKS = {
    "3d": _SPEC_3D,
    "2d_and_pool": replace(_SPEC_3D, dims=2, stem=Stem(kind="image")),
    "1x3x3": replace(_SPEC_3D, stem=Stem(kind="slow"), convs=("spatial",)),
}
"""Alike but for time: their stems are 7 wide in space and end in a pool, 3x7x7, 7x7 and 1x7x7."""


class MeanOverFrames(nn.Module):
    """A 2D network's scores of each frame, averaged: [batch, 3, frames, height, width] → [batch, classes]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        scores = self.network(x.transpose(1, 2).flatten(0, 1))
        return scores.unflatten(0, (len(x), -1)).mean(dim=1)


def figures(*, seed: int, steps: int = 80) -> dict[str, float]:
    """Shares of 0..1 by name, of networks trained and clips drawn from the seed."""
    networks = {name: trained(spec, seed=seed, steps=steps) for name, spec in NETWORKS.items()}
    moving, labels = clips(seed=_seed(seed, steps), count=HELD_OUT)
    network = networks["3d"]
    return {
        **{name: share(one, moving, labels) for name, one in networks.items()},
        "3d, frozen": share(network, np.repeat(moving[:, :1], moving.shape[1], axis=1), labels),
        "3d, shuffled": share(network, shuffled(moving, seed=seed), labels),
        "3d, backwards is the opposite": share(network, moving[:, ::-1].copy(), opposite(labels)),
    }


def trained(spec: ResidualSpec, *, seed: int, steps: int) -> nn.Module:
    torch.manual_seed(seed)
    network: nn.Module = build(spec, classes=len(DIRECTIONS))
    if spec.dims == 2:
        network = MeanOverFrames(network)
    else:
        network = network.to(memory_format=torch.channels_last_3d)

    def batch_at(step: int) -> Batch:
        moving, labels = clips(seed=_seed(seed, step), count=BATCH)
        return _inputs(moving), torch.from_numpy(labels)

    fit(network, batch_at, steps=steps)
    return network


def _seed(seed: int, step: int) -> int:
    """Of a step's clips; step number `steps`, which no training reaches, is of those that measure."""
    return 1_000_000 * seed + step


def _inputs(moving: Clips) -> Tensor:
    return inputs_of(moving, INPUTS, torch.device("cpu")).contiguous(memory_format=torch.channels_last_3d)


def shuffled(moving: Clips, *, seed: int) -> Clips:
    """The frames of each clip in an order of its own."""
    order = np.random.default_rng(seed).permuted(np.tile(np.arange(moving.shape[1]), (len(moving), 1)), axis=1)
    return np.take_along_axis(moving, order[:, :, None, None, None], axis=1)


def share(network: nn.Module, moving: Clips, labels: np.ndarray) -> float:
    """Of clips for which the network's best class is the label."""
    with torch.inference_mode():
        best = network(_inputs(moving)).argmax(dim=1).numpy()
    return float((best == labels).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="how many networks of each kind")
    parser.add_argument("--steps", type=int, default=80, help=f"of training, {BATCH} clips each")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = [figures(seed=seed, steps=arguments.steps) for seed in range(arguments.seeds)]
    for name in found[0]:
        shares = [one[name] for one in found]
        line = {"figure": name, "chance": CHANCE, "seeds": len(shares)}
        print(json.dumps(line | {"mean": round(mean(shares), 3), "min": min(shares), "max": max(shares)}))


if __name__ == "__main__":
    main()
