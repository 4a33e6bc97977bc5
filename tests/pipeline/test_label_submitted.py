"""The label job on a cluster of `ray start`, through `jobs/submit.py`: exit codes, and a stop that publishes."""

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from labelling import BUDGET_EXCEEDED, JOB, check, read
from ray_head import ray_head

from vidproc.train.archive import make_archive

pytestmark = pytest.mark.slow
SUBMIT = JOB.with_name("submit.py")
USAGE, STOPPED_HERE = 2, 130


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[str, dict[str, str]]]:
    with (
        tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder,
        ray_head(Path(folder), num_cpus=2) as (address, environment),
    ):
        yield address, environment


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("submitted") / "archive"
    make_archive(folder, plain=3, sharded=2, seconds=2)
    return folder


def line(cluster: tuple[str, dict[str, str]], archive: Path, tables: Path, *more: str) -> list[str]:
    submit = [sys.executable, str(SUBMIT), "--address", cluster[0], "label"]
    return [*submit, "--archive", str(archive), "--tables", str(tables), "--annotators", "quality", *more]


def submitted(cluster: tuple[str, dict[str, str]], command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=cluster[1], capture_output=True, text=True, timeout=300, check=False)


def test_exit_codes_of_the_job_are_passed_on(
    cluster: tuple[str, dict[str, str]], archive: Path, tmp_path: Path
) -> None:
    exceeded = submitted(cluster, line(cluster, archive, tmp_path / "tables", "--failure-budget", "0.05"))
    assert exceeded.returncode == BUDGET_EXCEEDED, exceeded.stdout[-3000:] + exceeded.stderr
    tables = read(str(tmp_path / "tables"))
    check(tables)
    assert sum(row["status"] == "labelled" for row in tables["videos"]) == 7, "good rows are committed"
    again = line(cluster, archive, tmp_path / "tables", "--reprocess", "failed", "--failure-budget", "1")
    done = submitted(cluster, again)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    check(read(str(tmp_path / "tables")))
    usage = submitted(cluster, line(cluster, archive, tmp_path / "tables", "--annotators", "colours"))
    assert usage.returncode == USAGE, usage.stdout[-3000:] + usage.stderr
    assert "choose from" in usage.stdout


def test_stopping_the_job_publishes(cluster: tuple[str, dict[str, str]], archive: Path, tmp_path: Path) -> None:
    with subprocess.Popen(
        line(cluster, archive, tmp_path / "tables"),
        env=cluster[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as running:
        assert running.stdout is not None
        assert any('"planned"' in told for told in running.stdout)
        running.send_signal(signal.SIGINT)
        rest = running.stdout.read()
        assert running.wait(120) == STOPPED_HERE, rest
    tables = read(str(tmp_path / "tables"))
    check(tables)
    (run,) = tables["runs"]
    assert (run["status"], run["exit_code"]) == ("stopped", 143), rest
    done = submitted(cluster, line(cluster, archive, tmp_path / "tables", "--failure-budget", "1"))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    check(read(str(tmp_path / "tables")))
