"""Parquet files as a dataset that DuckDB may scan while Python reads them.

pyarrow 26 holds Python's lock while `Scanner.to_reader` starts its scan, waiting there for locks of Arrow's own. A
thread of Arrow's that has one of those waits for Python's to open the next file, where the filesystem is written in
Python, as fsspec's are: now and then neither goes on. Seen at the end of a run on S3; `scan_batches` gives it up.
"""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds


class _Scanner:
    """A scanner whose reader starts its scan with the first batch."""

    def __init__(self, scanner: Any) -> None:
        self._scanner = scanner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scanner, name)

    def to_reader(self) -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(self._scanner.projected_schema, self._batches())

    def _batches(self) -> Iterator[pa.RecordBatch]:
        for tagged in self._scanner.scan_batches():
            yield tagged.record_batch


class _Dataset(ds.FileSystemDataset):  # type: ignore[misc]
    def scanner(self, **options: Any) -> _Scanner:
        return _Scanner(super().scanner(**options))


def scannable(dataset: ds.FileSystemDataset) -> ds.FileSystemDataset:
    """The same rows of the same files."""
    return _Dataset(list(dataset.get_fragments()), dataset.schema, dataset.format, dataset.filesystem)
