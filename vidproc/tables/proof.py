"""Proof that nothing is left: every file below the tables, live or not, is read through for what was forgotten.

Parquet files are read twice: their raw bytes (footers hold the least and the greatest values as they are) and each
string and vector that they decode to. All other files by their raw bytes. Names of files count too.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vidproc.tables.store import Store, StoredFile

BATCH_ROWS = 8192
CHUNK_BYTES = 8 * 2**20
OVERLAP_BYTES = 4096
_HEX = re.compile(r"[0-9a-f]{32,}")
_ID_LENGTH = 32


@dataclass(frozen=True)
class Found:
    """Something is left: in which file, where in it, and what kind of thing (never the thing itself)."""

    path: str
    where: str
    what: str


@dataclass(frozen=True)
class Needles:
    """What is looked for.

    `ids`: video ids, anywhere in a text. `name`: a person's, as a whole value or in quotes (a name inside other words,
    as of a subtitle, is no label). `vectors`: digests of embeddings; `anchors`: their first 8 bytes, sorted.
    """

    ids: frozenset[str] = frozenset()
    name: str | None = None
    vectors: frozenset[bytes] = frozenset()
    anchors: npt.NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))

    @property
    def quoted(self) -> tuple[str, ...]:
        if self.name is None:
            return ()
        return tuple({json.dumps(self.name), json.dumps(self.name, ensure_ascii=False)})

    def in_value(self, value: str) -> str | None:
        """What a string of a table holds, None for nothing."""
        if value == self.name or any(quoted in value for quoted in self.quoted):
            return "name"
        return "video_id" if self._names_video(value) else None

    def in_bytes(self, data: bytes) -> str | None:
        """What raw bytes hold."""
        text = data.decode("latin-1")
        if self._names_video(text):
            return "video_id"
        if any(quoted.encode().decode("latin-1") in text for quoted in self.quoted):
            return "name"
        return "vector" if self._holds_anchor(data) else None

    def _names_video(self, text: str) -> bool:
        if not self.ids:
            return False
        for run in _HEX.findall(text):
            if any(run[i : i + _ID_LENGTH] in self.ids for i in range(len(run) - _ID_LENGTH + 1)):
                return True
        return False

    def _holds_anchor(self, data: bytes) -> bool:
        if not self.anchors.size:
            return False
        for offset in range(8):
            words = np.frombuffer(data[offset : offset + (len(data) - offset) // 8 * 8], "<u8")
            if np.isin(words, self.anchors).any():
                return True
        return False


def digest_of(vector: bytes) -> bytes:
    return hashlib.blake2b(vector, digest_size=16).digest()


def vectors_of(column: Any) -> list[bytes | None]:
    """The bytes of each float32 vector of a list column, None where there is none."""
    array = pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column
    values = array.values.to_numpy(zero_copy_only=False)
    ends = array.offsets.to_numpy()
    there = pc.is_valid(array).to_numpy(zero_copy_only=False)
    return [
        values[ends[i] : ends[i + 1]].tobytes() if there[i] and ends[i] < ends[i + 1] else None
        for i in range(len(array))
    ]


def search(
    store: Store, needles: Needles, *, progress: Callable[[int, int], None] | None = None
) -> tuple[int, list[Found]]:
    """Read every file below the tables. Returns how many files there were, and what is left of `needles`."""
    files = store.files()
    found = []
    for number, file in enumerate(files):
        try:
            found += list(_in_file(store, file, needles))
        except FileNotFoundError:  # a heartbeat's temporary file
            continue
        if progress is not None:
            progress(number + 1, len(files))
    old = store.old_versions()
    if old:
        what = f"{old} old versions of removed objects: let a lifecycle rule expire them, then run this again"
        found.append(Found(store.url_of(), "a bucket that keeps versions", what))
    return len(files), found


def _in_file(store: Store, file: StoredFile, needles: Needles) -> Iterator[Found]:
    if what := needles.in_bytes(file.path.encode()):
        yield Found(file.path, "its name", what)
    parquet = file.path.endswith(".parquet")
    raw = Needles(ids=needles.ids) if parquet else needles  # compressed bytes look like anything short
    for chunk in _chunks(store, file.path):
        if what := raw.in_bytes(chunk):
            yield Found(file.path, "its bytes", what)
            break
    if parquet:
        try:
            yield from _in_parquet(store, file.path, needles)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            yield Found(file.path, "unreadable Parquet", f"nothing can be said of it: {error}")


def _chunks(store: Store, path: str) -> Iterator[bytes]:
    with store.filesystem().open(store.url_of(path)) as file:
        before = b""
        while data := file.read(CHUNK_BYTES):
            yield before + data
            before = data[-OVERLAP_BYTES:]


def _in_parquet(store: Store, path: str, needles: Needles) -> Iterator[Found]:
    seen: set[tuple[str, str]] = set()
    with store.filesystem().open(store.url_of(path)) as file, pq.ParquetFile(file) as parquet:
        for batch in parquet.iter_batches(batch_size=BATCH_ROWS):
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                for what in _in_column(column, needles):
                    if (name, what) not in seen:
                        seen.add((name, what))
                        yield Found(path, f"column {name}", what)


def _in_column(column: Any, needles: Needles) -> Iterator[str]:
    """Walks nested columns down to their strings and vectors."""
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind):
        for value in pc.unique(column).to_pylist():
            if isinstance(value, str) and (what := needles.in_value(value)):
                yield what
    elif pa.types.is_map(kind):
        yield from _in_column(column.keys, needles)
        yield from _in_column(column.items, needles)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        if pa.types.is_float32(kind.value_type):
            if any(vector and digest_of(vector) in needles.vectors for vector in vectors_of(column)):
                yield "vector"
        else:
            yield from _in_column(column.values, needles)
    elif pa.types.is_struct(kind):
        for i in range(kind.num_fields):
            yield from _in_column(column.field(i), needles)
