"""The steps and the commits of a run, each counting what it did: a few times a batch, never for single frames."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from vidproc.pipeline import annotating, steps
from vidproc.pipeline.metrics import (
    BATCH_FILL,
    COMMITS,
    DECODE_SECONDS,
    DEVICE_BUSY,
    DEVICE_IDLE,
    FRAMES,
    INFER_SECONDS,
    ROWS,
    count,
    count_storage,
    observe,
)
from vidproc.pipeline.steps import Elsewhere, Settings
from vidproc.tables.commit import Commits
from vidproc.tables.parts import Part
from vidproc.tables.store import Store


def probe_chunks(batch: pa.Table, *, settings: Settings) -> pa.Table:
    """`steps.probe_chunks`."""
    found = steps.probe_chunks(batch, settings=settings)
    count_storage()
    return found


def decode(batch: pa.Table, *, settings: Settings, elsewhere: Elsewhere | None = None) -> Iterator[pa.Table]:
    """`steps.decode`."""
    for segment in steps.decode(batch, settings=settings, elsewhere=elsewhere):
        count(DECODE_SECONDS, segment["decode_s"][0].as_py() or 0.0)
        count(FRAMES, segment["frames"][0].as_py() or 0)
        count_storage()
        yield segment


class Annotate(annotating.Annotate):
    """`annotating.Annotate`. `room`: segments that a full batch has."""

    def __init__(self, settings: Settings, *, room: int, **options: Any) -> None:
        super().__init__(settings, **options)
        self._room = room
        self._idle_since = time.perf_counter()

    def __call__(self, batch: pa.Table) -> pa.Table:
        started = time.perf_counter()
        annotated = super().__call__(batch)
        seconds: Counter[str] = Counter()
        for name, spent in zip(annotated["annotator"].to_pylist(), annotated["infer_s"].to_pylist(), strict=True):
            seconds[name] += spent
        for name, spent in seconds.items():
            count(INFER_SECONDS, spent, annotator=name)
        observe(BATCH_FILL, batch["status"].null_count / self._room)
        count(DEVICE_IDLE, started - self._idle_since)
        self._idle_since = time.perf_counter()
        count(DEVICE_BUSY, self._idle_since - started)
        return annotated


def write(batch: pa.Table, *, settings: Settings) -> pa.Table:
    """`steps.write`."""
    written = steps.write(batch, settings=settings)
    count_storage()
    return written


class CountedCommits(Commits):
    """`Commits` that count what they bring in. `rows`: how many rows of each table this driver has committed."""

    def __init__(self, store: Store, **known: Any) -> None:
        super().__init__(store, **known)
        self.rows: Counter[str] = Counter()

    def commit(self, parts: Sequence[Part], *, replace: Mapping[str, pa.Table] | None = None) -> int:
        before = self.newest
        number = super().commit(parts, replace=replace)
        count(COMMITS, number - before)
        for part in parts:
            self.rows[part.table] += part.rows
            count(ROWS, part.rows, table=part.table)
        return number
