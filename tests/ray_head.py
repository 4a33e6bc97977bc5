"""A cluster of `ray start --head` on free ports, with Ray's token authentication, for tests of submitted jobs."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PORTS = ("port", "dashboard-port", "ray-client-server-port", "dashboard-agent-listen-port", "metrics-export-port")


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


@contextmanager
def ray_head(folder: Path, *, num_cpus: int) -> Iterator[tuple[str, dict[str, str]]]:
    """The cluster's address, and the environment that knows its token. `folder` is a short path, for Ray's sockets."""
    home = folder / "home"
    (home / ".ray").mkdir(parents=True)
    (home / ".ray" / "auth_token").write_text("0123456789abcdef" * 2)
    ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = kept | {"HOME": str(home)}
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats"]
    command += [f"--num-cpus={num_cpus}", f"--temp-dir={folder}/t", "--object-store-memory=100000000"]
    command += [f"--{name}={port}" for name, port in ports.items()]
    log = folder / "head.log"
    with log.open("w") as output:
        head = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while "Ray runtime started" not in log.read_text():
            assert head.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        yield f"http://127.0.0.1:{ports['dashboard-port']}", environment
    finally:
        head.terminate()  # `ray start --block` ends what it started
        head.wait(60)
