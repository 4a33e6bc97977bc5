"""Train: examples in, a checkpoint out that the label job loads. The same command goes on where a killed one was."""

import json
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vidproc import __version__
from vidproc.command import log
from vidproc.errors import UsageError
from vidproc.media.geometry import displayed_of
from vidproc.pipeline.cluster import Cluster, connected
from vidproc.tables.store import Store
from vidproc.train.augment import BY_THE_TASK, Augment
from vidproc.train.examples import found_categories, read_examples
from vidproc.train.feed import Feed, Look
from vidproc.train.options import TrainConfig
from vidproc.views import Frames


def run(config: TrainConfig) -> int:
    """Train what the options describe. Returns the exit code; raises the typed errors of `errors`."""
    store = Store(config.folder)
    _claim(store, config)
    if store.get("network.safetensors.json") is not None:
        log("trained already", weights=store.url_of("network.safetensors"))
        return 0
    examples = _examples(store, config)
    categories: tuple[str, ...] = ()
    if config.task != "restoration":
        categories = found_categories(examples, config, strangers=config.task == "embedding")
    # Ray Train's actors say much that nobody needs
    with connected(workers_speak=False, keep_workers=False, needs="vidproc.train.worker") as cluster:
        if cluster.here:  # which nobody reclaims; the watcher takes half a core while the first steps are trained
            os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        return _train(config, store, examples, categories, cluster)


def _anywhere(config: TrainConfig) -> TrainConfig:
    """With absolute paths: workers run in folders of their own."""
    found = {"out": Store(config.out).url_of()}
    if config.init and Path(config.init).exists():
        found["init"] = str(Path(config.init).absolute())
    return config.model_copy(update=found)


def _claim(store: Store, config: TrainConfig) -> None:
    """The folder is this configuration's, or becomes so. Raises `UsageError` if it is another's."""
    asked: dict[str, Any] = {"config": config.identity(), "hash": config.identity_hash(), "code_version": __version__}
    data = json.dumps(asked, indent=1).encode()
    if store.create("config.json", data):
        return
    there = json.loads(store.get("config.json") or b"{}")
    if there.get("hash") == asked["hash"]:
        return
    before, now = there.get("config", {}), asked["config"]
    differing = [name for name in now if before.get(name) != now[name]]
    told = "; ".join(f"{name} was {before.get(name)!r} and is now {now[name]!r}" for name in differing[:5])
    raise UsageError(f"{store.url_of()} holds a training with other options ({told}): choose another --name")


def _examples(store: Store, config: TrainConfig) -> pa.Table:
    """As they were when the training began: a restart must see the same ones in the same order."""
    if (data := store.get("examples.parquet")) is not None:
        return pq.read_table(pa.BufferReader(data))
    examples = read_examples(config)
    sink = pa.BufferOutputStream()
    pq.write_table(examples, sink, compression="zstd")
    store.create("examples.parquet", sink.getvalue().to_pybytes())
    counts = {row["values"]: row["counts"] for row in pc.value_counts(examples["split"]).to_pylist()}
    log("examples", **counts)
    return pq.read_table(pa.BufferReader(store.get("examples.parquet") or b""))


def _train(config: TrainConfig, store: Store, examples: pa.Table, categories: tuple[str, ...], cluster: Cluster) -> int:
    import ray
    import ray.train

    from vidproc.train.progress import Progress, shown
    from vidproc.train.result import check_describable, save_result
    from vidproc.train.tasks import TASKS
    from vidproc.train.worker import Job

    for name in ("ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    on_gpu = config.device == "cuda" or (config.device is None and cluster.gpus >= 1)
    try:
        task = TASKS[config.task](config, categories)
    except (TypeError, ValueError) as error:
        raise UsageError(f"--task {config.task} cannot be made of these options: {error}") from error
    check_describable(config, task)
    train = _feed(config, examples, "train", categories)
    held = _feed(config, examples, "held_out", categories)
    if train is None:
        raise UsageError("no example is there to train on: look at the split column or at --held-out")
    most = config.workers[-1]
    if min(config.batch, train.items) < most:
        raise UsageError(f"--batch {config.batch} and {train.items} samples must be at least {most}, one a worker")
    progress = Progress.remote()  # type: ignore[attr-defined]
    job = Job(
        config=_anywhere(config),
        task=task,
        train=train,
        labels=_labels(train),
        held=held,
        held_labels=_labels(held) if held is not None else [],
        decoders=max(1, int((cluster.cpus / most - config.cpus_per_worker) / config.cpus_per_decode)),
        progress=progress,
    )
    trainer = _trainer(config, store, job, on_gpu=on_gpu)
    with shown(progress):
        try:
            result = trainer.fit()
        except ray.train.TrainingFailedError as error:
            verdict = ray.get(progress.verdict.remote())
            raise _failure(*verdict) if verdict else error from error
    if verdict := ray.get(progress.verdict.remote()):
        raise _failure(*verdict)
    if result.checkpoint is None:
        raise RuntimeError("the training ended without a checkpoint")
    told = save_result(config, store, task, examples, result.checkpoint)
    log("trained", weights=store.url_of("network.safetensors"), **dict[str, Any](told))
    return 0


def _trainer(config: TrainConfig, store: Store, job: Any, *, on_gpu: bool) -> Any:
    import ray.train
    from ray.train.torch import TorchTrainer

    from vidproc.train.worker import work

    filesystem, path = fsspec.core.url_to_fs(store.url_of())
    return TorchTrainer(
        work,
        train_loop_config={"job": job},
        scaling_config=ray.train.ScalingConfig(
            num_workers=config.workers[0] if len(config.workers) == 1 else config.workers,  # type: ignore[arg-type]
            use_gpu=on_gpu,
            resources_per_worker={"CPU": config.cpus_per_worker, **({"GPU": 1} if on_gpu else {})},
        ),
        run_config=ray.train.RunConfig(  # type: ignore[call-arg]
            name="ray",
            storage_path=path,
            storage_filesystem=pa.fs.PyFileSystem(pa.fs.FSSpecHandler(filesystem)),
            failure_config=ray.train.FailureConfig(max_failures=config.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )


def _failure(kind: str, message: str) -> Exception:
    if kind in ("UsageError", "WeightsError", "FloatingPointError"):
        return UsageError(message)
    return RuntimeError(f"the training failed twice at the same step: {kind}: {message}")


def _labels(feed: Feed) -> list[Any]:
    """Of each example. Boxes are of the whole picture: they become those of what the network sees of it."""
    from vidproc.train.boxes import in_view

    labels = [json.loads(label) for label in feed.examples["label"].to_pylist()]
    view = feed.look.view
    if not isinstance(view, Frames) or not any(isinstance(label, dict) for label in labels):
        return labels
    shown = [displayed_of(json.loads(facts)) for facts in feed.examples["facts"].to_pylist()]
    return [in_view(label, view.picture, size) for label, size in zip(labels, shown, strict=True)]


def _feed(config: TrainConfig, examples: pa.Table, split: str, categories: Sequence[str]) -> Feed | None:
    """One split's samples: probed, and decoded now if they are to be kept."""
    from vidproc.train.streams import fits_in_memory, prepare

    chosen = examples.filter(pc.equal(examples["split"], split))
    if not chosen.num_rows:
        return None
    even = split != "train"
    hears = config.hears
    look = Look(
        view=config.looks_at,
        samples=config.even_samples if even else config.samples,
        even=even,
        seed=config.seed,
        sound_us=None if hears is None else hears.sound_us,
    )
    augment = Augment(
        () if even else [name for name in config.augment if name not in BY_THE_TASK.get(config.task, ())],
        sample_shape=config.sample_shape,
        categories=categories,
    )
    size = math.prod((chosen.num_rows, look.samples, *config.sample_shape)) * (2 if hears else 1)
    once = config.decode == "once" or (config.decode == "auto" and fits_in_memory(size))
    prepared = prepare(chosen, look, decode=once, cpus=config.cpus_per_decode, together=config.together)
    log("prepared", split=split, examples=prepared.examples.num_rows, kept=once, **dict[str, Any](prepared.failed))
    return Feed(
        examples=prepared.examples,
        look=look,
        augment=augment,
        sample_shape=config.sample_shape,
        together=config.together,
        bank=prepared.bank,
    )
