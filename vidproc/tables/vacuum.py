"""Vacuum: remove the files that no table needs any more, and what ended runs left behind.

Files that the newest versions do not hold go once they are older than the retention: replaced ones by the time when
they were replaced (readers may still be at the older version), others by their own age (a running job may be about to
commit them). With a retention below a day age alone says too little: then the lease is taken, so that no job runs.
"""

import time
import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

from deltalake import DeltaTable

from vidproc.schema import TABLES
from vidproc.tables import deltalog
from vidproc.tables.announced import FOLDER as COMPACTIONS
from vidproc.tables.announced import await_compactions
from vidproc.tables.commit import Commits, read_intent, tail_of
from vidproc.tables.lease import LEASE_S
from vidproc.tables.store import Store, StoredFile

RETENTION_H = 168
AGE_SAYS_ENOUGH_H = 24
"""A job commits a part within minutes of writing it, a compaction within an hour."""
THREADS = 16
SCRATCH, COMMITS, LEASES = "_scratch", "_commits", "_leases"


@dataclass(frozen=True)
class Vacuumed:
    """How many files went, by kind, and their bytes."""

    parts: int = 0
    scratch: int = 0
    commits: int = 0
    temporary: int = 0
    bytes: int = 0


def vacuum(tables_url: str, *, older_than_h: int = RETENTION_H, lease_s: float = LEASE_S) -> Vacuumed:
    """Remove what is older than `older_than_h` hours; 0: everything that the newest versions do not hold.

    Below AGE_SAYS_ENOUGH_H hours it takes the lease: raises LeaseLost while a job or a compaction is alive.
    Raises UsageError if there are no tables.
    """
    store = Store(tables_url)
    tables = deltalog.existing(store)
    if older_than_h < AGE_SAYS_ENOUGH_H:
        with Commits.open(tables_url, run_id=run_id_of("vacuum"), lease_s=lease_s, erases=True) as commits:
            await_compactions(commits.store, lease_s=lease_s)
            return erase(commits, older_than_h=older_than_h)
    listed = store.files()
    tail = tail_of(store)
    open_parts = {part["path"] for intent in tail for part in intent["parts"]}
    deltas = {table.name: deltalog.opened(store, table) for table in tables}
    dead = [file for file in _dead_parts(listed, deltas, older_than_h=older_than_h) if file.path not in open_parts]
    newest_run = tail[-1]["run_id"] if tail else None
    return _remove(store, listed, dead, older_than_h=older_than_h, newest_run=newest_run)


def erase(commits: Commits, *, older_than_h: int = 0) -> Vacuumed:
    """The same for who holds the lease; compactions must have ended. Raises LeaseLost if it does no longer.

    The order matters. What is listed while we hold the lease is of nobody who may yet commit it, but for a compaction
    that was believed dead; the mark in the logs keeps that from doing so. Only then is it read what is live.
    """
    store = commits.store
    listed = store.files()
    commits.check_held()
    deltas = {table.name: deltalog.opened(store, table) for table in TABLES.values()}
    for name, delta in deltas.items():
        deltalog.raise_erasures(TABLES[name], delta)
    dead = _dead_parts(listed, deltas, older_than_h=older_than_h)
    return _remove(store, listed, dead, older_than_h=older_than_h, newest_run=None)


def run_id_of(verb: str) -> str:
    """The name of one execution of a maintenance verb, as the commit sequence shows it."""
    return f"{verb}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"


def _dead_parts(listed: Iterable[StoredFile], deltas: dict[str, DeltaTable], *, older_than_h: int) -> list[StoredFile]:
    files: dict[str, list[StoredFile]] = {name: [] for name in deltas}
    for file in listed:
        table, _, rest = file.path.partition("/")
        if table in files and not rest.startswith("_delta_log/") and not file.is_temporary:
            files[table].append(file)
    dead = []
    for name, delta in deltas.items():
        if older_than_h == 0:
            live = {part.path for part in deltalog.live_parts(delta)}
            dead += [file for file in files[name] if file.path not in live]
        else:  # the log knows when a file was replaced
            old = delta.vacuum(older_than_h, dry_run=True, enforce_retention_duration=False, full=True)
            paths = {f"{name}/{path}" for path in old}
            dead += [file for file in files[name] if file.path in paths]
    return dead


def _remove(
    store: Store, listed: Sequence[StoredFile], dead: Sequence[StoredFile], *, older_than_h: int, newest_run: str | None
) -> Vacuumed:
    before_s = time.time() - older_than_h * 3600
    long_before_s = time.time() - max(older_than_h, AGE_SAYS_ENOUGH_H) * 3600
    aged = [file for file in listed if file.modified_s <= before_s]
    temporary = [file for file in aged if file.is_temporary and not file.path.startswith((LEASES, COMPACTIONS))]
    scratch = _stale_scratch(listed, before_s=before_s, newest_run=newest_run)
    commits = _done_commits(store, [file for file in listed if file.modified_s <= long_before_s])
    removed = [*dead, *scratch, *commits, *temporary]
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda file: store.delete(file.path), removed))
    return Vacuumed(
        parts=len(dead),
        scratch=len(scratch),
        commits=len(commits),
        temporary=len(temporary),
        bytes=sum(file.bytes for file in removed),
    )


def _stale_scratch(listed: Iterable[StoredFile], *, before_s: float, newest_run: str | None) -> list[StoredFile]:
    """Listings and plans of ended runs. The newest run may still read its own, however old they are."""
    runs: dict[str, list[StoredFile]] = {}
    for file in listed:
        folder, _, rest = file.path.partition("/")
        if folder == SCRATCH and not file.is_temporary:
            runs.setdefault(rest.partition("/")[0], []).append(file)
    return [
        file
        for run, files in runs.items()
        if run != newest_run and max(file.modified_s for file in files) <= before_s
        for file in files
    ]


def _done_commits(store: Store, aged: Iterable[StoredFile]) -> list[StoredFile]:
    """Entries of the sequence before the last that the ledger holds, and leases before the newest.

    Takeovers stay for ever, one small object a run: they are what a driver that was paused for weeks runs into.
    """
    tail = tail_of(store)
    if not tail:
        return []
    first, epoch = tail[0]["n"], tail[-1]["epoch"]
    numbered = [(file, int(file.path.rpartition("/")[2].partition(".")[0])) for file in aged if _is_numbered(file)]
    entries = [(file, n) for file, n in numbered if file.path.startswith(COMMITS) and n < first]
    with ThreadPoolExecutor(THREADS) as pool:
        intents = list(pool.map(lambda entry: read_intent(store, entry[1]), entries))
    done = [file for (file, _), intent in zip(entries, intents, strict=True) if intent and "process" not in intent]
    leases = [file for file, n in numbered if file.path.startswith(LEASES) and n < epoch]
    beats = [file for file, _ in numbered if file.path.startswith(f"{COMPACTIONS}/{LEASES}/")]
    return [*done, *leases, *beats]


def _is_numbered(file: StoredFile) -> bool:
    """Entries, leases and claims are named `000000000007.json`."""
    return file.path.startswith((COMMITS, LEASES, COMPACTIONS)) and not file.is_temporary
