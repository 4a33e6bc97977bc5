"""The row of a run: its sums agree, and a killed run gets its row from the next one."""

from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from made_rows import FakeAnnotator, ledger_rows, part, read

from vidproc.schema import LEDGER, STATUSES
from vidproc.tables.commit import Commits
from vidproc.tables.derive import derive
from vidproc.tables.runs import RunStart, recover_runs, start_run, write_run
from vidproc.tables.store import Store


def begin(run_id: str, **changed: Any) -> RunStart:
    start = RunStart(
        run_id=run_id,
        date=date(2026, 3, 1),
        started_at=datetime(2026, 3, 1, 2, 30, tzinfo=UTC),
        config='{"annotators": ["actions"]}',
        code_version="0.1",
    )
    return replace(start, **changed)


def work(commits: Commits) -> None:
    """Five videos of every kind, each whole."""
    url, of_run = commits.tables_url, {"run_id": commits.run_id}
    rows = ledger_rows("a", [0, 1], n_segments=2, **of_run)
    for video_id, status in zip("bcde", ("partial", "empty", "quarantined", "missing"), strict=True):
        rows += ledger_rows(video_id, [0], n_segments=1, status=status, **of_run)
    rows += ledger_rows("a", [0, 1], n_segments=2, annotator="other", status="empty", **of_run)
    commits.commit([part(url, LEDGER, rows)])
    derive(commits, {"actions": FakeAnnotator(), "other": FakeAnnotator("other")})


def sums_agree(row: dict[str, Any]) -> bool:
    return bool(row["planned"] == sum(row[status] for status in STATUSES) + row["deferred"])


def test_a_start_travels_as_json() -> None:
    start = begin("run-1", listed=3, planned=2)
    assert RunStart.from_json(start.to_json()) == start


def test_a_run_counts_each_video_once_and_its_sums_agree(place: str) -> None:
    with Commits.open(place, run_id="run-1") as commits:
        start = begin("run-1", listed=9, planned=7)
        start_run(place, start)
        work(commits)
        returned = write_run(commits, start, status="done", exit_code=0)
    (row,) = read(place, "runs")
    assert {status: row[status] for status in STATUSES} == dict.fromkeys(STATUSES, 1)
    assert (row["listed"], row["planned"], row["deferred"], row["status"], row["exit_code"]) == (9, 7, 2, "done", 0)
    assert sums_agree(row)
    assert row["video_hours"] == pytest.approx(6 / 3600)
    assert row == {name: returned[name] for name in row}
    assert Store(place).list("_runs") == []


def test_a_killed_run_gets_its_row_from_the_next(tmp_path: Path) -> None:
    url = str(tmp_path)
    with Commits.open(url, run_id="run-1") as commits:
        start_run(url, begin("run-1"))
        start_run(url, begin("run-1", listed=9, planned=8))
        work(commits)
    with Commits.open(url, run_id="run-2") as commits:
        start_run(url, begin("run-2"))
        assert recover_runs(commits) == ["run-1"]
        assert recover_runs(commits) == []
    (row,) = read(url, "runs")
    assert (row["run_id"], row["status"], row["exit_code"], row["deferred"]) == ("run-1", "killed", None, 3)
    assert sums_agree(row)
    assert Store(url).list("_runs") == ["_runs/run-2.json"]


def test_a_run_killed_after_its_row_keeps_it(tmp_path: Path) -> None:
    url = str(tmp_path)
    with Commits.open(url, run_id="run-1") as commits:
        write_run(commits, begin("run-1"), status="stopped", exit_code=0)
        start_run(url, begin("run-1"))  # as if the kill had come before the record was deleted
    with Commits.open(url, run_id="run-2") as commits:
        assert recover_runs(commits) == []
    assert [row["status"] for row in read(url, "runs")] == ["stopped"]
    assert Store(url).list("_runs") == []


def test_more_finished_than_planned_raises_the_plan(tmp_path: Path) -> None:
    with Commits.open(str(tmp_path), run_id="run-1") as commits:
        work(commits)
        row = write_run(commits, begin("run-1", planned=1), status="done", exit_code=0)
    assert (row["planned"], row["deferred"]) == (5, 0)
    assert sums_agree(row)
