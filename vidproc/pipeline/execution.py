"""The steps on Ray Data: what runs where, with which resources, and how the driver iterates over the result.

plan (Parquet) ─▶ probe ─▶ repartition ─▶ decode ─▶ annotate (actors) ─▶ write ─▶ driver
"""

import functools
import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import ray
import ray.data

from vidproc.pipeline import steps
from vidproc.pipeline.options import ComputeOptions
from vidproc.pipeline.steps import Settings

_MIB = 1 << 20
_LIGHT_CPUS = 0.05
"""Booked by steps that wait more than they work, so that on two cores decoding still gets both."""
_DECODE_CPUS = 0.9
_ROWS_PER_PART = 192


@dataclass(frozen=True)
class Cluster:
    """What there is to run on."""

    cpus: float
    gpus: float

    @classmethod
    def of_ray(cls) -> "Cluster":
        found = ray.cluster_resources()
        return cls(found.get("CPU", 1.0), found.get("GPU", 0.0))


@contextmanager
def connected() -> Iterator[Cluster]:
    """Join the cluster that this process was submitted to (RAY_ADDRESS), or start Ray on this machine for this job."""
    joined = ray.is_initialized()
    if not joined:
        quiet = {"logging_level": logging.ERROR, "log_to_driver": True, "configure_logging": True}
        if os.environ.get("RAY_ADDRESS"):
            ray.init(**quiet)
        else:
            ray.init(include_dashboard=False, num_cpus=max(os.cpu_count() or 1, 2), **quiet)
    _configure_data()
    try:
        yield Cluster.of_ray()
    finally:
        if not joined:
            ray.shutdown()


def _configure_data() -> None:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = 64 * _MIB
    context.execution_options.preserve_order = False
    context.enable_rich_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)


@ray.remote(num_cpus=_DECODE_CPUS, max_retries=2, scheduling_strategy="SPREAD")
def _decode_elsewhere(segment: pa.Table, settings: Settings) -> pa.Table:
    return next(iter(steps.decode(segment, settings=settings)))


def _decode(batch: pa.Table, *, settings: Settings) -> Iterator[pa.Table]:
    """Decode here; what killed its decoder is tried once more wherever Ray finds room."""
    yield from steps.decode(
        batch, settings=settings, elsewhere=lambda segment: ray.get(_decode_elsewhere.remote(segment, settings))
    )


def annotated(plan_url: str, planned: int, settings: Settings, options: ComputeOptions, cluster: Cluster) -> Any:
    """The dataset of `ANNOTATED` rows of a plan."""
    on_gpu = cluster.gpus >= 1 and options.device != "cpu"
    actors = options.actors or (int(cluster.gpus) if on_gpu else max(1, int(cluster.cpus) // 8))
    probes = min(max(math.ceil(planned / 64), min(planned, 2 * int(cluster.cpus))), 100_000)
    segments_per_task = max(1, min(8, int(planned / (8 * cluster.cpus))))
    threads = None if on_gpu else max(1, min(8, int(cluster.cpus) // actors))
    light = {"num_cpus": _LIGHT_CPUS}
    videos = ray.data.read_parquet(plan_url, override_num_blocks=max(probes, 1), ray_remote_args=light)
    return (
        videos.map_batches(functools.partial(steps.probe, settings=settings), batch_format="pyarrow", **light)
        .repartition(target_num_rows_per_block=segments_per_task)
        .map_batches(
            functools.partial(_decode, settings=settings),
            batch_format="pyarrow",
            zero_copy_batch=True,
            num_cpus=_DECODE_CPUS,
        )
        .map_batches(
            steps.Annotate,
            fn_constructor_args=(settings,),
            fn_constructor_kwargs={"device": "cuda" if on_gpu else "cpu", "threads": threads},
            batch_format="pyarrow",
            zero_copy_batch=True,
            batch_size=options.batch_segments or (16 if on_gpu else 4),
            compute=ray.data.ActorPoolStrategy(size=actors),
            num_cpus=_LIGHT_CPUS if cluster.cpus < 8 else 1,
            num_gpus=1 if on_gpu else 0,
        )
    )


def written(
    plan_url: str, planned: int, settings: Settings, options: ComputeOptions, cluster: Cluster
) -> Iterator[dict[str, Any]]:
    """Run the steps; yields what each `write` returns: `parts` and `told`, as JSON texts."""
    dataset = annotated(plan_url, planned, settings, options, cluster).map_batches(
        functools.partial(steps.write, settings=settings),
        batch_format="pyarrow",
        batch_size=_ROWS_PER_PART,
        num_cpus=_LIGHT_CPUS,
    )
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from batch.to_pylist()


def settings_with(settings: Settings, **changes: Any) -> Settings:
    return replace(settings, **changes)
