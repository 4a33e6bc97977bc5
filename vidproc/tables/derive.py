"""Derive: what needs whole videos but no pixels. A unit whose segments are all in the ledger gets its whole-video row,
its labels over the whole video, and the `videos` row. The first says that this is done: a kill before is made good."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import groupby
from operator import itemgetter
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vidproc.errors import TablesDamaged
from vidproc.schema import COMMON, LABELS, LEDGER, TABLES, VIDEOS, WHOLE_VIDEO, Table
from vidproc.tables import sql
from vidproc.tables.commit import UNIT, Commits
from vidproc.tables.merge import (
    Row,
    best_facts,
    lower_to_partial,
    merge_coverage,
    merge_status,
    parse_facts,
    video_row,
)
from vidproc.tables.parts import write_part
from vidproc.tables.store import Store

COMMIT_SEGMENTS = 10_000
"""Ledger rows (and at most so many videos) that one commit derives from: bounds the memory that tallies take."""


class Labeller(Protocol):
    """What derive needs of an annotator; `vidproc.annotators.base.Annotator` has it."""

    @property
    def name(self) -> str: ...
    @property
    def model_id(self) -> str: ...
    @property
    def reads(self) -> tuple[str, ...]: ...
    @property
    def replaces(self) -> tuple[str, ...]: ...
    def joined_tally(self, tallies: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]: ...
    def mean_scores(self, tally: npt.NDArray[np.float64], samples: int) -> npt.NDArray[np.float32]: ...
    def label_rows(self, mean_scores: npt.NDArray[np.float32]) -> pa.Table | None: ...
    def over_video(self, rows: Mapping[str, pa.Table], facts: Mapping[str, Any]) -> Mapping[str, pa.Table]: ...


def pending_derivations(tables_url: str, annotators: Mapping[str, Labeller]) -> int:
    """How many videos wait to be derived for these annotators."""
    with sql.session(tables_url, [LEDGER.name]) as connection:
        _find_pending(connection, annotators)
        (videos,) = sql.one_row(connection, "SELECT count(DISTINCT video_id) FROM pending")
        return int(videos)


def derive(commits: Commits, annotators: Mapping[str, Labeller], *, commit_segments: int = COMMIT_SEGMENTS) -> int:
    """Derive every video that is complete for one of `annotators`, some thousand segments a commit; returns how many.

    Complete means: all its segments are in the ledger and its whole-video row is not. What an earlier run left of other
    annotators, or of other weights, stays pending until a run that has them: only they can name the labels.
    """
    derived = 0
    reads = sorted({name for one in annotators.values() for name in one.reads} - {LEDGER.name})
    with sql.session(commits.tables_url, [LEDGER.name, VIDEOS.name]) as connection:
        _find_pending(connection, annotators)
        connection.execute(_EARLIER)
        connection.execute(
            "CREATE TABLE stale AS SELECT DISTINCT video_id FROM videos SEMI JOIN pending USING (video_id)"
        )
        lookup = connection.cursor()  # the connection itself is busy giving segments
        said = {name: _UnitRows(connection.cursor(), commits.store, TABLES[name]) for name in reads}
        for segments in whole_videos(sql.batches(connection, _SEGMENTS), commit_segments):
            units, rows = _derive_units(segments, annotators, said, commits.run_id)
            videos = _derive_videos(lookup, units, commits.run_id)
            rows |= {
                VIDEOS.name: pa.Table.from_pylist(videos, schema=VIDEOS.schema),
                LEDGER.name: pa.Table.from_pylist(units, schema=LEDGER.schema),
            }
            stale = lookup.sql("FROM stale SEMI JOIN ids USING (video_id)").to_arrow_table()
            _commit(commits, rows, replace={**_replaced(units, annotators), VIDEOS.name: stale})
            derived += len(videos)
    return derived


def _find_pending(connection: Any, annotators: Mapping[str, Labeller]) -> None:
    wanted = [{"annotator": one.name, "model_id": one.model_id} for one in annotators.values()]
    schema = pa.schema([("annotator", pa.string()), ("model_id", pa.string())])
    connection.register("wanted", pa.Table.from_pylist(wanted, schema=schema))
    connection.execute(
        f"""CREATE TABLE pending AS
        SELECT video_id, annotator, model_id
        FROM ledger SEMI JOIN wanted USING (annotator, model_id)
             ANTI JOIN (SELECT video_id, annotator, model_id FROM ledger WHERE segment = {WHOLE_VIDEO}) AS finished
             USING (video_id, annotator, model_id)
        WHERE segment >= 0
        GROUP BY video_id, annotator, model_id HAVING count(DISTINCT segment) >= max(n_segments)"""
    )


_MERGED = ("status", "reason", "coverage", "n_segments", "facts")
# The newest whole-video row of each other annotator of the pending videos: the `videos` row is merged over all of them.
_EARLIER = f"""CREATE TABLE earlier AS
    SELECT video_id, annotator, {", ".join(f'last({name} ORDER BY "at") AS {name}' for name in _MERGED)}
    FROM ledger WHERE segment = {WHOLE_VIDEO} AND video_id IN (SELECT video_id FROM pending)
    GROUP BY video_id, annotator"""
_SEGMENTS = """SELECT ledger.* EXCLUDE (run_id, worker, "at")
    FROM ledger SEMI JOIN pending USING (video_id, annotator, model_id)
    WHERE segment >= 0 ORDER BY video_id, annotator, model_id, segment"""


def whole_videos(batches: Iterable[pa.RecordBatch], most_rows: int) -> Iterator[pa.Table]:
    """Rows that come ordered by video, cut into tables of about `most_rows` rows between two videos."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(piece.num_rows for piece in held) >= most_rows:
            rows = pa.Table.from_batches(held)
            last = rows.column("video_id")[-1]
            cut = pc.index(rows.column("video_id"), last).as_py()
            if cut:
                yield rows.slice(0, cut)
            held = rows.slice(cut).to_batches()
    if held:
        yield pa.Table.from_batches(held)


def _derive_units(
    segments: pa.Table, annotators: Mapping[str, Labeller], said: Mapping[str, "_UnitRows"], run_id: str
) -> tuple[list[Row], dict[str, pa.Table]]:
    """The whole-video ledger rows, and the rows of other tables over whole videos."""
    by_unit = {(one.name, one.model_id): one for one in annotators.values()}
    now = datetime.now(UTC)
    tallies = _Tallies(segments.column("tally"))
    light = segments.drop_columns(["tally"]).to_pylist()
    units, derived, first = [], dict[str, list[pa.Table]](), 0
    for key, group in groupby(light, key=itemgetter(*UNIT)):
        rows = list(group)
        annotator = by_unit[key[1:]]
        unit = _merge(rows) | {"run_id": run_id, "at": now}
        own_segments = segments.slice(first, len(rows))
        tally = tallies.of(first, first + len(rows))
        first += len(rows)
        unit["tally"] = total = None if tally is None else annotator.joined_tally(tally)
        units.append(unit)
        if total is not None and unit["samples"]:
            found = annotator.label_rows(annotator.mean_scores(total, unit["samples"]))
            if found is not None and found.num_rows:
                derived.setdefault(LABELS.name, []).append(_label_rows(unit, found))
        probed = parse_facts(unit["facts"], key[0])
        if annotator.reads and probed.get("end_us") is not None:  # else it never opened: nobody has said anything
            own = {name: own_segments if name == LEDGER.name else said[name].of(key) for name in annotator.reads}
            for name, found in annotator.over_video(own, probed).items():
                derived.setdefault(name, []).append(_with_common(unit, TABLES[name], found))
                if found.num_rows and unit["status"] == "empty":  # its segments had nothing to say, the whole has
                    unit |= {"status": "labelled", "reason": None}
    return units, {name: pa.concat_tables(pieces) for name, pieces in derived.items()}


class _UnitRows:
    """The rows of one table for the pending units, asked for in the units' order. In memory are those of a few."""

    def __init__(self, connection: Any, store: Store, table: Table) -> None:
        self._table = table
        connection.register(table.name, sql.rows_of(store, table))  # a cursor has no other's registrations
        order = ", ".join(dict.fromkeys([*UNIT, table.time or UNIT[0], *table.key]))
        query = f"SELECT * FROM {table.name} SEMI JOIN pending USING ({', '.join(UNIT)}) ORDER BY {order}"
        self._batches = sql.batches(connection, query)
        self._rest: list[pa.Table] = []

    def of(self, unit: tuple[str, ...]) -> pa.Table:
        """One unit's rows, less the common columns, by time."""
        found = []
        while (rows := self._rest.pop() if self._rest else self._next()) is not None:
            columns = [rows[name].to_pylist() for name in UNIT]
            keys = list(zip(*columns, strict=True))
            start, end = bisect_left(keys, unit), bisect_right(keys, unit)
            found.append(rows.slice(start, end - start))
            if end < rows.num_rows:
                self._rest.append(rows.slice(end))
                break
        body = self._table.body
        whole = [piece.select(body.names).cast(body) for piece in found]
        return pa.concat_tables(whole) if whole else body.empty_table()

    def _next(self) -> pa.Table | None:
        batch = next(self._batches, None)
        return None if batch is None else pa.Table.from_batches([batch])


def _with_common(unit: Row, table: Table, rows: pa.Table) -> pa.Table:
    columns = [
        pa.repeat(pa.scalar(unit[field.name], field.type), rows.num_rows) if field.name in COMMON else rows[field.name]
        for field in table.schema
    ]
    return pa.table(columns, schema=table.schema)


def _merge(rows: list[Row]) -> Row:
    """One unit's segments as its whole-video row, less run_id, at and tally."""
    facts = best_facts(row["facts"] for row in rows)
    declared_us = parse_facts(facts, rows[0]["video_id"]).get("declared_us")
    coverage = merge_coverage(rows, declared_us)
    status, reason = lower_to_partial(*merge_status(rows), coverage)
    return {
        **{name: rows[0][name] for name in UNIT},
        "segment": WHOLE_VIDEO,
        "n_segments": max(row["n_segments"] for row in rows),
        "start_us": min(row["start_us"] for row in rows),
        "end_us": max(row["end_us"] for row in rows),
        "status": status,
        "reason": reason,
        "detail": next((row["detail"] for row in rows if row["reason"] == reason and row["detail"]), None),
        "attempts": max(row["attempts"] for row in rows),
        "rows": sum(row["rows"] for row in rows),
        "coverage": coverage,
        "decode_s": sum(row["decode_s"] for row in rows),
        "infer_s": sum(row["infer_s"] for row in rows),
        "facts": facts,
        "samples": sum(row["samples"] for row in rows),
    }


class _Tallies:
    """A column of tallies, taken apart by runs of rows."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._values = pc.list_flatten(column).to_numpy().astype(np.float64)
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
        self._lengths = lengths
        self._ends = np.cumsum(lengths)

    def of(self, first: int, end: int) -> npt.NDArray[np.float64] | None:
        """Those of rows first ≤ row < end, float64 [tallies, numbers]; None if there is none.

        Raises TablesDamaged if their lengths differ.
        """
        lengths = set(self._lengths[first:end].tolist()) - {0}
        if not lengths:
            return None
        if len(lengths) > 1:
            raise TablesDamaged(
                f"tallies of one video and one model have different lengths {sorted(lengths)} in the ledger"
            )
        start = self._ends[first] - self._lengths[first]
        found: npt.NDArray[np.float64] = self._values[start : self._ends[end - 1]].reshape(-1, lengths.pop())
        return found


def _label_rows(unit: Row, found: pa.Table) -> pa.Table:
    spans = {name: pa.repeat(pa.scalar(unit[name], pa.int64()), found.num_rows) for name in ("start_us", "end_us")}
    scope = {"scope": pa.repeat(pa.scalar("video"), found.num_rows)}
    columns = spans | scope | {name: found[name] for name in found.column_names}
    return _with_common(unit, LABELS, pa.table(columns).select(LABELS.body.names))


def _derive_videos(lookup: Any, units: list[Row], run_id: str) -> list[Row]:
    """The `videos` rows of the units' videos, merged with what other annotators found earlier."""
    ids = pa.table({"video_id": pa.array(sorted({unit["video_id"] for unit in units}))})
    lookup.register("ids", ids)
    merged: dict[str, dict[str, Row]] = {video_id: {} for video_id in ids.column("video_id").to_pylist()}
    for row in lookup.sql("FROM earlier SEMI JOIN ids USING (video_id)").to_arrow_table().to_pylist():
        merged[row["video_id"]][row["annotator"]] = row
    for unit in units:
        merged[unit["video_id"]][unit["annotator"]] = unit
    now = datetime.now(UTC)
    return [
        video_row(video_id, [found[name] for name in sorted(found)], run_id=run_id, at=now)
        for video_id, found in merged.items()
    ]


def _replaced(units: list[Row], annotators: Mapping[str, Labeller]) -> dict[str, pa.Table]:
    """Table → keys of its rows that give way to what was derived."""
    keys: dict[str, list[Row]] = {}
    for unit in units:
        for name in annotators[unit["annotator"]].replaces:
            keys.setdefault(name, []).append({column: unit[column] for column in UNIT})
    return {name: pa.Table.from_pylist(rows) for name, rows in keys.items()}


def _commit(commits: Commits, rows: Mapping[str, pa.Table], *, replace: Mapping[str, pa.Table]) -> None:
    parts = [write_part(commits.tables_url, TABLES[name], found) for name, found in rows.items() if found.num_rows]
    commits.commit(parts, replace=replace)
