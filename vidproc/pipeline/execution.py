"""The steps on Ray Data: what runs where, with which resources, and how the driver iterates over the result.

plan (Parquet) ─▶ probe ─▶ repartition ─▶ decode ─▶ annotate (actors) ─▶ write ─▶ driver
"""

import functools
import logging
from collections.abc import Generator, Iterator
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data

from vidproc.errors import UsageError
from vidproc.pipeline import steps
from vidproc.pipeline.cluster import Cluster
from vidproc.pipeline.options import ComputeOptions
from vidproc.pipeline.steps import Settings

_MIB = 1 << 20
_LIGHT_CPUS = 0.05
"""Booked by steps that wait more than they work, so that on two cores decoding still gets both."""
_DECODE_CPUS = 0.9
_SEGMENTS_PER_PART = 16
"""Segments that `write` waits for: few, so that a run which is often preempted makes progress."""


def _configure_data() -> None:
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = 64 * _MIB
    context.execution_options.preserve_order = False


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
    _configure_data()
    on_gpu = options.device == "cuda" or (options.device is None and cluster.gpus >= 1)
    if on_gpu and cluster.gpus < 1 and cluster.here:
        raise UsageError("--device cuda: this machine has no CUDA device; leave the flag out to run on the CPU")
    actors = options.actors or max(1, int(cluster.gpus) if on_gpu else int(cluster.cpus) // 8)
    threads = None if on_gpu else max(1, min(8, int(cluster.cpus) // actors))
    few = planned / (8 * cluster.cpus)  # rows a task, so that every core gets several tasks
    chunks = [pa.table({name: [value] for name, value in chunk.items()}) for chunk in _chunks(plan_url, few)]
    probe = functools.partial(steps.probe_chunks, settings=settings)
    return (
        ray.data.from_arrow(chunks)
        .map_batches(probe, batch_format="pyarrow")  # one CPU, as repartition has: then Ray fuses the two
        .repartition(target_num_rows_per_block=max(1, min(8, int(few))))
        .map_batches(functools.partial(_decode, settings=settings), batch_format="pyarrow", num_cpus=_DECODE_CPUS)
        .map_batches(
            steps.Annotate,
            fn_constructor_args=(settings,),
            fn_constructor_kwargs={
                "device": "cuda" if on_gpu else "cpu",
                "threads": threads,
                "compiled": options.compile,
            },
            batch_format="pyarrow",
            batch_size=options.batch_segments or (16 if on_gpu else 4),
            compute=ray.data.ActorPoolStrategy(size=actors),
            num_cpus=_LIGHT_CPUS if cluster.cpus < 8 else min(1.0, cluster.cpus / (4 * actors)),
            num_gpus=1 if on_gpu else 0,
        )
    )


def _chunks(plan_url: str, rows_per_chunk: float) -> Iterator[dict[str, Any]]:
    """Pieces of the plan's files, as references: Ray's own Parquet reader starts dozens of actors for its footers."""
    length = max(1, min(16, int(rows_per_chunk)))
    for path in plan_files(plan_url):
        with fsspec.open(path) as file:
            footer = pq.ParquetFile(file).metadata
        for group in range(footer.num_row_groups):
            rows = footer.row_group(group).num_rows
            for first in range(0, rows, length):
                yield {"path": path, "row_group": group, "first": first, "rows": min(length, rows - first)}


def plan_files(plan_url: str) -> list[str]:
    """The files of a plan, in its order."""
    filesystem, folder = fsspec.core.url_to_fs(plan_url)
    return [str(filesystem.unstrip_protocol(path)) for path in sorted(filesystem.ls(folder, detail=False))]


def written(
    plan_url: str, planned: int, settings: Settings, options: ComputeOptions, cluster: Cluster
) -> Generator[dict[str, Any], None, None]:
    """Run the steps; yields what each `write` returns: `parts` and `told`, as JSON texts."""
    write = functools.partial(steps.write, settings=settings)
    rows = _SEGMENTS_PER_PART * len(settings.annotators)
    dataset = annotated(plan_url, planned, settings, options, cluster).map_batches(
        write, batch_format="pyarrow", batch_size=rows, num_cpus=_LIGHT_CPUS
    )
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from batch.to_pylist()
