"""What analysts open elsewhere: text from the archive is shown, and never run by a spreadsheet or a terminal."""

import csv
import importlib.util
import io
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

JOB = Path(__file__).parents[2] / "jobs" / "query.py"


def load() -> Any:
    spec = importlib.util.spec_from_file_location("job_query", JOB)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


query = load()


def as_csv(rows: pa.Table) -> list[list[str]]:
    return list(csv.reader(io.StringIO(query.FORMATS["csv"](rows).decode(), newline="")))


@pytest.mark.parametrize(
    "text",
    [
        "=cmd|' /C calc'!A0",
        "+1+1",
        "-2+3",
        "@SUM(A1)",
        "\t=1+1",
        "\r=1+1",
        "\n=1+1",
        "＝1+1",
        "－1",
        '=HYPERLINK("http://h")',
    ],
)
def test_a_spreadsheet_runs_nothing(text: str) -> None:
    rows = pa.table({text: [text]})
    assert as_csv(rows) == [[f"'{text}"], [f"'{text}"]]


def test_numbers_and_plain_text_stay_as_they_are() -> None:
    rows = pa.table({"n": [-1, 2], "x": [-0.5, 1e-9], "text": ["a=b", "it's -1"], "none": pa.array([None, "x"])})
    assert as_csv(rows) == [["n", "x", "text", "none"], ["-1", "-0.5", "a=b", ""], ["2", "1e-09", "it's -1", "x"]]


def test_the_other_formats_are_exact() -> None:
    rows = pa.table({"text": ["=1+1"]})
    assert query.FORMATS["json"](rows) == b'{"text": "=1+1"}\n'
    assert pa.parquet.read_table(pa.BufferReader(query.FORMATS["parquet"](rows))).equals(rows)


def test_a_terminal_obeys_nothing() -> None:
    hostile = "a\x1b]0;title\x07b\x1b[2Jc\nd\x9b1me\u202ef"
    shown = query.FORMATS["table"](pa.table({hostile: [hostile]})).decode()
    assert all(c == "\n" or c.isprintable() for c in shown)
    assert len(shown.splitlines()) == 4
    assert r"a\x1b]0;title\x07b\x1b[2Jc\nd\x9b1me\u202ef" in shown
    assert "Müller 日本" in query.FORMATS["table"](pa.table({"name": ["Müller 日本"]})).decode()


def test_sums_are_numbers() -> None:
    """DuckDB gives sums of integers as decimals."""
    rows = duckdb.sql("SELECT sum(n) AS n, sum(n * 0.5) AS half FROM (VALUES (-1), (-2)) AS one(n)").to_arrow_table()
    assert as_csv(rows)[1] == ["-3", "-1.5"]
