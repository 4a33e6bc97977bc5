"""Ray nodes on this machine, each with an environment of its own: who it is to the object store."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from manifests import ROOT
from pipeline.labelling import environment
from ray_head import free_ports

_PORTS = ("dashboard-agent-listen-port", "metrics-export-port")
_STARTS = 3
"""Ray gives a node 30 s to come up, which a busy machine may not keep."""
_TOKEN = "0123456789abcdef" * 2


@dataclass
class RayNode:
    """The head of a cluster, once it runs. `folder` is a short path, for Ray's sockets."""

    folder: Path
    address: str
    env: dict[str, str]

    @classmethod
    @contextmanager
    def head(cls, folder: Path, **env: str) -> Iterator["RayNode"]:
        (port,) = free_ports(1)
        head = cls(folder, f"127.0.0.1:{port}", _environment(env))
        words = ["--head", f"--port={port}", "--include-dashboard=false", "--num-cpus=0", f"--temp-dir={folder}/t"]
        with _started(folder / "head.log", words, head.env):
            yield head

    @contextmanager
    def beside(self, name: str, resources: dict[str, float], **env: str) -> Iterator[None]:
        words = [f"--address={self.address}", "--num-cpus=2", f"--resources={json.dumps(resources)}"]
        with _started(self.folder / f"{name}.log", words, _environment(env)):
            yield


def job_line(head: RayNode, flags: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    """The label job, with its driver on the head."""
    line = [sys.executable, str(ROOT / "jobs" / "label.py"), *flags]
    env = head.env | {"RAY_ADDRESS": head.address}
    return subprocess.run(line, env=env, capture_output=True, text=True, timeout=600, check=False)


def _environment(own: dict[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in environment().items() if not name.startswith("RAY_")}
    return {**kept, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _TOKEN, "OMP_NUM_THREADS": "1", **own}


@contextmanager
def _started(log: Path, words: Sequence[str], env: dict[str, str]) -> Iterator[None]:
    process = next(filter(None, (_start(log, words, env) for _ in range(_STARTS))), None)
    assert process is not None, log.read_text()
    try:
        yield
    finally:
        _end(process)


def _start(log: Path, words: Sequence[str], env: dict[str, str]) -> "subprocess.Popen[str] | None":
    """A node that runs; None if it gave up."""
    ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
    command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--node-ip-address=127.0.0.1"]
    command += ["--object-store-memory=100000000", "--min-worker-port=0", "--max-worker-port=0"]
    command += ["--disable-usage-stats", *(f"--{name}={port}" for name, port in ports.items()), *words]
    with log.open("w") as output:
        process = subprocess.Popen(command, env=env, stdout=output, stderr=output, start_new_session=True, text=True)
    deadline = time.monotonic() + 180
    while "Ray runtime started" not in log.read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            _end(process)
            return None
        time.sleep(0.3)
    return process


def _end(process: "subprocess.Popen[str]") -> None:
    """`ray start --block` ends what it started; what it left is of its process group."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(60)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
