"""One small archive over several nights: what each run plans, does and leaves alone, read off the tables."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from labelling import ALL, BUDGET_EXCEEDED, DEMO, Row, Tables, by_name, check, parts, read

from vidproc.pipeline import label
from vidproc.pipeline.options import LabelConfig
from vidproc.schema import TABLES, WHOLE_VIDEO
from vidproc.train.archive import Truth, make_archive

QUARANTINED = {
    "empty.mp4": "damaged",
    "letter.mp4": "not_media",
    "playlist.mp4": "not_media",
    "cut-before-index.mp4": "damaged",
}
LISTED = 3 + 2 + 7


@dataclass
class Night:
    """One run: its exit code and all tables after it."""

    code: int
    tables: Tables
    parts: set[str]
    truth: list[Truth]

    @property
    def run(self) -> Row:
        return max(self.tables["runs"], key=lambda row: row["started_at"])

    def fresh(self, table: str) -> list[Row]:
        """The rows that this run wrote."""
        return [row for row in self.tables[table] if row["run_id"] == self.run["run_id"]]

    def worked_on(self) -> set[tuple[str, str]]:
        """(video_id, annotator) that this run decoded."""
        return {(row["video_id"], row["annotator"]) for row in self.fresh("ledger") if row["segment"] >= 0}


class Nights:
    """An archive and its tables, labelled again and again."""

    def __init__(self, folder: Path) -> None:
        self.archive, self.tables_url = folder / "archive", str(folder / "tables")
        self.truth = make_archive(self.archive, plain=3, sharded=2, seconds=2)

    def label(self, *annotators: str, **options: Any) -> Night:
        options = {"failure_budget": 1.0, "date": date(2026, 1, 1)} | options
        config = LabelConfig(
            archive=(str(self.archive),),
            tables=self.tables_url,
            annotators=annotators,
            weights={name: DEMO[name] for name in annotators if name in DEMO},
            **options,
        )
        code = label.run(config)
        return Night(code, read(self.tables_url), parts(self.tables_url), self.truth)

    def add_one_that_vanishes(self, patch: pytest.MonkeyPatch) -> None:
        """A video that is there when the archive is listed, and gone when it is to be decoded."""
        vanishing = self.archive / "vanishing.mp4"
        shutil.copy(self.archive / "camera-2" / "clip-001.mp4", vanishing)
        listed = label.list_archive

        def list_and_delete(*given: Any, **options: Any) -> Any:
            found = listed(*given, **options)
            vanishing.unlink()
            return found

        patch.setattr(label, "list_archive", list_and_delete)


@pytest.fixture(scope="module")
def nights(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Night]]:
    work = Nights(tmp_path_factory.mktemp("nights"))
    found = {"first": work.label("quality", failure_budget=0.05)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label, "connected", None)  # nothing to do: then Ray must not be needed
        found["idle"] = work.label("quality", failure_budget=0.05)
    os.utime(work.archive / "camera-1" / "clip-000.mp4", (1, 1))
    with pytest.MonkeyPatch.context() as patch:
        work.add_one_that_vanishes(patch)
        found["touched"] = work.label("quality", failure_budget=0.05)
    found["networks"] = work.label(*ALL)
    found["failed"] = work.label("quality", reprocess="failed")
    found["limited"] = work.label("quality", reprocess="all", limit=2)
    yield found


def test_every_table_is_consistent_after_every_run(nights: dict[str, Night]) -> None:
    for night in nights.values():
        check(night.tables)


def test_first_run_gives_every_listed_video_exactly_one_state(nights: dict[str, Night]) -> None:
    first = nights["first"]
    states = {name: (row["status"], row["reason"]) for name, row in by_name(first.tables).items()}
    assert len(first.tables["videos"]) == LISTED
    assert states["cut-in-the-middle.mkv"] == ("partial", "damaged")
    assert {name: reason for name, (status, reason) in states.items() if status == "quarantined"} == QUARANTINED
    labelled = {name for name, state in states.items() if state == ("labelled", None)}
    assert len(labelled) == LISTED - 5
    assert first.run["listed"] == first.run["planned"] == LISTED
    assert [first.run[name] for name in ("labelled", "partial", "quarantined")] == [7, 1, 4]
    assert {row["video_id"] for row in first.tables["quality"]} == {
        row["video_id"] for name, row in by_name(first.tables).items() if name not in QUARANTINED
    }


def test_budget_exceeded_is_told_and_good_rows_are_committed(nights: dict[str, Night]) -> None:
    first = nights["first"]
    assert first.code == BUDGET_EXCEEDED
    assert (first.run["status"], first.run["exit_code"]) == ("budget_exceeded", BUDGET_EXCEEDED)
    assert len(first.tables["quality"]) >= 8


def test_quality_finds_the_black_and_the_frozen_video(nights: dict[str, Night]) -> None:
    videos = by_name(nights["first"].tables)
    for name, column in (("black.mp4", "black"), ("frozen.mp4", "frozen")):
        rows = [row for row in nights["first"].tables["quality"] if row["video_id"] == videos[name]["video_id"]]
        assert rows and all(row[column] for row in rows), name


def test_facts_of_a_video_and_metadata_of_its_sidecar_reach_its_row(nights: dict[str, Night]) -> None:
    videos = by_name(nights["first"].tables)
    member = videos["0001.mp4"]
    assert dict(member["metadata"])["title"] == "scene 1" and dict(member["metadata"])["camera"] == "studio"
    assert member["uri"].endswith("shard-0001.tar")
    plain = videos["clip-000.mp4"]
    assert (plain["codec"], plain["width"], plain["height"], plain["has_audio"]) == ("h264", 192, 144, False)
    assert abs(plain["duration_us"] - 2_000_000) < 70_000 and plain["fps"] == pytest.approx(16, abs=0.1)


def test_second_run_does_nothing(nights: dict[str, Night]) -> None:
    idle = nights["idle"]
    assert idle.code == 0
    assert idle.run["planned"] == 0 and idle.run["listed"] == LISTED
    fresh = idle.parts - nights["first"].parts
    assert {Path(path).parts[0] for path in fresh} == {"runs"}
    for name in ("videos", "labels", "quality", "ledger"):
        assert idle.tables[name] == nights["first"].tables[name], name


def test_touching_one_file_redoes_that_one(nights: dict[str, Night]) -> None:
    touched = nights["touched"]
    names = {row["video_id"]: Path(row["uri"]).name for row in touched.tables["videos"]}
    assert sorted(names[video] for video, _ in touched.worked_on()) == ["clip-000.mp4", "vanishing.mp4"]
    versions = [row for row in touched.tables["videos"] if row["uri"].endswith("clip-000.mp4")]
    assert len(versions) == 2 and len({row["etag"] for row in versions}) == 2


def test_a_file_that_vanishes_after_the_listing_is_missing(nights: dict[str, Night]) -> None:
    touched = nights["touched"]
    assert by_name(touched.tables)["vanishing.mp4"]["status"] == "missing"
    assert (touched.run["planned"], touched.run["missing"], touched.run["labelled"]) == (2, 1, 1)
    assert touched.code == BUDGET_EXCEEDED, "one of two was not labelled"


def test_annotators_added_later_run_alone(nights: dict[str, Night]) -> None:
    networks = nights["networks"]
    assert {annotator for _, annotator in networks.worked_on()} == {"actions", "objects"}
    assert not networks.fresh("quality")
    assert networks.run["planned"] == LISTED
    before = [row for row in nights["touched"].tables["ledger"] if row["annotator"] == "quality"]
    assert [row for row in networks.tables["ledger"] if row["annotator"] == "quality"] == before


def test_a_later_annotator_replaces_the_videos_rows(nights: dict[str, Night]) -> None:
    networks = nights["networks"]
    assert len(networks.tables["videos"]) == LISTED + 2  # the touched file's first version, and the vanished one
    assert len(networks.fresh("videos")) == LISTED


def test_labels_are_right_and_merged_over_whole_videos(nights: dict[str, Night]) -> None:
    tables = nights["networks"].tables
    whole = [row for row in tables["labels"] if row["scope"] == "video" and row["rank"] == 1]
    assert len({(row["video_id"], row["annotator"]) for row in whole}) == len(whole)
    videos = by_name(nights["networks"].tables)
    best = {(row["video_id"], row["task"]): row["label"] for row in whole}
    truth = {(member or Path(file).name, task): wanted for one in nights["networks"].truth
             for file, member in [(one.file, one.member)]
             for task, wanted in (("action", one.motion), ("object", one.shape))}  # fmt: skip
    right = [best.get((videos[name]["video_id"], task)) == wanted for (name, task), wanted in truth.items()]
    assert sum(right) >= 0.8 * len(right), f"{sum(right)} of {len(right)} labels are right"
    assert all(0 <= row["score"] <= 1 for row in tables["labels"])


def test_reprocessing_what_failed_replaces_its_rows(nights: dict[str, Night]) -> None:
    failed, before = nights["failed"], nights["networks"]
    names = {row["video_id"]: Path(row["uri"]).name for row in failed.tables["videos"]}
    assert {names[video] for video, _ in failed.worked_on()} == {*QUARANTINED, "cut-in-the-middle.mkv"}
    for name in ("videos", "quality", "ledger"):
        keys = [[row[key] for key in TABLES[name].key] for row in failed.tables[name]]
        assert keys == [[row[key] for key in TABLES[name].key] for row in before.tables[name]], name


def test_reprocessing_all_with_a_limit_defers_the_rest(nights: dict[str, Night]) -> None:
    limited = nights["limited"]
    assert (limited.run["planned"], limited.run["deferred"]) == (LISTED, LISTED - 2)
    assert len({video for video, _ in limited.worked_on()}) == 2
    assert len(limited.tables["ledger"]) == len(nights["failed"].tables["ledger"])


def test_nothing_is_left_beside_the_tables(nights: dict[str, Night], ray_cluster: None) -> None:
    assert {Path(path).parts[0] for path in nights["limited"].parts} == {
        "videos",
        "labels",
        "quality",
        "ledger",
        "runs",
    }


def test_the_run_tells_its_configuration_is_kept(nights: dict[str, Night]) -> None:
    run = nights["limited"].run
    assert run["date"] == date(2026, 1, 1) and run["ended_at"] > run["started_at"]
    assert json.loads(run["config"])["limit"] == 2
    assert run["status"] == "done" and run["exit_code"] == 0


def test_whole_video_rows_are_of_the_run_that_derived_them(nights: dict[str, Night]) -> None:
    for night in nights.values():
        derived = {
            (row["video_id"], row["annotator"]) for row in night.fresh("ledger") if row["segment"] == WHOLE_VIDEO
        }
        assert derived == night.worked_on()
