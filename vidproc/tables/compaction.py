"""Compaction: small parts merged into large ones, sorted by the table's key, beside a running label job.

    choose small parts ─▶ write merged ones (orphans so far) ─▶ one version of the table: the old out, the new in

It takes no lease. Why no row is lost or doubled: that version is pinned to a state of the log in which each old part is
live, so a replacement that took one out makes us give up, and one that comes after sees the new parts. Rows stay as
they are, and so does the number of the last commit that the table holds: a replay skips what it skipped before. Parts
that no commit has brought in are not looked at. A kill leaves orphans, for vacuum.
"""

import json
import socket
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable

from vidproc.errors import TablesDamaged
from vidproc.schema import Table
from vidproc.tables import deltalog, sql
from vidproc.tables.announced import announced
from vidproc.tables.lease import LEASE_S
from vidproc.tables.parts import ROW_GROUP_ROWS, Part, put_part
from vidproc.tables.store import Store

TARGET_BYTES = 128 * 2**20
GROUP_TARGETS = 8
"""Parts of so many targets together are sorted and swapped at once: what a kill can cost."""
ROW_GROUP_BYTES = 64 * 2**20
"""In memory; rows with vectors are wide, and ROW_GROUP_ROWS of them would not fit."""
TOLD = "vidproc.compaction"
"""Key of the commit's metadata that says who compacted when."""


@dataclass(frozen=True, kw_only=True)
class Compacted:
    """What became of one table. `given_up`: groups that somebody else changed meanwhile; the next compaction's."""

    table: str
    parts_before: int = 0
    parts_after: int = 0
    rows: int = 0
    given_up: int = 0


def compact(tables_url: str, *, target_bytes: int = TARGET_BYTES, lease_s: float = LEASE_S) -> Iterator[Compacted]:
    """Compact every table, one after the other; yields what changed. Raises LeaseLost while files are being erased,
    UsageError if there are no tables.

    Parts below half of `target_bytes` are merged into parts of about that size. Memory: DuckDB's limit for the sort
    (the rest goes to a temporary folder) and two targets.
    """
    store = Store(tables_url)
    tables = deltalog.existing(store)
    run_id = f"compact-{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"
    with announced(store, run_id, lease_s=lease_s):
        for table in tables:
            yield _compact_table(store, table, run_id=run_id, target_bytes=target_bytes)


def _compact_table(store: Store, table: Table, *, run_id: str, target_bytes: int) -> Compacted:
    delta = deltalog.opened(store, table)
    erasures = deltalog.erasures_of(delta)  # of before the first file is written
    before = after = rows = given_up = 0
    for old in groups_of(deltalog.live_parts(delta), target_bytes=target_bytes):
        new = list(_merged(store, table, old, target_bytes=target_bytes))
        told = {"run_id": run_id, "host": socket.gethostname(), "at": datetime.now(UTC).isoformat(timespec="seconds")}
        told_json = json.dumps(told | {"from": len(old), "into": len(new)})
        if deltalog.merge_once(table, delta, old=old, new=new, erasures=erasures, told={TOLD: told_json}):
            before, after, rows = before + len(old), after + len(new), rows + sum(part.rows for part in new)
        else:
            given_up += 1
            _remove(store, delta, new)
    if before:
        delta.update_incremental()
        delta.create_checkpoint()  # readers need not go through the log's thousands of small versions either
    return Compacted(table=table.name, parts_before=before, parts_after=after, rows=rows, given_up=given_up)


def groups_of(parts: Sequence[Part], *, target_bytes: int) -> list[list[Part]]:
    """Which parts are merged with which: small ones, oldest first, at least two a group."""
    groups: list[list[Part]] = [[]]
    size_bytes = 0
    for part in parts:
        if part.bytes * 2 >= target_bytes:
            continue
        if size_bytes + part.bytes > GROUP_TARGETS * target_bytes:
            groups.append([])
            size_bytes = 0
        groups[-1].append(part)
        size_bytes += part.bytes
    return [group for group in groups if len(group) > 1]


def _merged(store: Store, table: Table, old: Sequence[Part], *, target_bytes: int) -> Iterator[Part]:
    """Write the rows of `old`, sorted by key, as new parts. Raises TablesDamaged if a row more or less came out."""
    read = written = 0

    def counted(batches: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        nonlocal read
        for batch in batches:
            read += batch.num_rows
            yield batch

    with sql.session(store.root, []) as connection:
        source = sql.parquet_batches(store, [part.path for part in old], table.schema)
        connection.register("parts", pa.RecordBatchReader.from_batches(table.schema, counted(source)))
        order = ", ".join(f'"{name}"' for name in table.key)
        sorted_rows = sql.batches(connection, f"FROM parts ORDER BY {order}")
        for part in _write(store, table, _row_groups(table, sorted_rows), target_bytes=target_bytes):
            written += part.rows
            yield part
    known = sum(part.rows for part in old) if all(part.rows >= 0 for part in old) else read
    if not read == written == known:
        raise TablesDamaged(
            f"compaction of {table.name}: the log says {known} rows, {read} were read and {written} written; nothing "
            "was changed: look for the difference with `maintain.py check`"
        )


def _row_groups(table: Table, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    held: list[pa.RecordBatch] = []
    rows = size_bytes = 0
    for batch in batches:
        held.append(batch)
        rows, size_bytes = rows + batch.num_rows, size_bytes + batch.nbytes
        if rows >= ROW_GROUP_ROWS or size_bytes >= ROW_GROUP_BYTES:
            yield pa.Table.from_batches(held).cast(table.schema)
            held, rows, size_bytes = [], 0, 0
    if held:
        yield pa.Table.from_batches(held).cast(table.schema)


def _write(store: Store, table: Table, groups: Iterator[pa.Table], *, target_bytes: int) -> Iterator[Part]:
    """Files of about `target_bytes`, each built in memory and sent by one PUT."""
    sink: pa.BufferOutputStream | None = None
    for group in groups:
        if sink is None:
            sink, rows = pa.BufferOutputStream(), 0
            writer = pq.ParquetWriter(sink, table.schema, compression="zstd")
        writer.write_table(group, row_group_size=group.num_rows)
        rows += group.num_rows
        if sink.tell() >= target_bytes:
            writer.close()
            yield put_part(store.root, table, sink.getvalue().to_pybytes(), rows=rows)
            sink = None
    if sink is not None:
        writer.close()
        yield put_part(store.root, table, sink.getvalue().to_pybytes(), rows=rows)


def _remove(store: Store, delta: DeltaTable, new: Sequence[Part]) -> None:
    """Files that did not come in hold rows that may have been removed for good."""
    delta.update_incremental()
    live = {part.path for part in deltalog.live_parts(delta)}
    for part in new:
        if part.path not in live:
            store.delete(part.path)
