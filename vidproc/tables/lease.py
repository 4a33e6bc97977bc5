"""The lease: who drives these tables, a heartbeat that shows it lives, and how a successor tells that it does not.

A claim is an entry of the commit sequence (see `commit.py`), so exactly one driver can make it; its number is the
epoch. The heartbeat of epoch e is the object `_leases/<e>.json`, which only that driver writes.
"""

import getpass
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vidproc.errors import LeaseLost, StorageError
from vidproc.tables.store import Store

LEASE_S = 60.0
BEATS_PER_LEASE = 6

log = logging.getLogger(__name__)


def lease_path(epoch: int) -> str:
    return f"_leases/{epoch:012d}.json"


def this_process() -> dict[str, Any]:
    """Where this process runs, so that another on the same machine can tell when it is gone."""
    return {"place": _place(), "pid": os.getpid(), "pid_started": _pid_started(os.getpid())}


def this_user() -> str:
    """Who runs this, as `user@host`, for what is kept on record."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def _place() -> str | None:
    """Names one boot of one machine and one numbering of its processes; None where that cannot be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        numbering = Path("/proc/self/ns/pid").readlink()
    except OSError:
        return None
    return f"{socket.gethostname()} {boot} {numbering}"


def _pid_started(pid: int) -> int | None:
    """Clock ticks from boot to the start of process `pid`; None if it does not run (any more)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else int(fields[18])  # proc(5): field 22, counted from the state as field 3


def is_gone(claim: Mapping[str, Any]) -> bool:
    """Whether the claim's process ran on this machine and has ended: then nobody needs to wait for its lease."""
    process = claim["process"]
    if process["place"] is None or process["place"] != _place():
        return False
    return bool(_pid_started(process["pid"]) != process["pid_started"])


def await_end(store: Store, claim: Mapping[str, Any], *, lease_s: float) -> None:
    """Return once the claim's driver is known to have ended; raise LeaseLost if it shows a sign of life.

    Ended means: released, gone from this machine, or no change of its heartbeat for a whole lease on *our* clock
    (clocks of different machines are never compared).
    """
    lease_s = max(lease_s, claim["lease_s"])
    deadline = time.monotonic() + lease_s
    first = _beat(store, claim)
    if not first.get("released") and not is_gone(claim):
        log.info("run %s holds the tables: watching its heartbeat for up to %.0f s", claim["run_id"], lease_s)
    while True:
        beat = _beat(store, claim)
        if beat.get("released") or is_gone(claim):
            return
        if beat != first:
            raise LeaseLost(
                f"run {claim['run_id']} (process {claim['process']['pid']} on {claim['host']}) has held these tables "
                f"since {claim['at']}: only one run at a time may write; wait for it to end, or stop it"
            )
        if time.monotonic() > deadline:
            return
        time.sleep(min(1.0, lease_s / (4 * BEATS_PER_LEASE)))


def _beat(store: Store, claim: Mapping[str, Any]) -> dict[str, Any]:
    data = store.get(lease_path(claim["n"]))
    beat: dict[str, Any] = json.loads(data) if data else {}
    return beat


class Heartbeat:
    """Rewrites the lease of `epoch` from a daemon thread until it is released or `overtaken()` says that it is lost."""

    def __init__(self, store: Store, epoch: int, *, lease_s: float, overtaken: Callable[[], bool]) -> None:
        self._store, self._epoch, self._overtaken = store, epoch, overtaken
        self._interval_s = lease_s / BEATS_PER_LEASE
        self._ended = threading.Event()
        self.lost = threading.Event()
        self._beat = 0
        self._write()
        self._thread = threading.Thread(target=self._run, name="lease-heartbeat", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Stop beating and say so, so that a successor need not wait."""
        if not self._ended.is_set():
            self._ended.set()
            self._thread.join()
            try:
                self._write(released=True)
            except StorageError as error:  # it runs out by itself; and what ended this run matters more
                log.warning("the lease could not be given back: %s", error)

    def _run(self) -> None:
        while not self._ended.wait(self._interval_s):
            try:
                if self._overtaken():
                    self.lost.set()
                    return
                self._write()
            except Exception as error:  # the next beat may get through; what fences is the commit sequence, not this
                log.warning("heartbeat of the lease failed: %s", error)

    def _write(self, *, released: bool = False) -> None:
        self._beat += 1
        self._store.put(lease_path(self._epoch), json.dumps({"beat": self._beat, "released": released}).encode())
