"""One sequence of commits for all runs: commit n is an intent `_commits/<n>.json`, created once, then applied.

    open    read the tail of the sequence ─▶ its driver has ended? ─▶ replay what is open ─▶ create n, the takeover
    commit  create n, the intent with its parts ─▶ append to every table, ledger last, each with Delta txn (vidproc, n)

Why nothing is lost or doubled: only one driver can create n, and whoever finds it taken stops (LeaseLost). What an
intent lists is applied by its driver or by a successor, in order, each table skipping an n that it already holds.
"""

import json
import socket
import threading
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
from deltalake import DeltaTable

from vidproc.errors import LeaseLost, TablesDamaged
from vidproc.schema import LEDGER, TABLES
from vidproc.tables import deltalog
from vidproc.tables.lease import LEASE_S, Heartbeat, await_end, this_process
from vidproc.tables.parts import Part
from vidproc.tables.store import Store

Intent = dict[str, Any]
UNIT = ("video_id", "annotator", "model_id")
SCRUBBERS = 16


def intent_path(n: int) -> str:
    return f"_commits/{n:012d}.json"


def read_intent(store: Store, n: int) -> Intent | None:
    """Entry `n` of the sequence, None if it is not taken."""
    data = store.get(intent_path(n))
    return json.loads(data) if data is not None else None


class Commits:
    """The right to commit to the tables below `tables_url`; got by `open`, given back by `close`. One per driver."""

    def __init__(self, store: Store, *, run_id: str, epoch: int, lease_s: float, deltas: dict[str, DeltaTable]) -> None:
        self.run_id = run_id
        self.store = store
        self._deltas = deltas
        self._epoch = epoch
        self._next = epoch + 1
        self._unapplied: int | None = None
        self._lock = threading.Lock()
        self._heartbeat = Heartbeat(store, epoch, lease_s=lease_s, overtaken=self._overtaken)

    @classmethod
    def open(cls, tables_url: str, *, run_id: str, lease_s: float = LEASE_S, erases: bool = False) -> Self:
        """Take the lease, create missing tables, complete what an earlier driver left, and enter the takeover.

        `erases`: told to compactions, which do not begin meanwhile (see `announced.py`). Raises LeaseLost if another
        driver is alive (watched for up to `lease_s`), TablesDamaged if log and tables disagree.
        """
        store = Store(tables_url)
        tail = tail_of(store)
        if tail:
            epoch = tail[-1]["epoch"]
            await_end(store, claim_of(store, epoch), lease_s=lease_s)
            tail = tail_of(store)  # its last commits may have come while we watched
            if tail[-1]["epoch"] != epoch:
                raise LeaseLost(
                    f"run {tail[-1]['run_id']} has just taken over the tables at {store.root}; wait for its end"
                )
        with ThreadPoolExecutor(len(TABLES)) as pool:  # on S3 each takes half a second
            opened = pool.map(lambda table: deltalog.open_table(store, table), TABLES.values())
            deltas = dict(zip(TABLES, opened, strict=True))
        for intent in tail:
            _check_parts(store, deltas, intent)
            _apply(store, deltas, intent)
        epoch = tail[-1]["n"] + 1 if tail else 1
        takeover = _intent(epoch, epoch=epoch, run_id=run_id)
        takeover |= {"host": socket.gethostname(), "process": this_process(), "lease_s": lease_s, "erases": erases}
        _enter(store, takeover)
        return cls(store, run_id=run_id, epoch=epoch, lease_s=lease_s, deltas=deltas)

    @property
    def tables_url(self) -> str:
        return self.store.root

    @property
    def lost(self) -> bool:
        """Whether the heartbeat has seen a successor: then stop early; the next commit would raise LeaseLost anyway."""
        return self._heartbeat.lost.is_set()

    @property
    def newest(self) -> int:
        """The number of this driver's newest commit; all tables hold it and those before."""
        return self._next - 1

    def check_held(self) -> None:
        """Raise LeaseLost if there is a successor by now. Asks the store: `lost` says what the heartbeat last saw."""
        if self._overtaken():
            self._heartbeat.lost.set()
            raise LeaseLost(f"another run has taken over the tables at {self.store.root}: run {self.run_id} stops")

    def commit(self, parts: Sequence[Part], *, replace: Mapping[str, pa.Table] | None = None) -> int:
        """Bring `parts` into their tables, all or (seen after any recovery) nothing. Returns the commit's number.

        `replace`: table name → keys (any of its key columns): older rows that match go in the same step. Without parts
        and keys there is no commit, and the last number is returned. Raises LeaseLost if another driver has taken over.
        """
        keys = {name: rows for name, rows in (replace or {}).items() if rows.num_rows}
        with self._lock:
            if self._unapplied is not None:
                raise TablesDamaged(
                    f"commit {self._unapplied} failed half-way: end this run; the next one completes it"
                )
            if not parts and not keys:
                return self._next - 1
            intent = _intent(self._next, epoch=self._epoch, run_id=self.run_id)
            intent["parts"] = [asdict(part) for part in parts]
            intent["replace"] = {name: deltalog.keys_to_json(TABLES[name], rows) for name, rows in keys.items()}
            self._unapplied = self._next  # already now: whether an entry came through is not always told
            try:
                _enter(self.store, intent)
            except LeaseLost:
                self._unapplied = None
                raise
            _apply(self.store, self._deltas, intent)
            self._unapplied = None
            self._next += 1
            return self._next - 1

    def scrub(self) -> int:
        """Empty the entries of the sequence that name replaced rows, once they are applied; returns how many.

        For what is to be forgotten: their keys are ids. The entries themselves stay: they hold the sequence together.
        """
        self.check_held()
        with ThreadPoolExecutor(SCRUBBERS) as pool:
            return sum(pool.map(self._scrub, self.store.list(intent_path(0).partition("/")[0])))

    def _scrub(self, path: str) -> bool:
        intent = json.loads(self.store.get(path) or b"{}")
        if not intent.get("replace") or intent["n"] > self.newest:
            return False
        self.store.put(path, json.dumps(intent | {"parts": [], "replace": {}}).encode())
        return True

    def close(self) -> None:
        """Release the lease. May be called twice."""
        self._heartbeat.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _overtaken(self) -> bool:
        intent = read_intent(self.store, self._next)
        return intent is not None and intent["epoch"] > self._epoch


def replace_units(units: pa.Table) -> dict[str, pa.Table]:
    """For `Commits.commit(replace=)`: everything that the tables hold of these (video_id, annotator, model_id)."""
    keys = units.select(UNIT)
    return {table.name: keys for table in TABLES.values() if set(UNIT) <= set(table.key)}


def _intent(n: int, *, epoch: int, run_id: str) -> Intent:
    at = datetime.now(UTC).isoformat(timespec="seconds")
    return {"n": n, "epoch": epoch, "run_id": run_id, "at": at, "token": uuid.uuid4().hex, "parts": [], "replace": {}}


def _enter(store: Store, intent: Intent) -> None:
    """Put the intent into the sequence, or raise LeaseLost because its number is taken."""
    if not store.create(intent_path(intent["n"]), json.dumps(intent).encode()):
        other = read_intent(store, intent["n"]) or {}
        raise LeaseLost(
            f"run {other.get('run_id')} has taken over the tables at {store.root} (commit {intent['n']}, "
            f"{other.get('at')}): run {intent['run_id']} stops; what it had not committed will be planned again"
        )


def claim_of(store: Store, epoch: int) -> Intent:
    """The takeover by which a driver got the lease: who it is and where it runs. Raises TablesDamaged."""
    claim = read_intent(store, epoch)
    if claim is None:
        raise TablesDamaged(f"{store.root}: {intent_path(epoch)} is gone; restore it from a backup")
    return claim


def tail_of(store: Store) -> list[Intent]:
    """The end of the sequence, in order: from the last commit that the ledger holds (always complete) to the newest.

    Raises TablesDamaged if the ledger holds a commit that the sequence lacks.
    """
    ledger = deltalog.found(store, LEDGER)
    applied = deltalog.version_of(ledger) if ledger is not None else 0
    tail = []
    n = max(applied, 1)
    while (intent := read_intent(store, n)) is not None:
        tail.append(intent)
        n += 1
    if applied and not tail:
        raise TablesDamaged(
            f"{store.root}: {intent_path(applied)} is gone, but the ledger holds it; restore it from a backup"
        )
    return tail


def _check_parts(store: Store, deltas: Mapping[str, DeltaTable], intent: Intent) -> None:
    """Before a replay: Delta would accept a file that is gone (deleted by a careless vacuum), and break its readers."""
    for part in intent["parts"]:
        if deltalog.version_of(deltas[part["table"]]) < intent["n"] and store.size(part["path"]) != part["bytes"]:
            raise TablesDamaged(
                f"commit {intent['n']} of run {intent['run_id']} was not completed, and its file {part['path']} is "
                "gone or altered: restore that file, or delete the rows of that run and label again"
            )


def _apply(store: Store, deltas: Mapping[str, DeltaTable], intent: Intent) -> None:
    """Bring the intent into every table it speaks of, the ledger last: a ledger at n says that all tables are at n."""
    unknown = {part["table"] for part in intent["parts"]} - set(TABLES)
    if unknown:
        raise TablesDamaged(
            f"commit {intent['n']} is for unknown tables {sorted(unknown)}: use the newer vidproc that made it"
        )
    parts = [Part(**part) for part in intent["parts"]]
    touched = {part.table for part in parts} | set(intent["replace"])
    for name in sorted(touched, key=lambda name: (name == LEDGER.name, name)):
        table, keys = TABLES[name], intent["replace"].get(name)
        deltalog.append_once(
            store,
            table,
            deltas[name],
            n=intent["n"],
            parts=[part for part in parts if part.table == name],
            replace=deltalog.keys_from_json(table, keys) if keys else None,
        )
