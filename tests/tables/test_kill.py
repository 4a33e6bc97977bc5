"""SIGKILL and SIGSTOP of a driver at every step: the resumed tables equal those of an undisturbed run, row for row."""

import random
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from made_rows import FakeAnnotator, read, segment_parts, write_listing

from vidproc.schema import STATUSES
from vidproc.tables.commit import Commits
from vidproc.tables.derive import derive
from vidproc.tables.store import Store

DRIVER = Path(__file__).with_name("kill_driver.py")


class Bench:
    """The state before the run, the undisturbed outcome, and a way to run trials."""

    def __init__(self, folder: Path, base: str) -> None:
        self.folder = folder
        self.base, self.listing = base, str(folder / "listing")
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
        done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def kill(self, points: Sequence[str]) -> None:
        """Kill trials, in two processes, and compare what each comes to."""
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda half: self.drive("kill", *half), (points[::2], points[1::2])))
        for point in points:
            self.check("kill-" + point.replace(",", "-"))

    def url(self, trial: str) -> str:
        return f"{self.base}-{trial}" if self.base.startswith("s3://") else f"{self.folder}/{trial}/tables"

    def rows(self, trial: str) -> dict[str, list[dict[str, Any]]]:
        """What analysts see, less which run did it."""
        tables = {name: read(self.url(trial), name) for name in ("videos", "labels", "ledger")}
        for rows in tables.values():
            for row in rows:
                del row["run_id"]
        return tables

    def check(self, trial: str, *, unwritten_runs: int = 0) -> None:
        assert self.rows(trial) == self.expected, trial
        for run in read(self.url(trial), "runs"):
            assert run["planned"] == sum(run[status] for status in STATUSES) + run["deferred"], (trial, run)
        assert len(Store(self.url(trial)).list("_runs")) <= unwritten_runs, trial


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("kill")
    return Bench(folder, str(folder / "base"))


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


@pytest.mark.parametrize("stride", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_kill_before_every_step(bench: Bench, stride: int) -> None:
    bench.kill([str(step) for step in bench.main_steps[::stride]])


@pytest.mark.slow
def test_kill_inside_every_write_of_a_file(bench: Bench) -> None:
    bench.kill([str(step) for step in bench.steps if step not in bench.main_steps])


def test_kill_again_during_recovery(bench: Bench) -> None:
    chance = random.Random(1)
    bench.kill(sorted({f"{chance.choice(bench.steps)},{chance.randrange(14)}" for _ in range(8)}))


@pytest.mark.slow
def test_kill_again_at_every_step_of_every_recovery(bench: Bench) -> None:
    bench.kill([f"{k},{j}" for k in bench.main_steps for j in range(15)])


def test_stopped_driver_overtaken_and_woken_stops_and_doubles_nothing(bench: Bench) -> None:
    steps = sorted(random.Random(2).sample(bench.steps[6:-12], 8))
    codes = bench.drive("stop", *map(str, steps)).split()
    assert codes == ["4"] * len(steps)
    for step in steps:
        bench.check(f"stop-{step}", unwritten_runs=1)  # the woken one may begin its record before it learns


@pytest.mark.slow
@pytest.mark.s3
def test_kill_and_stop_on_s3(s3: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, f"{s3}/kill")
    stops = bench.steps[8:-12:4]
    bench.kill([str(step) for step in bench.steps])
    assert bench.drive("stop", *map(str, stops)).split() == ["4"] * len(stops)
    for step in stops:
        bench.check(f"stop-{step}", unwritten_runs=1)
