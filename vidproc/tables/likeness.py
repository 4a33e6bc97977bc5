"""Which face vectors are a person's: those that were ever given their name, and unnamed ones that look like them.

Every file of `faces` is read, live or not: an earlier version may name who is unknown now.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vidproc.schema import FACES, Table
from vidproc.tables import deltalog, sql
from vidproc.tables.proof import Needles, digest_of, vectors_of
from vidproc.tables.store import Store

Vectors = npt.NDArray[np.float32]
TrackKey = tuple[str, str, str]
_COLUMNS = ("video_id", "model_id", "track_id", "identity", "vector")
_READ = pa.schema([FACES.schema.field(name) for name in _COLUMNS])


def files_of(store: Store, table: Table) -> list[str]:
    """Every Parquet file of a table, live or not."""
    return [path for path in store.list(table.name) if path.endswith(".parquet") and "/_delta_log/" not in path]


def person_needles(store: Store, name: str, *, pictures: Vectors, least: float) -> Needles:
    """The name, each vector that any file gives to it, the pictures', and those of unnamed faces that look like them.

    `pictures`: float32 [pictures, size] of length 1, none for no comparison. `least`: cosine from which a face looks
    like one of them; of its track all unnamed faces are taken. A vector that a live row gives to somebody else is
    theirs.
    """
    files = files_of(store, FACES)
    found = dict(_vectors(store, files, lambda rows: _named(rows, pc.equal, name)))
    if len(pictures):
        tracks = _tracks_like(store, files, pictures, least)
        unnamed = dict(_vectors(store, files, lambda rows: _unnamed_like(rows, pictures, least, tracks)))
        live = [part.path for part in deltalog.live_parts(deltalog.open_table(store, FACES))]
        for digest, _ in _vectors(store, live, lambda rows: _named(rows, pc.not_equal, name)):
            unnamed.pop(digest, None)
        found |= unnamed | {digest_of(picture.tobytes()): picture.tobytes()[:8] for picture in pictures}
    anchors = sorted({int.from_bytes(first, "little") for first in found.values() if len(first) == 8})
    return Needles(name=name, vectors=frozenset(found), anchors=np.array(anchors, np.uint64))


def _vectors(store: Store, files: list[str], which: Callable[[pa.RecordBatch], Any]) -> Iterator[tuple[bytes, bytes]]:
    """Digest and first bytes of each vector of the rows that `which` chooses."""
    for batch in sql.parquet_batches(store, files, _READ):
        for vector in vectors_of(batch.filter(which(batch))["vector"]):
            if vector is not None:
                yield digest_of(vector), vector[:8]


def _named(batch: pa.RecordBatch, compare: Callable[..., Any], name: str) -> Any:
    return pc.fill_null(compare(batch["identity"], name), False)


def _like(batch: pa.RecordBatch, pictures: Vectors, least: float) -> npt.NDArray[np.bool_]:
    """Which rows name nobody and have a vector near one of the pictures: bool [rows]."""
    alike = np.zeros(batch.num_rows, bool)
    for row, vector in enumerate(vectors_of(batch["vector"])):
        if vector is not None and len(vector) == pictures[0].nbytes:  # else of another network
            alike[row] = (pictures.astype(np.float64) @ np.frombuffer(vector, np.float32)).max() >= least
    unnamed: npt.NDArray[np.bool_] = pc.is_null(batch["identity"]).to_numpy(zero_copy_only=False)
    return alike & unnamed


def _keys(batch: pa.RecordBatch) -> list[TrackKey]:
    columns = [batch[name].to_pylist() for name in ("video_id", "model_id", "track_id")]
    return list(zip(*columns, strict=True))


def _tracks_like(store: Store, files: list[str], pictures: Vectors, least: float) -> set[TrackKey]:
    found: set[TrackKey] = set()
    for batch in sql.parquet_batches(store, files, _READ):
        chosen = _like(batch, pictures, least)
        found |= {key for key, like in zip(_keys(batch), chosen.tolist(), strict=True) if like and key[2] is not None}
    return found


def _unnamed_like(batch: pa.RecordBatch, pictures: Vectors, least: float, tracks: set[TrackKey]) -> Any:
    of_track = pa.array([key in tracks for key in _keys(batch)], pa.bool_())
    return pc.or_(pa.array(_like(batch, pictures, least)), pc.and_(of_track, pc.is_null(batch["identity"])))
