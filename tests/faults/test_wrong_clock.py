"""The job on a machine whose clock is hours wrong: every process of it, by libfaketime.

A process that forks while another of its threads asks for the time may hang within libfaketime, whose lock the child
inherits: two of a dozen runs, in Ray's start. Then run the test again.
"""

import importlib.util
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from labelling import assert_same, check, command, event, events, read, run, started, wait_until

from vidproc.tables.store import Store
from vidproc.train.archive import make_archive

pytestmark = pytest.mark.slow

FAST = ("--commit-every-s", "0", "--lease-s", "3")
HOURS, HELD = 3, 4


def library() -> Path:
    """What the Python package brings; else Debian's."""
    found = importlib.util.find_spec("libfaketime")
    places = [Path(found.origin).parent / "vendor/libfaketime/src/libfaketime.so.1"] if found and found.origin else []
    places += Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
    if (there := next((place for place in places if place.exists()), None)) is None:
        pytest.skip("no libfaketime here: uv pip install --group clocks")
    return there


def wrong(line: Sequence[str], hours: int) -> list[str]:
    """The command with the time of day so wrong; what only counts seconds is right, as on every machine."""
    faked = [f"LD_PRELOAD={library()}", f"FAKETIME={hours:+d}h", "FAKETIME_DONT_FAKE_MONOTONIC=1"]
    asked = ["env", *faked, sys.executable, "-c", "import time; print(time.time())"]
    told = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    assert abs(float(told) - time.time() - hours * 3600) < 60
    return ["env", *faked, *line]


@pytest.mark.parametrize("hours", [HOURS, -HOURS])
def test_runs_on_machines_that_disagree_by_hours(tmp_path: Path, hours: int) -> None:
    """While one with a wrong clock runs, one with a right clock is refused; later it does what is new, that alone."""
    make_archive(tmp_path / "archive", plain=4, sharded=2, seconds=2)
    late = tmp_path / "archive" / "camera-1" / "clip-000.mp4"
    kept = shutil.move(late, tmp_path / "late.mp4")
    line = command(tmp_path / "archive", tmp_path / "tables", *FAST)
    with started(wrong(line, hours), tmp_path / "log") as first:
        assert wait_until(lambda: '"planned"' in first.told(), timeout_s=120), first.told()
        second = run(line)
        assert second.returncode == HELD, second.stderr[-3000:]
        assert first.wait() == 0, first.told()
    at = datetime.fromisoformat(event(first.told(), "finished")["at"])
    assert abs(at - datetime.now(at.tzinfo) - timedelta(hours=hours)) < timedelta(minutes=10)
    shutil.move(kept, late)
    third = run(line)
    assert third.returncode == 0, third.stderr[-3000:]
    assert event(third.stderr, "finished")["planned"] == 1
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
    refused = run(wrong(line, HOURS), timeout_s=600)
    assert refused.returncode == 1, refused.stderr[-3000:]
    failed = events(refused.stderr)[-1]
    assert failed["error"] == "StorageRefused" and "clock is wrong" in failed["message"], failed
    assert not list(Store(f"{s3}/wrong-clock").list(""))
    again = run(line)
    assert again.returncode == 0, again.stderr[-3000:]
    check(read(f"{s3}/wrong-clock/tables"))
