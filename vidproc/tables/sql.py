"""DuckDB sessions over the tables: bounded memory and threads, every Delta table read through its log."""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import DeltaTable

from vidproc.schema import TABLES, Table
from vidproc.tables import deltalog
from vidproc.tables.store import Store

MEMORY_LIMIT = "1GB"
THREADS = 2
BATCH_ROWS = 1000


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
    if not deltalog.exists(store, table):
        return table.schema.empty_table()
    dataset = DeltaTable(store.url_of(table.name)).to_pyarrow_dataset()
    return dataset if dataset.files else table.schema.empty_table()


def parquet_folder(url: str, schema: pa.Schema) -> Any:
    """All Parquet files below `url` as one dataset of `schema`."""
    store = Store(url)
    paths = [store.url_of(path).removeprefix("s3://") for path in store.list("") if path.endswith(".parquet")]
    if not paths:
        return schema.empty_table()
    return ds.dataset(paths, schema=schema, format="parquet", filesystem=store.filesystem())


def batches(connection: Any, query: str) -> Iterator[pa.RecordBatch]:
    """The query's rows as they come, `BATCH_ROWS` at a time."""
    yield from connection.sql(query).to_arrow_reader(BATCH_ROWS)


def one_row(connection: Any, query: str) -> tuple[Any, ...]:
    """The only row of a query for totals."""
    row: tuple[Any, ...] = connection.execute(query).fetchone()
    return row
