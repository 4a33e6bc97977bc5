"""Ray Data between the archive and the workers that train: probe and decode once, or stream samples step by step."""

import functools
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
import ray.data

from vidproc.command import log
from vidproc.errors import InputError, UsageError
from vidproc.media.answers import clean_text
from vidproc.media.glimpse import probed
from vidproc.media.guard import process_guard
from vidproc.media.sources import Source
from vidproc.train.examples import EXAMPLES
from vidproc.train.feed import Feed, Items, Look, Part, Sampler, decoded

PREPARED = pa.schema([*EXAMPLES, ("draw", pa.int64()), ("number", pa.int64()), ("facts", pa.string())])
_TRIED = pa.schema([*PREPARED, ("reason", pa.string()), ("detail", pa.string()), ("samples", pa.large_binary())])
_EXAMPLES_PER_TASK = (16, 256)
"""The least and the most: pictures are many and quick."""
_BANK_SHARE = 0.3
"""Of Ray's object store that decoded samples may take, where that is decided here."""
_TASK_BYTES = 8 << 20
"""About so many bytes of samples leave a sampler at once: few calls, and still several batches ahead."""


def _configure() -> None:
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True


# ---- once: facts, and perhaps samples


@dataclass(frozen=True)
class Prepared:
    """The usable examples with their facts, in order; the tables of their samples if they were decoded; who failed."""

    examples: pa.Table
    bank: tuple[Any, ...] | None
    failed: dict[str, int]


def prepare(examples: pa.Table, look: Look, *, decode: bool, cpus: float, together: bool = False) -> Prepared:
    """Probe every example, and decode its samples if asked. Those that fail are told and left out.

    `together`: all examples of a group draw their random times and changes alike. Raises `UsageError` when none
    is left.
    """
    _configure()
    rows = examples.num_rows
    least, most = _EXAMPLES_PER_TASK
    per_task = min(most, max(least, rows // 128))
    groups = examples["group"].combine_chunks().dictionary_encode().indices
    whole = examples.append_column("draw", groups.cast(pa.int64()) if together else pa.array(range(rows)))
    whole = whole.append_column("number", pa.array(range(rows)))
    chunks = [whole.slice(at, per_task) for at in range(0, rows, per_task)]
    made = (
        ray.data.from_arrow(chunks)
        .map_batches(
            functools.partial(_prepare, look=look, decode=decode),
            batch_format="pyarrow",
            batch_size=None,
            num_cpus=cpus,
        )
        .materialize()
    )
    references = made.to_arrow_refs()
    light = ray.get([_without_samples.remote(one) for one in references])
    told = pa.concat_tables(light).sort_by("number")
    failed: dict[str, int] = {}
    for row in told.filter(pa.compute.is_valid(told["reason"])).to_pylist():
        failed[row["reason"]] = failed.get(row["reason"], 0) + 1
        log("left out", uri=row["uri"], member=row["member"], reason=row["reason"], detail=row["detail"])
    good = told.filter(pa.compute.is_null(told["reason"]))
    if not good.num_rows:
        raise UsageError(f"none of the {rows} examples can be used: {failed}")
    if not decode:
        return Prepared(good.select(PREPARED.names), None, failed)
    # numbers in the bank are those of the whole table: count again without the failed ones
    places = {number: i for i, number in enumerate(good["number"].to_pylist())}
    kept = tuple(_renumbered.remote(one, places) for one in references) if failed else tuple(references)
    return Prepared(good.select(PREPARED.names), kept, failed)


@ray.remote(num_cpus=0.5)
def _without_samples(table: pa.Table) -> pa.Table:
    return table.drop_columns(["samples"])


@ray.remote(num_cpus=0.5)
def _renumbered(table: pa.Table, places: Mapping[int, int]) -> pa.Table:
    good = table.filter(pa.compute.is_null(table["reason"]))
    numbers = pa.array([places[number] for number in good["number"].to_pylist()], pa.int64())
    return good.set_column(good.column_names.index("number"), "number", numbers)


def _prepare(batch: pa.Table, *, look: Look, decode: bool) -> Iterator[pa.Table]:
    guard = process_guard()
    for row in batch.to_pylist():
        found: dict[str, Any] = {**row, "facts": None, "reason": None, "detail": None, "samples": None}
        try:
            found["facts"] = json.dumps(probed(guard, Source.of(row)))
            if decode:
                samples = decoded(guard, found, look, epoch=0)
                found["samples"] = np.ascontiguousarray(samples).tobytes()
        except InputError as error:
            found |= {"reason": error.reason, "detail": clean_text(str(error), most=300), "samples": None}
        yield pa.Table.from_pylist([found], schema=_TRIED)


def fits_in_memory(bytes_wanted: int) -> bool:
    """Whether decoded samples of this size may stay in the cluster's object store."""
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return bytes_wanted <= _BANK_SHARE * resources.get("object_store_memory", 0)


# ---- every step


class Steps:
    """An actor of the stream: numbers of steps in, one worker's samples of them out."""

    def __init__(self, feed: Feed, part: Part) -> None:
        self._sampler = Sampler(feed)
        self._part = part
        self._order: tuple[int, Items] = (-1, np.empty(0, np.int64))

    def __call__(self, batch: dict[str, npt.NDArray[Any]]) -> Iterator[dict[str, npt.NDArray[Any]]]:
        for step in batch["step"].tolist():
            epoch, within = divmod(step, self._sampler.feed.steps(self._part.batch))
            if self._order[0] != epoch:
                self._order = epoch, self._sampler.feed.order(epoch)
            data, items = self._sampler.samples(self._part.of(self._order[1], within), epoch=epoch)
            yield {"step": np.full(len(items), step), "item": items, "samples": data}


def stream(
    feed: Feed, part: Part, *, first: int, stop: int, actors: int, cpus: float
) -> Iterator[tuple[int, npt.NDArray[Any], Items]]:
    """(step, samples, items) of one worker for the steps first ≤ step < stop, in order.

    Actors decode and change samples ahead. Where there is nothing to decode and nothing to change, the samples come
    straight out of the object store, which is this node's shared memory: no actor, one copy.
    """
    if feed.bank is not None and not feed.augment.names:
        here = Steps(feed, part)
        for step in range(first, stop):
            for made in here({"step": np.array([step])}):
                if len(made["item"]):
                    yield step, made["samples"], made["item"]
        return
    _configure()
    bytes_per_step = max(1, int(np.prod(feed.sample_shape)) * part.batch // part.workers)
    steps_per_task = max(1, min(64, _TASK_BYTES // bytes_per_step, (stop - first) // (4 * actors) + 1))
    tables = [
        pa.table({"step": pa.array(range(at, min(at + steps_per_task, stop)))})
        for at in range(first, stop, steps_per_task)
    ]
    dataset = ray.data.from_arrow(tables).map_batches(
        Steps,
        fn_constructor_args=(feed, part),
        batch_size=None,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=cpus,
    )
    held: list[dict[str, npt.NDArray[Any]]] = []
    for block in dataset.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=2):
        cuts = [0, *(np.flatnonzero(np.diff(block["step"])) + 1).tolist(), len(block["step"])]
        for start, end in pairwise(cuts):
            piece = {name: column[start:end] for name, column in block.items()}
            if held and held[0]["step"][0] != piece["step"][0]:
                yield _joined(held)
                held = []
            held.append(piece)
    if held:
        yield _joined(held)


def _joined(pieces: list[dict[str, npt.NDArray[Any]]]) -> tuple[int, npt.NDArray[Any], Items]:
    whole = {name: np.concatenate([one[name] for one in pieces]) if len(pieces) > 1 else column
             for name, column in pieces[0].items()}  # fmt: skip
    return int(whole["step"][0]), whole["samples"], whole["item"]
