"""A check of sound tables finds nothing; each damage is found and named."""

import threading
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from deltalake import CommitProperties, DeltaTable
from deltalake.transaction import AddAction
from made_rows import SLOW_ON_S3, FakeAnnotator, entered_only, label_rows, ledger_rows, part, segment_parts

from vidproc.errors import TablesDamaged, UsageError
from vidproc.schema import FACES, LABELS, LEDGER, QUALITY, RUNS, TABLES, TEXT, VIDEOS, WHOLE_VIDEO, Table
from vidproc.tables import deltalog
from vidproc.tables.checking import OF_SEGMENTS, check
from vidproc.tables.commit import Commits
from vidproc.tables.compaction import compact
from vidproc.tables.derive import derive
from vidproc.tables.parts import Part
from vidproc.tables.runs import RunStart, write_run


def label(url: str) -> None:
    """Three videos, one of them without its end; a run's row; and a row of metadata over a whole video."""
    with Commits.open(url, run_id="run-1") as commits:
        for video_id in "ab":
            commits.commit(segment_parts(url, video_id, [0, 1], n_segments=2))
        commits.commit(segment_parts(url, "c", [0], n_segments=2))
        derive(commits, {"actions": FakeAnnotator()})
        about = {"stream": -1, "number": 0, "name": "title", "text": "t", "source": "metadata"}
        text = common("a") | about | {"start_us": 0, "end_us": 2_000_000}
        commits.commit([part(url, TEXT, [text])])
        at = datetime(2026, 1, 1, tzinfo=UTC)
        start = RunStart(
            run_id="run-1", date=date(2026, 1, 1), started_at=at, config="{}", code_version="1", listed=3, planned=3
        )
        write_run(commits, start, status="done", exit_code=0)


def common(video_id: str) -> dict[str, Any]:
    return {"video_id": video_id, "annotator": "actions", "model_id": "net-1", "run_id": "run-1"}


def bring_in(url: str, *parts: Part) -> None:
    """Append parts to their tables, past the sequence of commits and all checks."""
    for one in parts:
        delta = DeltaTable(f"{url}/{one.table}")
        properties = CommitProperties(max_commit_retries=0)
        delta.create_write_transaction(
            [deltalog._add(one)], "append", TABLES[one.table].schema, commit_properties=properties
        )


def first_file(url: str, table: Table) -> Path:
    return Path(DeltaTable(f"{url}/{table.name}").file_uris()[0].removeprefix("file://"))


def rewrite(path: Path, change: Callable[[Any], Any]) -> None:
    pq.write_table(change(pq.read_table(path)), path)


def whole(video_id: str, *, n_segments: int = 1) -> dict[str, Any]:
    return ledger_rows(video_id, [0], n_segments=n_segments)[0] | {"segment": WHOLE_VIDEO}


def add_run(url: str) -> None:
    row = dict.fromkeys(RUNS.schema.names, 0) | {"run_id": "run-2", "date": date(2026, 1, 1), "planned": 3, "empty": 2}
    row |= {"status": "done", "config": "{}", "code_version": "1", "video_hours": 0.0}
    row |= dict.fromkeys(("started_at", "ended_at"), datetime(2026, 1, 1, tzinfo=UTC))
    bring_in(url, part(url, RUNS, [row]))


def add_video(url: str) -> None:
    row = dict.fromkeys(VIDEOS.schema.names, None) | {"video_id": "z", "run_id": "run-1", "uri": "u", "member": ""}
    row |= {
        "etag": "e",
        "bytes": 1,
        "status": "labelled",
        "n_segments": 1,
        "labelled_at": datetime(2026, 1, 1, tzinfo=UTC),
    }
    bring_in(url, part(url, VIDEOS, [row]))


def other_size(url: str) -> None:
    first_file(url, LABELS).write_bytes(first_file(url, LABELS).read_bytes() + b"x")


def torn(url: str) -> None:
    path = first_file(url, LABELS)
    path.write_bytes(b"x" * path.stat().st_size)


def other_rows(url: str) -> None:
    one = part(url, LABELS, label_rows("a", [5]))
    bring_in(url, Part(one.table, one.path, one.bytes, one.rows + 1))


def other_columns(url: str) -> None:
    rows = pq.read_table(first_file(url, LABELS)).rename_columns([*LABELS.schema.names[:-1], "place"])
    path = Path(url) / "labels" / "strange.parquet"
    pq.write_table(rows, path)
    delta = DeltaTable(f"{url}/labels")
    add = AddAction("strange.parquet", path.stat().st_size, {}, 0, True, "{}")
    delta.create_write_transaction([add], "append", LABELS.schema)


def later(url: str) -> None:
    """A row before the first segment that its unit has."""
    bring_in(url, part(url, LEDGER, ledger_rows("d", [1], n_segments=2)), part(url, LABELS, label_rows("d", [0])))


DAMAGE: dict[str, tuple[Callable[[str], None], str, str]] = {
    "a part is gone": (lambda url: first_file(url, LABELS).unlink(), "labels", "parts are gone"),
    "a part has another size": (other_size, "labels", "another size"),
    "a part is torn": (torn, "labels", "cannot be read"),
    "the log lies of rows": (other_rows, "labels", "another number of rows than the log"),
    "a part is of another table": (other_columns, "labels", "other columns"),
    "a run does not add up": (add_run, "runs", "do not add up"),
    "a ledger row comes twice": (
        lambda url: bring_in(url, part(url, LEDGER, ledger_rows("c", [0], n_segments=2))),
        "ledger",
        "more than once",
    ),
    "labels come twice": (
        lambda url: bring_in(url, part(url, LABELS, label_rows("c", [0]))),
        "labels",
        "more than once",
    ),
    "labels of nobody": (
        lambda url: bring_in(url, part(url, LABELS, label_rows("a", [0], model_id="net-9"))),
        "labels",
        "units that the ledger lacks",
    ),
    "too many labels": (
        lambda url: bring_in(url, part(url, LABELS, label_rows("a", [1], label_id=7)[:1])),
        "ledger",
        "another number of rows than the ledger",
    ),
    "no labels": (
        lambda url: bring_in(url, part(url, LEDGER, ledger_rows("c", [1], n_segments=2))),
        "ledger",
        "another number of rows than the ledger",
    ),
    "labels before their segment": (later, "ledger", "another number of rows than the ledger"),
    "a video that was never whole": (add_video, "videos", "no whole-video row"),
    "a whole video that is not in videos": (
        lambda url: bring_in(url, part(url, LEDGER, [whole("z"), *ledger_rows("z", [0], n_segments=1, rows=0)])),
        "ledger",
        "not in `videos`",
    ),
    "a whole video without a segment": (
        lambda url: bring_in(url, part(url, LEDGER, [whole("c", n_segments=2)])),
        "ledger",
        "not all of their segments",
    ),
    "an unknown status": (
        lambda url: bring_in(url, part(url, LEDGER, ledger_rows("d", [0], n_segments=2, status="odd", rows=0))),
        "ledger",
        "unknown status",
    ),
}


@SLOW_ON_S3
def test_sound_tables_are_proven(place: str) -> None:
    label(place)
    checked = check(place)
    assert checked.findings == ()
    assert checked.orphans == ()
    assert checked.rows["ledger"] == 7
    list(compact(place))
    again = check(place)
    assert (again.findings, again.rows) == ((), checked.rows)
    assert len(again.orphans) > 0
    assert again.parts < checked.parts


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found(tmp_path: Path, damage: str) -> None:
    url = str(tmp_path)
    label(url)
    do, table, what = DAMAGE[damage]
    do(url)
    findings = check(url).findings
    assert [(finding.table, finding.times) for finding in findings if what in finding.what] == [(table, 1)] or (
        damage == "labels come twice" and [finding.table for finding in findings if what in finding.what] == [table]
    ), findings
    assert all(finding.examples for finding in findings)


def test_orphans_are_listed(tmp_path: Path) -> None:
    url = str(tmp_path)
    label(url)
    orphan = part(url, QUALITY, [common("a") | {"start_us": 0, "end_us": 1}])
    checked = check(url)
    assert (checked.findings, checked.orphans, checked.orphan_bytes) == ((), (orphan.path,), orphan.bytes)


def test_beside_a_commit_one_moment_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that comes between the reading of two logs would show labels that the ledger does not know."""
    url, committed = str(tmp_path), threading.Event()
    label(url)
    with Commits.open(url, run_id="run-2") as commits:

        def opened(uri: str) -> DeltaTable:
            if uri.endswith("labels"):
                assert committed.wait(30)
            delta = DeltaTable(uri)
            if uri.endswith("ledger") and not committed.is_set():
                commits.commit(segment_parts(url, "d", [0], n_segments=2))
                committed.set()
            return delta

        monkeypatch.setattr("vidproc.tables.deltalog.DeltaTable", opened)
        checked = check(url)
    assert checked.findings == ()
    assert checked.rows["ledger"] == 8


def test_a_commit_left_half_way_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = str(tmp_path)
    label(url)
    entered_only(url, segment_parts(url, "d", [0], n_segments=2), monkeypatch)
    monkeypatch.setattr("vidproc.tables.checking.backoff_s", lambda attempt: 0.0)
    with pytest.raises(TablesDamaged, match="of run run-2 is in some tables only"):
        check(url)
    Commits.open(url, run_id="run-3").close()
    assert check(url).findings == ()


def test_no_tables_are_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no tables"):
        check(str(tmp_path))


def test_tables_of_segments_are_tables() -> None:
    assert set(OF_SEGMENTS) <= set(TABLES)
    assert all(TABLES[name].time for name in OF_SEGMENTS)
    assert FACES.name in OF_SEGMENTS
