"""The plan: what the archive lists less what the ledger holds, per (video, annotator, model). One rule for the nightly
increment, resume after a kill, new weights, a new annotator and a retry of failures."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

import pyarrow as pa

from vidproc.errors import PASSING_REASONS
from vidproc.media.listing import LISTING
from vidproc.schema import FORGOTTEN, LEDGER, VIDEOS, WHOLE_VIDEO
from vidproc.tables import sql
from vidproc.tables.parts import parquet_bytes
from vidproc.tables.store import Store

_UNIT = pa.struct(
    [
        pa.field("annotator", pa.string()),
        pa.field("model_id", pa.string()),
        pa.field("done", pa.list_(pa.int32())),  # segments that the ledger holds already
        pa.field("n_segments", pa.int32()),  # of how many; null if it holds none
        pa.field("again", pa.string()),  # the status that gives way; null if the ledger holds nothing that does
        pa.field("tries", pa.int32()),  # earlier runs that could not read the video
    ]
)
PLAN = pa.schema([*LISTING, pa.field("work", pa.list_(_UNIT))])
"""A listed source and the work that it still needs."""

FILE_BATCHES = 20
"""Batches (of 1000 rows, each a row group) in one file of the plan."""

Reprocess = Literal["failed", "all"]


@dataclass(frozen=True, kw_only=True)
class PlanSummary:
    """The plan in numbers.

    `listed` videos (versions, less forgotten ones), of which `done` need nothing; `planned` videos get a state in this
    run unless it is cut short: `deferred` of them are beyond `limit`, `derive_only` of them (listed or not) are decoded
    already and only wait to be derived. The files of the plan hold the rest, planned − deferred − derive_only: `units`
    of (video, annotator), `size_bytes` of sources, `video_hours_known` of film as far as earlier runs saw it (None:
    none of it).
    """

    listed: int
    planned: int
    done: int
    deferred: int
    derive_only: int
    units: int
    size_bytes: int
    video_hours_known: float | None


def make_plan(
    listing_url: str,
    tables_url: str,
    *,
    wanted: Mapping[str, str],
    reprocess: Reprocess | None = None,
    limit: int | None = None,
    out_url: str,
) -> PlanSummary:
    """Write the plan for the `wanted` annotators (name → model_id) below `out_url`, ordered by uri and member.

    `listing_url`: a folder of Parquet files of schema LISTING; a video listed twice counts once. `out_url` gets Parquet
    files of schema PLAN with row groups of at most 1000 rows, and no file if nothing is to be done. A unit planned in
    spite of a finished ledger row (`reprocess`, or a passing reason whose next try is due) has nothing `done`.
    `limit`: at most so many videos.
    """
    with sql.session(tables_url, [LEDGER.name, VIDEOS.name, FORGOTTEN.name]) as connection:
        connection.register("listing", sql.parquet_folder(listing_url, LISTING))
        units = pa.table({"annotator": list(wanted), "model_id": list(wanted.values())})
        connection.execute(f"CREATE TEMP MACRO now_s() AS {time.time()}")
        connection.register("wanted", units.cast(pa.schema([("annotator", pa.string()), ("model_id", pa.string())])))
        for statement in _statements(reprocess, limit):
            connection.execute(statement)
        _write(Store(out_url), sql.batches(connection, "FROM plan"))
        return _summary(connection)


def _write(store: Store, batches: Iterable[pa.RecordBatch]) -> None:
    numbers, held = count(), list[pa.RecordBatch]()
    for batch in batches:
        held.append(batch)
        if len(held) == FILE_BATCHES:
            _write_file(store, next(numbers), held)
            held = []
    if held:
        _write_file(store, next(numbers), held)


def _write_file(store: Store, number: int, batches: list[pa.RecordBatch]) -> None:
    rows = pa.Table.from_batches(batches).cast(PLAN)
    store.put(f"plan-{number:06d}.parquet", parquet_bytes(rows, row_group_rows=sql.BATCH_ROWS))


FIRST_WAIT_S, LONGEST_WAIT_S = 12 * 3600, 30 * 86_400
"""What failed for a passing reason is planned again by the next run, then after 12 hours, 36, 84 … at most 30 days."""

_AGAIN = {
    None: "false",
    "failed": "finished.status IN ('quarantined', 'partial', 'missing')",
    "all": "true",
}


_PASSES = f"""arg_max(status IN ('quarantined', 'partial', 'missing')
                    AND coalesce(reason, '') IN {PASSING_REASONS}, "at")"""
_DUE = f"""{_PASSES} AND now_s() NOT BETWEEN epoch(max("at"))
               AND epoch(max("at")) + least({LONGEST_WAIT_S}, {FIRST_WAIT_S} * (2 ** (max(attempts) - 1) - 1))"""
"""Whether the next try is due. A clock behind the one that wrote the row says yes: better early than never."""


def _statements(reprocess: Reprocess | None, limit: int | None) -> list[str]:
    """Temporary tables of ids first: nothing wide is joined or held."""
    # What is reprocessed replaces all that the ledger holds of a unit, also of one that was only begun.
    done = "coalesce(done, [])" if reprocess is None else "[]"
    begun = "NULL" if reprocess is None else "CASE WHEN done IS NOT NULL THEN 'begun' END"
    return [
        f"CREATE TEMP TABLE no_more AS {sql.NO_MORE}",
        # Some videos are listed twice (overlapping archive URLs): the first place stands for all.
        f"""CREATE TEMP TABLE listed AS
        SELECT video_id, min({{'uri': uri, 'member': member}}) AS place FROM listing
        WHERE {sql.PLACE} NOT IN (FROM no_more) GROUP BY video_id""",
        f"""CREATE TEMP TABLE finished AS
        SELECT video_id, annotator, model_id, arg_max(status, "at") AS status, {_DUE} AS due,
               CASE WHEN {_PASSES} THEN max(attempts) END AS tries
        FROM ledger SEMI JOIN wanted USING (annotator, model_id) WHERE segment = {WHOLE_VIDEO} GROUP BY ALL""",
        """CREATE TEMP TABLE begun AS
        SELECT video_id, annotator, model_id, list(DISTINCT segment ORDER BY segment) AS done,
               max(n_segments) AS total, len(done) >= total AS complete
        FROM ledger SEMI JOIN wanted USING (annotator, model_id)
             ANTI JOIN finished USING (video_id, annotator, model_id)
        WHERE segment >= 0 GROUP BY video_id, annotator, model_id""",
        f"""CREATE TEMP TABLE todo AS
        SELECT video_id, list_sort(list(
               {{'annotator': annotator, 'model_id': model_id, 'done': {done}, 'n_segments': total,
                'again': coalesce(finished.status, {begun}), 'tries': finished.tries}})) AS work
        FROM listed CROSS JOIN wanted
             LEFT JOIN finished USING (video_id, annotator, model_id)
             LEFT JOIN begun USING (video_id, annotator, model_id)
        WHERE (finished.status IS NULL OR finished.due OR {_AGAIN[reprocess]}) AND NOT coalesce(complete, false)
        GROUP BY video_id""",
        f"""CREATE TEMP TABLE chosen AS
        SELECT video_id, place, work FROM todo JOIN listed USING (video_id)
        ORDER BY place {"" if limit is None else f"LIMIT {int(limit)}"}""",
        f"""CREATE TEMP VIEW plan AS
        SELECT {", ".join(f"listing.{name}" for name in LISTING.names)}, chosen.work
        FROM listing JOIN chosen ON listing.video_id = chosen.video_id
             AND {{'uri': listing.uri, 'member': listing.member}} = chosen.place
        QUALIFY row_number() OVER (PARTITION BY listing.video_id) = 1
        ORDER BY listing.uri, listing.member""",
    ]


def _summary(connection: Any) -> PlanSummary:
    (listed,) = sql.one_row(connection, "SELECT count(*) FROM listed")
    (todo,) = sql.one_row(connection, "SELECT count(*) FROM todo")
    derive_only, unlisted = sql.one_row(
        connection,
        """SELECT count(*), count(*) FILTER (listed.video_id IS NULL)
        FROM (SELECT DISTINCT video_id FROM begun ANTI JOIN todo USING (video_id) WHERE complete) AS waiting
             LEFT JOIN listed USING (video_id)""",
    )
    chosen, units = sql.one_row(connection, "SELECT count(*), coalesce(sum(len(work)), 0)::BIGINT FROM chosen")
    size_bytes, known_us = sql.one_row(
        connection,
        """SELECT coalesce(sum(bytes), 0)::BIGINT, sum(duration_us) FROM
        (SELECT video_id, max(listing.bytes) AS bytes FROM listing SEMI JOIN chosen USING (video_id) GROUP BY video_id)
        LEFT JOIN (SELECT video_id, max(duration_us) AS duration_us FROM videos GROUP BY video_id) USING (video_id)""",
    )
    return PlanSummary(
        listed=listed,
        planned=todo + derive_only,
        done=listed - todo - (derive_only - unlisted),
        deferred=todo - chosen,
        derive_only=derive_only,
        units=units,
        size_bytes=size_bytes,
        video_hours_known=None if known_us is None else float(known_us) / 3.6e9,
    )
