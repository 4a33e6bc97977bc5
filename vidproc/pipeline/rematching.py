"""Faces decided anew by the gallery as it is now, from the vectors that were kept: nothing is found or decoded again.

    lease ─▶ audit ─▶ derive what waits ─▶ videos decided by another version ─▶ decide each face, vote, replace

A video whose vectors were not kept is left as it is, and so is one that is not labelled to its end: `label` does that.
Killed anywhere, the same command goes on: rows say by which version they were decided.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vidproc.annotators.faces import Faces
from vidproc.pipeline.audit import audited
from vidproc.schema import FACES, LEDGER, WHOLE_VIDEO
from vidproc.tables import deltalog, sql
from vidproc.tables.commit import UNIT, Commits
from vidproc.tables.derive import derive, whole_videos
from vidproc.tables.forgetting import UNKNOWN
from vidproc.tables.lease import LEASE_S
from vidproc.tables.merge import parse_facts
from vidproc.tables.parts import write_part
from vidproc.tables.store import Store
from vidproc.tables.vacuum import run_id_of

FACES_A_COMMIT = 50_000
BY_GALLERY = ("identity", "similarity", "runner_up", "decision", "gallery_version")
"""The columns that a gallery decides."""


@dataclass(frozen=True, kw_only=True)
class Rematched:
    """`changed`: faces of whom something else is said now. `left`: videos without vectors, which stay as they are."""

    videos: int
    faces: int
    changed: int
    left: int


def rematch(tables_url: str, faces: Faces, *, lease_s: float = LEASE_S) -> Rematched:
    """Decide all faces that the recogniser of `faces` found by its gallery, as labelling them anew would.

    Raises LeaseLost while another job holds the tables, UsageError where there are none.
    """
    deltalog.existing(Store(tables_url))
    run_id = run_id_of("rematch")
    annotators = {faces.name: faces}
    with (
        Commits.open(tables_url, run_id=run_id, lease_s=lease_s) as commits,
        audited(tables_url, run_id, annotators),
    ):
        derive(commits, annotators)
        with sql.session(tables_url, [FACES.name, LEDGER.name]) as connection:
            return _rematched(commits, faces, connection)


_CHOSEN = f"""CREATE TABLE chosen AS SELECT {", ".join(UNIT)}, facts, lacking FROM ledger JOIN (
        SELECT {", ".join(UNIT)}, bool_or(vector IS NULL AND similarity IS NOT NULL) AS lacking
        FROM faces WHERE annotator = $annotator AND model_id = $model_id
        GROUP BY ALL HAVING bool_or(gallery_version IS DISTINCT FROM $version)) AS stale USING ({", ".join(UNIT)})
    WHERE segment = {WHOLE_VIDEO}"""
_ROWS = f"""SELECT faces.* FROM faces SEMI JOIN (FROM chosen WHERE NOT lacking) AS wanted USING ({", ".join(UNIT)})
    ORDER BY video_id, time_us, face_id"""


def _rematched(commits: Commits, faces: Faces, connection: Any) -> Rematched:
    version = faces.terms.gallery.version
    connection.execute(_CHOSEN, {"annotator": faces.name, "model_id": faces.model_id, "version": version})
    (left,) = sql.one_row(connection, "SELECT count(*) FROM chosen WHERE lacking")
    lookup = connection.cursor()  # the connection itself is busy giving faces
    videos = count = changed = 0
    for chunk in whole_videos(sql.batches(connection, _ROWS), FACES_A_COMMIT):
        units = chunk.select(list(UNIT)).group_by(list(UNIT)).aggregate([])
        pieces = []
        for video_id in units["video_id"].to_pylist():
            rows = chunk.filter(pc.equal(chunk["video_id"], video_id)).cast(FACES.schema)
            [(facts,)] = lookup.execute("SELECT facts FROM chosen WHERE video_id = ?", [video_id]).fetchall()
            pieces.append(_decided(faces, rows, parse_facts(facts, video_id), run_id=commits.run_id))
            changed += _differing(rows, pieces[-1])
        table = pa.concat_tables(pieces)
        commits.commit([write_part(commits.tables_url, FACES, table)], replace={FACES.name: units})
        videos, count = videos + units.num_rows, count + table.num_rows
    return Rematched(videos=videos, faces=count, changed=changed, left=int(left))


def _decided(faces: Faces, rows: pa.Table, facts: Mapping[str, Any], *, run_id: str) -> pa.Table:
    """One video's rows, by time: each face by itself first, as when it was found, then in its track."""
    fit = pc.is_valid(rows["vector"]).to_numpy()
    vectors = np.zeros((len(fit), faces.recogniser.embedder.size), np.float32)
    vectors[fit] = pc.list_flatten(rows["vector"]).to_numpy().reshape(-1, vectors.shape[1])
    anew = faces.decided(vectors, fit)
    forgotten = ~fit & pc.equal(rows["decision"], UNKNOWN).to_numpy()  # of whom nothing can be said any more
    anew["decision"] = np.where(forgotten, UNKNOWN, anew["decision"]).tolist()
    body = rows.select(FACES.body.names)
    for name in BY_GALLERY:
        body = _with(body, name, anew[name])
    found = faces.over_video({FACES.name: body}, facts)[FACES.name]
    for name in FACES.body.names:
        rows = _with(rows, name, found[name])
    return _with(rows, "run_id", [run_id] * rows.num_rows)


def _with(rows: pa.Table, name: str, values: Any) -> pa.Table:
    at = rows.schema.get_field_index(name)
    kind = rows.schema.field(at)
    column = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values, kind.type)
    return rows.set_column(at, kind, column.cast(kind.type))


def _differing(before: pa.Table, after: pa.Table) -> int:
    told = [zip(rows["identity"].to_pylist(), rows["decision"].to_pylist(), strict=True) for rows in (before, after)]
    return sum(one != other for one, other in zip(*told, strict=True))
