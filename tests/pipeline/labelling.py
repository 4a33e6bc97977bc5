"""What tests of the label job share: its tables as rows, what must hold of any tables, and the job as a process."""

import json
import os
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from planting import FOLDER

from vidproc.schema import STATUSES, TABLES, WHOLE_VIDEO
from vidproc.tables.query import connect

JOB = Path(__file__).parents[2] / "jobs" / "label.py"
SHARED = Path(__file__).parents[3] / "shared" / "data"
ALL = ("quality", "actions", "objects")
DEMO = {"actions": "demo", "objects": "demo"}
BUDGET_EXCEEDED = 3

Row = dict[str, Any]
Tables = dict[str, list[Row]]

PASSING = {"run_id", "at", "worker", "decode_s", "infer_s", "attempts", "labelled_at"}
"""Columns in which two runs over the same archive may differ."""


def read(tables_url: str) -> Tables:
    """All tables as rows, ordered by their keys."""
    connection = connect(tables_url)
    found = {}
    for name, table in TABLES.items():
        rows = connection.sql(f"FROM {name}").to_arrow_table().to_pylist()
        found[name] = sorted(rows, key=lambda row, key=table.key: [row[column] for column in key])  # type: ignore[misc]
    return found


def check(tables: Tables) -> None:
    """What holds of the tables at any time between two runs."""
    for name, table in TABLES.items():
        keys = Counter(tuple(row[column] for column in table.key) for row in tables[name])
        assert not [key for key, count in keys.items() if count > 1], f"doubled rows in {name}"
    for run in tables["runs"]:
        assert run["planned"] == sum(run[status] for status in STATUSES) + run["deferred"], run
    whole = {row["video_id"]: row for row in tables["ledger"] if row["segment"] == WHOLE_VIDEO}
    assert set(whole) == {row["video_id"] for row in tables["videos"]}
    assert all(row["status"] in STATUSES for row in tables["videos"])
    for name in ("labels", "quality", "text"):
        for row in tables[name]:
            video = whole[row["video_id"]]
            assert video["start_us"] <= row["start_us"] < row["end_us"] <= video["end_us"], (name, row)


def comparable(tables: Tables) -> Tables:
    """All tables but `runs`, less what may differ between two runs; numbers as they are after rounding."""
    return {
        name: [{key: _rounded(value) for key, value in row.items() if key not in PASSING} for row in rows]
        for name, rows in tables.items()
        if name != "runs"
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return round(value, 4) if isinstance(value, float) else value


def assert_same(found: Tables, expected: Tables) -> None:
    """Row for row, numbers within 1e-4 of each other (they may fall on two sides of a rounding)."""
    ours, theirs = comparable(found), comparable(expected)
    for name, rows in theirs.items():
        assert len(ours[name]) == len(rows), (name, len(ours[name]), len(rows))
        for one, other in zip(ours[name], rows, strict=True):
            wrong = {key: (one[key], other[key]) for key in other if not _close(one[key], other[key])}
            assert not wrong, (name, wrong)


def _close(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_close, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) < 2e-4 or one == other
    return bool(one == other)


def parts(tables_url: str) -> set[str]:
    """The data files that lie below local tables, committed or not."""
    return {str(path.relative_to(tables_url)) for path in Path(tables_url).rglob("*.parquet")}


def by_name(tables: Tables) -> dict[str, Row]:
    """The `videos` rows by file name, or member name; of a file's versions the one labelled last."""
    rows = sorted(tables["videos"], key=lambda row: row["run_id"])
    return {row["member"] or Path(row["uri"]).name: row for row in rows}


# ---- the job as a process


def command(archive: Path | str, tables: Path | str, *more: str, annotators: Sequence[str] = ("quality",)) -> list[str]:
    weights = [f"{name}=demo" for name in annotators if name in DEMO]
    line = [sys.executable, str(JOB), "--archive", str(archive), "--tables", str(tables), "--annotators", *annotators]
    return [*line, *(["--weights", *weights] if weights else []), "--failure-budget", "1", *more]


def environment(mark: str = "") -> dict[str, str]:
    """Where every process of the job finds the planted faults, and carries a mark, even those of another session.

    The mark stands in PYTHONPATH: the sandbox has no other variable of the test's.
    """
    path = os.pathsep.join(filter(None, [str(FOLDER), mark, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}


def run(line: Sequence[str], *, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=timeout_s, check=False)


def events(stderr: str) -> list[Row]:
    """What the job logged, as it does where it is not on a terminal: one JSON object a line."""
    return [json.loads(line) for line in stderr.splitlines() if line.startswith('{"at"')]


def event(stderr: str, name: str) -> Row:
    return [one for one in events(stderr) if one["event"] == name][-1]


class Driver:
    """The job as a process in a session of its own; its output lies in `log`."""

    def __init__(self, line: Sequence[str], log: Path) -> None:
        self.log, self._mark = log, f"/no-such-folder/{uuid.uuid4().hex}"
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                line, env=environment(self._mark), stdout=out, stderr=out, start_new_session=True
            )

    def family(self, containing: str = "") -> list[psutil.Process]:
        """All processes but the driver that it, Ray or a worker started, with this in their command line."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.pid != self.process.pid and self._mark in process.environ().get("PYTHONPATH", ""):
                    line = " ".join(process.cmdline())
                    found += [process] if containing in line and process.status() != psutil.STATUS_ZOMBIE else []
        return found

    def wait(self, timeout_s: float = 300) -> int:
        return self.process.wait(timeout_s)

    def told(self) -> str:
        return self.log.read_text(errors="replace")


@contextmanager
def started(line: Sequence[str], log: Path) -> Iterator[Driver]:
    """Start the job; whatever is left of it is killed at the end."""
    driver = Driver(line, log)
    try:
        yield driver
    finally:
        driver.process.kill()
        driver.process.wait()
        for process in driver.family():
            with suppress(psutil.Error):
                process.kill()


def wait_until(true: Any, *, timeout_s: float, every_s: float = 0.05) -> bool:
    deadline = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(every_s)
    return True
