"""Ask the tables: in SQL, for what looks like one moment, or for videos that look like each other.

    python jobs/query.py --tables out/tables "SELECT label, count(*) FROM label_spans GROUP BY label ORDER BY 2 DESC"
    python jobs/query.py --tables out/tables --similar match.mp4@0:35 --limit 10
    python jobs/query.py --tables out/tables --duplicates --at-least 0.98

--similar and --duplicates need embeddings: label with --annotators embeddings first. VIDEO@TIME: a video_id, a uri, or
the beginning of the one or the end of the other; then seconds, MM:SS or H:MM:SS.
Without any of them: lists the tables and views with their columns.
Formats: `table` (aligned text), `csv`, `json` (one object a line), `parquet` (needs --out). Nested values are JSON in
text and CSV. In CSV, text that a spreadsheet would take for a formula gets a ' before it, and in `table` control
characters are written out: names and subtitles are whatever somebody put into the archive. The other two are exact.
Exit codes: 0 done, 2 usage (also wrong SQL).
"""

import csv
import json
import sys
from collections.abc import Callable, Sequence
from datetime import date, datetime
from decimal import Decimal
from pathlib import PurePosixPath
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field

from vidproc.command import Options, Positional, end_with, parse
from vidproc.errors import UsageError
from vidproc.tables.duplicates import near_duplicates
from vidproc.tables.parts import parquet_bytes
from vidproc.tables.query import connect, run_query
from vidproc.tables.similar import similar
from vidproc.tables.store import Store

LIST_COLUMNS = """
    SELECT table_name AS "table or view", column_name AS "column", data_type AS type
    FROM information_schema.columns WHERE table_schema = 'main' ORDER BY table_name, ordinal_position"""
WIDEST = 80
"""Characters of one cell in a text table; longer ones are cut with an ellipsis (csv, json and parquet cut nothing)."""
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""How text begins that spreadsheets run: OWASP, "CSV Injection"."""


class QueryConfig(Options):
    """Options of the query job."""

    sql: Annotated[str | None, Positional()] = Field(None, description="one statement that reads; default: the columns")
    similar: str | None = Field(None, description="VIDEO@TIME: what looks most like this, by the embeddings' cosine")
    limit: int = Field(10, ge=1, le=1_000_000, description="of --similar: how many clips")
    duplicates: bool = Field(False, description="pairs of videos that look the same at the same times: copies")
    at_least: float = Field(
        0.98, gt=0, le=1, description="of --duplicates: the least cosine of clips that match; depends on the network"
    )
    model: str | None = Field(None, description="whose embeddings are compared; default: the last model's")
    tables: str = Field(description="where the tables are: a folder or s3://bucket/prefix")
    format: Literal["table", "csv", "json", "parquet"] = Field("table", description="how rows are shown")
    out: str | None = Field(None, description="write there (also s3://…) instead of to standard output")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; returns its exit code."""
    config = parse(QueryConfig, __doc__, arguments)
    if config.format == "parquet" and not config.out:
        raise UsageError("--format parquet is binary: say where with --out FILE.parquet")
    _give(FORMATS[config.format](_answer(config)), config.out)
    return 0


def _answer(config: QueryConfig) -> pa.Table:
    asked = [config.sql is not None, config.similar is not None, config.duplicates]
    if sum(asked) > 1:
        raise UsageError("SQL, --similar and --duplicates are three questions: ask one at a time")
    if config.similar is not None:
        return similar(config.tables, config.similar, limit=config.limit, model=config.model)
    if config.duplicates:
        return near_duplicates(config.tables, at_least=config.at_least, model=config.model)
    return run_query(connect(config.tables), config.sql or LIST_COLUMNS)


def _give(data: bytes, out: str | None) -> None:
    if out is None:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
        return
    folder, name = out.rpartition("/")[0], PurePosixPath(out).name
    Store(folder or ("/" if out.startswith("/") else ".")).put(name, data)


def _as_table(rows: pa.Table) -> bytes:
    lines = [list(map(_cell, line)) for line in (rows.column_names, *(row.values() for row in _dicts(rows)))]
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
    lines: list[str] = []
    # csv quotes what its own line end is made of: were that "\n", a "\r" in a cell would begin a row of its own.
    writer = csv.writer(SimpleNamespace(write=lambda line: lines.append(line.removesuffix("\r\n") + "\n")))
    writer.writerow(map(_harmless, rows.column_names))
    writer.writerows(map(_harmless, row.values()) for row in _dicts(rows))
    return "".join(lines).encode()


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
    if isinstance(value, str | int | float | Decimal | date):
        return str(value)
    return json.dumps(value, default=str, ensure_ascii=False)


def _harmless(value: Any) -> str:
    said = _exact(value)
    return f"'{said}" if isinstance(value, str) and said.startswith(FORMULA) else said


def _cell(value: Any) -> str:
    said = f"{value:.4g}" if isinstance(value, float) and abs(value) < 1e4 else _exact(value)
    return said if said.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in said)


if __name__ == "__main__":
    end_with(main)
