"""Forgetting: a video or a person goes out of every table, every old file and the commit sequence, and that is proven.

    lease ─▶ find ─▶ commit: rows out, tombstone in ─▶ empty the entries that named them ─▶ full vacuum ─▶ proof

A tombstone is the SHA-256 of a video's place (URI, and member of a shard): the plan leaves that place out from then on,
whatever version of the video lies there, until it is allowed again. Of a person nothing is kept. Killed anywhere, the
same command goes on. The table `forgotten` says who asked for what and when, and how the proof came out.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vidproc.errors import UsageError
from vidproc.schema import ANNOTATION_TABLES, FACES, FORGOTTEN, LEDGER, VIDEOS
from vidproc.tables import deltalog, sql
from vidproc.tables.announced import await_compactions
from vidproc.tables.commit import Commits
from vidproc.tables.gallery import pictures_of, remove_person
from vidproc.tables.lease import LEASE_S, this_user
from vidproc.tables.likeness import files_of, person_needles
from vidproc.tables.parts import write_part
from vidproc.tables.proof import Found, Needles, digest_of, search, vectors_of
from vidproc.tables.store import Store
from vidproc.tables.vacuum import Vacuumed, erase, run_id_of

VIDEOS_A_COMMIT = 10_000
FACES_A_COMMIT = 50_000
UNKNOWN = "unknown"
VIDEO_TABLES = (VIDEOS, *ANNOTATION_TABLES.values(), LEDGER)

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Forgotten:
    """What was done. `found`: what is left in spite of it; empty is proven, over `files` files."""

    videos: int = 0
    rows: int
    erased: Vacuumed
    files: int
    found: tuple[Found, ...]


def place_name(uri: str, member: str) -> str:
    """A video's place in the archive: its URI, or `shard.tar#member`."""
    return f"{uri}#{member}" if member else uri


def place_digest(name: str) -> str:
    """The SHA-256 by which `forgotten` knows a place."""
    return hashlib.sha256(name.encode()).hexdigest()


def find_videos(tables_url: str, video: str) -> dict[str, set[str]]:
    """Place → its video ids, of the places that `video` (an id, a URI, or a glob of URIs) means.

    Looked for in all files of `videos` and `ledger`, also in those that are no longer live: an earlier forget may have
    been killed. An id means its place, that is, all versions of the video.
    """
    store = Store(tables_url)
    deltalog.existing(store)
    places: dict[str, set[str]] = {}
    for video_id, name in _known_places(store):
        places.setdefault(name, set()).add(video_id)
    return {name: ids for name, ids in places.items() if video == name or video in ids or fnmatchcase(name, video)}


def forget_videos(
    tables_url: str,
    video: str,
    *,
    reference: str | None = None,
    lease_s: float = LEASE_S,
    progress: Progress | None = None,
) -> Forgotten:
    """Forget the videos that `video` (an id, a URI, or a glob of URIs) means. Raises LeaseLost, UsageError."""
    deltalog.existing(Store(tables_url))
    with Commits.open(tables_url, run_id=run_id_of("forget"), lease_s=lease_s, erases=True) as commits:
        await_compactions(commits.store, lease_s=lease_s)
        places = find_videos(tables_url, video)
        if not places and ("/" not in video or re.search(r"[*?]", video)):
            raise UsageError(
                f"no video of these tables is meant by {video!r}: give an id, a URI, or a glob of URIs in quotes "
                "(if an earlier forget was killed, `maintain.py vacuum --older-than 0` completes it)"
            )
        rows, left = 0, iter((places or {video: set()}).items())
        while chunk := dict(islice(left, VIDEOS_A_COMMIT)):
            rows += _remove_videos(commits, chunk, reference)
        ids = frozenset(video_id for found in places.values() for video_id in found)
        return _erase_and_prove(commits, Needles(ids=ids), rows=rows, reference=reference, progress=progress)


def allow_video(tables_url: str, uri: str, *, reference: str | None = None, lease_s: float = LEASE_S) -> None:
    """Let the next run label a forgotten place (`uri`, or `shard.tar#member`) again. Raises LeaseLost, UsageError."""
    deltalog.existing(Store(tables_url))
    with Commits.open(tables_url, run_id=run_id_of("allow"), lease_s=lease_s) as commits:
        with sql.session(tables_url, [FORGOTTEN.name]) as connection:
            forgotten = {place for (place,) in connection.execute(sql.NO_MORE).fetchall()}
        if place_digest(uri) not in forgotten:
            raise UsageError(f"{uri!r} is not forgotten here: give the exact URI (shard.tar#member for a member)")
        _commit_told(commits, "allowed", {place_digest(uri): 0}, reference)


@dataclass(frozen=True)
class Likeness:
    """By what the faces of a person are known that nobody named: unnamed ones with a cosine of at least `least` to one
    of the person's pictures in any version of the gallery, and all unnamed ones of the same tracks."""

    gallery_url: str
    least: float


def forget_person(
    tables_url: str,
    name: str,
    *,
    likeness: Likeness | None = None,
    reference: str | None = None,
    lease_s: float = LEASE_S,
    progress: Progress | None = None,
) -> Forgotten:
    """Make the faces of a person those of somebody unknown: no identity, no similarities, no vector. Raises LeaseLost.

    Their rows stay, as of any face: counts and tracks go on to fit. A vector that any file, live or not, ever gave this
    name goes wherever it is. With a `likeness` so do the vectors of faces that were not named, and at the end the
    person leaves the gallery, which is searched too. Without one, take them out of the gallery before, or the next run
    finds them again. A row that names somebody else stays, however alike.
    """
    deltalog.existing(Store(tables_url))
    pictures = np.empty((0, 0), np.float32) if likeness is None else pictures_of(likeness.gallery_url, name)
    with Commits.open(tables_url, run_id=run_id_of("forget"), lease_s=lease_s, erases=True) as commits:
        await_compactions(commits.store, lease_s=lease_s)
        needles = person_needles(
            commits.store, name, pictures=pictures, least=1.0 if likeness is None else likeness.least
        )
        rows = sum(_clear(commits, faces) for faces in _faces_of(commits.store, needles))
        _commit_told(commits, "person", {"": rows}, reference)
        gallery = None if likeness is None else likeness.gallery_url
        return _erase_and_prove(
            commits, needles, rows=rows, reference=reference, progress=progress, gallery_url=gallery
        )


def _erase_and_prove(
    commits: Commits,
    needles: Needles,
    *,
    rows: int,
    reference: str | None,
    progress: Progress | None,
    gallery_url: str | None = None,
) -> Forgotten:
    """The gallery comes last: a kill before leaves the pictures by which the same command goes on."""
    commits.scrub()
    erased = erase(commits)
    files, found = search(commits.store, needles, progress=progress)
    if gallery_url is not None and needles.name is not None:
        if pictures_of(gallery_url, needles.name).size:
            remove_person(gallery_url, needles.name)
        more, left = search(Store(gallery_url), needles)
        files, found = files + more, found + left
    _commit_told(commits, "proof", {"": len(found)}, reference, files=files)
    return Forgotten(videos=len(needles.ids), rows=rows, erased=erased, files=files, found=tuple(found))


# ---- videos


def _known_places(store: Store) -> Iterator[tuple[str, str]]:
    """(video id, place) of every video that any file of `videos` or `ledger` knows; some more than once."""
    columns = pa.schema([VIDEOS.schema.field(name) for name in ("video_id", "uri", "member")])
    for batch in sql.parquet_batches(store, files_of(store, VIDEOS), columns):
        for row in batch.to_pylist():
            yield row["video_id"], place_name(row["uri"], row["member"])
    columns = pa.schema([LEDGER.schema.field(name) for name in ("video_id", "facts")])
    for batch in sql.parquet_batches(store, files_of(store, LEDGER), columns):
        for row in batch.to_pylist():  # of videos that were never derived
            facts = json.loads(row["facts"] or "{}")
            if "uri" in facts:
                yield row["video_id"], place_name(facts["uri"], facts.get("member") or "")


def _remove_videos(commits: Commits, places: dict[str, set[str]], reference: str | None) -> int:
    ids = pa.table({"video_id": pa.array(sorted(set().union(*places.values())), pa.string())})
    counts = _count_rows(commits.tables_url, ids) if ids.num_rows else {}
    told = {place_digest(name): sum(counts.get(video_id, 0) for video_id in found) for name, found in places.items()}
    _commit_told(commits, "video", told, reference, replace={table.name: ids for table in VIDEO_TABLES})
    return sum(told.values())


def _count_rows(tables_url: str, ids: pa.Table) -> dict[str, int]:
    names = [table.name for table in VIDEO_TABLES]
    with sql.session(tables_url, names) as connection:
        connection.register("ids", ids)
        each = " UNION ALL ".join(f"SELECT video_id FROM {name} SEMI JOIN ids USING (video_id)" for name in names)
        return dict(connection.execute(f"SELECT video_id, count(*) FROM ({each}) GROUP BY video_id").fetchall())


def _commit_told(
    commits: Commits,
    what: str,
    rows_by_place: dict[str, int],
    reference: str | None,
    *,
    files: int = 0,
    replace: dict[str, pa.Table] | None = None,
) -> None:
    """Commit rows of `forgotten`, together with the removal that they tell of."""
    same = {"run_id": commits.run_id, "what": what, "files": files, "by": this_user(), "reference": reference}
    told = [same | {"place": place, "rows": rows, "at": datetime.now(UTC)} for place, rows in rows_by_place.items()]
    part = write_part(commits.tables_url, FORGOTTEN, pa.Table.from_pylist(told, schema=FORGOTTEN.schema))
    commits.commit([part], replace=replace)


# ---- persons


def _faces_of(store: Store, needles: Needles) -> Iterator[pa.Table]:
    """Live rows with the name or with one of the vectors, some thousand at a time."""
    delta = deltalog.open_table(store, FACES)
    held: list[pa.Table] = []
    for batch in sql.parquet_batches(store, [part.path for part in deltalog.live_parts(delta)], FACES.schema):
        named = pc.fill_null(pc.equal(batch.column("identity"), needles.name), False)
        same = [
            vector is not None and digest_of(vector) in needles.vectors for vector in vectors_of(batch.column("vector"))
        ]
        mine = batch.filter(pc.or_(named, pa.array(same, pa.bool_())))
        if mine.num_rows:
            held.append(pa.Table.from_batches([mine]))
        if sum(piece.num_rows for piece in held) >= FACES_A_COMMIT:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)


def _clear(commits: Commits, faces: pa.Table) -> int:
    """Commit these faces anew, as those of somebody unknown."""
    for column in ("identity", "similarity", "runner_up", "vector"):
        field = FACES.schema.field(column)
        faces = faces.set_column(FACES.schema.get_field_index(column), field, pa.nulls(faces.num_rows, field.type))
    decision = pa.repeat(pa.scalar(UNKNOWN), faces.num_rows)
    faces = faces.set_column(FACES.schema.get_field_index("decision"), FACES.schema.field("decision"), decision)
    commits.commit(
        [write_part(commits.tables_url, FACES, faces.cast(FACES.schema))],
        replace={FACES.name: faces.select(list(FACES.key))},
    )
    return int(faces.num_rows)
