"""What Ray Train and Ray Data cost: samples a second of a training here, and of the same loop under plain torchrun.

    python tests/bench/train_rate.py [--rounds 5] [--workers 2] [--spare 1] [--scenes 40] [--epochs 3]

Workers of one thread each train the demo's motion network by DDP, without evaluation, and keep a checkpoint each epoch
of 160 steps. Rates count from the end of the first epoch on, while which Ray still starts processes, and, told beside
it, from the first batch on. Ours finds the clips, which are decoded already, in Ray's object
store; torchrun in memory. As many workers as cores leave none to Ray's own processes: each of them takes 1 % of a core,
and none is kept that does nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import torch
import torch.distributed as dist
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn.parallel import DistributedDataParallel

from vidproc.media.guard import Guard
from vidproc.media.sources import Source
from vidproc.train.augment import Augment
from vidproc.train.demo import draw_videos, train_config
from vidproc.train.examples import found_categories, read_examples
from vidproc.train.feed import Feed, Look, Part, decoded
from vidproc.train.inputs import inputs_of, memory_format
from vidproc.train.optimisation import Optimisation
from vidproc.train.options import TrainConfig
from vidproc.train.tasks import TASKS
from vidproc.train.tasks.base import Batch

JOB = Path(__file__).parents[2] / "jobs" / "train.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--spare", type=int, default=0, help="cores that no worker may use (default: %(default)s)")
    parser.add_argument("--scenes", type=int, default=40, help="(default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--plain", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.plain is not None:
        plain(given.plain)
        return
    with tempfile.TemporaryDirectory() as folder, spared(given.spare):
        out = Path(folder)
        draw_videos(out / "clips", "actions", scenes=given.scenes)
        config = config_of(out, name="plain", epochs=given.epochs, workers=given.workers)
        keep_decoded(config, out / "bank.npz")
        (out / "config.json").write_text(config.model_dump_json(exclude_unset=True))
        whole, ratios = [], []
        for number in range(given.rounds):
            mine = ours(out, config.model_copy(update={"name": f"round-{number}"}))
            plain_rates = theirs(out, given.workers)
            whole.append(mine[0] / plain_rates[0])
            ratios.append(mine[1] / plain_rates[1])
            told = f"ours {mine[1]:.1f} samples/s, torchrun {plain_rates[1]:.1f}: {ratios[-1]:.3f}"
            print(f"{told}; with the first epoch {whole[-1]:.3f}", flush=True)
        told = f"median ratio {median(ratios):.3f} of {given.rounds} rounds"
        print(f"{told}; with the first epoch {median(whole):.3f}")


@contextmanager
def spared(cores: int) -> Iterator[None]:
    """Keep the workers of both trainings off the last `cores` cores, and all else that this process starts on them."""
    found = sorted(os.sched_getaffinity(0))
    training, rest = found[: len(found) - cores], found[len(found) - cores :]
    over = threading.Event()

    def place() -> None:
        while not over.wait(0.5):
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error, OSError):
                    line = " ".join(process.cmdline())
                    worker = "RayTrainWorker" in line or ("--plain" in line and "torch.distributed" not in line)
                    for thread in process.threads():
                        os.sched_setaffinity(thread.id, training if worker else rest)

    placing = threading.Thread(target=place)
    if cores:
        placing.start()
    try:
        yield
    finally:
        over.set()
        if cores:
            placing.join()


def config_of(out: Path, *, name: str, epochs: int, workers: int) -> TrainConfig:
    changed = {"name": name, "epochs": epochs, "workers": (workers,), "held_out": "0", "augment": (), "samples": 16}
    return TrainConfig(**train_config("actions", out).model_dump(exclude_unset=True) | changed)


def ours(out: Path, config: TrainConfig) -> tuple[float, float]:
    path = out / "train.yaml"
    path.write_text(config.model_dump_json(exclude_unset=True))
    subprocess.run([sys.executable, str(JOB), "--config", str(path)], check=True, stderr=subprocess.DEVNULL)
    events = EventAccumulator(f"{config.folder}/tensorboard").Reload()
    return rates_of([event.value for event in events.Scalars("epoch/samples_per_s")])


def rates_of(after: list[float]) -> tuple[float, float]:
    """Samples a second over all epochs, and over all but the first. `after`: since the first batch, at each's end."""
    return after[-1], (len(after) - 1) / (len(after) / after[-1] - 1 / after[0])


def theirs(out: Path, workers: int) -> tuple[float, float]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}", __file__]
    done = subprocess.run([*command, "--plain", str(out)], check=True, capture_output=True, text=True)
    return rates_of(json.loads(done.stdout.strip().splitlines()[-1]))


def keep_decoded(config: TrainConfig, path: Path) -> None:
    """All samples of the training, by the label job's decoder."""
    from vidproc.media.glimpse import probed

    look, found, labels = look_of(config), [], []
    with Guard() as guard:
        for number, row in enumerate(read_examples(config).to_pylist()):
            row["draw"] = number
            row["facts"] = json.dumps(probed(guard, Source.of(row)))
            found.append(decoded(guard, row, look, epoch=0))
            labels.append(json.loads(row["label"]))
    np.savez(path, samples=np.stack(found), labels=np.array(labels))


def look_of(config: TrainConfig) -> Look:
    return Look(view=config.looks_at, samples=config.samples, even=False, seed=config.seed)


def plain(out: Path) -> None:
    """The same training, by hand: one of two processes that torchrun started."""
    config = TrainConfig.model_validate_json((out / "config.json").read_text())
    dist.init_process_group("gloo")
    rank, workers = dist.get_rank(), dist.get_world_size()
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    examples = read_examples(config)
    task = TASKS[config.task](config, found_categories(examples, config))
    bank = np.load(out / "bank.npz")
    samples, labels = bank["samples"].reshape(-1, *config.sample_shape), np.repeat(bank["labels"], config.samples)
    groups = examples["group"].combine_chunks().dictionary_encode().indices
    feed = Feed(
        examples=examples.append_column("draw", groups),
        look=look_of(config),
        augment=Augment((), sample_shape=config.sample_shape),
        sample_shape=config.sample_shape,
        together=True,
        bank=(),
    )
    network = task.network().to(memory_format=memory_format(config))
    wrapped = DistributedDataParallel(network)
    steps = feed.steps(config.batch)
    total = steps * config.epochs
    optimisation = Optimisation(network, config, schedule=config, total_steps=total, steps_per_epoch=steps)
    part, began = Part(config.batch, rank, workers), time.monotonic()
    after: list[float] = []
    for step in range(total):
        if step % steps == 0:
            order = feed.order(step // steps)
        items = part.of(order, step % steps)
        inputs = inputs_of(samples[items], config, torch.device("cpu"))
        torch.manual_seed(step)
        wrapped.train()
        batch = Batch(inputs, task.truth(labels[items].tolist(), "cpu"))
        task.loss(wrapped, batch).backward()
        optimisation.step()
        if (step + 1) % steps:
            continue
        after.append((step + 1) * config.batch / (time.monotonic() - began))
        if rank == 0:  # a checkpoint each epoch, as ours keeps
            torch.save([network.state_dict(), optimisation.state_dict()], out / "plain.pt")
    if rank == 0:
        print(json.dumps(after))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
