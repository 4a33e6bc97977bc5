"""Archives given as a Parquet or CSV file with a column `uri`; its other columns become metadata."""

import csv
import io
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from vidproc.errors import UsageError
from vidproc.media.listing import text
from vidproc.media.patience import in_our_words
from vidproc.media.walk import Place

LIST_SUFFIXES = (".parquet", ".csv")
BATCH = 16

Entry = tuple[str, Mapping[str, str]]


def read_uri_list(place: Place) -> Iterator[list[Entry]]:
    """(URI, metadata) pairs, `BATCH` at a time. A relative path counts from the list's folder. Raises `UsageError`."""
    location = place.path if place.filesystem is None else place.url
    folder = location.rpartition("/")[0]
    read = _parquet_rows if location.lower().endswith(".parquet") else _csv_rows
    try:
        with fsspec.open(location, "rb") as file:
            entries = (_entry(row, folder) for row in read(file, place.url) if row.get("uri"))
            while batch := list(islice(entries, BATCH)):
                yield batch
    except (OSError, pa.ArrowException, csv.Error, UnicodeDecodeError) as error:
        if (known := in_our_words(place.url, error)) is not None:
            raise known from error
        raise UsageError(f"the list of URIs {place.url} cannot be read: {error}") from error


def _parquet_rows(file: IO[bytes], url: str) -> Iterator[Mapping[str, Any]]:
    table = pq.ParquetFile(file)
    _check_columns(table.schema_arrow.names, url)
    for batch in table.iter_batches(batch_size=1000):
        yield from batch.to_pylist()


def _csv_rows(file: IO[bytes], url: str) -> Iterator[Mapping[str, Any]]:
    with io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines)
        _check_columns(reader.fieldnames or (), url)
        yield from reader


def _check_columns(names: Any, url: str) -> None:
    if "uri" not in names:
        raise UsageError(f"the list {url} has the columns {list(names)}: it needs one called uri")


def _entry(row: Mapping[str, Any], folder: str) -> Entry:
    uri = str(row["uri"]).strip()
    if "://" not in uri and not uri.startswith("/"):
        uri = f"{folder}/{uri}"
    others = {key: value for key, value in row.items() if key not in ("uri", None) and value not in (None, "")}
    return uri, {text(key): text(str(value)) for key, value in others.items()}
