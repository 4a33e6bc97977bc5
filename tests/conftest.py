"""Fixtures that more than one part of the package needs."""

import os
import shlex
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs

RGW = Path(__file__).parents[2] / "shared" / "s3" / "rgw"
PLANTED = Path(__file__).parent / "poison"
"""A `sitecustomize` that plants faults in the decoding sandbox, for files that carry a marker."""


SHARES = {"annotators", "cluster", "media", "models", "tables", "train"}
"""Folders of tests that start no Ray of their own."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs the session's Ray comes last: tests of the decoder's wall kill and count this process's children."""
    for item in items:
        needs = {*getattr(item, "fixturenames", ()), *(mark.name for mark in item.iter_markers())}
        if item.path.parent.name not in SHARES or needs & {"ray_cluster", "s3"}:
            item.add_marker("alone")
    items.sort(key=lambda item: "ray_cluster" in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Ray with two CPUs for the whole session: `label.run` in this process joins it and need not start its own.

    Its workers find the planted faults; without a marked file they change nothing.
    """
    import ray

    from vidproc.pipeline.cluster import KEEP_WORKERS

    path = os.pathsep.join(filter(None, [str(PLANTED), os.environ.get("PYTHONPATH")]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        patch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # as where `train` starts Ray itself
        often = {"metrics_report_interval_ms": 2000}  # in place of 10 s: tests of metrics wait for it
        settings = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
        ray.init(num_cpus=2, _system_config=KEEP_WORKERS | often, **settings)
        try:
            yield
        finally:
            ray.shutdown()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small networks train no faster on more, and sums come in the same order on every machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """A bucket on a real S3 server, as `s3://…`; its address and keys are in the environment for the whole session.

    The first use on a machine installs Ceph (about 30 s), later ones start it (10 s). Use a prefix of your own.
    """
    if not RGW.exists():
        pytest.skip(f"no S3 server: {RGW} is not there")
    folder = tempfile.mkdtemp(prefix="rgw-")  # short: the path of a Unix socket has at most 107 bytes
    with pytest.MonkeyPatch.context() as patch:
        try:
            up = subprocess.run(
                [RGW, "up", folder, str(_free_port_pair())], capture_output=True, text=True, check=False
            )
            if up.returncode and shutil.which("radosgw") is None:
                pytest.skip(f"no S3 server: Ceph cannot be installed here: {up.stderr[-200:]}")
            assert up.returncode == 0, up.stderr[-2000:]
            for line in up.stdout.splitlines():
                name, _, value = shlex.split(line.removeprefix("export "))[0].partition("=")
                patch.setenv(name, value)
            patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
            s3fs.S3FileSystem.clear_instance_cache()
            s3fs.S3FileSystem().mkdir("vidproc-tests")
            yield "s3://vidproc-tests"
        finally:
            s3fs.S3FileSystem.clear_instance_cache()
            subprocess.run([RGW, "down", folder], check=True, capture_output=True)
            shutil.rmtree(folder, ignore_errors=True)


def _free_port_pair() -> int:
    """The first of two neighbouring free ports."""
    for first in range(20_000 + os.getpid() % 5000, 32_000, 2):
        with socket.socket() as one, socket.socket() as two:
            try:
                one.bind(("127.0.0.1", first))
                two.bind(("127.0.0.1", first + 1))
            except OSError:
                continue
            return first
    raise OSError("no two neighbouring ports are free between 20000 and 32000")
