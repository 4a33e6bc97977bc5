"""Compactions announce themselves: they run beside everything but what erases files for good (forget, a full vacuum).

A compaction puts its claim, then looks whether an eraser holds the lease. An eraser takes the lease, then looks for
claims. Whoever comes second sees the other: nobody writes a removed row into a new file behind the eraser's back.
"""

import json
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from vidproc.tables.commit import claim_of, tail_of
from vidproc.tables.lease import LEASE_S, Heartbeat, await_end, lease_path, this_process
from vidproc.tables.store import Store

FOLDER = "_compactions"
_CLAIMS = "claims"


@contextmanager
def announced(store: Store, run_id: str, *, lease_s: float = LEASE_S) -> Iterator[None]:
    """Run a compaction inside. Raises LeaseLost if an eraser is alive (watched for up to `lease_s`)."""
    beside, n = _beside(store), secrets.randbits(39)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    claim = {"n": n, "run_id": run_id, "at": at, "host": socket.gethostname(), "process": this_process()}
    beside.put(_claim_path(n), json.dumps(claim | {"lease_s": lease_s}).encode())
    heartbeat = Heartbeat(beside, n, lease_s=lease_s, overtaken=lambda: False)
    try:
        tail = tail_of(store)
        if tail:
            holder = claim_of(store, tail[-1]["epoch"])
            if holder.get("erases"):
                await_end(store, holder, lease_s=lease_s)
        yield
    finally:
        heartbeat.release()  # its last beat stays, for those who are just watching it
        beside.delete(_claim_path(n))


def await_compactions(store: Store, *, lease_s: float = LEASE_S) -> None:
    """For who erases, once it holds the lease: raise LeaseLost if a compaction is alive; forget those that are not."""
    beside = _beside(store)
    for path in beside.list(_CLAIMS):
        data = beside.get(path)
        if data is not None:
            claim = json.loads(data)
            await_end(beside, claim, lease_s=lease_s)
            beside.delete(_claim_path(claim["n"]))
            beside.delete(lease_path(claim["n"]))


def _beside(store: Store) -> Store:
    return Store(store.url_of(FOLDER))


def _claim_path(n: int) -> str:
    return f"{_CLAIMS}/{n:012d}.json"
