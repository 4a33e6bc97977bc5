"""Checking: proves that the tables, their files and the ledger agree, at one moment, also beside a running job.

A moment is a state of all logs in which every entered commit is in every table that it speaks of. All checks read those
versions; later commits do not disturb them. Nothing is changed.
"""

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable

from vidproc.errors import TablesDamaged
from vidproc.media.patience import backoff_s
from vidproc.schema import ANNOTATION_TABLES, LEDGER, RUNS, STATUSES, TABLES, VIDEOS, WHOLE_VIDEO, Table
from vidproc.tables import deltalog, sql
from vidproc.tables.commit import UNIT, tail_of
from vidproc.tables.parts import Part
from vidproc.tables.store import Store

EXAMPLES = 5
THREADS = 16
TRIES = 8

OF_SEGMENTS = {
    "labels": "scope = 'sample'",
    "quality": "true",
    "detections": "true",
    "faces": "true",
    "text": "source NOT IN ('metadata', 'picture')",
    "embeddings": "true",
}
"""Rows that a segment's ledger row counts, by table. The rest is derived: `tracks`, and `shots` and lines read off
pictures, which replace those of the segments, so that annotators with such rows are left out of this comparison."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: in which table, what, how often, and a few examples."""

    table: str
    what: str
    times: int
    examples: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Checked:
    """`findings`: what is wrong; none is proven. `orphans`: files that the newest versions do not hold.

    Those are replaced ones that vacuum keeps for now, what a kill left, and what a running job is about to commit.
    """

    rows: Mapping[str, int]
    parts: int
    findings: tuple[Finding, ...]
    orphans: tuple[str, ...]
    orphan_bytes: int


def check(tables_url: str) -> Checked:
    """Check everything. Raises UsageError if there are no tables, TablesDamaged if no moment can be found."""
    store = Store(tables_url)
    deltas = _moment(store)
    listed = {file.path: file.bytes for file in store.files()}
    live = {name: deltalog.live_parts(delta) for name, delta in deltas.items()}
    readable, findings = _check_parts(store, live, listed)
    rows: dict[str, int] = {}
    if not findings:  # what cannot be read cannot be asked
        with sql.session(tables_url, []) as connection:
            for name, parts in live.items():
                rows[name] = sum(readable[part.path] for part in parts)
                connection.register(name, _rows(store, deltas[name], TABLES[name]))
            for name in set(TABLES) - set(deltas):
                connection.register(name, TABLES[name].schema.empty_table())
            findings += _check_rows(connection)
    held = {part.path for parts in live.values() for part in parts}
    orphans = [path for path in listed if _is_data(path) and path not in held]
    return Checked(
        rows=rows,
        parts=len(held),
        findings=tuple(findings),
        orphans=tuple(orphans),
        orphan_bytes=sum(listed[path] for path in orphans),
    )


def _moment(store: Store) -> dict[str, DeltaTable]:
    open_commit = None
    for attempt in range(TRIES):
        before = tail_of(store)
        tables = deltalog.existing(store)
        with ThreadPoolExecutor(len(tables)) as pool:
            opened = pool.map(lambda table: deltalog.opened(store, table), tables)
            deltas = {table.name: delta for table, delta in zip(tables, opened, strict=True)}
        open_commit = next((intent for intent in before if not _is_applied(intent, deltas)), None)
        if open_commit is None and [i["n"] for i in tail_of(store)] == [i["n"] for i in before]:
            return deltas
        time.sleep(backoff_s(attempt))
    if open_commit is None:
        raise TablesDamaged(f"{store.root} is committed to without a pause: check again when it is quieter")
    raise TablesDamaged(
        f"commit {open_commit['n']} of run {open_commit['run_id']} is in some tables only: was its run killed? The "
        "next run completes it, and so does `maintain.py vacuum --older-than 0`; then check again"
    )


def _is_applied(intent: Mapping[str, Any], deltas: Mapping[str, DeltaTable]) -> bool:
    touched = {part["table"] for part in intent["parts"]} | set(intent["replace"])
    return all(name in deltas and deltalog.version_of(deltas[name]) >= intent["n"] for name in touched)


def _is_data(path: str) -> bool:
    table, _, rest = path.partition("/")
    return table in TABLES and not rest.startswith("_delta_log/")


def _rows(store: Store, delta: DeltaTable, table: Table) -> Any:
    dataset = deltalog.dataset_of(store, delta)
    return dataset if dataset.files else table.schema.empty_table()


# ---- files


def _check_parts(
    store: Store, live: Mapping[str, list[Part]], listed: Mapping[str, int]
) -> tuple[dict[str, int], list[Finding]]:
    """Every live part exists, with its size, its columns and its rows. Returns the rows of each."""
    parts = [part for found in live.values() for part in found]
    with ThreadPoolExecutor(THREADS) as pool:
        told = list(pool.map(lambda part: _check_part(store, part, listed.get(part.path)), parts))
    wrong: dict[tuple[str, str], list[str]] = {}
    rows = {}
    for part, (count, what) in zip(parts, told, strict=True):
        rows[part.path] = count
        if what is not None:
            wrong.setdefault((part.table, what), []).append(part.path)
    return rows, [Finding(table, what, len(paths), tuple(paths[:EXAMPLES])) for (table, what), paths in wrong.items()]


def _check_part(store: Store, part: Part, size_bytes: int | None) -> tuple[int, str | None]:
    if size_bytes is None:
        return 0, "parts are gone"
    if size_bytes != part.bytes:
        return 0, "parts have another size than the log says"
    try:
        with store.filesystem().open(store.url_of(part.path)) as file:
            metadata = pq.read_metadata(file)
    except (pa.ArrowInvalid, OSError):
        return 0, "parts cannot be read"
    if part.rows not in (-1, metadata.num_rows):
        return metadata.num_rows, "parts have another number of rows than the log says"
    if metadata.schema.to_arrow_schema().names != TABLES[part.table].schema.names:
        return metadata.num_rows, "parts have other columns than the table"
    return metadata.num_rows, None


# ---- rows


def _check_rows(connection: Any) -> Iterator[Finding]:
    for name, table in TABLES.items():
        key = ", ".join(f'"{column}"' for column in table.key)
        many = f"SELECT {key} FROM {name} GROUP BY {key} HAVING count(*) > 1"
        yield from _finding(connection, name, "keys are there more than once", many)
    counted = " + ".join((*STATUSES, "deferred"))
    yield from _finding(
        connection,
        RUNS.name,
        "runs do not add up: planned is not labelled + partial + empty + quarantined + missing + deferred",
        f"SELECT run_id, planned, {counted} AS counted FROM runs WHERE planned <> {counted}",
    )
    yield from _check_ledger(connection)
    yield from _check_counts(connection)


def _check_ledger(connection: Any) -> Iterator[Finding]:
    unit = ", ".join(UNIT)
    connection.execute(f"CREATE TEMP TABLE units AS SELECT DISTINCT {unit} FROM ledger")
    for name in ANNOTATION_TABLES:
        unknown = f"SELECT DISTINCT {unit} FROM {name} ANTI JOIN units USING ({unit})"
        yield from _finding(connection, name, "rows are of units that the ledger lacks", unknown)
    yield from _finding(
        connection,
        VIDEOS.name,
        "videos have no whole-video row in the ledger",
        f"SELECT video_id FROM videos ANTI JOIN (FROM ledger WHERE segment = {WHOLE_VIDEO}) AS whole USING (video_id)",
    )
    yield from _finding(
        connection,
        LEDGER.name,
        "videos are whole in the ledger and not in `videos`",
        f"SELECT DISTINCT video_id FROM ledger ANTI JOIN videos USING (video_id) WHERE segment = {WHOLE_VIDEO}",
    )
    yield from _finding(
        connection,
        LEDGER.name,
        "units have a whole-video row, but not all of their segments",
        f"""SELECT {unit}, count(DISTINCT segment) FILTER (segment >= 0) AS segments, max(n_segments) AS n_segments
        FROM ledger GROUP BY {unit} HAVING min(segment) = {WHOLE_VIDEO} AND segments < max(n_segments)""",
    )
    states = ", ".join(f"'{status}'" for status in STATUSES)
    unknown = f"SELECT {unit}, segment, status FROM ledger WHERE status NOT IN ({states})"
    yield from _finding(connection, LEDGER.name, "rows have an unknown status", unknown)


def _check_counts(connection: Any) -> Iterator[Finding]:
    """Each segment's ledger row counts the rows that are there: the last segment that begins before a row has it."""
    unit = ", ".join(UNIT)
    rows = " UNION ALL ".join(
        f"SELECT {unit}, {TABLES[name].time} AS time_us FROM {name} WHERE {which}"
        for name, which in OF_SEGMENTS.items()
    )
    joined = "SELECT annotator, model_id FROM shots UNION SELECT annotator, model_id FROM text WHERE source = 'picture'"
    connection.execute(
        f"""CREATE TEMP TABLE told AS SELECT {unit}, segment, start_us, rows FROM ledger
        ANTI JOIN ({joined}) USING (annotator, model_id) WHERE segment >= 0"""
    )
    connection.execute(
        f"CREATE TEMP TABLE present AS SELECT {unit}, time_us, count(*) AS rows FROM ({rows}) GROUP BY {unit}, time_us"
    )
    on = " AND ".join(f"told.{column} = present.{column}" for column in UNIT)
    connection.execute(
        f"""CREATE TEMP TABLE counted AS
        SELECT {", ".join(f"told.{column}" for column in UNIT)}, segment, sum(present.rows)::BIGINT AS rows
        FROM present ASOF JOIN told ON {on} AND present.time_us >= told.start_us GROUP BY ALL"""
    )
    wrong = f"""SELECT {unit}, segment, told.rows AS told, coalesce(counted.rows, 0) AS present
        FROM told LEFT JOIN counted USING ({unit}, segment) WHERE told.rows <> coalesce(counted.rows, 0)"""
    yield from _finding(connection, LEDGER.name, "segments have another number of rows than the ledger says", wrong)


def _finding(connection: Any, table: str, what: str, query: str) -> Iterator[Finding]:
    (times,) = sql.one_row(connection, f"SELECT count(*) FROM ({query})")
    if times:
        few = connection.sql(f"SELECT * FROM ({query}) ORDER BY ALL LIMIT {EXAMPLES}").to_arrow_table().to_pylist()
        told = tuple(", ".join(f"{name}={value}" for name, value in row.items()) for row in few)
        yield Finding(table, what, times, told)
