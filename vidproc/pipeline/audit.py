"""Who compared faces, when, with which gallery (if any) and what for: an append-only trail below `<tables>/_audit/`.

Two objects for each run, created once and never written again: one before any face is compared, so that a run which is
killed has left its trace, and one at its end with what came of it.
"""

import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from vidproc.annotators.base import Annotator
from vidproc.annotators.faces import Faces
from vidproc.errors import TablesDamaged, UsageError
from vidproc.schema import FACES
from vidproc.tables import sql
from vidproc.tables.gallery import read_gallery
from vidproc.tables.lease import this_user
from vidproc.tables.store import Store

FOLDER = "_audit"


@dataclass(frozen=True)
class FaceAudit:
    """The trail of one run that compares faces."""

    tables_url: str
    run_id: str
    faces: Faces

    def begin(self) -> None:
        """Put on record that the run is about to compare faces. Raises `TablesDamaged` if it was there before.

        Raises `UsageError` if the gallery is another by now: who was removed while the run waited for the tables must
        not be recognised.
        """
        meant = self.faces.terms.gallery
        if read_gallery(meant.url).version != meant.version:
            raise UsageError(f"gallery {meant.url} was changed while this run waited for the tables: start it again")
        self._append("begun", {})

    def end(self, *, status: str) -> None:
        """Put on record how it ended, and how many faces it decided in which way."""
        query = "SELECT decision, count(*), count(DISTINCT video_id) FROM faces WHERE run_id = ? GROUP BY 1 ORDER BY 1"
        with sql.session(self.tables_url, [FACES.name]) as connection:
            rows = connection.execute(query, [self.run_id]).fetchall()
        decided = {decision: {"faces": faces, "videos": videos} for decision, faces, videos in rows}
        self._append("ended", {"status": status, "decided": decided})

    def _append(self, what: str, more: dict[str, Any]) -> None:
        terms = self.faces.terms
        told = {
            "purpose": terms.purpose,
            "gallery": terms.gallery.url,
            "gallery_version": terms.gallery.version,
            "people": len(terms.gallery.people),
            "vectors_kept": terms.keep_vectors,
            "model_id": self.faces.model_id,
            **more,
        }
        append_audit(self.tables_url, self.run_id, what, told)


def append_audit(tables_url: str, run_id: str, event: str, told: Mapping[str, Any]) -> None:
    """Put one event of a run on record, once: `begun` or `ended`. Raises `TablesDamaged` if it was there before."""
    entry = {
        "event": event,
        "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "run_id": run_id,
        "who": this_user(),
        **told,
        "token": uuid.uuid4().hex,
    }
    path = f"{FOLDER}/{run_id}-{event}.json"
    if not Store(tables_url).create(path, json.dumps(entry, ensure_ascii=False, indent=1).encode()):
        raise TablesDamaged(f"the audit trail has {path} already, and no run is recorded twice: a person must look")


@contextmanager
def audited(tables_url: str, run_id: str, annotators: Mapping[str, Annotator]) -> Iterator[None]:
    """Record what goes on inside, if one of the annotators compares faces: how it ended is `done`, or the error."""
    trails = [FaceAudit(tables_url, run_id, one) for one in annotators.values() if isinstance(one, Faces)]
    for trail in trails:
        trail.begin()
    try:
        yield
    except BaseException as error:
        for trail in trails:
            with suppress(Exception):  # what ended the run is what must be told; that it began is on record
                trail.end(status=type(error).__name__)
        raise
    for trail in trails:
        trail.end(status="done")


def read_audit(tables_url: str) -> list[dict[str, Any]]:
    """All entries, by time."""
    store = Store(tables_url)
    entries = [json.loads(store.get(path) or b"{}") for path in store.list(FOLDER)]
    return sorted(entries, key=lambda entry: str(entry.get("at")))
