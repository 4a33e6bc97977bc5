"""DuckDB sessions over the tables: bounded memory and threads, every Delta table read through its log."""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from vidproc.errors import TablesDamaged
from vidproc.schema import TABLES, Table
from vidproc.tables import deltalog
from vidproc.tables.scanning import scannable
from vidproc.tables.store import Store

MEMORY_LIMIT = "1GB"
THREADS = 2
BATCH_ROWS = 1000

NAME = "CASE WHEN member = '' THEN uri ELSE uri || '#' || member END"
"""A video's place in the archive, from its columns uri and member."""
PLACE = f"sha256({NAME})"
"""How the table `forgotten` speaks of it."""
NO_MORE = """SELECT place FROM forgotten WHERE what IN ('video', 'allowed')
    GROUP BY place HAVING arg_max(what, "at") = 'video'"""
"""The places that are not to be labelled again."""


@contextmanager
def session(tables_url: str, tables: Iterable[str] = tuple(TABLES)) -> Iterator[Any]:
    """A connection in which each of `tables` is a view of its newest version (empty if there is no such table yet).

    What does not fit into memory goes to a temporary folder that is removed at the end.
    """
    with tempfile.TemporaryDirectory(prefix="vidproc-sql-") as spill:
        connection = duckdb.connect(config={"memory_limit": MEMORY_LIMIT, "threads": THREADS, "temp_directory": spill})
        try:
            store = Store(tables_url)
            for name in tables:
                connection.register(name, rows_of(store, TABLES[name]))
            yield connection
        finally:
            connection.close()


def rows_of(store: Store, table: Table) -> Any:
    """The newest version of a table, as DuckDB can read it column by column: a pyarrow dataset, or an empty table."""
    delta = deltalog.found(store, table)
    dataset = None if delta is None else deltalog.dataset_of(store, delta)
    return dataset if dataset is not None and dataset.files else table.schema.empty_table()


def parquet_folder(url: str, schema: pa.Schema) -> Any:
    """All Parquet files below `url` as one dataset of `schema`."""
    store = Store(url)
    paths = [store.url_of(path).removeprefix("s3://") for path in store.list("") if path.endswith(".parquet")]
    if not paths:
        return schema.empty_table()
    return scannable(ds.dataset(paths, schema=schema, format="parquet", filesystem=store.filesystem()))


def parquet_batches(store: Store, paths: Iterable[str], schema: pa.Schema, *, rows: int = BATCH_ROWS) -> Any:
    """One pass over some Parquet files of `schema`, one after the other: in memory is about one row group."""
    return pa.RecordBatchReader.from_batches(schema, _batches_of(store, paths, schema, rows))


def _batches_of(store: Store, paths: Iterable[str], schema: pa.Schema, rows: int) -> Iterator[pa.RecordBatch]:
    for path in paths:
        try:
            with store.filesystem().open(store.url_of(path)) as file, pq.ParquetFile(file) as parquet:
                for batch in parquet.iter_batches(batch_size=rows, columns=schema.names):
                    yield from pa.Table.from_batches([batch]).select(schema.names).cast(schema).to_batches()
        except (pa.ArrowInvalid, KeyError, ValueError) as error:
            raise TablesDamaged(
                f"{store.url_of(path)} is no Parquet file of this table ({error}): restore it; if no table needs it, "
                "`maintain.py vacuum --older-than 0` removes it"
            ) from error


def batches(connection: Any, query: str) -> Iterator[pa.RecordBatch]:
    """The query's rows as they come, `BATCH_ROWS` at a time."""
    yield from connection.sql(query).to_arrow_reader(BATCH_ROWS)


def one_row(connection: Any, query: str) -> tuple[Any, ...]:
    """The only row of a query for totals."""
    row: tuple[Any, ...]
    (row,) = connection.execute(query).fetchall()  # all: the connection is free again
    return row
