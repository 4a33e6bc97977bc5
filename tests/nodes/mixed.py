"""The cluster that the tests of several nodes share: a head, two CPU nodes, one "GPU" node."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from places import Namespaces, Places
from ray_nodes import RayNodes, ray_nodes

PLACED = ("--decode-resources", "decode=1", "--network-resources", "network=1")


@contextmanager
def mixed(places: Places, env: dict[str, str] | None = None) -> Iterator[RayNodes]:
    """A head without CPUs, two CPU nodes, one "GPU" node."""
    with (
        tempfile.TemporaryDirectory(prefix="nodes-", ignore_cleanup_errors=True) as folder,
        ray_nodes(Path(folder), places, env) as cluster,
    ):
        cluster.add("decode-1", cpus=1, decode=1)
        cluster.add("decode-2", cpus=1, decode=1)
        cluster.add("network-1", cpus=1, network=1)
        yield cluster


def endpoint() -> tuple[str, int]:
    """The variable that holds the S3 server's address, and the server's port."""
    name = next(name for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") if name in os.environ)
    return name, urlsplit(os.environ[name]).port or 80


@contextmanager
def with_cables() -> Iterator[tuple[Namespaces, dict[str, str]]]:
    """Namespaces for nodes, and the environment in which they find the S3 server."""
    with ExitStack() as stack:
        network = stack.enter_context(Namespaces())
        name, port = endpoint()
        yield network, {name: f"http://{network.GATE}:{stack.enter_context(network.gate(port))}"}
