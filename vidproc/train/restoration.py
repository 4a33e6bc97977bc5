"""Train a network that takes noise out of frames, and measure it on pictures that it never saw.

    python -m vidproc.train.restoration                                         makes the checkpoint that is shipped
    python -m vidproc.train.restoration --videos DIR --minutes 3 [--out DIR]    learns from your own videos

The first takes about five minutes on one core and learns from the drawn pictures of `train/dead_leaves.py`. Of videos
about a third are held out, and nothing is saved unless `--out` says where.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidproc.models.restoration import RestorationNetwork
from vidproc.models.restorer import Restorer
from vidproc.models.sidecar import DEMO, sidecar_text
from vidproc.models.specs import RestorationSpec
from vidproc.train.dead_leaves import picture
from vidproc.train.fidelity import median_filtered, noisy, psnr_db
from vidproc.train.loop import Batch, fit
from vidproc.train.real_frames import split_frames
from vidproc.train.tasks.restoration import MOST_NOISE

Pictures = Sequence[npt.NDArray[np.uint8]]

STEPS = 3000
PATCH, BATCH = 64, 16
HELD_OUT = 1_000_000
"""Seeds of drawn pictures from here on are never trained on."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, metavar="DIR", help="learn from these videos, not from drawings")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, default=STEPS, help="(default: %(default)s)")
    length.add_argument("--minutes", type=float, help="about so long, as measured on the first steps")
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"where restore.safetensors goes; drawn: {DEMO}")
    given = parser.parse_args()
    torch.set_num_threads(1)  # sums in the same order on every machine
    if given.videos is None:
        training, held = drawn(240, size=192), drawn(24, size=192, first=HELD_OUT)
    else:
        training, held = split_frames(given.videos)
    print(f"{len(training)} pictures to train on, {len(held)} held out", flush=True)
    steps = given.steps if given.minutes is None else steps_in(given.minutes, training)
    network = train(training, steps=steps, report=lambda text: print(text, flush=True))
    figures = [f"{name} {db:.2f} dB" for name, db in measured(network, held).items()]
    print(*figures, sep="\n", flush=True)
    protocol = f"PSNR on {len(held)} unseen pictures, noise of sigma 25: {', '.join(figures)}"
    how = f" --steps {steps}" if steps != STEPS else ""
    if given.videos is None:
        print("->", save(network, given.out or DEMO, licence="Apache-2.0", how=how, protocol=protocol))
    elif given.out is not None:
        print("->", save(network, given.out, licence="private", how=f" --videos DIR{how}", protocol=protocol))


def drawn(count: int, *, size: int, first: int = 0) -> Pictures:
    """Dead leaves with the seeds from `first` on."""
    return [picture(size=size, seed=first + i) for i in range(count)]


def train(
    pictures: Pictures,
    *,
    steps: int = STEPS,
    learning_rate: float = 2e-3,
    warmup_steps: int = 50,
    spec: RestorationSpec | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> RestorationNetwork:
    """A network trained from the fixed seed 0 by the mean absolute difference (as EDSR, which found it sharper)."""
    torch.manual_seed(0)
    network = RestorationNetwork(spec or RestorationSpec()).to(memory_format=torch.channels_last)
    fit(
        network,
        partial(batch_at, pictures),
        steps=steps,
        learning_rate=learning_rate,
        l2=0.0,
        warmup_steps=warmup_steps,
        loss_of=F.l1_loss,
        report=report,
    )
    return network


def batch_at(pictures: Pictures, step: int) -> Batch:
    """The step's patches with noise, and without: float32 [batch, 3, PATCH, PATCH] of 0..1."""
    rng = np.random.default_rng([step, 11])
    clean = torch.from_numpy(np.stack([_patch(pictures, rng) for _ in range(BATCH)])).movedim(-1, 1).float() / 255
    sigma = torch.from_numpy(rng.uniform(0, MOST_NOISE, BATCH).astype(np.float32))
    return noisy(clean, sigma, torch.Generator().manual_seed(step)), clean


def _patch(pictures: Pictures, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """A place in a picture, seen in one of eight ways. Pictures smaller than a patch are repeated beyond their edge."""
    whole = pictures[int(rng.integers(len(pictures)))]
    missing = [(0, max(0, PATCH - side)) for side in whole.shape[:2]]
    whole = np.pad(whole, [*missing, (0, 0)], mode="symmetric") if np.any(missing) else whole
    top, left = (int(rng.integers(side - PATCH + 1)) for side in whole.shape[:2])
    patch = np.rot90(whole[top : top + PATCH, left : left + PATCH], k=int(rng.integers(4)))
    return patch[::-1] if rng.integers(2) else patch


def steps_in(minutes: float, pictures: Pictures) -> int:
    """How many steps fit into that time here."""
    timed = 10
    train(pictures, steps=2)  # the first steps are slower than all that follow
    began = time.monotonic()
    train(pictures, steps=timed)
    return max(timed, int(60 * minutes * timed / (time.monotonic() - began)))


def measured(network: nn.Module, pictures: Pictures, *, sigma: float = 25.0) -> dict[str, float]:
    """Mean PSNR in dB over pictures with this noise: as they are, through the medians, through the network."""
    found: dict[str, list[Tensor]] = {}
    with torch.inference_mode():
        for seed, pixels in enumerate(pictures):
            truth = torch.from_numpy(pixels).movedim(-1, 0)[None].float() / 255
            given = noisy(truth, sigma, torch.Generator().manual_seed(HELD_OUT + seed))
            ways = {"noisy": given, "median 3x3": median_filtered(given, 3), "median 5x5": median_filtered(given, 5)}
            for name, tried in {**ways, "restored": network(given)}.items():
                found.setdefault(name, []).append(psnr_db(tried, truth))
    return {name: float(torch.cat(values).mean()) for name, values in found.items()}


def save(network: RestorationNetwork, folder: Path, *, licence: str, how: str, protocol: str) -> Path:
    """Write the checkpoint and its sidecar; returns the checkpoint's path. `how`: the flags that made it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "restore.safetensors"
    data = safetensors.torch.save({name: value.contiguous() for name, value in network.state_dict().items()})
    restorer = Restorer(
        url=str(path),
        sha256=sha256(data).hexdigest(),
        restoration=network.spec,
        licence=licence,
        provenance=f"python -m vidproc.train.restoration{how}",
        protocol=protocol,
    )
    path.write_bytes(data)
    path.with_name(f"{path.name}.json").write_text(sidecar_text(restorer))
    return path


if __name__ == "__main__":
    main()
