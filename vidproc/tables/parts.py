"""Parts: one whole Parquet file of one table, checked, built in memory and sent by one PUT. Loads no deltalake."""

import uuid
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vidproc.schema import Table
from vidproc.tables.store import Store

ROW_GROUP_ROWS = 64 * 1024


@dataclass(frozen=True)
class Part:
    """A written Parquet file that no table knows of yet. `path` is relative to the tables' URL; plain JSON fields."""

    table: str
    path: str
    bytes: int
    rows: int


def write_part(tables_url: str, table: Table, rows: pa.Table) -> Part:
    """Write `rows` (in exactly `table.schema`, at least one) as one new file below `<tables_url>/<table>/`.

    Rows keep the order in which they are given. Raises ValueError naming the column that does not fit the schema:
    Delta would take the file as it is, and only its readers would notice.
    """
    check_rows(table, rows)
    return put_part(tables_url, table, parquet_bytes(rows), rows=rows.num_rows)


def put_part(tables_url: str, table: Table, data: bytes, *, rows: int) -> Part:
    """Write a whole Parquet file of `rows` rows as one new file below `<tables_url>/<table>/`, by one PUT."""
    path = f"{table.name}/part-{uuid.uuid4().hex}.parquet"
    store_at(tables_url).put(path, data)
    return Part(table=table.name, path=path, bytes=len(data), rows=rows)


@lru_cache(maxsize=8)
def store_at(url: str) -> Store:
    """One store per URL and process: a worker writes thousands of parts and connects once."""
    return Store(url)


def parquet_bytes(rows: pa.Table, *, row_group_rows: int = ROW_GROUP_ROWS) -> bytes:
    """`rows` as a Parquet file in memory: an exception half-way publishes nothing."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd", row_group_size=row_group_rows)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def check_rows(table: Table, rows: pa.Table) -> None:
    """Raise ValueError unless `rows` has exactly the table's columns, in order, with its types and no null in a key."""
    expected, found = table.schema.names, rows.schema.names
    if expected != found:
        missing, unknown = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
        what = f"missing {missing}, unknown {unknown}" if missing or unknown else f"in the order {found}"
        raise ValueError(f"rows for table {table.name}: columns {what}; they must be exactly {expected}")
    if rows.num_rows == 0:
        raise ValueError(f"rows for table {table.name}: there are none; write no part instead")
    for field in table.schema:
        _check_column(table.name, field, rows.column(field.name))


def _check_column(table: str, field: Any, column: Any) -> None:
    if column.type != field.type:
        raise ValueError(f"column {table}.{field.name} is {column.type}; it must be {field.type} (nothing is cast)")
    if not field.nullable and column.null_count:
        raise ValueError(f"column {table}.{field.name} has {column.null_count} nulls; it must have none")
