"""Kills at any moment cost nothing but time: drivers, actors and decoders die, and the tables come out the same."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from labelling import (
    ALL,
    Driver,
    Tables,
    assert_same,
    check,
    command,
    environment,
    events,
    read,
    run,
    started,
    wait_until,
)

from vidproc.train.archive import make_archive

HELD = 4
TERMINATED = 143
SURVIVAL_S = 30
"""Seen: under 3 s where there are free cores, 12 s where there are none."""
FAST = ("--commit-every-s", "0")
"""As many commits as there are batches, so that kills meet them."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kills") / "archive"
    make_archive(folder, plain=6, sharded=3, seconds=3)
    return folder


class Undisturbed:
    """What a run comes to that nobody disturbs, and how long it takes."""

    def __init__(self, archive: Path, folder: Path, annotators: tuple[str, ...]) -> None:
        begun = time.monotonic()
        ended = run(command(archive, folder / "tables", *FAST, annotators=annotators))
        assert ended.returncode == 0, ended.stderr[-3000:]
        self.seconds = time.monotonic() - begun
        self.tables = read(str(folder / "tables"))
        check(self.tables)


@pytest.fixture(scope="module")
def quality(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return Undisturbed(archive, tmp_path_factory.mktemp("undisturbed"), ("quality",))


@pytest.fixture(scope="module")
def everything(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return Undisturbed(archive, tmp_path_factory.mktemp("undisturbed"), ALL)


def finish(line: list[str]) -> None:
    """Run the same command again."""
    ended = run(line)
    assert ended.returncode == 0, ended.stderr[-3000:]


def assert_undisturbed(tables_url: str, expected: Tables) -> None:
    found = read(tables_url)
    check(found)
    assert_same(found, expected)
    left = {path.name for path in Path(tables_url).iterdir()} - {"_commits", "_leases", "_runs", "_scratch", *found}
    assert not left
    for folder in ("_runs", "_scratch"):
        assert not list(Path(tables_url, folder).rglob("*.*")), f"{folder} is not cleared"


def assert_nothing_survives(driver: Driver) -> None:
    """Neither Ray's processes nor a sandbox outlive their driver for long."""
    begun = time.monotonic()
    gone = wait_until(lambda: not driver.family(), timeout_s=SURVIVAL_S, every_s=0.5)
    left = [" ".join(process.cmdline())[:100] for process in driver.family()]
    assert gone, f"{time.monotonic() - begun:.0f} s after the driver these are alive: {left}"


def kill_at(line: list[str], log: Path, seconds: float) -> int:
    """Start the job and kill its driver after so many seconds; returns its exit code, that of SIGKILL or 0."""
    with started(line, log) as driver:
        try:
            code = driver.wait(seconds)
        except subprocess.TimeoutExpired:
            driver.process.kill()
            code = driver.wait()
        assert_nothing_survives(driver)
    return code


def kill_storm(archive: Path, folder: Path, moments: list[float], expected: Tables) -> int:
    """Kill runs on the same tables after so many seconds each, let the last one finish, and compare.

    Once a run has come to its end before its moment, the next one starts on new tables. Returns the number of kills.
    """
    left, number, kills = list(moments), 0, 0
    while left:
        number += 1
        tables = folder / f"tables-{number}"
        line = command(archive, tables, *FAST, annotators=ALL)
        while left:
            code = kill_at(line, folder / f"run-{number}.log", left[0])
            assert code in (-signal.SIGKILL, 0), (folder / f"run-{number}.log").read_text()
            if code == 0:
                left[0] *= 0.8
                break
            left.pop(0)
            kills += 1
        finish(line)
        assert_undisturbed(str(tables), expected)
    return kills


def test_a_killed_driver_leaves_no_process_and_the_next_run_completes(
    archive: Path, quality: Undisturbed, tmp_path: Path
) -> None:
    line = command(archive, tmp_path / "tables", *FAST)
    with started(line, tmp_path / "log") as driver:
        assert wait_until(lambda: driver.family("vidproc.media.sandbox"), timeout_s=90), driver.told()
        driver.process.kill()
        driver.wait()
        assert_nothing_survives(driver)
    finish(line)
    assert_undisturbed(str(tmp_path / "tables"), quality.tables)
    runs = sorted(read(str(tmp_path / "tables"))["runs"], key=lambda row: row["started_at"])
    assert [row["status"] for row in runs] == ["killed", "done"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_kills_at_random_moments(archive: Path, everything: Undisturbed, tmp_path: Path, seed: int) -> None:
    """Twenty-four kills in all, one per sixth of a run's time and seed, at a random moment in it."""
    chance = random.Random(seed)
    moments = [everything.seconds * (sixth + chance.random()) / 6 for sixth in range(6)]
    chance.shuffle(moments)
    assert kill_storm(archive, tmp_path, moments, everything.tables) == len(moments)


VICTIMS: dict[str, Callable[[Driver], list[psutil.Process]]] = {
    "networks": lambda driver: driver.family("MapWorker(MapBatches(Annotate))"),
    "sandbox": lambda driver: [one for one in driver.family("vidproc.media.sandbox") if not _is_child(one)],
    "decoder": lambda driver: [one for one in driver.family("vidproc.media.sandbox") if _is_child(one)],
    "decoding worker": lambda driver: [
        parent for one in VICTIMS["sandbox"](driver) for parent in [one.parent()] if parent
    ],
}


def _is_child(process: psutil.Process) -> bool:
    """Whether a process is the forked child of a sandbox, and not the sandbox."""
    try:
        parent = process.parent()
        return parent is not None and "vidproc.media.sandbox" in " ".join(parent.cmdline())
    except psutil.Error:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("victim", VICTIMS)
def test_kill_of_a_part_of_the_run(archive: Path, everything: Undisturbed, tmp_path: Path, victim: str) -> None:
    """The run itself goes on to exit 0, with the same tables."""
    line = command(archive, tmp_path / "tables", *FAST, annotators=ALL)
    killed, most = 0, 1 if victim == "decoder" else 2  # a decoder that dies twice is its input's fault
    with started(line, tmp_path / "log") as driver:
        while killed < most and driver.process.poll() is None:
            for process in VICTIMS[victim](driver)[:1]:
                try:
                    process.kill()
                    killed += 1
                except psutil.Error:
                    continue
            time.sleep(0.5 if killed else 0.01)
        assert driver.wait() == 0, driver.told()
        assert_nothing_survives(driver)
    assert killed
    assert_undisturbed(str(tmp_path / "tables"), everything.tables)


@pytest.mark.slow
def test_second_driver_is_refused_while_the_first_runs(archive: Path, quality: Undisturbed, tmp_path: Path) -> None:
    line = command(archive, tmp_path / "tables", "--lease-s", "5")
    with started(line, tmp_path / "log") as first:
        assert wait_until(lambda: '"planned"' in first.told(), timeout_s=60), first.told()
        second = run(line)
        assert second.returncode == HELD, second.stderr
        assert "only one run at a time may write" in second.stderr
        assert first.wait() == 0, first.told()
    assert_undisturbed(str(tmp_path / "tables"), quality.tables)


@pytest.mark.slow
def test_stopped_driver_is_overtaken_and_ends_with_4(archive: Path, quality: Undisturbed, tmp_path: Path) -> None:
    line = command(archive, tmp_path / "tables", *FAST, "--lease-s", "3")
    with started(line, tmp_path / "log") as first:
        assert wait_until(lambda: first.family("vidproc.media.sandbox"), timeout_s=90), first.told()
        first.process.send_signal(signal.SIGSTOP)
        finish(line)
        first.process.send_signal(signal.SIGCONT)
        assert first.wait(120) == HELD, first.told()
        assert_nothing_survives(first)
    tables = read(str(tmp_path / "tables"))
    check(tables)
    assert_same(tables, quality.tables)
    finish(line)  # whoever comes next writes the row of the run that was overtaken
    assert {row["status"] for row in read(str(tmp_path / "tables"))["runs"]} == {"done", "killed"}


DIES_BEFORE_DERIVE = """
import os, runpy, signal, sys
from vidproc.pipeline import label
real, calls = label.derive, []
def derive(*given, **options):
    calls.append(1)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*given, **options)
label.derive = derive
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""The job, killed when it has committed its last segment; its first call of derive is for what an earlier run left."""


@pytest.mark.slow
def test_kill_between_the_last_segment_and_derive(archive: Path, quality: Undisturbed, tmp_path: Path) -> None:
    (tmp_path / "dies.py").write_text(DIES_BEFORE_DERIVE)
    line = command(archive, tmp_path / "tables")
    died = subprocess.run(
        [sys.executable, str(tmp_path / "dies.py"), *line[1:]], env=environment(), capture_output=True, check=False
    )
    assert died.returncode == -signal.SIGKILL, died.stderr[-2000:]
    half = read(str(tmp_path / "tables"))
    assert half["quality"] and not half["videos"]
    finish(line)
    assert_undisturbed(str(tmp_path / "tables"), quality.tables)
    done = max(read(str(tmp_path / "tables"))["runs"], key=lambda row: row["started_at"])
    assert not [
        row
        for row in read(str(tmp_path / "tables"))["ledger"]
        if row["run_id"] == done["run_id"] and row["segment"] >= 0
    ]


@pytest.mark.slow
def test_terminated_run_publishes_and_ends_with_143(archive: Path, quality: Undisturbed, tmp_path: Path) -> None:
    line = command(archive, tmp_path / "tables", *FAST)
    with started(line, tmp_path / "log") as driver:
        assert wait_until(lambda: driver.family("vidproc.media.sandbox"), timeout_s=90), driver.told()
        driver.process.terminate()
        assert driver.wait(45) == TERMINATED, driver.told()
        assert_nothing_survives(driver)
        assert events(driver.told())[-1]["exit_code"] == TERMINATED
    tables = read(str(tmp_path / "tables"))
    check(tables)
    (stopped,) = tables["runs"]
    assert (stopped["status"], stopped["exit_code"]) == ("stopped", TERMINATED)
    assert stopped["planned"] == stopped["deferred"] + len(tables["videos"])
    finish(line)  # at once: the lease was given back
    assert_undisturbed(str(tmp_path / "tables"), quality.tables)
