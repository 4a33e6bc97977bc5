"""The listing of an archive: its Arrow schema, one row, and writing millions of them to Parquet in bounded memory."""

import io
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from vidproc.errors import InputError, UsageError
from vidproc.media.patience import patiently
from vidproc.media.ranges import filesystem_of
from vidproc.media.sources import Source

LISTING = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("member", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("etag", pa.string(), nullable=False),
        pa.field("metadata", pa.string()),  # a JSON object of strings
        pa.field(
            "reason", pa.string()
        ),  # a reason code where the listing already knows that there is nothing to decode
        pa.field("detail", pa.string()),
    ]
)

GROUP_ROWS, GROUP_TEXT_BYTES = 25_000, 16 << 20
FILE_ROWS, FILE_BYTES = 250_000, 64 << 20


class Listed(NamedTuple):
    """One row: a video, or (with a reason) something that cannot be one."""

    source: Source
    metadata: Mapping[str, str] | None = None
    reason: str | None = None
    detail: str | None = None


def unusable(source: Source, error: InputError) -> Listed:
    return Listed(source, None, error.reason, text(str(error)))


def text(value: str) -> str:
    """The value as UTF-8 can hold it: what is not (half a surrogate pair) is written as `\\udcff`."""
    return value.encode(errors="backslashreplace").decode()


class ListingWriter:
    """Writes `listing-00000.parquet`, … into a folder or prefix that holds no listing yet. Raises `UsageError`.

    A file is built in memory and sent by one PUT, so that a failure never leaves half of one.
    """

    def __init__(self, out_url: str, *, progress: Callable[[int], None] | None = None) -> None:
        self.rows = 0
        self._filesystem = filesystem_of(out_url)
        self._folder = self._filesystem._strip_protocol(out_url)
        patiently(out_url, lambda: self._filesystem.makedirs(self._folder, exist_ok=True))
        if patiently(out_url, lambda: self._filesystem.glob(f"{self._folder}/listing-*.parquet")):
            raise UsageError(f"{out_url} already holds a listing: give a folder of its own to every listing")
        self._progress = progress
        self._written: list[str] = []
        self._columns: list[list[Any]] = [[] for _ in LISTING]
        self._text_bytes = self._file_rows = 0
        self._buffer = io.BytesIO()
        self._file: pq.ParquetWriter | None = None

    def add(self, row: Listed) -> None:
        source = row.source
        metadata = json.dumps(row.metadata, ensure_ascii=True, sort_keys=True) if row.metadata else None
        values = (source.video_id, source.uri, source.member, source.offset, source.bytes, source.etag)
        for column, value in zip(self._columns, (*values, metadata, row.reason, row.detail), strict=True):
            column.append(value)
        self.rows += 1
        self._text_bytes += len(source.uri) + len(source.member) + len(metadata or "") + len(row.detail or "")
        if len(self._columns[0]) >= GROUP_ROWS or self._text_bytes >= GROUP_TEXT_BYTES:
            self._write_group()

    def close(self) -> None:
        """Write what is left; at least one file, so that an empty listing can be read too."""
        if self._columns[0] or not self._written:
            self._write_group()
        self._write_file()

    def discard(self) -> None:
        """Take back what was written, as far as storage lets us: what ended the listing matters more."""
        self._file = None
        for path in self._written:
            with suppress(Exception):
                self._filesystem.rm_file(path)

    def _write_group(self) -> None:
        if self._file is None:
            self._buffer = io.BytesIO()
            self._file = pq.ParquetWriter(self._buffer, LISTING, compression="zstd")
        self._file.write_table(pa.table(self._columns, schema=LISTING))
        self._file_rows += len(self._columns[0])
        self._columns, self._text_bytes = [[] for _ in LISTING], 0
        if self._progress:
            self._progress(self.rows)
        if self._file_rows >= FILE_ROWS or self._buffer.tell() >= FILE_BYTES:
            self._write_file()

    def _write_file(self) -> None:
        if self._file is None:
            return
        self._file.close()
        path = f"{self._folder}/listing-{len(self._written):05d}.parquet"
        data = self._buffer.getvalue()
        patiently(path, lambda: self._filesystem.pipe_file(path, data))
        self._written.append(path)
        self._file, self._file_rows = None, 0
