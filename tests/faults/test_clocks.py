"""Clocks that are hours wrong: who holds the tables, and when what failed is tried again, does not hang on them."""

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from made_rows import facts, ledger_rows, part, read_all, segment_parts, write_listing

from vidproc.errors import LeaseLost
from vidproc.schema import LEDGER
from vidproc.tables import lease
from vidproc.tables.commit import Commits
from vidproc.tables.plan import make_plan

HOUR = 3600.0
LEASE_S = 1.0


class Clock:
    """The time of day, so many hours wrong; the clock that only counts is right, as it is on every machine."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.hours = 0.0
        real = time.time
        patch.setattr(time, "time", lambda: real() + self.hours * HOUR)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.mark.parametrize("first_hours", [-2.0, 0.0, 2.0])
@pytest.mark.parametrize("second_hours", [-2.0, 2.0])
def test_nobody_loses_or_steals_the_lease_by_a_wrong_clock(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, first_hours: float, second_hours: float
) -> None:
    url = str(tmp_path)
    clock.hours = first_hours
    first = Commits.open(url, run_id="first", lease_s=LEASE_S)
    first.commit(segment_parts(url, "a", [0], n_segments=1))
    clock.hours = second_hours
    with pytest.raises(LeaseLost, match="only one run at a time"):
        Commits.open(url, run_id="second", lease_s=LEASE_S)
    clock.hours = first_hours
    first.commit(segment_parts(url, "b", [0], n_segments=1))
    first._heartbeat._ended.set()  # it falls silent, on another machine for all that one can tell
    monkeypatch.setattr(lease, "is_gone", lambda claim: False)
    clock.hours = second_hours
    begun = time.monotonic()
    with Commits.open(url, run_id="second", lease_s=LEASE_S) as second:
        assert LEASE_S <= time.monotonic() - begun < LEASE_S + 10
        second.commit(segment_parts(url, "c", [0], n_segments=1))
        clock.hours = first_hours
        with pytest.raises(LeaseLost):
            first.commit(segment_parts(url, "d", [0], n_segments=1))
    assert [row["video_id"] for row in read_all(url)["ledger"]] == ["a", "b", "c"]


def planned(url: str, listing: str, out: Path) -> int:
    return make_plan(listing, url, wanted={"actions": "net-1"}, out_url=str(out)).planned


@pytest.mark.parametrize(
    ("tries", "hours", "due"),
    [
        (1, 0.0, True),  # the next run tries again
        (2, 1.0, False),
        (2, 12.1, True),
        (3, 30.0, False),
        (3, 36.1, True),
        (40, 29 * 24.0, False),
        (40, 30 * 24.1, True),
        (2, -24.0, True),  # this clock, or the one that wrote the row, is wrong: better early than never
    ],
)
def test_what_storage_refused_is_planned_again_at_growing_intervals(
    tmp_path: Path, clock: Clock, tries: int, hours: float, due: bool
) -> None:
    url, listing = str(tmp_path / "tables"), str(tmp_path / "listing")
    failed = {"status": "quarantined", "reason": "denied", "attempts": tries, "at": datetime.now(UTC), "rows": 0}
    failed |= {"facts": facts("a"), "tally": None}
    with Commits.open(url, run_id="run-1") as commits:
        rows = ledger_rows("a", [0, -1], n_segments=1, **failed)
        rows += ledger_rows("b", [0, -1], n_segments=1, **(failed | {"reason": "damaged"}))
        commits.commit([part(url, LEDGER, rows)])
    write_listing(listing, ["a", "b"])
    clock.hours = hours
    assert planned(url, listing, tmp_path / "plan") == due
