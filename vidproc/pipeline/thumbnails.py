"""Thumbnails on request: of each track the picture inside its best box, as a JPEG outside the tables.

    python jobs/maintain.py thumbnails --tables out/tables --out thumbnails/ --label person --limit 1000
    python jobs/maintain.py thumbnails --tables out/tables --out thumbnails/ --prune

Written is OUT/<video_id>/<annotator>/<model_id>/<track_id>.jpg, the four columns that name a track: of those of the
newest version of each video, by the model that labelled it last. At most --size pixels on the longer side, never
enlarged, with a little of what is around the box. What is there is not made again: for another size take another --out.
A video that changed since it was labelled, is gone or is broken is told with its reason, and the others go on.
Tracks of faces are left out. --faces takes them in, needs a --purpose, and is told in _audit/ before any is cut out;
those of a person who was forgotten are never made. (Tracks labelled `person` show people, too: nobody knows whom.)
Thumbnails lie outside the tables, so `forget` does not find them. After every `forget`, of a video or of a person,
run --prune for each --out: it removes the thumbnails whose track is no longer in the tables, those of forgotten faces,
and what a killed run left half written. Run one at a time for each --out; `label` may go on meanwhile.
Exit codes: 0 done, 1 something is left, as listed, 2 usage.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import groupby
from typing import Any, Self
from urllib.parse import quote, unquote

import pyarrow as pa
from pydantic import Field, model_validator

from vidproc.annotators.faces import check_purpose
from vidproc.command import Options, log, parse
from vidproc.errors import Damaged, InputError, UsageError
from vidproc.media.crops import crops
from vidproc.media.glimpse import probed
from vidproc.media.guard import Guard
from vidproc.media.members import Members
from vidproc.pipeline.audit import append_audit
from vidproc.schema import FACES, LEDGER, TRACKS, VIDEOS
from vidproc.tables import deltalog, sql
from vidproc.tables.query import VIEWS
from vidproc.tables.store import Store, StoredFile
from vidproc.tables.vacuum import run_id_of

PROGRESS_S = 10.0
_KEY = ("video_id", "annotator", "model_id", "track_id")
_BOX = ("x1", "y1", "x2", "y2")
_ENDING = ".jpg"

Row = dict[str, Any]


class ThumbnailOptions(Options):
    """Options of `thumbnails`."""

    tables: str = Field(description="where the tables are: a folder or s3://bucket/prefix")
    out: str = Field(description="where the thumbnails go: a folder or s3://bucket/prefix, apart from the tables")
    video: str | None = Field(
        None, description="only of these: a video id, a URI (shard.tar#member), or a glob of URIs"
    )
    label: str | None = Field(None, description="only of tracks with this label; of faces it is `face`")
    limit: int | None = Field(None, ge=1, description="make at most so many, by video and time")
    size: int = Field(256, ge=16, le=2048, description="the longer side at the most, pixels")
    faces: bool = Field(False, description="of tracks of faces, too; needs --purpose")
    purpose: str | None = Field(None, description="with --faces: what the pictures of faces are for")
    prune: bool = Field(False, description="only remove those whose track is no longer in the tables")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.faces != (self.purpose is not None):
            raise ValueError("--faces and --purpose go together")
        if self.prune and not self.model_fields_set <= {"tables", "out", "prune"}:
            raise ValueError("--prune goes with --tables and --out alone")
        return self


def thumbnails(arguments: Sequence[str]) -> int:
    """`maintain.py thumbnails …`; returns the exit code. Raises `UsageError`, `StorageError`."""
    options = parse(ThumbnailOptions, __doc__, arguments)
    if options.purpose is not None:
        check_purpose(options.purpose)
    _check_apart(options.out, options.tables)
    deltalog.existing(Store(options.tables))
    if options.prune:
        removed, old = prune(options.tables, options.out), Store(options.out).old_versions()
        log("pruned", removed=removed)
        if old:
            log("left", old_versions=old, detail="the bucket keeps old versions: let a lifecycle rule expire them")
        return 1 if old else 0
    if options.faces:
        told = {"purpose": options.purpose, "out": options.out, "video": options.video, "thumbnails": "faces"}
        append_audit(options.tables, run_id_of("thumbnails"), "begun", told)
    made = make_thumbnails(
        options.tables,
        options.out,
        video=options.video,
        label=options.label,
        limit=options.limit,
        size=options.size,
        faces=options.faces,
    )
    log("made", videos=made.videos, made=made.made, there=made.there, left=made.left.total(), reasons=dict(made.left))
    return 1 if made.left else 0


@dataclass(kw_only=True)
class Made:
    """`videos`: looked into. `made`, `there`: thumbnails, now and before. `left`: tracks without one, by reason."""

    videos: int = 0
    made: int = 0
    there: int = 0
    left: Counter[str] = field(default_factory=Counter)

    def tell_left(self, place: str, tracks: int, error: InputError) -> None:
        self.left[error.reason] += tracks
        log("left", video=place, tracks=tracks, reason=error.reason, detail=str(error))


def make_thumbnails(
    tables_url: str,
    out_url: str,
    *,
    video: str | None = None,
    label: str | None = None,
    limit: int | None = None,
    size: int = 256,
    faces: bool = False,
) -> Made:
    """Make those that are missing, one video after the other. `size`: pixels. Raises `UsageError`, `StorageError`."""
    out, made, members, told_s = Store(out_url), Made(), Members(), time.monotonic()
    with sql.session(tables_url, _TABLES) as connection, Guard() as guard:
        for tracks in _tracks_by_video(connection, video=video, label=label, faces=faces):
            there = set(out.list(tracks[0]["video_id"]))
            missing = [track for track in tracks if path_of(track) not in there]
            made.there += len(tracks) - len(missing)
            missing = missing if limit is None else missing[: limit - made.made]
            if missing:
                made.videos += 1
                _make_of_video(guard, members, missing, out=out, size=size, made=made)
            if limit is not None and made.made >= limit:
                break
            if time.monotonic() - told_s > PROGRESS_S:
                told_s = time.monotonic()
                log("making", videos=made.videos, made=made.made, there=made.there, left=made.left.total())
    return made


def prune(tables_url: str, out_url: str) -> int:
    """Remove thumbnails whose track no table holds any more, and of forgotten faces; returns how many files went.

    Nothing goes but what `make_thumbnails` may have written.
    """
    out = Store(out_url)
    files = [file for file in out.files() if _is_ours(file)]
    halves = [file.path for file in files if file.is_temporary]
    whole = [file.path for file in files if not file.is_temporary]
    keys = [_key_of(path) for path in whole]
    found = pa.table(
        {"path": pa.array(whole, pa.string())}
        | {name: pa.array([key[i] for key in keys], pa.string()) for i, name in enumerate(_KEY)}
    )
    with sql.session(tables_url, _TABLES) as connection:
        connection.register("found", found)
        live = f"SELECT {', '.join(_KEY)} FROM ({_TRACKS} UNION ALL {_FACE_TRACKS})"
        query = f"SELECT path FROM found ANTI JOIN ({live}) AS live USING ({', '.join(_KEY)})"
        gone = [path for (path,) in connection.execute(query).fetchall()]
    for path in (*halves, *gone):
        out.delete(path)
    return len(halves) + len(gone)


# ---- names


def path_of(track: Row) -> str:
    """Where below OUT a track's thumbnail lies. What a file name cannot hold is percent-encoded."""
    return "/".join(_encoded(track[name]) for name in _KEY) + _ENDING


def _encoded(name: str) -> str:
    text = quote(name, safe="")
    return f"%2E{text[1:]}" if text.startswith(".") else text


def _key_of(path: str) -> tuple[str, ...]:
    return tuple(unquote(part) for part in path.removesuffix(_ENDING).split("/"))


def _is_ours(file: StoredFile) -> bool:
    video_id, *rest = file.path.split("/")
    is_id = len(video_id) == 32 and not video_id.strip("0123456789abcdef")
    return is_id and len(rest) == len(_KEY) - 1 and (file.is_temporary or file.path.endswith(_ENDING))


def _check_apart(out_url: str, tables_url: str) -> None:
    out, tables = (f"{Store(url).root.rstrip('/')}/" for url in (out_url, tables_url))
    if out.startswith(tables) or tables.startswith(out):
        raise UsageError(f"--out {out_url} and tables {tables_url} must lie apart: use a folder of its own for it")


# ---- which tracks

_TABLES = [table.name for table in (VIDEOS, LEDGER, TRACKS, FACES)]
_TRACKS = f"SELECT {', '.join(_KEY)}, label, best_time_us, x1, y1, x2, y2 FROM tracks"
_BEST = "{'t': time_us, 'x1': x1, 'y1': y1, 'x2': x2, 'y2': y2}"
_FACE_TRACKS = f"""SELECT {", ".join(_KEY)}, 'face' AS label, best.t AS best_time_us, best.x1, best.y1, best.x2, best.y2
    FROM (SELECT {", ".join(_KEY)}, first({_BEST} ORDER BY quality DESC, time_us, face_id) AS best
          FROM faces WHERE track_id IS NOT NULL GROUP BY ALL
          HAVING NOT bool_or(decision = 'unknown' AND similarity IS NULL))"""
"""A face that is unknown although it was compared with nobody is a forgotten one: see `forget_person`."""


def _tracks_by_video(connection: Any, *, video: str | None, label: str | None, faces: bool) -> Iterator[list[Row]]:
    """The tracks of one video after the other, in time order, with where the video is. Raises `UsageError`."""
    for view in ("latest_videos", "latest_models"):
        connection.execute(f"CREATE VIEW {view} AS {VIEWS[view]}")
    connection.execute(
        f"CREATE TABLE chosen AS SELECT video_id, uri, member, etag, bytes, {sql.NAME} AS place FROM latest_videos"
    )
    if video is not None:
        _choose(connection, video)
    each = f"{_TRACKS} UNION ALL {_FACE_TRACKS}" if faces else _TRACKS
    connection.execute(
        f"""CREATE TABLE wanted AS SELECT each.*, uri, member, etag, bytes, place FROM ({each}) AS each
            SEMI JOIN latest_models USING (video_id, annotator, model_id) JOIN chosen USING (video_id)
            WHERE $label IS NULL OR label = $label""",
        {"label": label},
    )
    order = f"uri, member, video_id, best_time_us, {', '.join(_KEY[1:])}"
    rows = (row for batch in sql.batches(connection, f"FROM wanted ORDER BY {order}") for row in batch.to_pylist())
    for _, tracks in groupby(rows, key=lambda row: row["video_id"]):
        yield list(tracks)


def _choose(connection: Any, video: str) -> None:
    places = (row for batch in sql.batches(connection, "FROM chosen") for row in batch.to_pylist())
    ids = [
        row["video_id"]
        for row in places
        if video in (row["video_id"], row["place"]) or fnmatchcase(row["place"], video)
    ]
    if not ids:
        raise UsageError(
            f"no video of these tables is meant by {video!r}: give an id, a URI, or a glob of URIs in quotes"
        )
    connection.register("meant", pa.table({"video_id": pa.array(ids, pa.string())}))
    connection.execute("DELETE FROM chosen WHERE video_id NOT IN (SELECT video_id FROM meant)")


# ---- one video


def _make_of_video(guard: Guard, members: Members, tracks: list[Row], *, out: Store, size: int, made: Made) -> None:
    place, left, damaged = tracks[0]["place"], len(tracks), Counter[str]()
    try:
        source = members.source_of(tracks[0])
        facts = probed(guard, source)
        boxes = [(track["best_time_us"], tuple(track[name] for name in _BOX)) for track in tracks]
        for number, found in crops(guard, source, facts, boxes, most=size):
            left -= 1
            if isinstance(found, Damaged):
                damaged[str(found)] += 1
            else:
                out.put(path_of(tracks[number]), found)
                made.made += 1
    except InputError as error:
        made.tell_left(place, left, error)
    for detail, count in damaged.items():
        made.tell_left(place, count, Damaged(detail))
