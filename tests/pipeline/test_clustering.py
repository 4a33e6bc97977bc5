"""`gallery cluster`: fenced as every comparison of faces is, its answer outside the tables, and nobody in it who was
forgotten."""

import csv
import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from labelling import read
from made_faces import PURPOSE
from test_rematching import VIDEOS, faces_of, galleries, joined, labelled

from vidproc.errors import LeaseLost, UsageError
from vidproc.pipeline import clustering
from vidproc.pipeline.audit import read_audit
from vidproc.tables.checking import check
from vidproc.tables.clusters import Clusters
from vidproc.tables.commit import Commits
from vidproc.tables.forgetting import Likeness, forget_person
from vidproc.tables.gallery import read_gallery

A, B, C = VIDEOS
Row = dict[str, Any]
Maintain = Callable[..., int]


@pytest.fixture
def maintain(monkeypatch: pytest.MonkeyPatch) -> Maintain:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "jobs"))
    job = importlib.import_module("maintain")
    return lambda *arguments: job.main([str(one) for one in arguments])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ann is known. Of two strangers one is in videos a and c, the other in b."""
    folder = tmp_path_factory.mktemp("made")
    labelled(str(folder / "tables"), faces_of(read_gallery(galleries(folder / "gallery"))))
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


def asked(folder: Path, *more: Any) -> tuple[Any, ...]:
    same = ("--similarity", "0.4", "--purpose", PURPOSE, "--lease-s", "1")
    return ("gallery", "cluster", "--tables", folder / "tables", *same, *more)


def videos_of(rows: list[Row]) -> set[frozenset[str]]:
    clusters: dict[int, set[str]] = {}
    for row in rows:
        clusters.setdefault(row["cluster"], set()).add(row["video_id"])
    return {frozenset(videos) for videos in clusters.values()}


def test_one_stranger_is_in_two_videos_and_all_of_it_is_on_record(
    here: Path, maintain: Maintain, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = str(here / "tables")
    before = read(tables)
    assert maintain(*asked(here, "--out", here / "answers" / "unknown.parquet")) == 0
    written = pq.read_table(here / "answers" / "unknown.parquet")
    rows = written.to_pylist()
    assert frozenset((A, C)) in videos_of(rows)
    unknown = {(r["video_id"], r["track_id"]) for r in before["faces"] if r["decision"] == "unknown" and r["vector"]}
    assert {(row["video_id"], row["track_id"]) for row in rows} <= unknown
    assert not any("vector" in name for name in written.column_names)
    assert read(tables) == before and check(tables).findings == ()
    begun, ended = read_audit(tables)
    assert begun["run_id"] == ended["run_id"] and begun["run_id"].startswith("cluster-")
    assert [(one["event"], one["purpose"], one["similarity"]) for one in (begun, ended)] == [
        ("begun", PURPOSE, 0.4),
        ("ended", PURPOSE, 0.4),
    ]
    assert begun["who"] and begun["out"].endswith("unknown.parquet")
    assert (ended["status"], ended["in_clusters"], ended["tracks"]) == ("done", len(rows), len(unknown))
    capsys.readouterr()
    assert maintain(*asked(here)) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == rows
    assert len(read_audit(tables)) == 4


def test_a_csv_holds_the_same_and_nothing_that_a_spreadsheet_runs(
    here: Path, maintain: Maintain, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert maintain(*asked(here, "--out", here / "unknown.parquet")) == 0
    rows = pq.read_table(here / "unknown.parquet")
    names = ['=HYPERLINK("http://x")', "-1+1\r\n=2", *rows["uri"].to_pylist()[2:]]
    hostile = rows.set_column(rows.schema.get_field_index("uri"), "uri", [names])
    found_them = Clusters(rows=hostile, clusters=1, tracks=2, left=0, models=("net-1",))
    monkeypatch.setattr(clustering, "unknown_clusters", lambda *_, **__: found_them)
    assert maintain(*asked(here, "--out", here / "unknown.csv")) == 0
    with (here / "unknown.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["uri"] for row in found[:2]] == ['\'=HYPERLINK("http://x")', "'-1+1\r\n=2"]
    assert [row["uri"] for row in found[2:]] == rows["uri"].to_pylist()[2:]
    assert [int(row["start_us"]) for row in found] == rows["start_us"].to_pylist()
    assert [row["track_id"] for row in found] == rows["track_id"].to_pylist()


def test_who_was_forgotten_is_in_no_later_answer(here: Path, maintain: Maintain) -> None:
    tables, gallery = str(here / "tables"), str(here / "gallery")
    asking = asked(here, "--out", here / "unknown.parquet")
    assert maintain(*asking) == 0
    assert videos_of(pq.read_table(here / "unknown.parquet").to_pylist()) == {frozenset((A, C))}
    joined(gallery, "the stranger", 2)
    forget_person(tables, "the stranger", likeness=Likeness(gallery, 0.65))
    assert maintain(*asking) == 0
    assert pq.read_table(here / "unknown.parquet").num_rows == 0
    assert read_audit(tables)[-1]["tracks"] == 1, "of the other stranger"


def test_what_goes_wrong_is_on_record_and_nothing_is_written(
    here: Path, maintain: Maintain, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables, out = str(here / "tables"), here / "unknown.csv"

    def dying(*_: Any, **__: Any) -> None:
        assert [entry["event"] for entry in read_audit(tables)] == ["begun"], "before any face is compared"
        raise OSError("the machine dies here")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="dies here"):
        patch.setattr(clustering, "unknown_clusters", dying)
        maintain(*asked(here, "--out", out))
    assert [(one["event"], one.get("status")) for one in read_audit(tables)] == [("begun", None), ("ended", "OSError")]
    with Commits.open(tables, run_id="run-9", lease_s=1.0), pytest.raises(LeaseLost, match="run run-9"):
        maintain(*asked(here, "--out", out))
    assert len(read_audit(tables)) == 2 and not out.exists()


def test_without_vectors_it_says_how_to_get_them(tmp_path: Path, maintain: Maintain) -> None:
    first = read_gallery(galleries(tmp_path / "gallery"))
    labelled(str(tmp_path / "tables"), faces_of(first, keep=False), videos={A: 1})
    with pytest.raises(UsageError, match="label with --annotators faces --keep-face-vectors"):
        maintain(*asked(tmp_path, "--out", tmp_path / "unknown.csv"))
    assert not (tmp_path / "unknown.csv").exists()
    assert [one.get("status") for one in read_audit(str(tmp_path / "tables"))] == [None, "UsageError"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--purpose", "why not"), "says too little"),
        (("--out", "tables/unknown.csv"), "lies inside the tables"),
        (("--out", "tables/deeper/unknown.parquet"), "lies inside the tables"),
        (("--out", "unknown.txt"), r"must end in \.parquet or \.csv"),
        (("--similarity", "1"), "--similarity: Input should be less than 1"),
        (("--min-tracks", "1"), "--min-tracks: Input should be greater than or equal to 2"),
        (("--tables", "elsewhere"), "holds no tables"),
    ],
)
def test_wrong_use_is_said_before_anything_is_compared(
    made: Path, maintain: Maintain, monkeypatch: pytest.MonkeyPatch, more: tuple[str, str], message: str
) -> None:
    monkeypatch.chdir(made)
    with pytest.raises(UsageError, match=message):
        maintain(*asked(Path()), *more)
    assert read_audit("tables") == [] and not Path("elsewhere").exists()


def test_a_purpose_is_asked_for_and_the_verb_comes_first(maintain: Maintain) -> None:
    with pytest.raises(UsageError, match="--purpose is required"):
        maintain("gallery", "cluster", "--tables", "t", "--similarity", "0.4")
    with pytest.raises(UsageError, match="name it first"):
        maintain("gallery", "--gallery", "g", "cluster")
