"""Committing to a store that fails now and then: exactly once, whatever answer is lost; what is open is completed."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from made_rows import FakeAnnotator, read_all, segment_parts, unit_keys
from proxy import Fault, FaultyProxy, answer, cut_off, delay, lose_answer, reset

from vidproc.errors import StorageError, StorageFull, StorageRefused, StorageUnreachable, TablesDamaged
from vidproc.media import patience
from vidproc.tables.checking import check
from vidproc.tables.commit import Commits, replace_units
from vidproc.tables.derive import derive

pytestmark = [pytest.mark.s3, pytest.mark.usefixtures("hasty")]


def label_three(commits: Commits) -> None:
    """Three videos in three commits, the last one in the place of an older one; then derived."""
    url = commits.tables_url
    commits.commit(segment_parts(url, "a", [0, 1], n_segments=2) + segment_parts(url, "b", [0], n_segments=1))
    commits.commit(segment_parts(url, "c", [0, 1, 2], n_segments=3))
    commits.commit(segment_parts(url, "b", [0, 1], n_segments=2), replace=replace_units(unit_keys("b")))
    derive(commits, {"actions": FakeAnnotator()})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, object]]]:
    url = str(tmp_path_factory.mktemp("undisturbed"))
    with Commits.open(url, run_id="run-1", lease_s=1.0) as commits:
        label_three(commits)
    return read_all(url)


@pytest.mark.slow
def test_a_tenth_of_all_requests_fails(
    s3: str, proxy: FaultyProxy, undisturbed: dict[str, list[dict[str, object]]]
) -> None:
    acts = (answer(503, "SlowDown"), answer(500, "InternalError"), reset, lose_answer, cut_off)
    proxy.faults = [Fault(act, keys="*/faults/shaken/*", count=None, share=0.02) for act in acts]
    with Commits.open(f"{s3}/faults/shaken", run_id="run-1") as commits:
        label_three(commits)
    failed = sum(fault.done for fault in proxy.faults)
    proxy.faults = []
    assert failed >= 8 and patience.RETRIES.total()
    assert read_all(f"{s3}/faults/shaken") == undisturbed
    check(f"{s3}/faults/shaken")


ENTRY, LOG, BEAT = "*/_commits/*", "*/ledger/_delta_log/*.json", "*/_leases/*"


def test_an_answer_that_is_lost_loses_no_race(s3: str, proxy: FaultyProxy) -> None:
    """Create-only requests that came through are known as our own when they are made again."""
    url = f"{s3}/faults/lost"
    proxy.faults = [Fault(lose_answer, methods="PUT", keys=keys, skip=skip) for keys in (ENTRY, LOG) for skip in (0, 1)]
    proxy.faults += [Fault(lose_answer, methods="PUT", keys=BEAT)]
    with Commits.open(url, run_id="run-1", lease_s=1.0) as commits:
        assert commits.commit(segment_parts(url, "a", [0], n_segments=1)) == 2
        assert commits.commit(segment_parts(url, "b", [0], n_segments=1)) == 3
        assert not commits.lost
    assert [fault.done for fault in proxy.faults] == [1] * 5
    assert [row["video_id"] for row in read_all(url)["ledger"]] == ["a", "b"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("faults", "error", "entered"),
    [
        (lambda: [Fault(answer(503, "SlowDown"), methods="PUT", keys=ENTRY, count=None)], StorageUnreachable, False),
        # The entry is there, and its driver never hears of it.
        (
            lambda: [
                Fault(lose_answer, methods="PUT", keys=ENTRY),
                Fault(reset, keys=ENTRY, count=None),
            ],
            StorageUnreachable,
            True,
        ),
        (lambda: [Fault(answer(403, "ExpiredToken"), methods="PUT", keys=ENTRY, count=None)], StorageRefused, False),
        (lambda: [Fault(answer(403, "ExpiredToken"), methods="PUT", keys=LOG, count=None)], StorageRefused, True),
        (lambda: [Fault(reset, methods="PUT", keys=LOG, count=None)], StorageUnreachable, True),
    ],
)
def test_an_outage_ends_the_run_and_the_next_one_completes_it(
    s3: str, proxy: FaultyProxy, faults: Callable[[], list[Fault]], error: type[StorageError], entered: bool
) -> None:
    url = f"{s3}/faults/outage-{proxy.requests}"
    with Commits.open(url, run_id="run-1", lease_s=1.0) as commits:
        parts = segment_parts(url, "a", [0], n_segments=1)
        proxy.faults = [*faults(), Fault(answer(503, "SlowDown"), keys=BEAT, count=None)]
        with pytest.raises(error):
            commits.commit(parts)
        with pytest.raises(TablesDamaged, match="failed half-way"):  # not: that another run has taken over
            commits.commit(parts)
    proxy.faults = []
    with Commits.open(url, run_id="run-2", lease_s=1.0) as commits:
        assert [row["video_id"] for row in read_all(url)["ledger"]] == (["a"] if entered else [])
        commits.commit(segment_parts(url, "b", [0], n_segments=1))
    assert [row["video_id"] for row in read_all(url)["ledger"]] == (["a", "b"] if entered else ["b"])
    check(url)


@pytest.mark.slow
def test_a_heart_that_misses_beats_goes_on(s3: str, proxy: FaultyProxy) -> None:
    url = f"{s3}/faults/heart"
    with Commits.open(url, run_id="run-1", lease_s=1.0) as commits:
        proxy.faults = [Fault(answer(503, "SlowDown"), keys=BEAT, count=40), Fault(delay(0.3), keys=BEAT, count=3)]
        heart = commits._heartbeat
        before = heart._beat
        while heart._beat < before + 4:
            heart._ended.wait(0.05)
        assert heart._thread.is_alive() and not commits.lost
        assert commits.commit(segment_parts(url, "a", [0], n_segments=1)) == 2


def test_a_full_disk_is_told_and_the_lease_given_back_as_far_as_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ended the run is what is told, not that the lease could not be given back either."""
    url = str(tmp_path)
    with pytest.raises(StorageFull, match="free space"), Commits.open(url, run_id="run-1", lease_s=1.0) as commits:
        parts = segment_parts(url, "a", [0], n_segments=1)

        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        commits.commit(parts)
    monkeypatch.undo()
    with Commits.open(url, run_id="run-2", lease_s=1.0) as commits:
        commits.commit(parts)
    assert [row["video_id"] for row in read_all(url)["ledger"]] == ["a"]
