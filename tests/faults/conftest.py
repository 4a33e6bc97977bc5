"""A proxy in front of the session's S3 server; clients that are made meanwhile go through it."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs

sys.path += [str(Path(__file__).parents[1] / name) for name in ("pipeline", "tables")]  # for what their tests share

from proxy import FaultyProxy

from vidproc.media import patience
from vidproc.tables.parts import store_at


@pytest.fixture(scope="module")
def behind_proxy(s3: str) -> Iterator[FaultyProxy]:
    """The environment's S3 address is the proxy's for a module, also for the processes that it starts."""
    port = int(os.environ["AWS_ENDPOINT_URL"].rstrip("/").rpartition(":")[2])
    with FaultyProxy(port, seed=1) as proxy, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", proxy.url)
        forget_clients()
        yield proxy
        patch.undo()
        forget_clients()


@pytest.fixture
def proxy(behind_proxy: FaultyProxy) -> Iterator[FaultyProxy]:
    """The proxy, without faults and with nothing counted yet."""
    patience.RETRIES.clear()
    yield behind_proxy
    behind_proxy.faults = []


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without waiting between tries: it is about what happens, not when."""
    monkeypatch.setattr(patience, "backoff_s", lambda attempt: 0.01)


def forget_clients() -> None:
    """Clients keep the address that they were made with."""
    s3fs.S3FileSystem.clear_instance_cache()
    store_at.cache_clear()
