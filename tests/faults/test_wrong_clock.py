"""The job on a machine whose clock is hours wrong: every process of it, by libfaketime."""

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from labelling import assert_same, check, command, environment, event, events, read, run

from vidproc.tables.store import Store
from vidproc.train.archive import make_archive

pytestmark = pytest.mark.slow

FAST = ("--commit-every-s", "0", "--lease-s", "3")
HOURS = 3


def library() -> Path:
    """What the Python package brings; else Debian's."""
    found = importlib.util.find_spec("libfaketime")
    places = [Path(found.origin).parent / "vendor/libfaketime/src/libfaketime.so.1"] if found and found.origin else []
    places += Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
    if (there := next((place for place in places if place.exists()), None)) is None:
        pytest.skip("no libfaketime here: uv pip install --group clocks")
    return there


def run_wrong(line: Sequence[str], hours: int) -> subprocess.CompletedProcess[str]:
    """Run with the time of day so wrong; what only counts seconds is right, as on every machine."""
    faked = {"LD_PRELOAD": str(library()), "FAKETIME": f"{hours:+d}h", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    asked = [sys.executable, "-c", "import time; print(time.time())"]
    told = subprocess.run(asked, env=os.environ | faked, capture_output=True, text=True, check=True).stdout
    assert abs(float(told) - time.time() - hours * 3600) < 60
    return subprocess.run(line, env=environment() | faked, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.parametrize("hours", [HOURS, -HOURS])
def test_runs_on_machines_that_disagree_by_hours(tmp_path: Path, hours: int) -> None:
    """A night with a wrong clock, then one with a right clock, which sees one more video and does that one alone."""
    make_archive(tmp_path / "archive", plain=4, sharded=2, seconds=2)
    late = tmp_path / "archive" / "camera-1" / "clip-000.mp4"
    kept = shutil.move(late, tmp_path / "late.mp4")
    line = command(tmp_path / "archive", tmp_path / "tables", *FAST)
    first = run_wrong(line, hours)
    assert first.returncode == 0, first.stderr[-3000:]
    at = datetime.fromisoformat(event(first.stderr, "finished")["at"])
    assert abs(at - datetime.now(at.tzinfo) - timedelta(hours=hours)) < timedelta(minutes=10)
    shutil.move(kept, late)
    second = run(line)
    assert second.returncode == 0, second.stderr[-3000:]
    assert event(second.stderr, "finished")["planned"] == 1
    undisturbed = run(command(tmp_path / "archive", tmp_path / "undisturbed", *FAST))
    assert undisturbed.returncode == 0, undisturbed.stderr[-3000:]
    found = read(str(tmp_path / "tables"))
    check(found)
    assert_same(found, read(str(tmp_path / "undisturbed")))


@pytest.mark.s3
def test_storage_that_refuses_a_wrong_clock(s3: str, tmp_path: Path) -> None:
    """S3 signs with the time of day, and takes no request that is a quarter of an hour off."""
    make_archive(tmp_path / "archive", plain=2, sharded=0, seconds=2)
    line = command(tmp_path / "archive", f"{s3}/wrong-clock/tables", *FAST)
    refused = run_wrong(line, HOURS)
    assert refused.returncode == 1, refused.stderr[-3000:]
    failed = events(refused.stderr)[-1]
    assert failed["error"] == "StorageRefused" and "clock is wrong" in failed["message"], failed
    assert not list(Store(f"{s3}/wrong-clock").list(""))
    again = run(line)
    assert again.returncode == 0, again.stderr[-3000:]
    check(read(f"{s3}/wrong-clock/tables"))
