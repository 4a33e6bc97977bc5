"""The sequence of commits: one driver at a time, everything exactly once, older rows replaced, damage noticed."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import CommitFailedError
from made_rows import ledger_rows, part, read, read_all, segment_parts, unit_keys

from vidproc.errors import LeaseLost, TablesDamaged
from vidproc.schema import LABELS, LEDGER, TABLES
from vidproc.tables import commit as commit_module
from vidproc.tables import deltalog
from vidproc.tables.commit import Commits, intent_path, replace_units
from vidproc.tables.lease import await_end, is_gone, lease_path, this_process
from vidproc.tables.parts import Part
from vidproc.tables.store import Store


def videos_of(url: str, table: str = "ledger") -> list[str]:
    return [row["video_id"] for row in read(url, table)]


def test_open_makes_every_table_with_the_plain_protocol(place: str) -> None:
    with Commits.open(place, run_id="run-1"):
        pass
    for name, table in TABLES.items():
        delta = DeltaTable(f"{place}/{name}")
        assert [field.name for field in delta.schema().fields] == table.schema.names
        assert [field.nullable for field in delta.schema().fields] == [field.nullable for field in table.schema]
        protocol = delta.protocol()
        assert (protocol.min_reader_version, protocol.min_writer_version) == (1, 2)


def test_commits_are_numbered_across_runs_and_carry_their_parts(place: str) -> None:
    with Commits.open(place, run_id="run-1") as commits:
        assert commits.commit([]) == 1  # the takeover; an empty commit is none
        assert commits.commit(segment_parts(place, "a", [0, 1], n_segments=2)) == 2
    with Commits.open(place, run_id="run-2") as commits:
        assert commits.commit(segment_parts(place, "b", [0], n_segments=1)) == 4
    assert videos_of(place) == ["a", "a", "b"]
    assert len(read(place, "labels")) == 6
    assert DeltaTable(f"{place}/ledger").transaction_version("vidproc") == 4
    assert list(Store(place).list("_commits")) == [intent_path(n) for n in range(1, 5)]


def test_replace_takes_out_matching_older_rows_only(place: str) -> None:
    with Commits.open(place, run_id="run-1") as commits:
        commits.commit(segment_parts(place, "a", [0], n_segments=1) + segment_parts(place, "b", [0], n_segments=1))
        commits.commit(segment_parts(place, "b", [0], n_segments=1, annotator="other"))
        new = segment_parts(place, "b", [0, 1], n_segments=2, run_id="run-2")
        keys = pa.concat_tables([unit_keys("b"), unit_keys("unknown")])
        commits.commit(new, replace=replace_units(keys))
    found = [(row["video_id"], row["annotator"], row["run_id"], row["segment"]) for row in read(place, "ledger")]
    assert found == [
        ("a", "actions", "run-1", 0),
        ("b", "actions", "run-2", 0),
        ("b", "actions", "run-2", 1),
        ("b", "other", "run-1", 0),
    ]
    assert len(read(place, "labels")) == 8
    assert read(place, "ledger")[0]["tally"] == [1.0, 0.5]  # what was rewritten is as it was


def test_replace_without_new_rows_deletes(tmp_path: Path) -> None:
    url = str(tmp_path)
    with Commits.open(url, run_id="run-1") as commits:
        commits.commit(segment_parts(url, "a", [0], n_segments=1))
        commits.commit([], replace={"ledger": pa.table({"video_id": ["a"]})})
        with pytest.raises(ValueError, match=r"use some of \['annotator', 'model_id', 'segment', 'video_id'\]"):
            commits.commit([], replace={"ledger": pa.table({"run_id": ["run-1"]})})
        commits.commit(segment_parts(url, "b", [0], n_segments=1))
    assert videos_of(url) == ["b"]


def test_a_second_driver_is_told_who_holds_the_tables(place: str) -> None:
    with Commits.open(place, run_id="run-1", lease_s=6.0) as commits:
        with pytest.raises(LeaseLost, match=r"run run-1 \(process \d+ on .*\) has held these tables since 20"):
            Commits.open(place, run_id="run-2", lease_s=6.0)
        commits.commit(segment_parts(place, "a", [0], n_segments=1))
    Commits.open(place, run_id="run-3").close()
    assert videos_of(place) == ["a"]


def test_two_drivers_at_once_never_both_get_in(tmp_path: Path) -> None:
    url, outcomes = str(tmp_path), []

    def drive(run_id: str) -> None:
        try:
            outcomes.append(Commits.open(url, run_id=run_id, lease_s=1.0))
        except LeaseLost:
            outcomes.append(None)

    threads = [threading.Thread(target=drive, args=(f"run-{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [outcome for outcome in outcomes if outcome is not None]
    assert len(winners) == 1
    winners[0].commit(segment_parts(url, "a", [0], n_segments=1))
    winners[0].close()
    assert videos_of(url) == ["a"]


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, processes run on another machine than those before: their end cannot be seen."""
    monkeypatch.setattr("vidproc.tables.lease._place", lambda: "another machine")


def silence(commits: Commits) -> None:
    """End the heartbeat without a release, as a pause does."""
    commits._heartbeat._ended.set()
    commits._heartbeat._thread.join()


def test_a_silent_driver_elsewhere_is_overtaken_after_its_lease(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Commits.open(place, run_id="run-1", lease_s=1.0)
    first.commit(segment_parts(place, "a", [0], n_segments=1))
    silence(first)
    elsewhere(monkeypatch)
    began = time.monotonic()
    with Commits.open(place, run_id="run-2", lease_s=0.5) as second:  # the holder's longer lease counts
        assert time.monotonic() - began >= 1.0
        second.commit(segment_parts(place, "b", [0], n_segments=1))
        with pytest.raises(LeaseLost, match="run run-2 has taken over the tables"):
            first.commit(segment_parts(place, "c", [0], n_segments=1))
        with pytest.raises(LeaseLost):
            first.commit(segment_parts(place, "c", [0], n_segments=1))
        second.commit(segment_parts(place, "d", [0], n_segments=1))
    assert videos_of(place) == ["a", "b", "d"]


def test_the_heartbeat_notices_a_successor(tmp_path: Path) -> None:
    url = str(tmp_path)
    first = Commits.open(url, run_id="run-1", lease_s=0.6)
    assert not first.lost
    takeover = {
        **commit_module._intent(2, epoch=2, run_id="run-2"),
        "process": this_process(),
        "lease_s": 1,
        "host": "h",
    }
    assert Store(url).create(intent_path(2), json.dumps(takeover).encode())
    assert first._heartbeat.lost.wait(5)
    assert first.lost
    first.close()


def test_the_heartbeat_survives_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = Commits.open(str(tmp_path), run_id="run-1", lease_s=0.3)
    path = tmp_path / lease_path(1)
    monkeypatch.setattr(Store, "put", lambda *_: (_ for _ in ()).throw(PermissionError("made up")))
    before = path.read_bytes()
    time.sleep(0.2)
    assert path.read_bytes() == before
    monkeypatch.undo()
    deadline = time.monotonic() + 5
    while path.read_bytes() == before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert path.read_bytes() != before
    commits.close()


def test_a_process_that_ended_on_this_machine_is_not_waited_for(tmp_path: Path) -> None:
    here = this_process()
    assert here["place"]
    assert not is_gone({"process": here})
    assert is_gone({"process": here | {"pid_started": here["pid_started"] - 1}})  # its number was given to another
    assert is_gone({"process": here | {"pid": 2**22 + 1}})
    assert not is_gone({"process": here | {"place": "another machine", "pid": 2**22 + 1}})
    gone = {"n": 1, "lease_s": 60.0, "run_id": "r", "process": here | {"pid": 2**22 + 1}}
    began = time.monotonic()
    await_end(Store(str(tmp_path)), gone, lease_s=60.0)
    assert time.monotonic() - began < 5


def append(delta: DeltaTable, written: Part, n: int) -> None:
    properties = CommitProperties(app_transactions=[Transaction(deltalog.APP, n)], max_commit_retries=0)
    delta.create_write_transaction([deltalog._add(written)], "append", LEDGER.schema, commit_properties=properties)


def test_delta_refuses_a_transaction_that_somebody_else_has_replayed(place: str) -> None:
    """A looks, finds n missing and pauses; B replays n; A goes on: it must fail, look again, and leave it."""
    Commits.open(place, run_id="run-1").close()
    store, written = Store(place), part(place, LEDGER, ledger_rows("a", [0], n_segments=1))
    slow, fast = deltalog.open_table(store, LEDGER), deltalog.open_table(store, LEDGER)
    assert deltalog.version_of(slow) == 0
    deltalog.append_once(store, LEDGER, fast, n=2, parts=[written])
    with pytest.raises(CommitFailedError):
        append(slow, written, 2)
    deltalog.append_once(store, LEDGER, slow, n=2, parts=[written])
    assert videos_of(place) == ["a"]


class Meddler:
    """Makes somebody else commit to the table between our look at it and our transaction, a few times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, meddle: Any, times: int = 1) -> None:
        write, self.left = DeltaTable.create_write_transaction, times

        def write_late(delta: DeltaTable, *args: Any, **kwargs: Any) -> None:
            if self.left > 0:
                self.left -= 1
                meddle(delta.table_uri)
            write(delta, *args, **kwargs)

        monkeypatch.setattr(DeltaTable, "create_write_transaction", write_late)
        monkeypatch.setattr(deltalog, "backoff_s", lambda attempt: 0.0)


def compact(uri: str) -> None:
    DeltaTable(uri).optimize.compact()


def test_append_and_replace_survive_a_compaction_by_somebody_else(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Commits.open(place, run_id="run-1") as commits:
        for video_id in "abc":
            commits.commit(segment_parts(place, video_id, [0], n_segments=1))
        meddler = Meddler(monkeypatch, compact)
        commits.commit([part(place, LEDGER, ledger_rows("d", [0], n_segments=1))])
        assert meddler.left == 0
        meddler.left = 1
        new = part(place, LEDGER, ledger_rows("b", [0, 1], n_segments=2))
        commits.commit([new], replace={"ledger": unit_keys("b")})
        assert meddler.left == 0
    assert videos_of(place) == ["a", "b", "b", "c", "d"]


def test_endless_meddling_ends_in_an_error_and_the_next_run_completes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = str(tmp_path)
    commits = Commits.open(url, run_id="run-1")
    commits.commit(segment_parts(url, "a", [0], n_segments=1))
    with monkeypatch.context() as patch:
        Meddler(patch, lambda uri: DeltaTable(uri).alter.set_table_properties({"vidproc.n": "1"}, False), times=99)
        with pytest.raises(TablesDamaged, match="met other writers"):
            commits.commit(segment_parts(url, "b", [0], n_segments=1))
    with pytest.raises(TablesDamaged, match="commit 3 failed half-way"):
        commits.commit(segment_parts(url, "c", [0], n_segments=1))
    commits.close()
    Commits.open(url, run_id="run-2").close()
    assert videos_of(url) == ["a", "b"]
    assert len(read(url, "labels")) == 4


def half_commit(url: str, monkeypatch: pytest.MonkeyPatch) -> list[Part]:
    """A commit that ends after its intent."""
    parts = segment_parts(url, "a", [0], n_segments=1)
    with monkeypatch.context() as patch, Commits.open(url, run_id="run-1") as commits:
        patch.setattr(commit_module, "_apply", lambda *_: (_ for _ in ()).throw(OSError("made up")))
        with pytest.raises(OSError, match="made up"):
            commits.commit(parts)
    return parts


def test_replay_is_idempotent_even_after_compaction(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    half_commit(place, monkeypatch)
    Commits.open(place, run_id="run-2").close()
    before = read_all(place)
    assert [row["video_id"] for row in before["ledger"]] == ["a"]
    with Commits.open(place, run_id="run-3") as commits:
        commits.commit([part(place, LABELS, [dict(row, video_id="b") for row in read(place, "labels")])])
    compact(f"{place}/labels")
    for run in (4, 5):
        Commits.open(place, run_id=f"run-{run}").close()
    assert videos_of(place, "labels") == ["a", "a", "b", "b"]
    assert read(place, "ledger") == before["ledger"]


def test_a_missing_file_of_an_unfinished_commit_is_not_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = str(tmp_path)
    parts = half_commit(url, monkeypatch)
    Store(url).delete(parts[0].path)
    with pytest.raises(TablesDamaged, match=r"its file labels/part-.*\.parquet is gone"):
        Commits.open(url, run_id="run-2")
    assert read(url, "ledger") == []


def test_a_lost_commit_log_is_not_begun_anew(tmp_path: Path) -> None:
    url = str(tmp_path)
    with Commits.open(url, run_id="run-1") as commits:
        commits.commit(segment_parts(url, "a", [0], n_segments=1))
    for path in Store(url).list("_commits"):
        Store(url).delete(path)
    with pytest.raises(TablesDamaged, match="but the ledger holds it"):
        Commits.open(url, run_id="run-2")


def test_a_table_with_other_columns_or_protocol_is_not_touched(tmp_path: Path) -> None:
    url = str(tmp_path)
    DeltaTable.create(f"{url}/labels", pa.schema([("x", pa.int64())]))
    with pytest.raises(TablesDamaged, match=r"has columns \['x'\]"):
        Commits.open(url, run_id="run-1")
    other = f"{url}/other"
    DeltaTable.create(f"{other}/runs", TABLES["runs"].schema, configuration={"delta.enableDeletionVectors": "true"})
    with pytest.raises(TablesDamaged, match="it must be 1/2"):
        Commits.open(other, run_id="run-1")


def test_versions_survive_a_checkpoint(tmp_path: Path) -> None:
    url = str(tmp_path)
    with Commits.open(url, run_id="run-1") as commits:
        commits.commit(segment_parts(url, "a", [0], n_segments=1))
        DeltaTable(f"{url}/ledger").create_checkpoint()
    with Commits.open(url, run_id="run-2") as commits:
        assert commits.commit(segment_parts(url, "b", [0], n_segments=1)) == 4
    assert videos_of(url) == ["a", "b"]


def test_the_ledger_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads in the middle of a commit may see rows that the ledger does not know yet, never the reverse."""
    url, order = str(tmp_path), []
    append_once = deltalog.append_once

    def recorded(store: Store, table: Any, delta: DeltaTable, **arguments: Any) -> None:
        order.append(table.name)
        append_once(store, table, delta, **arguments)

    monkeypatch.setattr(deltalog, "append_once", recorded)
    with Commits.open(url, run_id="run-1") as commits:
        runs = {"run_id": pa.array(["none"])}
        commits.commit(segment_parts(url, "a", [0], n_segments=1), replace={"runs": pa.table(runs)})
    assert order == ["labels", "runs", "ledger"]
