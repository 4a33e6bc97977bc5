"""One table's Delta log: create it, and bring commit n into it exactly once: parts added, replaced rows taken out."""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pa_fs
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import CommitFailedError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

from vidproc.errors import TablesDamaged, UsageError
from vidproc.media.patience import backoff_s
from vidproc.schema import TABLES, Table
from vidproc.tables.delta_trouble import asked
from vidproc.tables.parts import Part, write_part
from vidproc.tables.scanning import scannable
from vidproc.tables.store import Store

APP = "vidproc"
TRIES = 12
REWRITE_BYTES = 128 * 2**20
_ERASED = "vidproc-erased"
_SOURCE = "__filename"  # pyarrow's name for the column that says which file a row is from


def exists(store: Store, table: Table) -> bool:
    """Whether the table has a Delta log."""
    return found(store, table) is not None


def found(store: Store, table: Table) -> DeltaTable | None:
    """The newest version of a table, None if there is none.

    Not by `DeltaTable.is_deltatable`: that keeps the interpreter to itself while storage is asked, and with it the
    heartbeat of the lease.
    """
    try:
        return opened(store, table)
    except TableNotFoundError:
        return None


def opened(store: Store, table: Table) -> DeltaTable:
    """The newest version of a table that exists. Raises deltalake's TableNotFoundError."""
    url = store.url_of(table.name)
    return asked(url, lambda: DeltaTable(url))


def dataset_of(store: Store, delta: DeltaTable) -> Any:
    """The rows of the version that `delta` is at, as a pyarrow dataset.

    Read through a filesystem that asks again: delta-rs's own gives up when a body ends early.
    """
    if store.is_local:
        return scannable(delta.to_pyarrow_dataset())
    below = str(delta.table_uri).rstrip("/").removeprefix("s3://")
    remote = pa_fs.PyFileSystem(pa_fs.FSSpecHandler(store.filesystem()))
    return scannable(delta.to_pyarrow_dataset(filesystem=pa_fs.SubTreeFileSystem(below, remote)))


def existing(store: Store) -> list[Table]:
    """The tables that are there. Raises UsageError if none is: the URL must be a wrong one."""
    found = [table for table in TABLES.values() if exists(store, table)]
    if not found:
        raise UsageError(f"{store.root!r} holds no tables: give the --tables URL of a labelling run")
    return found


def open_table(store: Store, table: Table) -> DeltaTable:
    """The table, created if missing. Raises TablesDamaged if its protocol or columns are not ours."""
    url = store.url_of(table.name)
    for attempt in range(TRIES):
        try:
            found = asked(url, lambda: DeltaTable.create(url, table.schema, mode="ignore"))
            break
        except CommitFailedError:  # another driver is creating it right now
            time.sleep(backoff_s(attempt))
    else:
        raise TablesDamaged(f"{url} can be neither created nor opened")
    protocol = found.protocol()
    if (protocol.min_reader_version, protocol.min_writer_version) != (1, 2):
        raise TablesDamaged(
            f"{url} has Delta protocol {protocol.min_reader_version}/{protocol.min_writer_version}; it must be 1/2, "
            "which every reader knows: something upgraded it (deletion vectors, column mapping); copy it back to 1/2"
        )
    names = [field.name for field in found.schema().fields]
    if names != table.schema.names:
        raise TablesDamaged(f"{url} has columns {names}; this version of vidproc writes {table.schema.names}")
    return found


def version_of(delta: DeltaTable) -> int:
    """The number of the last commit that this table holds; 0 before the first."""
    version: int | None = delta.transaction_version(APP)
    return version or 0


def live_parts(delta: DeltaTable) -> list[Part]:
    """The files of the version that `delta` is at, oldest first. `rows` is -1 where the log does not say."""
    table = str(delta.table_uri).rstrip("/").rpartition("/")[2]
    added = pa.table(delta.get_add_actions()).select(["path", "size_bytes", "num_records", "modification_time"])
    return [
        Part(table, f"{table}/{path}", size_bytes, -1 if rows is None else rows)
        for path, size_bytes, rows, _ in sorted(
            (tuple(row.values()) for row in added.to_pylist()), key=lambda row: (row[3], row[0])
        )
    ]


def erasures_of(delta: DeltaTable) -> int:
    """How often files of this table were erased for good (see `raise_erasures`)."""
    version: int | None = delta.transaction_version(_ERASED)
    return version or 0


def raise_erasures(table: Table, delta: DeltaTable) -> None:
    """Leave a mark in the table's log: whatever wrote files before, without the lease, must not bring them in after."""
    for attempt in range(TRIES):
        delta.update_incremental()
        properties = CommitProperties(
            app_transactions=[Transaction(_ERASED, erasures_of(delta) + 1)], max_commit_retries=0
        )
        try:
            delta.create_write_transaction([], "append", table.schema, commit_properties=properties)
            delta.update_incremental()
            return
        except CommitFailedError:
            time.sleep(backoff_s(attempt))
    raise TablesDamaged(f"{delta.table_uri} was written by others {TRIES} times in a row: stop them, then rerun")


def merge_once(
    table: Table, delta: DeltaTable, *, old: Sequence[Part], new: Sequence[Part], erasures: int, told: Mapping[str, str]
) -> bool:
    """Put `new` in the place of `old`, which hold the same rows, in one version; or return False and do nothing.

    False: not all of `old` are live any more, files were erased since `erasures` was read, or others are too busy. That
    the table holds commit n stays as it is. As in `append_once`, each try is pinned to the state that was looked at.
    """
    now_ms = round(time.time() * 1000)
    removed = [RemoveAction(_path_in(part), False, now_ms, size=part.bytes) for part in old]
    added = [_add(part, data_change=False) for part in new]
    properties = CommitProperties(custom_metadata=dict(told), max_commit_retries=0)
    for attempt in range(TRIES):
        delta.update_incremental()
        live = {part.path for part in live_parts(delta)}
        if {part.path for part in new} <= live:  # the reply to our last try was lost
            return True
        if erasures_of(delta) != erasures or not {part.path for part in old} <= live:
            return False
        try:
            delta.create_write_transaction([*removed, *added], "append", table.schema, commit_properties=properties)
            return True
        except CommitFailedError:
            time.sleep(backoff_s(attempt))
    return False


def append_once(
    store: Store, table: Table, delta: DeltaTable, *, n: int, parts: Sequence[Part], replace: pa.Table | None = None
) -> None:
    """Bring commit `n` into the table unless it is there: add `parts`, take out the older rows that match `replace`.

    `replace`: some of the table's key columns; every older row that agrees with one of its rows goes. All in one Delta
    transaction that carries the application version n, pinned to the state of the table that was looked at: whenever
    somebody else was faster, look again. (delta-rs's own conflict resolution would not do: it lets a RemoveAction pass
    for a file that a compaction has just replaced, which brings the rows back.)
    """

    def look_and_append() -> None:
        delta.update_incremental()
        if version_of(delta) >= n:  # perhaps by our last try, of which only the reply was lost
            return
        actions: list[AddAction | RemoveAction] = [_add(part) for part in parts]
        if replace is not None and replace.num_rows:
            actions += _without(store, table, delta, replace)
        properties = CommitProperties(app_transactions=[Transaction(APP, n)], max_commit_retries=0)
        delta.create_write_transaction(actions, "append", table.schema, commit_properties=properties)

    for attempt in range(TRIES):
        try:
            asked(store.url_of(table.name), look_and_append)
            return
        except CommitFailedError:
            time.sleep(backoff_s(attempt))
    asked(store.url_of(table.name), delta.update_incremental)
    if version_of(delta) < n:
        raise TablesDamaged(
            f"commit {n} met other writers of {delta.table_uri} {TRIES} times in a row: stop them, then rerun"
        )


def _path_in(part: Part) -> str:
    return part.path.removeprefix(part.table + "/")


def _add(part: Part, *, data_change: bool = True) -> AddAction:
    return AddAction(
        path=_path_in(part),
        size=part.bytes,
        partition_values={},
        modification_time=round(time.time() * 1000),
        data_change=data_change,
        stats=json.dumps({"numRecords": part.rows}),
    )


def _without(store: Store, table: Table, delta: DeltaTable, keys: pa.Table) -> list[AddAction | RemoveAction]:
    """Actions that take the rows matching `keys` out: files that hold any go, their other rows come back.

    Those are written here and now. A kill leaves them as orphans for vacuum; the next try makes them anew.
    """
    if delta.get_add_actions().num_rows == 0:
        return []
    dataset = dataset_of(store, delta)
    hits = dataset.to_table(columns=[*keys.column_names, _SOURCE], filter=_may_match(keys))
    touched = set(pc.unique(_matching(hits, keys).column(_SOURCE)).to_pylist())
    now_ms = round(time.time() * 1000)
    actions: list[AddAction | RemoveAction] = []
    kept: list[pa.Table] = []
    for fragment in dataset.get_fragments():
        if fragment.path not in touched:
            continue
        actions.append(RemoveAction(fragment.path.lstrip("/"), True, now_ms))
        rows = fragment.to_table(schema=dataset.schema)
        kept.append(_matching(rows, keys, inverted=True).cast(table.schema))
        if sum(piece.nbytes for piece in kept) > REWRITE_BYTES:
            actions += _write(store, table, kept)
            kept = []
    return actions + _write(store, table, kept)


def _write(store: Store, table: Table, pieces: Sequence[pa.Table]) -> list[AddAction]:
    rows = pa.concat_tables(pieces) if pieces else None
    return [_add(write_part(store.root, table, rows))] if rows is not None and rows.num_rows else []


def _may_match(keys: pa.Table) -> Any:
    """A filter that keeps every matching row, and for more than one column perhaps a few others."""
    conditions = [pc.field(name).isin(pc.unique(keys.column(name))) for name in keys.column_names]
    whole = conditions[0]
    for condition in conditions[1:]:
        whole = whole & condition
    return whole


def _matching(rows: pa.Table, keys: pa.Table, *, inverted: bool = False) -> pa.Table:
    """The rows that agree with one of `keys` (or, inverted, with none), in their order."""
    numbered = rows.select(keys.column_names).append_column("_row", pa.array(range(rows.num_rows), pa.int64()))
    kind = "left anti" if inverted else "left semi"
    picked = numbered.join(keys, keys=keys.column_names, join_type=kind)
    return rows.take(picked.column("_row").combine_chunks().sort())


def keys_to_json(table: Table, keys: pa.Table) -> dict[str, Any]:
    """A replacement's keys as JSON. Raises ValueError unless its columns are key columns of the table."""
    allowed = set(table.key)
    if not keys.column_names or not set(keys.column_names) <= allowed:
        raise ValueError(f"replace in table {table.name} by columns {keys.column_names}: use some of {sorted(allowed)}")
    return {"columns": keys.column_names, "rows": [list(row.values()) for row in keys.to_pylist()]}


def keys_from_json(table: Table, value: Mapping[str, Any]) -> pa.Table:
    """The keys that `keys_to_json` made JSON of."""
    schema = pa.schema([table.schema.field(name) for name in value["columns"]])
    return pa.Table.from_pylist([dict(zip(value["columns"], row, strict=True)) for row in value["rows"]], schema=schema)
