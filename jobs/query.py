"""Ask the tables in SQL.

    python jobs/query.py --tables out/tables "SELECT label, count(*) FROM label_spans GROUP BY label ORDER BY 2 DESC"

Without SQL: lists the tables and views with their columns. Formats: `table` (aligned text), `csv`, `json` (one object a
line), `parquet` (needs --out). Nested values are JSON in text and CSV. Exit codes: 0 done, 2 usage (also wrong SQL).
"""

import csv
import io
import json
import sys
from collections.abc import Callable, Sequence
from datetime import date, datetime
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field

from vidproc.command import Options, Positional, end_with, parse
from vidproc.errors import UsageError
from vidproc.tables.parts import parquet_bytes
from vidproc.tables.query import connect, run_query
from vidproc.tables.store import Store

LIST_COLUMNS = """
    SELECT table_name AS "table or view", column_name AS "column", data_type AS type
    FROM information_schema.columns WHERE table_schema = 'main' ORDER BY table_name, ordinal_position"""
WIDEST = 80
"""Characters of one cell in a text table; longer ones are cut with an ellipsis (csv, json and parquet cut nothing)."""


class QueryConfig(Options):
    """Options of the query job."""

    sql: Annotated[str | None, Positional()] = Field(None, description="one statement that reads; default: the columns")
    tables: str = Field(description="where the tables are: a folder or s3://bucket/prefix")
    format: Literal["table", "csv", "json", "parquet"] = Field("table", description="how rows are shown")
    out: str | None = Field(None, description="write there (also s3://…) instead of to standard output")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; returns its exit code."""
    config = parse(QueryConfig, __doc__, arguments)
    if config.format == "parquet" and not config.out:
        raise UsageError("--format parquet is binary: say where with --out FILE.parquet")
    rows = run_query(connect(config.tables), config.sql or LIST_COLUMNS)
    _give(FORMATS[config.format](rows), config.out)
    return 0


def _give(data: bytes, out: str | None) -> None:
    if out is None:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
        return
    folder, name = out.rpartition("/")[0], PurePosixPath(out).name
    Store(folder or ("/" if out.startswith("/") else ".")).put(name, data)


def _as_table(rows: pa.Table) -> bytes:
    lines = [rows.column_names, *([_cell(value) for value in row.values()] for row in _dicts(rows))]
    lines = [[text if len(text) <= WIDEST else text[: WIDEST - 1] + "…" for text in line] for line in lines]
    widths = [max(len(line[i]) for line in lines) for i in range(rows.num_columns)]
    numeric = [pa.types.is_integer(field.type) or pa.types.is_floating(field.type) for field in rows.schema]

    def aligned(line: list[str]) -> str:
        cells = zip(line, widths, numeric, strict=True)
        return "  ".join(text.rjust(width) if right else text.ljust(width) for text, width, right in cells).rstrip()

    rule = "  ".join("-" * width for width in widths)
    text = "\n".join([aligned(lines[0]), rule, *map(aligned, lines[1:]), f"({rows.num_rows} rows)"])
    return (text + "\n").encode()


def _as_csv(rows: pa.Table) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows.column_names)
    writer.writerows([_exact(value) for value in row.values()] for row in _dicts(rows))
    return text.getvalue().encode()


def _as_json(rows: pa.Table) -> bytes:
    return "".join(json.dumps(row, default=str, ensure_ascii=False) + "\n" for row in _dicts(rows)).encode()


FORMATS: dict[str, Callable[[pa.Table], bytes]] = {
    "table": _as_table,
    "csv": _as_csv,
    "json": _as_json,
    "parquet": parquet_bytes,
}


def _dicts(rows: pa.Table) -> list[dict[str, Any]]:
    """Rows as dicts. Two columns of one name (SELECT a.id, b.id) would fall together: number the later ones."""
    names = [name if name not in rows.column_names[:i] else f"{name}_{i}" for i, name in enumerate(rows.column_names)]
    return [dict(row) for row in rows.rename_columns(names).to_pylist(maps_as_pydicts="lossy")]


def _exact(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, str | int | float | date):
        return str(value)
    return json.dumps(value, default=str, ensure_ascii=False)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) and abs(value) < 1e4 else _exact(value)


if __name__ == "__main__":
    end_with(main)
