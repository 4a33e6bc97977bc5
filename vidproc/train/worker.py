"""What each worker of a training does: its share of every step, in step with the others by DDP or FSDP.

All that is drawn at random is drawn anew for each step, from the run's seed and the step's number. So a checkpoint
holds no state of a generator, and a run that was killed goes on as if it had not been.
"""

import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vidproc.errors import VidprocError
from vidproc.models.allocator import keep_freed_memory
from vidproc.models.initial import begin_with
from vidproc.train.feed import Feed, Items, Part, Sampler
from vidproc.train.inputs import inputs_of, memory_format
from vidproc.train.meter import Meter
from vidproc.train.optimisation import Optimisation
from vidproc.train.options import TrainConfig
from vidproc.train.schedule import Patience
from vidproc.train.sharding import shard, shared_as, whole
from vidproc.train.streams import stream
from vidproc.train.tasks.base import Batch, Task
from vidproc.train.tracking import Tracker


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """One training, as its workers get it. `labels`, `held_labels`: of each example. `progress`: an actor to tell."""

    config: TrainConfig
    task: Task
    train: Feed
    labels: list[Any]
    held: Feed | None
    held_labels: list[Any]
    decoders: int
    progress: Any


def work(settings: Mapping[str, Any]) -> None:
    """Ray Train's function: train until the end, from the last checkpoint on if there is one."""
    job: Job = settings["job"]
    if ray.get(job.progress.verdict.remote()) is not None:
        return  # the last attempt failed for good
    training = None
    try:
        training = _Training(job)
        training.run()
    except Exception as error:
        step = training.step if training is not None else -1
        final = isinstance(error, VidprocError | FloatingPointError)
        ray.get(job.progress.raised.remote(step, type(error).__name__, str(error), final=final))
        raise


class _Training:
    def __init__(self, job: Job) -> None:
        self.job, self.config = job, job.config
        context = ray.train.get_context()
        self.rank, self.workers = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        if self.device.type == "cpu":
            torch.set_num_threads(self.config.threads)
            keep_freed_memory()
        torch.manual_seed(self.config.seed)
        network = job.task.network()
        if self.config.init:
            begin_with(network, self.config.init, allow_licences=self.config.allow_licences)
        self.network = network.to(self.device)
        self.sharded = self.config.shard and self.workers > 1
        self.wrapped = self._distributed()
        self.steps_per_epoch = job.train.steps(self.config.batch)
        self.total_steps = self.steps_per_epoch * self.config.epochs
        self.optimisation = Optimisation(
            self.network,
            self.config,
            schedule=self.config,
            total_steps=self.total_steps,
            steps_per_epoch=self.steps_per_epoch,
        )
        self.patience = Patience(self.config.patience or None)
        self.best: dict[str, Any] = {}
        self.step, self.over = 0, False
        self.losses: list[Tensor] = []  # this worker's parts of the epoch's steps so far
        self._resume()
        self.tracker = Tracker(self.config) if self.rank == 0 else None
        self._sampler: Sampler | None = None

    def _distributed(self) -> nn.Module:
        if self.sharded:
            shard(self.network)  # which wants parameters in the default layout
            return self.network
        self.network.to(memory_format=memory_format(self.config))
        if self.workers == 1:
            return self.network
        ids = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(self.network, device_ids=ids)

    # ---- the loop

    def run(self) -> None:
        if self.over:  # killed between its last checkpoint and its end
            return
        part = Part(self.config.batch, self.rank, self.workers)
        meter = Meter(batch=self.config.batch, first=self.step, stop=self.total_steps)
        samples = stream(
            self.job.train,
            part,
            first=self.step,
            stop=self.total_steps,
            actors=self.job.decoders,
            cpus=self.config.cpus_per_decode,
        )
        for step, data, items in meter.waiting_for(samples):
            assert step == self.step, f"step {step} came in place of {self.step}"
            self.losses.append(self._train_step(data, items))
            self.step += 1
            if self.rank == 0 and meter.due():
                recent = float(torch.stack(self.losses[-20:]).mean()) * self.workers
                told = {"step": self.step, "steps": self.total_steps, "loss": round(recent, 4)}
                self.job.progress.tell.remote({**told, **meter.rates(self.step)})
            if self.step % self.steps_per_epoch == 0:
                self._end_epoch(meter)
                if self.over:
                    break
            elif self.config.checkpoint_steps and self.step % self.config.checkpoint_steps == 0:
                self._report({"step": self.step})
        if self.tracker is not None:
            self.tracker.close()

    def _train_step(self, data: npt.NDArray[Any], items: Items) -> Tensor:
        """Returns this worker's part of the step's loss: all parts sum up to the mean over the batch."""
        config = self.config
        torch.manual_seed(int(np.random.SeedSequence([config.seed, self.step, self.rank]).generate_state(1)[0]))
        self.wrapped.train()
        batch_size = min(config.batch, self.job.train.items)
        total = torch.zeros((), device=self.device)
        pieces = [piece for piece in np.array_split(np.arange(len(items)), config.accumulate) if len(piece)]
        for number, piece in enumerate(pieces):
            batch = self._batch(data[piece], items[piece], self.job.train, self.job.labels)
            last = number + 1 == len(pieces)
            with self._unsynchronised(not last), self._precision():
                share = len(piece) / batch_size
                loss = self.job.task.loss(self.wrapped, batch) * share
            with self._unsynchronised(not last):
                # DDP averages over workers: undo that, because shares may differ
                (loss * self.workers).backward()
            total += loss.detach()
        self.optimisation.step()
        return total

    def _unsynchronised(self, really: bool) -> AbstractContextManager[Any]:
        """Gradients of a step's pieces are summed up here first. Where they are sharded, there is no room for that."""
        wrapped = self.wrapped
        return wrapped.no_sync() if really and isinstance(wrapped, DistributedDataParallel) else nullcontext()

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def _batch(self, data: npt.NDArray[Any], items: Items, feed: Feed, labels: list[Any]) -> Batch:
        truth = [labels[item // feed.look.samples] for item in items]
        return Batch(inputs_of(data, self.config, self.device), self.job.task.truth(truth, str(self.device)))

    # ---- the end of an epoch

    def _end_epoch(self, meter: Meter) -> None:
        """Evaluate, keep what is best, report, and find out whether training is over."""
        curve, self.losses = self._summed(self.losses), []
        epoch, loss = self.step // self.steps_per_epoch, float(curve.mean())
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss} in epoch {epoch}: lower --learning-rate, or set --gradient-clip"
            )
        with self.optimisation.averaged() as averaged:
            network = self._whole(averaged)
            measures = self._evaluated(network)
            judged = next(iter(measures.values()), -loss)
            if self.patience.update(judged) or not self.best or self.config.keep == "last":
                self.best = {"epoch": epoch, "measures": measures, "state": self._state(network)}
        self.over = self.patience.exhausted or self.step >= self.total_steps
        told = {"epoch": epoch, "step": self.step, "loss": loss, **measures, **meter.rates(self.step)}
        if self.tracker is not None:
            self.tracker.epoch(told, curve.tolist())
        self._report({**told, "losses": curve.tolist()})

    def _summed(self, losses: list[Tensor]) -> Tensor:
        """The whole loss of each step."""
        values = torch.stack(losses) if losses else torch.zeros(0, device=self.device)
        if self.workers > 1:
            dist.all_reduce(values)
        return values.cpu()

    def _whole(self, network: nn.Module) -> nn.Module:
        """The network, or a copy that this worker has whole: workers have different numbers of batches to evaluate."""
        if not self.sharded:
            return network
        copy = self.job.task.network().to(self.device)
        copy.load_state_dict(whole(network.state_dict()))
        return copy

    def _evaluated(self, network: nn.Module) -> Mapping[str, float]:
        if self.job.held is None:
            return {}
        found: list[tuple[int, npt.NDArray[np.float32]]] = []
        network.eval()
        if self.workers > 1:
            for buffer in network.buffers():  # running statistics: one network is judged, the one that is kept
                dist.broadcast(buffer, 0)
        with torch.inference_mode(), self._precision():
            for data, items in self._held_samples(self.job.held):
                batch = self._batch(data, items, self.job.held, self.job.held_labels)
                found += zip(items.tolist(), self.job.task.outputs(network, batch), strict=True)
        everywhere = [found]
        if self.workers > 1:
            everywhere = [[] for _ in range(self.workers)]
            dist.all_gather_object(everywhere, found)
        outputs = merged([pair for part in everywhere for pair in part], samples=self.job.held.look.samples)
        return self.job.task.measures(list(outputs.values()), [self.job.held_labels[i] for i in outputs])

    def _held_samples(self, feed: Feed) -> Iterator[tuple[npt.NDArray[Any], Items]]:
        part, steps = Part(self.config.batch, self.rank, self.workers), feed.steps(self.config.batch)
        if feed.bank is None:
            decoders, cpus = self.job.decoders, self.config.cpus_per_decode
            for _, data, items in stream(feed, part, first=0, stop=steps, actors=decoders, cpus=cpus):
                yield data, items
            return
        self._sampler = self._sampler or Sampler(feed)
        for step in range(steps):
            items = part.of(feed.order(0), step)
            if len(items):
                yield self._sampler.samples(items, epoch=0)

    # ---- checkpoints

    def _state(self, network: nn.Module) -> dict[str, Tensor]:
        return {name: value.detach().cpu().clone() for name, value in self.job.task.state(network).items()}

    def _report(self, told: dict[str, Any]) -> None:
        """All workers come here together; the first one's checkpoint is kept, and uploaded while training goes on."""
        mode = ray.train.CheckpointUploadMode.ASYNC
        state = {
            "step": self.step,
            "losses": self._summed(self.losses),
            "network": whole(self.network.state_dict()),
            "optimisation": whole(self.optimisation.state_dict()),
            "patience": self.patience.state_dict(),
            "best": self.best,
            "over": self.over,
        }
        if self.rank:
            ray.train.report(told, checkpoint_upload_mode=mode)
            return
        folder = tempfile.mkdtemp(prefix="vidproc-")
        torch.save(state, Path(folder) / "training.pt")
        ray.train.report(
            told,
            checkpoint=ray.train.Checkpoint.from_directory(folder),
            checkpoint_upload_mode=mode,
            delete_local_checkpoint_after_upload=True,
        )

    def _resume(self) -> None:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return
        with checkpoint.as_directory() as folder:
            state = torch.load(Path(folder) / "training.pt", map_location=self.device, weights_only=True)
        shards = self.network.state_dict()
        self.network.load_state_dict({name: shared_as(value, shards[name]) for name, value in state["network"].items()})
        self.optimisation.load_state_dict(state["optimisation"])
        self.patience.load_state_dict(state["patience"])
        self.best, self.step, self.over = state["best"], state["step"], state["over"]
        self.losses = [loss.to(self.device) * (self.rank == 0) for loss in state["losses"]]


def merged(found: list[tuple[int, npt.NDArray[np.float32]]], *, samples: int) -> dict[int, npt.NDArray[np.float32]]:
    """Example → the mean of its samples' outputs, in the examples' order."""
    grouped: dict[int, list[npt.NDArray[np.float32]]] = {}
    for item, output in sorted(found, key=lambda pair: pair[0]):
        grouped.setdefault(item // samples, []).append(output)
    return {key: values[0] if len(values) == 1 else np.mean(values, axis=0) for key, values in grouped.items()}
