"""The `runs` table: one row per run, written at its end, or by the next run's start if it was killed.

Always: planned = labelled + partial + empty + quarantined + missing + deferred.
"""

import json
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from typing import Any, Self

import pyarrow as pa

from vidproc.errors import PASSING_REASONS
from vidproc.schema import FAILED, LEDGER, RUNS, STATUSES, WHOLE_VIDEO
from vidproc.tables import sql
from vidproc.tables.commit import Commits
from vidproc.tables.merge import merge_status
from vidproc.tables.parts import write_part
from vidproc.tables.store import Store

_FOLDER = "_runs"


@dataclass(frozen=True, kw_only=True)
class RunStart:
    """What is known of a run before its work: kept in `_runs/<run_id>.json` until its row is committed."""

    run_id: str
    date: date
    started_at: datetime
    config: str
    code_version: str
    listed: int = 0
    planned: int = 0

    def to_json(self) -> bytes:
        return json.dumps(
            asdict(self) | {"date": self.date.isoformat(), "started_at": self.started_at.isoformat()}
        ).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        fields = json.loads(data)
        at = {"date": date.fromisoformat(fields["date"]), "started_at": datetime.fromisoformat(fields["started_at"])}
        return cls(**fields | at)


def start_run(tables_url: str, start: RunStart) -> None:
    """Record that the run begins; again, once the plan has told `listed` and `planned`."""
    Store(tables_url).put(_path(start.run_id), start.to_json())


def write_run(commits: Commits, start: RunStart, *, status: str, exit_code: int | None) -> dict[str, Any]:
    """Commit the run's row and return it. Counts are of videos that became whole in this run, merged over annotators.

    What is returned also has `failed_again`: how many of the failed ones could not be read in an earlier run either.
    `status`: done, budget_exceeded, stopped, killed or failed. `exit_code`: None for a run that could not say it.
    """
    row = _row(commits, start) | {"status": status, "exit_code": exit_code}
    row["ended_at"] = None if status == "killed" else datetime.now(UTC)
    rows = pa.Table.from_pylist([row], schema=RUNS.schema)
    same_run = rows.select(["run_id"])
    commits.commit([write_part(commits.tables_url, RUNS, rows)], replace={RUNS.name: same_run})
    commits.store.delete(_path(start.run_id))
    return row


def recover_runs(commits: Commits) -> list[str]:
    """Write the rows of runs that were killed before they could; returns their ids. For the start of a run."""
    recovered = []
    for path in commits.store.list(_FOLDER):
        data = commits.store.get(path)
        if data is None:
            continue
        start = RunStart.from_json(data)
        if start.run_id == commits.run_id:
            continue
        if _has_row(commits.tables_url, start.run_id):  # killed between its row and the end
            commits.store.delete(path)
            continue
        write_run(commits, start, status="killed", exit_code=None)
        recovered.append(start.run_id)
    return recovered


def _path(run_id: str) -> str:
    return f"{_FOLDER}/{run_id}.json"


def _has_row(tables_url: str, run_id: str) -> bool:
    with sql.session(tables_url, [RUNS.name]) as connection:
        return bool(connection.execute("SELECT count(*) FROM runs WHERE run_id = ?", [run_id]).fetchone()[0])


def _row(commits: Commits, start: RunStart) -> dict[str, Any]:
    """The counts. A video that two annotators ended differently has the state that `videos` would show."""
    query = f"""SELECT states, coalesce(again, false), count(*), sum(length_us)::DOUBLE FROM
        (SELECT list(DISTINCT status ORDER BY status) AS states, max(end_us - start_us) AS length_us,
                bool_and(reason IN {PASSING_REASONS} AND attempts > 1) AS again
         FROM ledger WHERE run_id = ? AND segment = {WHOLE_VIDEO} GROUP BY video_id)
        GROUP BY states, again"""
    counts: Counter[str] = Counter()
    failed_again = 0
    length_us = 0.0
    with sql.session(commits.tables_url, [LEDGER.name]) as connection:
        for states, again, videos, states_us in connection.execute(query, [start.run_id]).fetchall():
            merged, _ = merge_status({"status": state, "reason": None} for state in states)
            counts[merged] += videos
            failed_again += videos if again and merged in FAILED else 0
            length_us += states_us
    finished = sum(counts.values())
    planned = max(
        start.planned, finished
    )  # what an earlier run decoded and this one derived is also of this run's plan
    return {
        "run_id": start.run_id,
        "date": start.date,
        "started_at": start.started_at,
        "config": start.config,
        "code_version": start.code_version,
        "listed": start.listed,
        "planned": planned,
        **{status: counts[status] for status in STATUSES},
        "deferred": planned - finished,
        "failed_again": failed_again,
        "video_hours": length_us / 3.6e9,
    }
