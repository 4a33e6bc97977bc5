"""The Slurm script: its flags are ones that our job and Ray know, and it runs: a real Ray, `srun` on one machine."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from manifests import CLUSTER, ROOT
from test_ray_up import flags_in

from vidproc.command import parse
from vidproc.pipeline.options import LabelConfig

SCRIPT = CLUSTER / "slurm.sbatch"
TEXT = SCRIPT.read_text()

# Starts what is given, as a child that a signal to srun ends, as Slurm's does.
SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do [[ $1 == --nodelist=* ]] && echo "${1#*=}" >>"$FAKE/asked"; shift; done
[[ $1 == hostname ]] && { echo 127.0.0.1; exit; }
exec "$@"
"""
SCONTROL = """#!/usr/bin/env bash
[[ "$*" == "show hostnames n[1-2]" ]] && printf 'n1\\nn2\\n'
"""
JOB = """
import os, signal, sys, time
import ray
print("flags", sys.argv[1:], flush=True)
if "wait" in sys.argv:
    def publish(*_):
        print("published", flush=True)
        os._exit(143)
    signal.signal(signal.SIGTERM, publish)
    print("waiting", flush=True)
    time.sleep(300)
ray.init()
nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
print("nodes", [[node["decode"], node["network"], node["write"]] for node in nodes], flush=True)
sys.exit(3)
"""


def test_it_is_bash() -> None:
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    assert TEXT.startswith("#!/usr/bin/env bash\n")
    directives = [line for line in TEXT.splitlines() if line.startswith("#SBATCH")]
    assert len(directives) >= 6
    first_command = TEXT.index("set -euo pipefail")
    assert all(TEXT.index(line) < first_command for line in directives)  # Slurm reads no further


def test_its_flags_are_known() -> None:
    from ray.scripts.scripts import start

    added = re.search(r'label "\$@" \\\n(.*?) &\n', TEXT, re.DOTALL)
    assert added is not None
    options = parse(LabelConfig, None, [*flags_in(TEXT), *added[1].split()])
    offered = re.search(r'--resources="\{(.*?)\}"', TEXT)
    assert offered is not None
    for booked in (options.decode_resources, options.network_resources, options.write_resources):
        assert booked and all(f'\\"{name}\\"' in offered[1] for name in booked)
    known = {option for parameter in start.params for option in parameter.opts}
    starts = re.findall(r'"\$ray" start (.*?) &\n', TEXT, re.DOTALL) + re.findall(r"exec \"\$1\" start (.*?)'", TEXT)
    assert len(starts) == 2
    assert {flag for each in starts for flag in re.findall(r"(--[a-z-]+)", each)} <= known


def test_the_token_is_in_no_file_and_no_argument() -> None:
    assert TEXT.count("RAY_AUTH_TOKEN") == 2 and "export RAY_AUTH_MODE RAY_AUTH_TOKEN" in TEXT


@pytest.fixture
def slurm() -> Iterator[dict[str, str]]:
    """The environment of a Slurm job of two nodes that are both this machine; a checkout with a job of our own."""
    with tempfile.TemporaryDirectory(prefix="sl-") as folder:  # short: Ray makes Unix sockets below it
        root = Path(folder)
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
            (root / name).write_text(text)
            (root / name).chmod(0o755)
        (root / "checkout" / "jobs").mkdir(parents=True)
        (root / "checkout" / "jobs" / "label.py").write_text(JOB)
        shutil.copy(ROOT / "jobs" / "submit.py", root / "checkout" / "jobs")
        (root / "checkout" / ".venv").symlink_to(Path(os.environ.get("VIRTUAL_ENV") or ROOT / ".venv"))
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_"))}
        yield kept | {
            "PATH": f"{root}:{os.environ['PATH']}",
            "FAKE": str(root),
            "TMPDIR": str(root),
            "HOME": str(root),
            "SLURM_JOB_ID": str(os.getpid() % 2000),
            "SLURM_JOB_NODELIST": "n[1-2]",
            "SLURM_SUBMIT_DIR": str(root / "checkout"),
            "SLURM_CPUS_ON_NODE": "1",
            "PYTHONPATH": str(ROOT),
        }


@contextmanager
def started(environment: dict[str, str], *flags: str) -> Iterator["subprocess.Popen[str]"]:
    """The Slurm job; when it is over, nothing of it may be left. What a failing test leaves is killed."""
    job = subprocess.Popen(
        ["bash", SCRIPT, *flags], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield job
        assert left_behind(environment) == []
    finally:
        for process in _running(environment):
            process.kill()
        job.wait(60)
        assert job.stdout is not None
        job.stdout.close()


def left_behind(environment: dict[str, str]) -> list[str]:
    """Processes that the job left running, once they had half a minute to end."""
    deadline = time.monotonic() + 30
    while (found := _running(environment)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return [str(process) for process in found]


def _running(environment: dict[str, str]) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("FAKE") == environment["FAKE"]:
                found.append(process)
        except psutil.Error:
            continue
    return found


def finished(environment: dict[str, str], *flags: str) -> tuple[int, str]:
    """Exit code and output. Again, where Ray did not come up in the 30 s that it gives itself: the machine is busy."""
    for _ in range(3):
        with started(environment, *flags) as job:
            output, _ = job.communicate(timeout=400)
            if "Ray nodes came up" not in output:
                break
    return job.returncode, output


@pytest.mark.slow
def test_it_runs_and_cleans_up(slurm: dict[str, str]) -> None:
    code, output = finished(slurm, "--archive", "/a b", "--tables", "/t")
    assert code == 3, output
    assert "'/a b'" in output and "'decode=1'" in output
    assert "nodes [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]" in output
    assert {"n1", "n2"} <= set(Path(slurm["FAKE"], "asked").read_text().split())
    assert not Path(slurm["TMPDIR"], f"ray-{slurm['SLURM_JOB_ID']}").exists()


@pytest.mark.slow
def test_the_time_limits_warning_reaches_the_job(slurm: dict[str, str]) -> None:
    output = ""
    with started(slurm, "wait") as job:
        assert job.stdout is not None
        for line in job.stdout:
            output += line
            if line.startswith("waiting"):
                job.send_signal(signal.SIGTERM)
        assert job.wait(60) in (130, 143), output
        assert "published" in output


@pytest.mark.slow
def test_a_node_that_does_not_come_up_ends_the_job(slurm: dict[str, str]) -> None:
    """At once, not after ten minutes: here the first node's Ray cannot write its files."""
    with started(slurm | {"TMPDIR": "/proc/nowhere"}, "wait") as job:
        output, _ = job.communicate(timeout=200)
        assert job.returncode == 1 and "not all of the 2 Ray nodes came up" in output, output
