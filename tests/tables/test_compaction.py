"""Compaction changes no row, whoever commits beside it and wherever it is killed."""

import json
import random
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError
from made_rows import SLOW_ON_S3, entered_only, label_rows, part, read, read_all, segment_parts, unit_keys

from vidproc.errors import LeaseLost, TablesDamaged
from vidproc.schema import LABELS, LEDGER
from vidproc.tables import compaction, deltalog
from vidproc.tables.announced import FOLDER, announced, await_compactions
from vidproc.tables.checking import check
from vidproc.tables.commit import Commits, replace_units
from vidproc.tables.compaction import TOLD, Compacted, compact
from vidproc.tables.store import Store
from vidproc.tables.vacuum import vacuum

DRIVER = Path(__file__).with_name("maintenance_driver.py")
MIB = 2**20


def drive(*arguments: str) -> str:
    command = [sys.executable, str(DRIVER), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def label(url: str, videos: str = "cab", run_id: str = "run-1") -> None:
    with Commits.open(url, run_id=run_id) as commits:
        for video_id in videos:
            commits.commit(segment_parts(url, video_id, [1, 0], n_segments=2))


def parts_of(url: str, table: str) -> list[str]:
    return sorted(DeltaTable(f"{url}/{table}").file_uris())


def by_table(done: list[Compacted]) -> dict[str, Compacted]:
    return {one.table: one for one in done}


@SLOW_ON_S3
def test_rows_stay_and_files_become_few_and_sorted(place: str) -> None:
    label(place)
    before, version = read_all(place), DeltaTable(f"{place}/labels").transaction_version("vidproc")
    done = by_table(list(compact(place)))
    assert done["labels"] == Compacted(table="labels", parts_before=3, parts_after=1, rows=12)
    assert done["runs"] == Compacted(table="runs")
    assert read_all(place) == before
    delta = DeltaTable(f"{place}/labels")
    rows = delta.to_pyarrow_table().select(LABELS.key).to_pylist()
    assert rows == sorted(rows, key=lambda row: tuple(row.values()))
    assert delta.transaction_version("vidproc") == version
    told = json.loads(delta.history(1)[0][TOLD])
    assert told["run_id"].startswith("compact-")
    assert (told["from"], told["into"]) == (3, 1)
    assert {"host", "at"} <= set(told)
    assert by_table(list(compact(place)))["labels"].parts_before == 0
    with Commits.open(place, run_id="run-2") as commits:
        commits.commit(segment_parts(place, "d", [0, 1], n_segments=2), replace=replace_units(unit_keys("a")))
    assert [row["video_id"] for row in read(place, "ledger")] == ["b", "b", "c", "c", "d", "d"]


def test_a_reader_of_the_change_feed_sees_no_change(tmp_path: Path) -> None:
    url = str(tmp_path)
    label(url)
    list(compact(url))
    log = sorted((tmp_path / "labels" / "_delta_log").glob("*.json"))[-1]
    actions = [json.loads(line) for line in log.read_text().splitlines()]
    changes = [action[kind]["dataChange"] for action in actions for kind in ("add", "remove") if kind in action]
    assert changes == [False] * 4


def test_large_results_are_cut_at_the_target_and_do_not_overlap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, chance = str(tmp_path), random.Random(3)
    monkeypatch.setattr(compaction, "ROW_GROUP_ROWS", 1000)
    with Commits.open(url, run_id="run-1") as commits:
        for _ in range(6):
            videos = [f"{chance.getrandbits(128):032x}" for _ in range(500)]
            commits.commit([part(url, LABELS, [row for video in videos for row in label_rows(video, [0])])])
    before, target = read(url, "labels"), 35_000
    done = by_table(list(compact(url, target_bytes=target)))["labels"]
    assert done.rows == 6000
    assert 1 < done.parts_after < done.parts_before
    assert read(url, "labels") == before
    spans = []
    for file in parts_of(url, "labels"):
        column = pq.ParquetFile(file).metadata.row_group(0).column(0)
        last = pq.ParquetFile(file).metadata
        spans.append((column.statistics.min, last.row_group(last.num_row_groups - 1).column(0).statistics.max))
    spans.sort()
    assert all(one[1] <= two[0] for one, two in pairwise(spans))
    whole = [file for file in parts_of(url, "labels") if Path(file).stat().st_size * 2 >= target]
    list(compact(url, target_bytes=target))
    assert set(whole) <= set(parts_of(url, "labels"))  # large ones are not written again


def test_groups_are_bounded(tmp_path: Path) -> None:
    parts = [deltalog.Part("labels", f"labels/{i}", 40, 1) for i in range(50)]
    groups = compaction.groups_of(parts, target_bytes=100)
    assert [len(group) for group in groups] == [20, 20, 10]
    assert compaction.groups_of(parts[:1], target_bytes=100) == []
    assert compaction.groups_of(parts, target_bytes=80) == []


def test_a_commit_that_is_half_applied_is_completed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between `labels` and `ledger`, compacted, and replayed: the rows of `labels` must not come twice."""
    url = str(tmp_path)
    label(url)
    append_once = deltalog.append_once

    def fail_at_ledger(store: Store, table: Any, *args: Any, **kwargs: Any) -> None:
        if table.name == LEDGER.name:
            raise OSError("made up")
        append_once(store, table, *args, **kwargs)

    with monkeypatch.context() as patch, Commits.open(url, run_id="run-2") as commits:
        patch.setattr(deltalog, "append_once", fail_at_ledger)
        with pytest.raises(OSError, match="made up"):
            commits.commit(segment_parts(url, "d", [0, 1], n_segments=2))
    assert by_table(list(compact(url)))["labels"].parts_before == 4
    for run in (3, 4):
        Commits.open(url, run_id=f"run-{run}").close()
    assert len(read(url, "labels")) == 16
    assert len(read(url, "ledger")) == 8


def test_a_commit_that_is_only_entered_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = str(tmp_path)
    label(url)
    entered_only(url, segment_parts(url, "d", [0, 1], n_segments=2), monkeypatch)
    assert by_table(list(compact(url)))["labels"].parts_before == 3
    Commits.open(url, run_id="run-3").close()
    assert len(read(url, "labels")) == 16


def before_swap(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None], table: str = "labels") -> None:
    """Somebody acts between the writing of merged parts and their transaction."""
    merge_once = deltalog.merge_once

    def late(which: Any, *args: Any, **kwargs: Any) -> bool:
        if which.name == table:
            act()
        return merge_once(which, *args, **kwargs)

    monkeypatch.setattr(deltalog, "merge_once", late)


@SLOW_ON_S3
def test_an_append_meanwhile_is_kept(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    label(place)
    with Commits.open(place, run_id="run-2") as commits:
        before_swap(monkeypatch, lambda: commits.commit(segment_parts(place, "d", [0, 1], n_segments=2)) and None)
        assert by_table(list(compact(place)))["labels"].given_up == 0
    assert len(read(place, "labels")) == 16
    assert len(parts_of(place, "labels")) == 2


@SLOW_ON_S3
def test_a_replacement_meanwhile_wins(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    label(place)
    with Commits.open(place, run_id="run-2") as commits:
        new = segment_parts(place, "a", [0], n_segments=1)
        before_swap(monkeypatch, lambda: commits.commit(new, replace=replace_units(unit_keys("a"))) and None)
        done = by_table(list(compact(place)))
    assert done["labels"] == Compacted(table="labels", given_up=1)
    assert [row["video_id"] for row in read(place, "labels")] == ["a"] * 2 + ["b"] * 4 + ["c"] * 4
    checked = check(place)
    assert checked.findings == ()
    monkeypatch.undo()
    assert by_table(list(compact(place)))["labels"].parts_before > 0
    held = {path.removeprefix(f"{place}/") for path in parts_of(place, "labels")}
    assert held <= set(Store(place).list("labels"))


def test_two_compactions_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = str(tmp_path)
    label(url)
    before, calls = read_all(url), []

    def again() -> None:
        if not calls:
            calls.append(1)
            calls.extend(compact(url))

    before_swap(monkeypatch, again)
    assert by_table(list(compact(url)))["labels"].given_up == 1
    assert by_table(calls[1:])["labels"].parts_before == 3
    assert read_all(url) == before
    assert check(url).findings == ()


def test_a_swap_whose_reply_was_lost_is_known_as_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = str(tmp_path)
    label(url)
    before, write = read_all(url), DeltaTable.create_write_transaction
    lost: list[str] = []

    def lose_the_reply(delta: DeltaTable, *args: Any, **kwargs: Any) -> None:
        write(delta, *args, **kwargs)
        if delta.table_uri not in lost:
            lost.append(delta.table_uri)
            raise CommitFailedError("the reply was lost")

    monkeypatch.setattr(DeltaTable, "create_write_transaction", lose_the_reply)
    monkeypatch.setattr(deltalog, "backoff_s", lambda attempt: 0.0)
    done = by_table(list(compact(url)))
    assert lost
    assert done["labels"].parts_before == 3
    assert read_all(url) == before


def test_endless_meddling_makes_it_give_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = str(tmp_path)
    label(url)
    before, files = read_all(url), Store(url).list("labels")

    def never(*args: Any, **kwargs: Any) -> None:
        raise CommitFailedError("somebody was faster")

    with monkeypatch.context() as patch:
        patch.setattr(DeltaTable, "create_write_transaction", never)
        patch.setattr(deltalog, "backoff_s", lambda attempt: 0.0)
        assert by_table(list(compact(url)))["labels"].given_up == 1
    assert read_all(url) == before
    assert Store(url).list("labels") == files


def test_files_written_before_an_erasure_do_not_come_in_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compaction pauses before its transaction, is taken for dead, and a full vacuum removes what it has written."""
    url = str(tmp_path)
    label(url)
    before = read_all(url)
    monkeypatch.setattr("vidproc.tables.vacuum.await_compactions", lambda store, **_: None)
    monkeypatch.setattr("vidproc.tables.announced.tail_of", lambda store: [])
    before_swap(monkeypatch, lambda: vacuum(url, older_than_h=0) and None)
    assert by_table(list(compact(url)))["labels"].given_up == 1
    assert read_all(url) == before
    assert check(url).findings == ()


def test_a_part_with_other_rows_than_the_log_says_is_not_compacted(tmp_path: Path) -> None:
    url = str(tmp_path)
    label(url)
    fewer = part(url, LABELS, label_rows("z", [0]))
    with Commits.open(url, run_id="run-2") as commits:
        commits.commit([deltalog.Part(fewer.table, fewer.path, fewer.bytes, rows=3)])
    files = parts_of(url, "labels")
    with pytest.raises(TablesDamaged, match="the log says 15 rows, 14 were read and 14 written"):
        list(compact(url))
    assert parts_of(url, "labels") == files
    assert Store(url).list(f"{FOLDER}/claims") == []


def test_compactions_and_erasers_exclude_each_other(tmp_path: Path) -> None:
    url = str(tmp_path)
    label(url)
    with announced(Store(url), "compact-1", lease_s=1.0), pytest.raises(LeaseLost, match="run compact-1"):
        vacuum(url, older_than_h=0, lease_s=1.0)
    vacuum(url, older_than_h=0, lease_s=1.0)
    with Commits.open(url, run_id="forget-1", lease_s=1.0, erases=True):
        with pytest.raises(LeaseLost, match="run forget-1"):
            list(compact(url, lease_s=1.0))
        await_compactions(Store(url), lease_s=1.0)  # it has withdrawn
    list(compact(url, lease_s=1.0))
    with Commits.open(url, run_id="run-2", lease_s=1.0):
        list(compact(url, lease_s=1.0))  # a label job is no eraser


@pytest.mark.slow
def test_killed_at_every_step(tmp_path: Path) -> None:
    base, work = tmp_path / "base", tmp_path / "work"
    work.mkdir()
    label(str(base))
    before = {name: read(str(base), name) for name in ("labels", "ledger")}
    steps = int(drive("kill", "compact", str(base), str(work), "1"))
    assert steps > 8
    for k in range(steps):
        url = str(work / str(k))
        assert {name: read(url, name) for name in before} == before, k
        list(compact(url))
        if k % 4 == 0:
            vacuum(url, older_than_h=0)
            checked = check(url)
            assert (checked.findings, checked.orphans) == ((), ()), k
        assert {name: read(url, name) for name in before} == before, k
        assert len(parts_of(url, "labels")) == 1


def beside(url: str, undisturbed: str, *, seed: int, rounds: int) -> int:
    """A writer in another process while compactions run here; returns how many groups were compacted."""
    for each in (url, undisturbed):
        Commits.open(each, run_id="run-0").close()  # so that there is something to compact from the first moment
    drive("write", undisturbed, str(seed), str(rounds))
    writer = subprocess.Popen([sys.executable, str(DRIVER), "write", url, str(seed), str(rounds)])
    compacted = 0
    while writer.poll() is None:
        compacted += sum(bool(one.parts_before) for one in compact(url, target_bytes=MIB))
    assert writer.returncode == 0
    list(compact(url, target_bytes=MIB))
    assert read_all(url) == read_all(undisturbed)
    assert check(url).findings == ()
    return compacted


def test_beside_a_writer_in_another_process(tmp_path: Path) -> None:
    assert beside(str(tmp_path / "a"), str(tmp_path / "b"), seed=5, rounds=25) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_long_beside_a_writer(tmp_path: Path, seed: int) -> None:
    assert beside(str(tmp_path / "a"), str(tmp_path / "b"), seed=seed, rounds=150) > 5


@pytest.mark.slow
@pytest.mark.s3
def test_beside_a_writer_on_s3(s3: str) -> None:
    assert beside(f"{s3}/beside-a", f"{s3}/beside-b", seed=11, rounds=20) >= 1
