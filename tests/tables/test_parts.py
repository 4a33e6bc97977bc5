"""Parts: exact schemas, one whole file, and a light import."""

import io
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_rows import label_rows

from vidproc.schema import LABELS, TABLES, Table
from vidproc.tables.parts import Part, check_rows, write_part
from vidproc.tables.store import Store


def labels() -> pa.Table:
    return pa.Table.from_pylist(label_rows("a", [1, 0]), schema=LABELS.schema)


def test_a_part_is_one_parquet_file_with_the_rows_as_given(place: str) -> None:
    part = write_part(place, LABELS, labels())
    data = Store(place).get(part.path)
    assert data is not None
    assert part == Part(table="labels", path=part.path, bytes=len(data), rows=4)
    assert Part(**json.loads(json.dumps(asdict(part)))) == part
    assert Store(place).list("labels") == [part.path]
    assert pq.read_table(io.BytesIO(data)).equals(labels())


@pytest.mark.parametrize("table", TABLES.values(), ids=list(TABLES))
def test_every_table_has_non_null_keys_and_refuses_other_columns(table: Table) -> None:
    assert all(not table.schema.field(name).nullable for name in table.key)
    with pytest.raises(ValueError, match="there are none"):
        check_rows(table, table.schema.empty_table())
    with pytest.raises(ValueError, match=rf"missing \['{table.schema.names[-1]}'\]"):
        check_rows(table, table.schema.empty_table().drop_columns([table.schema.names[-1]]))


def test_wrong_rows_are_refused_naming_the_column(tmp_path: Path) -> None:
    rows = labels()
    at = rows.schema.get_field_index("score")
    doubles = rows.set_column(at, "score", rows.column("score").cast(pa.float64()))
    nulls = rows.set_column(0, "video_id", pa.array(["a", None, "a", "a"]))
    for wrong, message in [
        (doubles, r"labels\.score is double; it must be float \(nothing is cast\)"),
        (nulls, r"labels\.video_id has 1 nulls"),
        (rows.append_column("extra", rows.column("score")), r"unknown \['extra'\]"),
        (rows.select(rows.column_names[::-1]), "in the order"),
    ]:
        with pytest.raises(ValueError, match=message):
            write_part(str(tmp_path), LABELS, wrong)
    assert list(tmp_path.iterdir()) == []


def test_writers_load_neither_torch_nor_deltalake() -> None:
    code = "import sys, vidproc.tables.parts; print({'torch', 'deltalake', 'ray', 'duckdb'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
