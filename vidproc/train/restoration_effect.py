"""Does it help the networks that label? `python -m vidproc.train.restoration_effect [--restorer URL] [--scenes N]`

Top-1 accuracy of the two demo networks on scenes that they never saw, with restoration and without, where noise comes
from the camera (before H.264, as in an archive) or lies on the decoded frames (as where an encoder kept it). About five
minutes on one core.

Found with the shipped restorer: on decoded frames `objects` goes from 0.594 to 0.872 at sigma 25 and from 0.206 to
0.783 at sigma 50. Where H.264 (crf 26) has already removed it, nothing is gained: 0.972 both ways at sigma 25. So
restoration is off by default.
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from vidproc.annotators.forward import ScoringNetwork, load_scoring_network
from vidproc.models.restorer import Restorer, resolve_restorer
from vidproc.models.weights import Weights, resolve_weights
from vidproc.train.encoded import encode, first_samples
from vidproc.train.synthetic import HELD_OUT, MOTIONS, SHAPES, render

Pixels = npt.NDArray[np.uint8]

SIGMAS = (0.0, 10.0, 25.0, 50.0)
"""Standard deviations of the noise, of 0..255."""
FPS = 25


@dataclass(frozen=True, order=True)
class Case:
    """`place`: where the noise is, "camera" or "frames"."""

    network: str
    place: str
    sigma: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--restorer", default="demo", metavar="URL", help="(default: %(default)s)")
    parser.add_argument("--scenes", type=int, default=60, help="(default: %(default)s)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for case, (plain, restored) in sorted(accuracies(resolve_restorer(given.restorer), scenes=given.scenes).items()):
        where = f"{case.network}, noise of sigma {case.sigma:.0f} from the {case.place}"
        print(f"{where}: top-1 {plain:.3f} as it is, {restored:.3f} restored")


def accuracies(restorer: Restorer, *, scenes: int, sigmas: Sequence[float] = SIGMAS) -> dict[Case, tuple[float, float]]:
    """(top-1 as it is, top-1 restored) of each case: three samples a scene."""
    weights = {"objects": resolve_weights("demo:objects"), "actions": resolve_weights("demo:actions")}
    networks = {name: _with_and_without(one, restorer) for name, one in weights.items()}
    right: defaultdict[Case, list[tuple[float, float]]] = defaultdict(list)
    for number in range(scenes):
        shown = {"objects": SHAPES[number % len(SHAPES)], "actions": MOTIONS[number % len(MOTIONS)]}
        labels = {name: weights[name].categories.index(label) for name, label in shown.items()}
        for place, sigma, video in _videos(number, sigmas):
            for name, (plain, restored) in networks.items():
                samples = first_samples(video, weights[name].view, count=3, start_us=300_000)  # type: ignore[arg-type]
                samples = with_noise(samples, sigma, seed=number) if place == "frames" else samples
                hits = (_hits(network, samples, labels[name]) for network in (plain, restored))
                right[Case(name, place, sigma)].append(tuple(hits))  # type: ignore[arg-type]
    return {case: tuple(np.mean(hits, axis=0).tolist()) for case, hits in right.items()}


def with_noise(pixels: Pixels, sigma: float, *, seed: int) -> Pixels:
    noise = np.random.default_rng([seed, 3]).standard_normal(pixels.shape, dtype=np.float32)
    return (pixels + noise * np.float32(sigma)).round().clip(0, 255).astype(np.uint8)


def _with_and_without(weights: Weights, restorer: Restorer) -> list[ScoringNetwork]:
    return [load_scoring_network(weights, device="cpu", batch=None, restorer=one) for one in (None, restorer)]


def _videos(number: int, sigmas: Sequence[float]) -> list[tuple[str, float, bytes]]:
    """(place, sigma, video) of one scene; noise on frames is for the caller to add."""
    shape, motion = SHAPES[number % len(SHAPES)], MOTIONS[number % len(MOTIONS)]
    pixels = render(shape=shape, motion=motion, seconds=4.2, fps=FPS, size=(180, 240), seed=HELD_OUT + number)
    clean = encode(pixels, fps=FPS)
    cameras = [
        ("camera", sigma, encode(with_noise(pixels, sigma, seed=number), fps=FPS) if sigma else clean)
        for sigma in sigmas
    ]
    return cameras + [("frames", sigma, clean) for sigma in sigmas if sigma]


def _hits(network: ScoringNetwork, samples: Pixels, label: int) -> float:
    [scores] = network.scores([samples])
    return float((scores.argmax(axis=1) == label).mean())


if __name__ == "__main__":
    main()
