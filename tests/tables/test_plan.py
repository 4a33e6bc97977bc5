"""The plan: one rule for increment, resume, new weights, new annotators and retries."""

import itertools
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_rows import FakeAnnotator, ledger_rows, part, write_listing

from vidproc.media.listing import LISTING
from vidproc.schema import LEDGER, WHOLE_VIDEO
from vidproc.tables.commit import Commits
from vidproc.tables.derive import derive
from vidproc.tables.parts import parquet_bytes
from vidproc.tables.plan import PLAN, PlanSummary, make_plan
from vidproc.tables.store import Store

WANTED = {"actions": "net-1"}


class Archive:
    """A listing and tables, and the plans made of them."""

    def __init__(self, url: str) -> None:
        self.listing, self.tables, self.url = f"{url}/listing", f"{url}/tables", url
        self._plans = itertools.count()

    def commit(self, *rows: list[dict[str, Any]]) -> None:
        with Commits.open(self.tables, run_id="run") as commits:
            commits.commit([part(self.tables, LEDGER, some) for some in rows])

    def plan(self, **changed: Any) -> tuple[PlanSummary, dict[str, dict[str, list[int]]]]:
        """The summary, and video → annotator@model → done segments, in the plan's order."""
        out = f"{self.url}/plan-{next(self._plans)}"
        arguments = {"wanted": WANTED, "reprocess": None, "limit": None} | changed
        summary = make_plan(self.listing, self.tables, out_url=out, **arguments)
        planned = {}
        for path in Store(out).list(""):
            rows = pq.read_table(pa.BufferReader(Store(out).get(path)))
            assert rows.schema.names == PLAN.names
            for row in rows.to_pylist():
                planned[row["video_id"]] = {f"{u['annotator']}@{u['model_id']}": u["done"] for u in row["work"]}
        return summary, planned


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    archive = Archive(str(tmp_path))
    write_listing(archive.listing, "dbca")
    return archive


def whole(video_id: str, status: str = "labelled", **changed: Any) -> list[dict[str, Any]]:
    """A finished unit of one segment."""
    end = {"segment": WHOLE_VIDEO, "status": status}
    return ledger_rows(video_id, [0], n_segments=1, **changed) + ledger_rows(
        video_id, [0], n_segments=1, **(changed | end)
    )


def test_first_night_plans_everything_in_order(archive: Archive) -> None:
    summary, planned = archive.plan()
    assert list(planned.items()) == [(v, {"actions@net-1": []}) for v in "abcd"]
    assert summary == PlanSummary(
        listed=4, planned=4, done=0, deferred=0, derive_only=0, units=4, size_bytes=40, video_hours_known=None
    )


def test_finished_is_not_planned_and_half_done_is_resumed(archive: Archive) -> None:
    archive.commit(whole("a"), ledger_rows("b", [2, 0], n_segments=3))
    summary, planned = archive.plan()
    assert planned == {"b": {"actions@net-1": [0, 2]}, "c": {"actions@net-1": []}, "d": {"actions@net-1": []}}
    assert (summary.listed, summary.done, summary.planned) == (4, 1, 3)


def test_decoded_but_not_derived_is_counted_and_not_decoded_again(archive: Archive) -> None:
    archive.commit(ledger_rows("a", [0, 1], n_segments=2), ledger_rows("gone", [0], n_segments=1))
    summary, planned = archive.plan()
    assert sorted(planned) == ["b", "c", "d"]
    assert (summary.planned, summary.derive_only, summary.done, summary.listed) == (5, 2, 0, 4)


def test_new_weights_and_new_annotators_plan_only_themselves(archive: Archive) -> None:
    archive.commit(*(whole(v) for v in "abcd"))
    assert archive.plan()[1] == {}
    _, planned = archive.plan(wanted={"actions": "net-2"})
    assert planned == {v: {"actions@net-2": []} for v in "abcd"}
    summary, planned = archive.plan(wanted=WANTED | {"quality": "q"})
    assert planned == {v: {"quality@q": []} for v in "abcd"}
    assert summary.units == 4


def test_reprocess(archive: Archive) -> None:
    archive.commit(
        whole("a"), whole("b", "quarantined"), whole("c", "partial"), whole("d", "empty"), whole("x", "missing")
    )
    assert archive.plan()[1] == {}
    _, planned = archive.plan(reprocess="failed")
    assert planned == {"b": {"actions@net-1": []}, "c": {"actions@net-1": []}}
    assert sorted(archive.plan(reprocess="all")[1]) == ["a", "b", "c", "d"]


def test_limit_counts_videos_and_defers_the_rest(archive: Archive) -> None:
    summary, planned = archive.plan(limit=3, wanted=WANTED | {"quality": "q"})
    assert list(planned) == ["a", "b", "c"]
    assert (summary.planned, summary.deferred, summary.units, summary.size_bytes) == (4, 1, 6, 30)
    assert archive.plan(limit=0)[1] == {}


def test_a_video_listed_twice_counts_once(archive: Archive) -> None:
    rows = [
        {"video_id": v, "uri": uri, "member": member, "bytes": 10, "offset": 512, "etag": "e"}
        for v, uri, member in [("a", "a/a.mp4", ""), ("t", "s.tar", "2.mp4"), ("t", "s.tar", "1.mp4")]
    ]
    table = pa.Table.from_pylist(rows, schema=LISTING)
    Store(archive.listing).put("again.parquet", parquet_bytes(table))
    summary, planned = archive.plan()
    assert list(planned) == ["a", "b", "c", "d", "t"]
    assert (summary.listed, summary.size_bytes) == (5, 50)


def test_hours_are_known_from_earlier_runs(archive: Archive) -> None:
    archive.commit(ledger_rows("a", range(3), n_segments=3))
    with Commits.open(archive.tables, run_id="run") as commits:
        derive(commits, {"actions": FakeAnnotator()})
    summary, _ = archive.plan(wanted={"quality": "q"})
    assert summary.video_hours_known == pytest.approx(3 / 3600)


def test_an_empty_archive_is_an_empty_plan(tmp_path: Path) -> None:
    summary, planned = Archive(str(tmp_path)).plan()
    assert planned == {}
    assert (summary.listed, summary.planned, summary.video_hours_known) == (0, 0, None)


def test_plan_files_have_small_row_groups_in_order(tmp_path: Path) -> None:
    archive = Archive(str(tmp_path))
    write_listing(archive.listing, [f"{i:05d}" for i in range(22_500)])
    make_plan(archive.listing, archive.tables, wanted=WANTED, out_url=f"{archive.url}/plan")
    files = sorted(Path(archive.url, "plan").iterdir())
    assert len(files) == 2
    groups = [pq.ParquetFile(file).metadata for file in files]
    assert max(meta.row_group(i).num_rows for meta in groups for i in range(meta.num_row_groups)) <= 1000
    ids = [v for file in files for v in pq.read_table(file).column("video_id").to_pylist()]
    assert ids == [f"{i:05d}" for i in range(22_500)]


@pytest.mark.s3
def test_plan_on_s3(s3: str) -> None:
    archive = Archive(f"{s3}/plan-test")
    write_listing(archive.listing, "ab")
    archive.commit(whole("a"))
    assert archive.plan()[1] == {"b": {"actions@net-1": []}}
