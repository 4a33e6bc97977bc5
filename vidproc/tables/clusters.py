"""Which unknown faces of the tables are one person's: their tracks, grouped by the vectors that were kept.

Nothing of it is a table: a name for somebody who agreed to nothing is made when it is asked for, and not kept here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vidproc.command import log
from vidproc.errors import TablesDamaged, UsageError
from vidproc.models.linkage import average_linkage
from vidproc.schema import FACES, LEDGER, VIDEOS
from vidproc.tables import sql
from vidproc.tables.query import VIEWS

MOST_NUMBERS = 1 << 26
"""Of all tracks' vectors together, of one model: half a million tracks of 128 numbers, with 2 GiB in memory."""
ROUNDING = 1e-6
"""Of cosines of float32 vectors."""

CLUSTERS = pa.schema(
    [
        ("cluster", pa.int32()),  # from 1, the largest first: of this answer only
        ("tracks", pa.int32()),  # how many are in the cluster
        ("videos", pa.int32()),  # in how many
        ("similarity", pa.float32()),  # cosine of the track to the cluster's mean
        ("uri", pa.string()),
        ("member", pa.string()),
        ("video_id", pa.string()),
        ("model_id", pa.string()),
        ("track_id", pa.string()),
        ("start_us", pa.int64()),
        ("end_us", pa.int64()),  # right behind the last face
        ("faces", pa.int32()),  # of which there is a vector
        ("best_time_us", pa.int64()),  # of the face of the best quality, whose box this is
        *((name, pa.float32()) for name in ("x1", "y1", "x2", "y2")),
    ]
)
_OF_TRACKS = CLUSTERS.names[4:]

_KEY = "video_id, model_id, coalesce(track_id, face_id)"
_CHOSEN = f"""CREATE TABLE chosen AS
    SELECT {_KEY} AS track_id, min(time_us) AS start_us, max(time_us) + 1 AS end_us, count(vector)::INT AS faces,
        bool_or(vector IS NULL AND similarity IS NOT NULL) AS lacking,
        first({{'t': time_us, 'x1': x1, 'y1': y1, 'x2': x2, 'y2': y2}} ORDER BY quality DESC, time_us, face_id)
            FILTER (vector IS NOT NULL) AS best
    FROM faces SEMI JOIN latest_models USING (video_id, annotator, model_id) SEMI JOIN latest_videos USING (video_id)
    GROUP BY {_KEY} HAVING bool_or(decision = 'unknown') AND count(identity) = 0"""
_TRACKS = """CREATE TABLE tracks AS
    SELECT row_number() OVER (ORDER BY model_id, uri, member, track_id) - 1 AS number,
        uri, member, video_id, model_id, track_id, start_us, end_us, faces, best.t AS best_time_us,
        best.x1 AS x1, best.y1 AS y1, best.x2 AS x2, best.y2 AS y2
    FROM chosen JOIN latest_videos USING (video_id) WHERE faces >= ?"""
_VECTORS = """SELECT number, vector
    FROM (SELECT video_id, model_id, coalesce(track_id, face_id) AS track_id, time_us, face_id, vector FROM faces
          WHERE vector IS NOT NULL)
    JOIN tracks USING (video_id, model_id, track_id) WHERE number >= {first} AND number < {stop}
    ORDER BY number, time_us, face_id"""


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """`rows`: as `CLUSTERS`, one for each track in a cluster. `tracks`: how many were compared.

    `left`: unknown tracks whose vectors were not kept, so that nothing is said of them.
    """

    rows: pa.Table
    clusters: int
    tracks: int
    left: int
    models: tuple[str, ...]


def unknown_clusters(tables_url: str, *, at_least: float, min_tracks: int = 2, min_faces: int = 1) -> Clusters:
    """Clusters of unknown tracks, of the newest version of each video and its newest model, within each model.

    A track is the mean of its faces' vectors, brought to length 1. `at_least`: mean cosine of all pairs of two clusters
    from which they are one. `min_tracks`, `min_faces`: least size of a cluster, and of a track that is looked at.
    Raises `UsageError` where no vectors were kept or they do not fit into memory, TablesDamaged where they are none.
    """
    with sql.session(tables_url, [FACES.name, LEDGER.name, VIDEOS.name]) as connection:
        for view in ("latest_videos", "latest_models"):
            connection.execute(f"CREATE VIEW {view} AS {VIEWS[view]}")
        connection.execute(_CHOSEN)
        left = _left(connection, tables_url)
        connection.execute(_TRACKS, [min_faces])
        tracks = connection.sql("FROM tracks ORDER BY number").to_arrow_table()
        models = connection.sql("SELECT model_id, min(number), count(*) FROM tracks GROUP BY 1 ORDER BY 2").fetchall()
        vectors, cluster = [], []
        for model, first, count in models:
            log("clustering", model=model, tracks=count)
            vectors.append(_vectors_of(connection, model, first, count))
            cluster.append(average_linkage(vectors[-1], at_least=at_least - ROUNDING) + first)
    rows = _told(tracks, vectors, np.concatenate(cluster) if cluster else np.empty(0, np.int64), min_tracks)
    clusters, names = len(pc.unique(rows["cluster"])), tuple(model for model, *_ in models)
    return Clusters(rows=rows, clusters=clusters, tracks=tracks.num_rows, left=left, models=names)


def _left(connection: Any, tables_url: str) -> int:
    """How many unknown tracks have no vector. Raises `UsageError` where none has one."""
    (kept, lacking) = sql.one_row(
        connection, "SELECT count(*) FILTER (faces > 0), count(*) FILTER (faces = 0 AND lacking) FROM chosen"
    )
    if lacking and not kept:
        raise UsageError(
            f"of the {lacking} unknown tracks at {tables_url} no vectors were kept, so that they cannot be compared: "
            "label with --annotators faces --keep-face-vectors (and --reprocess all, for what is labelled already)"
        )
    if not kept and not sql.one_row(connection, "SELECT count(*) FROM faces")[0]:
        raise UsageError(f"{tables_url} has no faces: label with --annotators faces --keep-face-vectors first")
    return int(lacking)


def _vectors_of(connection: Any, model: str, first: int, count: int) -> npt.NDArray[np.float32]:
    """One vector of length 1 for each track of a model, whose numbers begin with `first`: float32 [count, size]."""
    sums: npt.NDArray[np.float64] | None = None
    for numbers, vectors in _batches(connection, model, first, count):
        if sums is None:
            if count * vectors.shape[1] > MOST_NUMBERS:
                raise UsageError(
                    f"{count} unknown tracks of {vectors.shape[1]} numbers each do not fit into memory (at most "
                    f"{MOST_NUMBERS // vectors.shape[1]}): look only at longer tracks with a higher --min-faces"
                )
            sums = np.zeros((count, vectors.shape[1]))
        if vectors.shape[1] != sums.shape[1]:
            raise TablesDamaged(f"vectors of model {model} in `faces` have different sizes: a person must look")
        np.add.at(sums, numbers - first, vectors)
    if sums is None:
        raise TablesDamaged(f"`faces` lost its vectors of model {model} while they were read: a person must look")
    length = np.linalg.norm(sums, axis=1, keepdims=True)
    if not (np.isfinite(length) & (length > 0)).all():
        raise TablesDamaged(f"vectors of model {model} in `faces` are no numbers, or zeros: a person must look")
    unit: npt.NDArray[np.float32] = (sums / length).astype(np.float32)
    return unit


def _batches(
    connection: Any, model: str, first: int, count: int
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
    for batch in sql.batches(connection, _VECTORS.format(first=first, stop=first + count)):
        sizes = pc.unique(pc.list_value_length(batch["vector"])).to_pylist()
        if len(sizes) != 1 or not sizes[0]:
            raise TablesDamaged(f"vectors of model {model} in `faces` have different sizes: a person must look")
        yield batch["number"].to_numpy(), pc.list_flatten(batch["vector"]).to_numpy().reshape(-1, sizes[0])


def _told(
    tracks: pa.Table, vectors: list[npt.NDArray[np.float32]], cluster: npt.NDArray[np.int64], min_tracks: int
) -> pa.Table:
    """Rows as `CLUSTERS`, the largest cluster first; of equals that with the first track."""
    size = np.bincount(cluster, minlength=len(cluster))
    order = np.lexsort((np.arange(len(cluster)), cluster, -size[cluster]))
    order = order[size[cluster[order]] >= min_tracks]
    similarity = _to_means(vectors, cluster)[order]
    _, first, of = np.unique(cluster[order], return_index=True, return_inverse=True)
    number = np.argsort(np.argsort(first))[of]  # by where the cluster begins
    chosen = tracks.take(pa.array(order, pa.int64()))
    files = pc.index_in(chosen["video_id"], pc.unique(chosen["video_id"])).to_numpy()
    pairs = np.unique(np.stack([number, files]), axis=1)[0].astype(np.int64)
    columns = {
        "cluster": number + 1,
        "tracks": size[cluster[order]],
        "videos": np.bincount(pairs, minlength=len(first))[number],
        "similarity": similarity,
    }
    made = [pa.array(values).cast(CLUSTERS.field(name).type) for name, values in columns.items()]
    kept = [chosen[name].cast(CLUSTERS.field(name).type) for name in _OF_TRACKS]
    return pa.table([*made, *kept], schema=CLUSTERS)


def _to_means(vectors: list[npt.NDArray[np.float32]], cluster: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """The cosine of each track to the mean of its cluster."""
    found, first = [np.empty(0, np.float32)], 0
    for one in vectors:
        own = cluster[first : first + len(one)] - first
        means = np.zeros(one.shape)
        np.add.at(means, own, one)
        means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
        found.append(np.einsum("ij,ij->i", means[own], one).clip(-1, 1).astype(np.float32))
        first += len(one)
    return np.concatenate(found)
