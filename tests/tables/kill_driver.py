"""A driver that dies, or is stopped, right before its k-th step. Run by the kill tests, never imported by them.

    python kill_driver.py MODE BASE WORK LISTING [K[,J]…]

The parent process only imports; every trial is a fork of it (imports are paid once), works in a copy of BASE (in WORK,
or beside BASE if that is on S3), and speaks through its exit status. A step is what changes the store: `os.fsync` of
a temporary file (so also between it and its link), put, create, delete, and a Delta transaction.

MODE count   run undisturbed in WORK/whole; print the names of the steps
     kill    per K: die before step K, then run again. per K,J: also die before step J of the second run, then again
     stop    per K: stop before step K, let a second driver take over and finish, then go on: print the exit status
"""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import made_rows
import pyarrow.parquet as pq
from deltalake import DeltaTable

from vidproc.errors import VidprocError
from vidproc.tables.commit import Commits, replace_units
from vidproc.tables.derive import derive
from vidproc.tables.plan import make_plan
from vidproc.tables.runs import RunStart, recover_runs, start_run, write_run
from vidproc.tables.store import Store

N_SEGMENTS = {"a": 3, "b": 2, "c": 2, "d": 1}
SEGMENTS_PER_COMMIT = 2
ANNOTATORS = {"actions": made_rows.FakeAnnotator()}
LEASE_S = 1.0
FIRST_RUN = 2


def job(url: str, listing: str, run_id: str, plan_url: str) -> None:
    """A whole run as the label job does it, with made-up rows instead of networks."""
    with Commits.open(url, run_id=run_id, lease_s=LEASE_S) as commits:
        recover_runs(commits)
        summary = make_plan(listing, url, wanted={"actions": "net-1"}, reprocess="failed", limit=None, out_url=plan_url)
        started_at = datetime.now(UTC)
        start = RunStart(
            run_id=run_id,
            date=date(2026, 1, 1),
            started_at=started_at,
            config="{}",
            code_version="1",
            listed=summary.listed,
            planned=summary.planned,
        )
        start_run(url, start)
        for path in sorted(Path(plan_url).glob("*.parquet")):
            for row in pq.read_table(path).to_pylist():
                label(commits, row["video_id"], row["work"][0]["done"])
        derive(commits, ANNOTATORS, commit_segments=2)
        write_run(commits, start, status="done", exit_code=0)


def label(commits: Commits, video_id: str, done: list[int]) -> None:
    n_segments = N_SEGMENTS[video_id]
    missing = [segment for segment in range(n_segments) if segment not in done]
    for first in range(0, len(missing), SEGMENTS_PER_COMMIT):
        segments = missing[first : first + SEGMENTS_PER_COMMIT]
        parts = made_rows.segment_parts(
            commits.tables_url, video_id, segments, n_segments=n_segments, run_id=commits.run_id
        )
        unit = made_rows.unit_keys(video_id)
        commits.commit(parts, replace=None if done or first else replace_units(unit))


def count_steps(at: int | None, act: Callable[[], None]) -> list[str]:
    """Make every step count itself, and call `act` right before step `at`. Heartbeats are not counted."""
    steps: list[str] = []

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            if threading.current_thread() is threading.main_thread():
                if len(steps) == at:
                    act()
                steps.append(function.__name__)
            return function(*args, **kwargs)

        return step

    for owner, name in (
        (os, "fsync"),
        (Store, "put"),
        (Store, "create"),
        (Store, "delete"),
        (DeltaTable, "create"),
        (DeltaTable, "create_write_transaction"),
    ):
        setattr(owner, name, counted(getattr(owner, name)))
    return steps


def trial_url(trial: Path, base: str) -> str:
    return f"{base}-{trial.name}" if base.startswith("s3://") else str(trial / "tables")


def copy(base: str, url: str) -> None:
    source, target = Store(base), Store(url)
    for path in source.list(""):
        target.put(path, source.get(path) or b"")


def fork(trial: Path, base: str, listing: str, run: int, *, at: int | None, sign: int) -> int:
    """Start a run in a fork; `sign` is what it sends itself before step `at`. Returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        url = trial_url(trial, base)
        if run == FIRST_RUN:
            copy(base, url)
        steps = count_steps(at, lambda: os.kill(os.getpid(), sign))
        job(url, listing, f"run-{run}", str(trial / f"plan-{run}"))
        (trial / f"steps-{run}").write_text(" ".join(steps))
        code = 0
    except VidprocError as error:
        (trial / f"error-{run}").write_text(repr(error))
        code = error.exit_code
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(code)


def wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_trial(trial: Path, base: str, listing: str, points: list[int]) -> None:
    run = FIRST_RUN
    for at in points:
        code = wait(fork(trial, base, listing, run, at=at, sign=signal.SIGKILL))
        assert code in (-signal.SIGKILL, 0), (trial, run, code)  # 0: a second run that had no step J
        run += 1
    assert wait(fork(trial, base, listing, run, at=None, sign=0)) == 0, trial


def main() -> None:
    mode, base, work, listing, *points = sys.argv[1:]
    trials = [[int(step) for step in point.split(",")] for point in points]
    folders = [Path(work) / (f"{mode}-" + "-".join(map(str, point)) if point else "whole") for point in trials or [[]]]
    for folder in folders:
        folder.mkdir()
    if mode == "count":
        assert wait(fork(folders[0], base, listing, FIRST_RUN, at=None, sign=0)) == 0
        print((folders[0] / "steps-2").read_text())
    elif mode == "kill":
        for folder, point in zip(folders, trials, strict=True):
            kill_trial(folder, base, listing, point)
    elif mode == "stop":
        stopped = [
            fork(folder, base, listing, FIRST_RUN, at=point[0], sign=signal.SIGSTOP)
            for folder, point in zip(folders, trials, strict=True)
        ]
        for pid in stopped:
            assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
        successors = [fork(folder, base, listing, FIRST_RUN + 1, at=None, sign=0) for folder in folders]
        assert [wait(pid) for pid in successors] == [0] * len(folders)
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        print(*(wait(pid) for pid in stopped))


main()
