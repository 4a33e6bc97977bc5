"""Vacuum removes what nobody needs, and nothing that anybody may yet need."""

import os
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from made_rows import SLOW_ON_S3, read, read_all, segment_parts, unit_keys

from vidproc.errors import LeaseLost, UsageError
from vidproc.tables import commit as commit_module
from vidproc.tables.checking import check
from vidproc.tables.commit import Commits, intent_path, read_intent, replace_units
from vidproc.tables.compaction import compact
from vidproc.tables.lease import lease_path
from vidproc.tables.store import Store
from vidproc.tables.vacuum import Vacuumed, vacuum

HOUR_S = 3600
WEEK_S = 168 * HOUR_S


def age(root: str | Path, path: str, seconds: float) -> None:
    at = time.time() - seconds
    os.utime(Path(root) / path, (at, at))


def label(url: str, videos: str = "ab", run_id: str = "run-1") -> None:
    with Commits.open(url, run_id=run_id) as commits:
        for video_id in videos:
            commits.commit(segment_parts(url, video_id, [0], n_segments=1))


def paths(url: str, folder: str = "labels") -> set[str]:
    return {path for path in Store(url).list(folder) if path.endswith(".parquet") and "_delta_log" not in path}


def live(url: str) -> set[str]:
    return {f"labels/{Path(uri).name}" for uri in DeltaTable(f"{url}/labels").file_uris()}


def test_an_orphan_goes_when_it_is_old_and_live_files_never(tmp_path: Path) -> None:
    url = str(tmp_path)
    label(url)
    old, young = (segment_parts(url, video_id, [0], n_segments=1)[0] for video_id in "cd")
    for path in (*live(url), old.path):
        age(url, path, WEEK_S + HOUR_S)
    age(url, young.path, WEEK_S - HOUR_S)
    before = read_all(url)
    assert vacuum(url) == Vacuumed(parts=1, bytes=old.bytes)
    assert paths(url) == {*live(url), young.path}
    assert read_all(url) == before


def test_a_replaced_file_stays_for_its_readers(tmp_path: Path) -> None:
    """What counts is when it was replaced, not when it was written."""
    url = str(tmp_path)
    label(url)
    first = DeltaTable(f"{url}/labels")
    for path in live(url):
        age(url, path, 10 * WEEK_S)
    list(compact(url))
    assert vacuum(url).parts == 0
    assert first.to_pyarrow_table().num_rows == 4
    assert vacuum(url, older_than_h=0).parts == 4  # of labels and of the ledger
    assert paths(url) == live(url)
    assert len(read(url, "labels")) == 4


def test_parts_of_an_open_commit_stay_however_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = str(tmp_path)
    label(url)
    parts = segment_parts(url, "c", [0], n_segments=1)
    with monkeypatch.context() as patch, Commits.open(url, run_id="run-2") as commits:
        patch.setattr(commit_module, "_apply", lambda *_: (_ for _ in ()).throw(OSError("made up")))
        with pytest.raises(OSError, match="made up"):
            commits.commit(parts)
    for part in parts:
        age(url, part.path, 2 * WEEK_S)
    assert vacuum(url).parts == 0
    assert vacuum(url, older_than_h=0).parts == 0  # it takes the lease, and so completes the commit
    assert [row["video_id"] for row in read(url, "ledger")] == ["a", "b", "c"]


@SLOW_ON_S3
def test_a_short_retention_takes_the_lease(place: str) -> None:
    with Commits.open(place, run_id="run-1", lease_s=1.0) as commits:
        pending = segment_parts(place, "a", [0], n_segments=1)
        with pytest.raises(LeaseLost, match="run run-1"):
            vacuum(place, older_than_h=0, lease_s=1.0)
        assert vacuum(place, older_than_h=24) == Vacuumed()
        commits.commit(pending)
    orphan = segment_parts(place, "b", [0], n_segments=1)
    assert vacuum(place, older_than_h=1).parts == 0
    assert vacuum(place, older_than_h=0) == Vacuumed(parts=2, bytes=sum(part.bytes for part in orphan))
    assert [row["video_id"] for row in read(place, "labels")] == ["a", "a"]
    assert check(place).findings == ()


def test_an_eraser_that_was_overtaken_removes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lists files, and those may be a successor's that it is about to commit."""
    url = str(tmp_path)
    label(url)
    pending: list[Any] = []
    files = Store.files

    def slow(store: Store, prefix: str = "") -> Any:
        monkeypatch.setattr("vidproc.tables.commit.await_end", lambda *_, **__: None)
        pending.append(Commits.open(url, run_id="run-2", lease_s=1.0))
        pending.append(segment_parts(url, "c", [0], n_segments=1))
        monkeypatch.setattr(Store, "files", files)
        return files(store, prefix)

    monkeypatch.setattr(Store, "files", slow)
    with pytest.raises(LeaseLost, match="another run has taken over"):
        vacuum(url, older_than_h=0, lease_s=1.0)
    with pending[0] as commits:
        commits.commit(pending[1])
    assert len(read(url, "labels")) == 6
    assert check(url).findings == ()


def test_what_killed_writers_left_goes(tmp_path: Path) -> None:
    url = str(tmp_path)
    label(url)
    half = tmp_path / "labels" / ".writing-0123"
    half.write_bytes(b"half a part")
    assert vacuum(url).temporary == 0
    age(url, "labels/.writing-0123", WEEK_S + 1)
    assert vacuum(url) == Vacuumed(temporary=1, bytes=11)
    half.write_bytes(b"another")
    assert vacuum(url, older_than_h=0).temporary == 1
    assert not half.exists()


def test_scratch_of_ended_runs_goes(tmp_path: Path) -> None:
    url, store = str(tmp_path), Store(str(tmp_path))
    label(url, run_id="run-1")
    label(url, "c", run_id="run-2")
    for run in ("run-0", "run-1", "run-2"):
        for name in ("listing/a.parquet", "plan/b.parquet"):
            store.put(f"_scratch/{run}/{name}", b"x")
            age(url, f"_scratch/{run}/{name}", WEEK_S + HOUR_S)
    age(url, "_scratch/run-1/plan/b.parquet", HOUR_S)  # it is still at work there
    assert vacuum(url).scratch == 2
    assert {path.split("/")[1] for path in store.list("_scratch")} == {"run-1", "run-2"}  # run-2: the newest run
    assert vacuum(url, older_than_h=0).scratch == 4


def test_old_commits_go_but_for_takeovers_and_the_end(tmp_path: Path) -> None:
    url, store = str(tmp_path), Store(str(tmp_path))
    paused = Commits.open(url, run_id="run-1")  # 1
    paused.commit(segment_parts(url, "a", [0], n_segments=1))  # 2
    paused._heartbeat.release()
    for run in (2, 3):  # 3, 4, 5 and 6, 7, 8
        label(url, "bc", run_id=f"run-{run}")
    with Commits.open(url, run_id="run-4") as commits:  # 9; 10 is not of the ledger
        commits.commit([], replace={"runs": pa.table({"run_id": ["none"]})})
    for path in (*store.list("_commits"), *store.list("_leases")):
        age(url, path, WEEK_S + HOUR_S)
    before = read_all(url)
    done = vacuum(url)
    assert store.list("_commits") == [intent_path(n) for n in (1, 3, 6, 8, 9, 10)]
    assert store.list("_leases") == [lease_path(9)]
    assert done.commits == 4 + 3
    with pytest.raises(LeaseLost):  # entry 3 is what stops a driver that slept through everything
        paused.commit(segment_parts(url, "d", [0], n_segments=1))
    label(url, "e", run_id="run-5")
    assert len(read(url, "labels")) == len(before["labels"]) + 2
    assert read_intent(store, 12) is not None


def test_young_commits_stay_even_in_a_full_vacuum(tmp_path: Path) -> None:
    """Another driver may just be reading them."""
    url = str(tmp_path)
    label(url, "abc")
    before = Store(url).list("_commits")
    vacuum(url, older_than_h=0)
    assert set(before) <= set(Store(url).list("_commits"))


@SLOW_ON_S3
def test_a_replacement_and_then_a_vacuum_leave_one_file(place: str) -> None:
    label(place)
    with Commits.open(place, run_id="run-2") as commits:
        commits.commit(segment_parts(place, "a", [0], n_segments=1), replace=replace_units(unit_keys("a")))
    before = read_all(place)
    vacuum(place, older_than_h=0)
    assert paths(place) == live(place) if "://" not in place else len(paths(place)) == 2
    assert read_all(place) == before


def test_no_tables_are_nothing_to_vacuum(tmp_path: Path) -> None:
    for hours in (0, 168):
        with pytest.raises(UsageError, match="holds no tables"):
            vacuum(str(tmp_path / "nothing"), older_than_h=hours)
    assert not (tmp_path / "nothing").exists()
