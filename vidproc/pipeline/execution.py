"""The steps on Ray Data: what runs where, with which resources, and how the driver iterates over the result.

plan (Parquet) ─▶ probe ─▶ repartition ─▶ decode ─▶ annotate (actors) ─▶ write ─▶ driver
"""

import functools
import logging
import random
from collections.abc import Generator, Iterator, Mapping
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vidproc.media.decode import layout
from vidproc.media.sampling import SEGMENT_US, Span
from vidproc.pipeline import counted, steps
from vidproc.pipeline.cluster import Cluster, living_nodes, offers
from vidproc.pipeline.options import LabelConfig
from vidproc.pipeline.placement import await_nodes, networks
from vidproc.pipeline.steps import Settings

_MIB = 1 << 20
_TASK_BYTES = 128 * _MIB
_SEGMENTS_PER_PART = 16
"""Segments that `write` waits for: few, so that a run which is often preempted makes progress."""


def _configure_data() -> None:
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what it would tell is raised here too
    context = ray.data.DataContext.get_current()
    context.raise_original_map_exception = True  # a step's typed error, not one about "user code"
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = 2 * _TASK_BYTES  # a task's pixels with all that goes with them are one block
    context.execution_options.preserve_order = False


@ray.remote(max_retries=2)
def _decode_elsewhere(segment: pa.Table, settings: Settings) -> pa.Table:
    return next(iter(steps.decode(segment, settings=settings)))


def segments_per_task(settings: Settings, few: float) -> int:
    """How many segments one task decodes: few, and no more than make one block of pixels.

    A task that is run again (its node died) replays its blocks, and Ray skips as many as it has seen. Were there
    several, a segment that fails in one try alone would shift the borders between them, and lose or double rows.
    """
    span = Span(0, SEGMENT_US)
    _, size_bytes = layout(settings.views, video=span, segment=span, still=False)
    return max(1, min(8, int(few), _TASK_BYTES // max(size_bytes, 1)))


def _another_node(booked: Mapping[str, float]) -> Any:
    """Where a segment is tried again: on another node that may decode, else on this one.

    Placed by the node's id, not by its resources: those are booked by tasks that may all be waiting for this one.
    """
    here = ray.get_runtime_context().get_node_id()
    able = [id_ for id_, node in living_nodes().items() if offers(node, booked)]
    others = [id_ for id_ in able if id_ != here]
    return NodeAffinitySchedulingStrategy(random.choice(others) if others else here, soft=True)


def _decode(batch: pa.Table, *, settings: Settings, cpus: float, resources: Mapping[str, float]) -> Iterator[pa.Table]:
    """Decode here; what killed its decoder is tried once more, on another node if there is one."""

    def elsewhere(segment: pa.Table) -> pa.Table:
        where = _another_node({"CPU": cpus, **resources})
        again = _decode_elsewhere.options(num_cpus=cpus, scheduling_strategy=where)
        decoded: pa.Table = ray.get(again.remote(segment, settings))
        return decoded

    yield from counted.decode(batch, settings=settings, elsewhere=elsewhere)


def annotated(plan_url: str, planned: int, settings: Settings, options: LabelConfig, cluster: Cluster) -> Any:
    """The dataset of `ANNOTATED` rows of a plan. Raises `UsageError` if no node offers what a step books."""
    _configure_data()
    device = options.device or ("cuda" if cluster.gpus >= 1 else "cpu")
    cluster = await_nodes(options, cluster, device=device)
    made = networks(options, cluster, device=device, actors=options.actors)
    cpus, resources = options.decode_cpus, options.decode_resources
    decoding = sum(node["CPU"] for node in cluster.nodes_with({"CPU": cpus, **resources}))
    room = options.batch_segments or (16 if device == "cuda" else 4)
    few = planned / (8 * decoding)  # rows a task, so that every core gets several tasks
    chunks = [pa.table({name: [value] for name, value in chunk.items()}) for chunk in _chunks(plan_url, few)]
    probe = functools.partial(counted.probe_chunks, settings=settings)
    decode = functools.partial(_decode, settings=settings, cpus=cpus, resources=resources)
    return (
        ray.data.from_arrow(chunks)
        .map_batches(probe, batch_format="pyarrow", num_cpus=options.probe_cpus, resources=resources)
        .repartition(target_num_rows_per_block=segments_per_task(settings, few))
        # some memory, because a step that books just what the actors book would be run inside them
        .map_batches(decode, batch_format="pyarrow", num_cpus=cpus, memory=_MIB, resources=resources)
        .map_batches(
            counted.Annotate,
            fn_constructor_args=(settings,),
            fn_constructor_kwargs={
                "room": room,
                "device": device,
                "threads": made.threads,
                "compiled": options.compile,
            },
            batch_format="pyarrow",
            batch_size=room,
            compute=ray.data.ActorPoolStrategy(size=made.actors),
            **made.booked,
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
    plan_url: str, planned: int, settings: Settings, options: LabelConfig, cluster: Cluster
) -> Generator[dict[str, Any], None, None]:
    """Run the steps; yields what each `write` returns: `parts` and `told`, as JSON texts."""
    write = functools.partial(counted.write, settings=settings)
    rows = _SEGMENTS_PER_PART * len(settings.annotators)
    dataset = annotated(plan_url, planned, settings, options, cluster).map_batches(
        write,
        batch_format="pyarrow",
        batch_size=rows,
        num_cpus=options.write_cpus,
        resources=options.write_resources,
    )
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from batch.to_pylist()
