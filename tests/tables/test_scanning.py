"""DuckDB scans our datasets without Python's lock; what it reads is what pyarrow reads."""

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from vidproc.tables import deltalog, scanning, sql
from vidproc.tables.scanning import scannable
from vidproc.tables.store import Store

ROWS = pa.table({"name": [f"row {number}" for number in range(300)], "number": list(range(300))})
QUERY = "SELECT sum(number), count(DISTINCT name), count(*) FROM rows WHERE number >= 100 AND name <> 'row 150'"


@pytest.fixture
def parts(tmp_path: Path) -> ds.FileSystemDataset:
    for number in range(3):
        pq.write_table(ROWS.slice(100 * number, 100), tmp_path / f"part-{number}.parquet", row_group_size=40)
    return ds.dataset(tmp_path)


def test_the_same_rows(parts: ds.FileSystemDataset) -> None:
    ours = scannable(parts)
    assert ours.to_table().sort_by("number") == ROWS
    assert ours.files == parts.files and ours.schema == parts.schema and ours.count_rows() == 300
    where = pc.field("number") < 120
    reader = ours.scanner(columns=["number"], filter=where, batch_size=50).to_reader()
    assert reader.schema == pa.schema([("number", pa.int64())])
    assert sorted(reader.read_all()["number"].to_pylist()) == list(range(120))


def test_duckdb_never_starts_a_scan_with_the_lock(parts: ds.FileSystemDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    to_reader = scanning._Scanner.to_reader

    def noted(self: scanning._Scanner) -> pa.RecordBatchReader:
        started.append(self.projected_schema.names)
        return to_reader(self)

    monkeypatch.setattr(scanning._Scanner, "to_reader", noted)
    connection = duckdb.connect()
    connection.register("rows", scannable(parts))
    expected = sum(range(100, 300)) - 150, 199, 199
    assert connection.execute(QUERY).fetchall() == [expected]
    assert started == [["name", "number"]]
    connection.close()


def test_a_part_that_cannot_be_read_is_told(parts: ds.FileSystemDataset) -> None:
    Path(parts.files[1]).write_bytes(b"not Parquet")
    with duckdb.connect() as connection, pytest.raises(Exception, match="Parquet"):
        connection.register("rows", scannable(parts))
        connection.execute(QUERY).fetchall()


def test_listings_and_tables_are_scanned_so(tmp_path: Path) -> None:
    pq.write_table(ROWS, tmp_path / "rows.parquet")
    assert isinstance(sql.parquet_folder(str(tmp_path), ROWS.schema), scanning._Dataset)


def test_tables_are_scanned_so(tmp_path: Path) -> None:
    pq.write_table(ROWS, tmp_path / "rows.parquet")

    class Delta:
        def to_pyarrow_dataset(self) -> ds.FileSystemDataset:
            return ds.dataset(tmp_path)

    assert isinstance(deltalog.dataset_of(Store(str(tmp_path)), Delta()), scanning._Dataset)  # type: ignore[arg-type]
