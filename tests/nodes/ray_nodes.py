"""A Ray cluster of several nodes on this machine, with token authentication: nodes may die, be added, fall silent."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from pipeline.labelling import environment
from places import Place, Places
from ray_head import free_ports

_PORTS = ("dashboard-agent-listen-port", "metrics-export-port")
_RAY = """
from ray.scripts import scripts
scripts.get_ray_client_dependency_error = lambda: "left out"
scripts.main()
"""
"""The command `ray` without Ray Client's server: nobody needs it here, and a node ends when it is slow to start."""
_START_S, _STARTS = 180, 3
"""Ray gives a node 30 s to come up, which a busy machine may not keep."""


class Node:
    """One `ray start`, and all that it started: they carry its mark in PYTHONPATH, as sandboxes do."""

    def __init__(self, place: Place, command: Sequence[str], *, env: Mapping[str, str], log: Path) -> None:
        self.place, self._log = place, log
        self._mark = f"/no-such-folder/{uuid.uuid4().hex}"
        marked = {**env, "PYTHONPATH": os.pathsep.join([self._mark, env["PYTHONPATH"]])}
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                [*place.enter, *command], env=marked, stdout=out, stderr=out, start_new_session=True
            )

    def started(self) -> bool:
        """Wait until it has joined; False if it gave up."""
        deadline = time.monotonic() + _START_S
        while "Ray runtime started" not in self.told():
            if self._process.poll() is not None or time.monotonic() > deadline:
                return False
            time.sleep(0.2)
        return True

    def told(self) -> str:
        return self._log.read_text()

    def processes(self, containing: str = "") -> list[psutil.Process]:
        """Every living process of this node with this in its command line."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if self._mark in process.environ().get("PYTHONPATH", "") and process.status() != psutil.STATUS_ZOMBIE:
                    found += [process] if containing in " ".join(process.cmdline()) else []
        return found

    def kill(self) -> None:
        """All at once, as when the power goes."""
        self.send(signal.SIGKILL)
        self._process.wait(30)
        self.send(signal.SIGKILL)  # whom the raylet had been starting

    def send(self, number: int) -> None:
        for process in self.processes():
            with suppress(psutil.Error):
                process.send_signal(number)


class RayNodes:
    """The cluster. `folder` is a short path, for Ray's sockets. The head runs the driver and nothing else."""

    def __init__(self, folder: Path, places: Places, env: Mapping[str, str]) -> None:
        self._folder, self._places = folder, places
        home = folder / "home"
        (home / ".ray").mkdir(parents=True)
        (home / ".ray" / "auth_token").write_text("0123456789abcdef" * 2)
        kept = {name: value for name, value in environment().items() if not name.startswith("RAY_")}
        self.env = {**kept, "HOME": str(home), "RAY_AUTH_MODE": "token", "OMP_NUM_THREADS": "1", **env}
        self.env["RAY_agent_register_timeout_ms"] = "120000"
        self.nodes: dict[str, Node] = {}
        self.head = places.place("head")
        self._port = free_ports(1)[0]
        self._address = f"{self.head.address}:{self._port}"

    def start_head(self) -> None:
        words = ["--head", f"--port={self._port}", f"--temp-dir={self._folder}/t", "--num-cpus=0"]
        left_out = ["--include-dashboard=false", "--no-monitor"]
        self._start(self.head, *words, *left_out)

    def add(self, name: str, *, cpus: int, **resources: float) -> Node:
        """Start another node; returns once it has joined."""
        asked = ["--num-cpus", str(cpus), "--resources", json.dumps(resources)]
        return self._start(self._places.place(name), f"--address={self._address}", *asked)

    def _start(self, place: Place, *words: str) -> Node:
        ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
        command = [sys.executable, "-c", _RAY, "start", "--block", f"--node-ip-address={place.address}", *words]
        command += ["--object-store-memory=120000000", "--min-worker-port=0", "--max-worker-port=0"]
        command += ["--disable-usage-stats", "--include-log-monitor=false"]
        command += [f"--{name}={port}" for name, port in ports.items()]
        for _ in range(_STARTS):
            node = Node(place, command, env=self.env, log=self._folder / f"{place.name}.log")
            self.nodes[place.name] = node
            if node.started():
                return node
            self.kill(place.name)
        raise AssertionError(node.told())

    def kill(self, name: str) -> None:
        self.nodes.pop(name).kill()

    def line(self, command: Sequence[str]) -> list[str]:
        """The command as the cluster's driver, on its head."""
        names = ("HOME", "RAY_AUTH_MODE", "OMP_NUM_THREADS", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
        told = [f"{name}={self.env[name]}" for name in names if name in self.env]
        return [*self.head.enter, "env", *told, f"RAY_ADDRESS={self._address}", *command]

    def where(self) -> dict[str, set[str]]:
        """Ray's own record: the addresses of the nodes that each task ran on, by the task's name."""
        asked = subprocess.run(
            self.line([sys.executable, "-c", _TIMELINE]), env=self.env, capture_output=True, text=True, check=False
        )
        assert asked.returncode == 0, asked.stderr[-3000:]
        events: list[dict[str, Any]] = json.loads(asked.stdout.splitlines()[-1])
        found: dict[str, set[str]] = {}
        for event in events:
            if event["cat"].startswith("task::"):
                found.setdefault(event["cat"].removeprefix("task::"), set()).add(event["pid"])
        return found

    def close(self) -> None:
        for name in reversed(list(self.nodes)):  # the head last
            self.kill(name)


_TIMELINE = "import json, ray; ray.init(logging_level='ERROR'); print(json.dumps(ray.timeline()))"


@contextmanager
def ray_nodes(folder: Path, places: Places, env: Mapping[str, str] | None = None) -> Iterator[RayNodes]:
    """A cluster with a head alone. Everything of it is killed at the end."""
    cluster = RayNodes(folder, places, env or {})
    try:
        cluster.start_head()
        yield cluster
    finally:
        cluster.close()
