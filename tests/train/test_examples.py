"""Examples from folders, tables, COCO files and SQL: sources, spans, labels and splits. No file is decoded here."""

import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from tables.made_rows import FakeAnnotator, facts, segment_parts

from vidproc.errors import UsageError
from vidproc.media.sources import Source, open_source
from vidproc.tables.commit import Commits
from vidproc.tables.derive import derive
from vidproc.train.examples import EXAMPLES, found_categories, names_in, read_examples
from vidproc.train.labelled import SPLITS
from vidproc.train.options import DataOptions

Row = dict[str, Any]


def write(path: Path, data: bytes = b"a medium by its name alone") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def read(*data: Path | str, **options: Any) -> list[Row]:
    """The examples as rows, their labels parsed."""
    table = read_examples(DataOptions(data=tuple(map(str, data)), **{"held_out": "0", **options}))
    assert table.schema == EXAMPLES
    return [{**row, "label": json.loads(row["label"])} for row in table.to_pylist()]


def told(rows: list[Row], *columns: str) -> list[tuple[Any, ...]]:
    return [tuple(row[column] for column in columns) for row in rows]


def named(rows: list[Row]) -> dict[str, Any]:
    """Last part of the file's or member's name → label and split."""
    return {Path(row["member"] or row["uri"]).name: (row["label"], row["split"]) for row in rows}


# ---- folders and shards


def test_the_class_is_the_folder_that_a_file_lies_in(tmp_path: Path) -> None:
    for name in ("dog/b.mp4", "dog/a.mp4", "cat/c.wav", "cat/notes.txt"):
        write(tmp_path / "clips" / name)
    rows = read(tmp_path / "clips")
    assert [(Path(row["uri"]).name, row["label"]) for row in rows] == [
        ("c.wav", "cat"), ("a.mp4", "dog"), ("b.mp4", "dog"),
    ]  # fmt: skip
    assert told(rows, "member", "start_us", "end_us", "split") == [("", None, None, "train")] * 3
    with open_source(Source.of(rows[0])) as opened:
        assert opened.read(0, 100) == b"a medium by its name alone"


def test_folders_above_the_classes_tell_the_split(tmp_path: Path) -> None:
    for folder in ("train", "validation", "test"):
        write(tmp_path / "clips" / folder / "test" / f"{folder}.mp4")  # a class may be called test, too
    assert named(read(tmp_path / "clips", held_out="*")) == {
        "train.mp4": ("test", "train"),
        "validation.mp4": ("test", "held_out"),
        "test.mp4": ("test", "test"),
    }


@pytest.mark.parametrize("as_given", ["absolute", "relative", "upwards", "glob"])
def test_names_above_the_given_folder_say_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_given: str
) -> None:
    folder = tmp_path / "test" / "clips"
    write(folder / "dog" / "a.mp4")
    (folder / "cat").mkdir()
    monkeypatch.chdir(folder.parent)
    given = {"absolute": folder, "relative": "clips", "upwards": "../test/clips", "glob": "clips/*/*.mp4"}[as_given]
    assert named(read(given)) == {"a.mp4": ("dog", "train")}


def test_a_file_without_a_class_is_a_usage_error(tmp_path: Path) -> None:
    write(tmp_path / "clips" / "a.mp4")
    table = read_examples(DataOptions(data=(str(tmp_path / "clips"),), held_out="0"))
    with pytest.raises(UsageError, match="expected FOLDER/CLASS/FILE"):
        found_categories(table, DataOptions())


def shard(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            file = write(path.parent / "member", data)
            tar.add(file, name)
            file.unlink()
    return path


def test_shards_have_class_folders_inside_or_labels_in_sidecars(tmp_path: Path) -> None:
    shard(tmp_path / "shards" / "a.tar", {"dog/1.mp4": b"one", "val/cat/2.mp4": b"two"})
    members = {"3.mp4": b"three", "3.json": b'{"label": "bird"}', "4.mp4": b"four", "4.json": b'{"cls": 7}'}
    shard(tmp_path / "shards" / "b.tar", members)
    shard(tmp_path / "shards" / "test" / "c.tar", {"dog/5.mp4": b"five"})
    rows = read(tmp_path / "shards")
    assert named(rows) == {
        "1.mp4": ("dog", "train"), "2.mp4": ("cat", "held_out"), "3.mp4": ("bird", "train"), "4.mp4": ("7", "train"),
        "5.mp4": ("dog", "test"),
    }  # fmt: skip
    with open_source(Source.of(rows[1])) as opened:
        assert opened.read(0, 100) == b"two"


# ---- tables of spans


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.mp4", "clips/b.mp4"):
        write(tmp_path / "data" / name)
    shard(tmp_path / "data" / "shard.tar", {"x/1.mp4": b"one", "x/2.mp4": b"two"})
    return tmp_path / "data"


def table(folder: Path, kind: str, rows: list[Row]) -> Path:
    path = folder / f"spans.{kind}"
    names = list(dict.fromkeys(name for row in rows for name in row))
    if kind == "parquet":
        pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), path)
        return path
    lines = [",".join(names), *(",".join(f'"{row.get(name) or ""}"' for name in names) for row in rows)]
    path.write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_tables_of_spans(folder: Path, kind: str) -> None:
    path = table(
        folder,
        kind,
        [
            {"uri": "clips/b.mp4", "label": "run", "start": 1.5, "end": 2.25, "split": "dev"},
            {"uri": "clips/b.mp4", "label": "walk", "start": 0.5},
            {"uri": str(folder / "a.mp4"), "label": "walk, slowly", "split": "testing"},
            {"uri": "shard.tar", "member": "x/2.mp4", "label": "run", "end": 1, "split": "training"},
        ],
    )
    assert told(read(path), "uri", "member", "start_us", "end_us", "label", "split") == [
        (str(folder / "a.mp4"), "", None, None, "walk, slowly", "test"),
        (str(folder / "clips/b.mp4"), "", 500_000, None, "walk", "train"),
        (str(folder / "clips/b.mp4"), "", 1_500_000, 2_250_000, "run", "held_out"),
        (str(folder / "shard.tar"), "x/2.mp4", None, 1_000_000, "run", "train"),
    ]


def test_times_come_in_microseconds_or_in_seconds(folder: Path) -> None:
    exact = {"uri": "a.mp4", "label": "run", "start_us": 333_333, "end_us": 666_667, "start": 7, "end": 9}
    assert told(read(table(folder, "csv", [exact])), "start_us", "end_us") == [(333_333, 666_667)]
    as_views_have_it = {"uri": "a.mp4", "label": "run", "start_s": 0.25, "end_s": 0.5}
    assert told(read(table(folder, "csv", [as_views_have_it])), "start_us", "end_us") == [(250_000, 500_000)]


def test_several_labels_are_a_list_or_parts_of_a_text(folder: Path) -> None:
    rows = [{"uri": "a.mp4", "labels": "dog|cat"}, {"uri": "clips/b.mp4", "labels": ""}]
    assert [row["label"] for row in read(table(folder, "csv", rows))] == [["dog", "cat"], []]
    rows = [{"uri": "a.mp4", "labels": ["dog"]}, {"uri": "clips/b.mp4", "labels": []}]
    assert [row["label"] for row in read(table(folder, "parquet", rows))] == [["dog"], []]


@pytest.mark.parametrize(("name", "side"), SPLITS.items())
def test_what_others_call_the_splits(folder: Path, name: str, side: str) -> None:
    assert [row["split"] for row in read(table(folder, "csv", [{"uri": "a.mp4", "label": "run", "split": name}]))] == [
        side
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"uri": "a.mp4"}, r"has the columns \['uri'\]: it needs uri, and label or labels"),
        ({"label": "run"}, r"has the columns \['label'\]: it needs uri"),
        ({"uri": "c.mp4", "label": "run"}, r"names .*/c\.mp4 , which does not exist"),
        ({"uri": "shard.tar", "member": "x/3.mp4", "label": "run"}, r"names .*shard\.tar x/3\.mp4, which does not"),
        ({"uri": "a.mp4", "label": "run", "split": "holdout"}, r"split 'holdout' must be one of \['dev', 'held_out'"),
        ({"uri": "a.mp4", "label": "run", "start": "early"}, r"start 'early' must be a number"),
        ({"uri": "a.mp4", "label": "run", "start": 2, "end": 1}, r"ends at 1000000 µs and starts at 2000000"),
        ({"uri": "a.mp4", "label": None, "split": "train"}, r"a\.mp4: it has no label"),
    ],
)
def test_what_is_wrong_with_a_table(folder: Path, row: Row, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(table(folder, "parquet", [row]))


@pytest.mark.parametrize("name", ["none.csv", "none.parquet", "none.json", "none"])
def test_data_that_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=name):
        read(tmp_path / name)


@pytest.mark.parametrize(("name", "data"), [("a.csv", b"\xff\xfe\xff"), ("a.parquet", b"PAR1"), ("a.json", b"{")])
def test_data_that_cannot_be_read(tmp_path: Path, name: str, data: bytes) -> None:
    with pytest.raises(UsageError, match=name):
        read(write(tmp_path / name, data))


def test_what_a_training_wrote_is_read_as_it_is(folder: Path, tmp_path: Path) -> None:
    path = table(
        folder,
        "csv",
        [
            {"uri": "clips/b.mp4", "label": "run", "start": 1.5, "end": 2.25, "split": "dev"},
            {"uri": "shard.tar", "member": "x/2.mp4", "label": "run"},
        ],
    )
    written = read_examples(DataOptions(data=(str(path),), held_out="0"))
    pq.write_table(written, tmp_path / "examples.parquet")
    again = read_examples(DataOptions(data=(str(tmp_path / "examples.parquet"),), held_out="*"))
    assert again.to_pylist() == written.to_pylist(), "who is held out was settled when it was written"


# ---- COCO


def coco(folder: Path, **changed: Any) -> Path:
    described = {
        "images": [
            {"id": 4, "file_name": "pictures/1.png", "width": 200, "height": 100, "split": "val"},
            {"id": 2, "file_name": "pictures/2.png", "width": 50, "height": 50},
        ],
        "annotations": [
            {"image_id": 4, "category_id": 9, "bbox": [20, 10, 100, 50]},
            {"image_id": 4, "category_id": 3, "bbox": [-20, 60, 400, 80], "iscrowd": 0},
            {"image_id": 4, "category_id": 3, "bbox": [0, 0, 200, 100], "iscrowd": 1},
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 9, "name": "dog"}],
    }
    for name in ("1.png", "2.png"):
        write(folder / "pictures" / name)
    return write(folder / "instances.json", json.dumps(described | changed).encode())


def test_boxes_of_a_coco_file_are_shares_of_the_picture(tmp_path: Path) -> None:
    one, two = read(coco(tmp_path))
    assert one["uri"] == str(tmp_path / "pictures/1.png") and one["split"] == "held_out"
    assert one["label"]["labels"] == ["dog", "cat"] == names_in(one["label"]), "the crowd is left out"
    assert one["label"]["boxes"] == [[0.1, 0.1, 0.6, 0.6], [0.0, 0.6, 1.0, 1.0]]
    assert two["label"] == {"boxes": [], "labels": []} and two["split"] == "train"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": [{"id": 4, "file_name": "3.png", "width": 2, "height": 2}]}, r"names .*/3\.png, which does not"),
        ({"annotations": [{"image_id": 5, "category_id": 3, "bbox": [0, 0, 1, 1]}]}, "no COCO file of boxes: KeyError"),
        ({"annotations": [{"image_id": 4, "category_id": 3, "segmentation": []}]}, "KeyError: 'bbox'"),
        ({"images": [{"id": 4, "file_name": "pictures/1.png", "split": "holdout"}]}, "split 'holdout' must be one of"),
    ],
)
def test_what_is_wrong_with_a_coco_file(tmp_path: Path, changed: Row, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(coco(tmp_path, **({"annotations": []} | changed)))


# ---- published tables


@pytest.fixture
def tables(tmp_path: Path) -> str:
    """Labels of one video that is there, `walk` at 0.75 on two adjacent seconds and one apart."""
    url, uri = str(tmp_path / "tables"), str(write(tmp_path / "v.mp4"))
    with Commits.open(url, run_id="run-1") as commits:
        known = facts("v", uri=uri, start_us=0, end_us=3_000_000, declared_us=3_000_000)
        commits.commit(segment_parts(url, "v", [0, 1, 2], n_segments=3, facts=known))
        derive(commits, {"actions": FakeAnnotator()})
    return url


def test_tables_teach_by_a_query(tables: str, tmp_path: Path) -> None:
    query = "SELECT uri, member, label, start_us, end_us FROM labels JOIN latest_videos USING (video_id) WHERE rank = 0"
    rows = read(teach_tables=tables, sql=f"{query} AND scope = 'sample'")
    video = str(tmp_path / "v.mp4")
    assert told(rows, "uri", "label", "start_us", "end_us") == [
        (video, "walk", second * 1_000_000, (second + 1) * 1_000_000) for second in range(3)
    ]
    with open_source(Source.of(rows[0])) as opened:
        assert opened.size == len(b"a medium by its name alone")


def test_spans_of_the_views_are_understood_as_they_are(tables: str) -> None:
    rows = read(teach_tables=tables, sql="SELECT * FROM label_spans WHERE best_score > 0.5")
    assert told(rows, "label", "start_us", "end_us") == [("walk", 0, 3_000_000)]


def test_the_order_of_a_querys_rows_does_not_matter(tables: str) -> None:
    """Two labels of one span: nothing but the label tells them apart."""
    queries = [f"SELECT * FROM label_spans ORDER BY label {way}" for way in ("ASC", "DESC")]
    one, other = (read(teach_tables=tables, sql=query) for query in queries)
    assert one == other and [row["label"] for row in one] == ["run", "walk"]


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT label FROM label_spans", "the answer to --sql has the columns"),
        ("SELECT nothing FROM label_spans", "the SQL does not work"),
        ("DROP VIEW label_spans", "only one statement that reads"),
    ],
)
def test_what_is_wrong_with_a_query(tables: str, sql: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(teach_tables=tables, sql=sql)


def test_a_query_needs_tables() -> None:
    with pytest.raises(UsageError, match="--sql needs --teach-tables"):
        read(sql="SELECT 1")


def test_no_data_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="name --data, or --sql with --teach-tables"):
        read()


# ---- splits, groups, categories


@pytest.fixture
def many(tmp_path: Path) -> Path:
    for person in range(40):
        for take in range(5):
            write(tmp_path / "many" / f"class-{take % 2}" / f"person{person:02d}-{take}.mp4")
    return tmp_path / "many"


def sides(rows: list[Row]) -> dict[str, str]:
    return {Path(row["uri"]).name: row["split"] for row in rows}


def test_a_share_is_held_out_and_more_of_it_keeps_the_less(many: Path, tmp_path: Path) -> None:
    some, more = sides(read(many, held_out="0.2")), sides(read(many, held_out="0.4"))
    held = {name for name, side in some.items() if side == "held_out"}
    assert 0.1 < len(held) / len(some) < 0.3
    assert held < {name for name, side in more.items() if side == "held_out"}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert sides(read(many.rename(elsewhere / "many"), held_out="0.2")) == some, "the same data elsewhere"


def test_groups_stay_on_one_side(many: Path) -> None:
    rows = read(many, held_out="0.3", group=r"person\d+")
    of_group: dict[str, set[str]] = {}
    for row in rows:
        of_group.setdefault(row["group"], set()).add(row["split"])
    assert sorted(of_group) == [f"person{i:02d}" for i in range(40)]
    assert set(map(len, of_group.values())) == {1}
    assert {side for sides in of_group.values() for side in sides} == {"train", "held_out"}
    loose = {Path(row["uri"]).name.partition("-")[0]: row["split"] for row in read(many, held_out="0.3")}
    strict = {Path(row["uri"]).name.partition("-")[0]: row["split"] for row in rows}
    assert loose != strict, "without groups the test would say nothing"


@pytest.mark.parametrize("glob", ["person07*", "*/many/*/person07-*"])
def test_a_glob_holds_out_what_it_names(many: Path, glob: str) -> None:
    held = [name for name, side in sides(read(many, held_out=glob)).items() if side == "held_out"]
    assert sorted(held) == [f"person07-{take}.mp4" for take in range(5)]


def test_a_group_must_be_an_expression() -> None:
    with pytest.raises(ValidationError, match=r"'person\(' is no regular expression: missing \)"):
        DataOptions(group="person(")


@pytest.mark.parametrize("share", ["1", "-0.1", "nan"])
def test_a_share_must_be_one(many: Path, share: str) -> None:
    with pytest.raises(UsageError, match=r"must be a share in 0\.\.1, or a glob"):
        read(many, held_out=share)


def test_categories_are_those_given_or_the_sorted_ones_of_training(many: Path) -> None:
    write(many / "val" / "class-9" / "a.mp4")
    examples = read_examples(DataOptions(data=(str(many),), held_out="0"))
    assert found_categories(examples, DataOptions(), strangers=True) == ("class-0", "class-1")
    with pytest.raises(UsageError, match=r"labelled \['class-9'\], which the categories \['class-0', 'class-1'\]"):
        found_categories(examples, DataOptions())
    given = ("class-9", "class-1", "class-0")
    assert found_categories(examples, DataOptions(categories=given)) == given
    with pytest.raises(UsageError, match=r"labelled \['class-9'\], which the categories"):
        found_categories(examples, DataOptions(categories=("class-0", "class-1")))
    with pytest.raises(UsageError, match=r"labelled \['class-1'\], which the categories \['class-0'\]"):
        found_categories(examples, DataOptions(categories=("class-0",)), strangers=True)
