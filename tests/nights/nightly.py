"""The label job night after night over a changing archive, as a CronJob starts it, each night held to the oracle."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Protocol

from nights.changing_archive import ChangingArchive
from nights.night_oracle import Expected, Night, Unit, expected
from pipeline.labelling import JOB, PASSING, Row, Tables, check, environment, read, started, wait_until
from pipeline.labelling import _close as close

from vidproc.annotators import ANNOTATORS
from vidproc.schema import ANNOTATION_TABLES
from vidproc.tables.checking import check as prove
from vidproc.tables.store import Store

FIRST = date(2026, 3, 1)
BUDGET = 0.25
LEASE_HELD = 4
MAINTAIN = JOB.with_name("maintain.py")


class Job(Protocol):
    """Runs the label job to its end; returns its exit code."""

    def __call__(self, nightly: "Nightly", tables: str) -> int: ...


@dataclass
class Nightly:
    """The archive, its tables, what happened so far. `weights`: spec by annotator, None where it has no weights."""

    archive: ChangingArchive
    tables: str
    folder: Path
    weights: dict[str, str | None]
    job: Job
    history: list[Night] = field(default_factory=list)
    night: int = 0
    rows: dict[str, dict[Unit, list[Row]]] = field(default_factory=lambda: {name: {} for name in ANNOTATION_TABLES})
    """Table → unit → the rows that a run of its own gave over the bytes that were there then."""

    @property
    def date(self) -> date:
        return FIRST + timedelta(days=self.night - 1)

    @property
    def wanted(self) -> dict[str, str]:
        return {name: ANNOTATORS[name](spec).model_id for name, spec in self.weights.items()}

    def line(self, tables: str, *more: str) -> list[str]:
        """The command of the CronJob."""
        weights = [f"{name}={spec}" for name, spec in self.weights.items() if spec]
        line = [sys.executable, str(JOB), "--archive", self.archive.url, "--tables", tables, "--annotators"]
        line += [*self.weights, *(["--weights", *weights] if weights else []), "--date", str(self.date)]
        return [*line, "--failure-budget", str(BUDGET), "--commit-every-s", "0", *more]

    def remember(self, *, killed: bool = False) -> None:
        """Note what tonight's run had before it."""
        self.history.append(Night(self.archive.listed(), self.wanted, BUDGET, killed=killed))

    def run(self) -> Expected:
        """One undisturbed night, then everything held to the oracle."""
        self.remember()
        code = self.job(self, self.tables)
        return self.verify(code)

    def verify(self, code: int) -> Expected:
        """Hold all tables to the oracle, and their rows to those of a run of its own over what is listed now."""
        state = expected(self.history)
        assert code == state.runs[-1]["exit_code"]
        alone = str(self.folder / f"alone-{self.night}")
        assert self.job(self, alone) in (0, 3)
        for name, units in by_unit(read(alone)).items():
            for unit in state.fresh:
                self.rows[name].setdefault(unit, units.get(unit, []))
        self.compare(state)
        return state

    def compare(self, state: Expected) -> None:
        """All tables against the oracle's state and the rows that were remembered."""
        tables = read(self.tables)
        check(tables)
        whole = [row for row in tables["ledger"] if row["segment"] == -1]
        assert_equal([(*unit_of(row), row["status"], row["reason"]) for row in whole], [
            (*unit, *fate) for unit, fate in state.units.items()
        ])  # fmt: skip
        assert_equal([(unit_of(row), row["segment"]) for row in tables["ledger"]], state.ledger)
        assert_equal([(row["video_id"], row["status"]) for row in tables["videos"]], state.videos.items())
        runs = sorted(tables["runs"], key=lambda row: row["started_at"])
        assert [{name: row[name] for name in state.runs[0]} for row in runs] == state.runs, runs
        for name, units in by_unit(tables).items():
            assert_same_rows(name, units, self.rows[name])
        proven = prove(self.tables)
        assert not proven.findings, proven.findings

    def starts_twice(self) -> Expected:
        """Two CronJobs at once: one labels, the other is sent away with 4."""
        self.remember()
        lines = [self.line(self.tables), self.line(self.tables)]
        both = [subprocess.Popen(line, env=environment(), stderr=subprocess.PIPE, text=True) for line in lines]
        told = [one.communicate(timeout=600)[1] for one in both]
        codes = sorted(one.returncode for one in both)
        done = expected(self.history).runs[-1]["exit_code"]
        assert codes == sorted([done, LEASE_HELD]), told
        return self.verify(done)

    def killed_midway(self) -> None:
        """The driver dies after some of its commits and before the last one."""
        self.remember(killed=True)
        before = read(self.tables)["ledger"]
        log, commits = Store(self.tables), len(Store(self.tables).list("ledger/_delta_log"))
        with started(self.line(self.tables), self.folder / f"killed-{self.night}.log") as driver:
            assert wait_until(
                lambda: len(log.list("ledger/_delta_log")) > commits, timeout_s=300, every_s=0.02
            ), driver.told()  # fmt: skip
            driver.process.kill()
            driver.wait()
            assert wait_until(lambda: not driver.family(), timeout_s=60), "the killed run's processes live on"
        after = read(self.tables)["ledger"]
        planned = expected(self.history).runs[-1]["planned"]
        begun = {row["video_id"] for row in after} - {row["video_id"] for row in before}
        assert 0 < len(begun) < planned, f"killed too early or too late: {len(begun)} of {planned} videos were decoded"

    def maintain(self, verb: str, *more: str) -> None:
        """`jobs/maintain.py` as another CronJob would run it; the tables hold the same as before."""
        line = [sys.executable, str(MAINTAIN), verb, "--tables", self.tables, *more]
        ended = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=600, check=False)
        assert ended.returncode == 0, ended.stderr
        self.compare(expected(self.history))


def as_process(nightly: Nightly, tables: str) -> int:
    """The job as a CronJob runs it."""
    line = nightly.line(tables)
    ended = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=900, check=False)
    assert ended.returncode in (0, 3), ended.stderr[-3000:]
    return ended.returncode


def unit_of(row: Row) -> Unit:
    return row["video_id"], row["annotator"], row["model_id"]


def by_unit(tables: Tables) -> dict[str, dict[Unit, list[Row]]]:
    """Annotation rows by table and unit, in the order of their keys, less what differs between any two runs."""
    found: dict[str, dict[Unit, list[Row]]] = {name: {} for name in ANNOTATION_TABLES}
    for name, units in found.items():
        for row in tables[name]:
            units.setdefault(unit_of(row), []).append({key: row[key] for key in row if key not in PASSING})
    return found


def assert_equal(found: Sequence[Any], wanted: Any) -> None:
    """Both hold the same, each once."""
    found, wanted = sorted(found, key=repr), sorted(wanted, key=repr)
    assert found == wanted, [one for one in [*found, *wanted] if found.count(one) != wanted.count(one)][:5]


def assert_same_rows(name: str, found: dict[Unit, list[Row]], wanted: dict[Unit, list[Row]]) -> None:
    """Row for row; numbers as close as two batches bring them."""
    wanted = {unit: rows for unit, rows in wanted.items() if rows}
    assert found.keys() == wanted.keys(), (name, found.keys() ^ wanted.keys())
    for unit, rows in wanted.items():
        assert len(found[unit]) == len(rows), (name, unit)
        for one, other in zip(found[unit], rows, strict=True):
            assert list(differing(one, other)) == [], (name, unit)


def differing(one: Row, other: Row) -> Iterator[tuple[str, Any, Any]]:
    yield from ((key, one[key], other[key]) for key in other if not close(one[key], other[key]))
