"""SIGKILL and SIGSTOP of a driver at every step: the resumed tables equal those of an undisturbed run, row for row."""

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from made_rows import FakeAnnotator, read, segment_parts, write_listing

from vidproc.schema import STATUSES
from vidproc.tables.commit import Commits
from vidproc.tables.derive import derive

DRIVER = Path(__file__).with_name("kill_driver.py")


class Bench:
    """The state before the run, the undisturbed outcome, and a way to run trials."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base, self.listing = str(folder / "base"), str(folder / "listing")
        write_listing(self.listing, "abcd")
        with Commits.open(self.base, run_id="run-1") as commits:
            broken = {"status": "quarantined", "reason": "damaged", "coverage": None}
            commits.commit(segment_parts(self.base, "b", [0], n_segments=1, **broken))
            commits.commit(segment_parts(self.base, "d", [0], n_segments=1))
            derive(commits, {"actions": FakeAnnotator()})
            commits.commit(segment_parts(self.base, "c", [0, 1], n_segments=2))  # killed before its derive
        names = self.drive("count").split()
        self.steps = range(len(names))
        self.main_steps = [step for step in self.steps if names[step] != "fsync"]
        self.expected = self.rows("whole")

    def drive(self, mode: str, *points: str) -> str:
        command = [sys.executable, str(DRIVER), mode, self.base, str(self.folder), self.listing, *points]
        done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def rows(self, trial: str) -> dict[str, list[dict[str, Any]]]:
        """What analysts see, less which run did it."""
        tables = {name: read(f"{self.folder}/{trial}/tables", name) for name in ("videos", "labels", "ledger")}
        for rows in tables.values():
            for row in rows:
                del row["run_id"]
        return tables

    def check(self, trial: str, *, unwritten_runs: int = 0) -> None:
        assert self.rows(trial) == self.expected, trial
        for run in read(f"{self.folder}/{trial}/tables", "runs"):
            assert run["planned"] == sum(run[status] for status in STATUSES) + run["deferred"], (trial, run)
        assert len(list(Path(self.folder, trial, "tables", "_runs").glob("*.json"))) <= unwritten_runs, trial


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("kill"))


def test_undisturbed_run_reaches_every_kind_of_commit(bench: Bench) -> None:
    assert len(bench.main_steps) > 30
    assert [(row["video_id"], row["status"], row["n_segments"]) for row in bench.expected["videos"]] == [
        ("a", "labelled", 3),
        ("b", "labelled", 2),  # was quarantined; its old rows are gone
        ("c", "labelled", 2),
        ("d", "labelled", 1),
    ]
    assert len([row for row in bench.expected["ledger"] if row["segment"] >= 0]) == 8
    assert len([row for row in bench.expected["labels"] if row["scope"] == "sample"]) == 16


def test_kill_before_every_step(bench: Bench) -> None:
    bench.drive("kill", *map(str, bench.main_steps))
    for step in bench.main_steps:
        bench.check(f"kill-{step}")


@pytest.mark.slow
def test_kill_inside_every_write_of_a_file(bench: Bench) -> None:
    steps = sorted(set(bench.steps) - set(bench.main_steps))
    bench.drive("kill", *map(str, steps))
    for step in steps:
        bench.check(f"kill-{step}")


def test_kill_again_during_recovery(bench: Bench) -> None:
    chance = random.Random(1)
    points = {f"{chance.choice(bench.steps)},{chance.randrange(14)}" for _ in range(8)}
    bench.drive("kill", *points)
    for point in points:
        bench.check("kill-" + point.replace(",", "-"))


@pytest.mark.slow
def test_kill_again_at_every_step_of_every_recovery(bench: Bench) -> None:
    points = [f"{k},{j}" for k in bench.steps for j in range(16)]
    for first in range(0, len(points), 64):
        some = points[first : first + 64]
        bench.drive("kill", *(f"{point},{9999}" for point in some))
        for point in some:
            bench.check("kill-" + point.replace(",", "-") + "-9999")


def test_stopped_driver_overtaken_and_woken_stops_and_doubles_nothing(bench: Bench) -> None:
    steps = sorted(random.Random(2).sample(bench.steps[6:-12], 8))
    codes = bench.drive("stop", *map(str, steps)).split()
    assert codes == ["4"] * len(steps)
    for step in steps:
        bench.check(f"stop-{step}", unwritten_runs=1)  # the woken one may begin its record before it learns
