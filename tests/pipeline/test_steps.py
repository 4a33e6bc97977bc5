"""The steps as plain functions, without Ray: what a video that was labelled in part and no longer opens comes to."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from vidproc.annotators import ANNOTATORS
from vidproc.media.guard import close_guards
from vidproc.pipeline import steps
from vidproc.pipeline.steps import Settings
from vidproc.tables.plan import PLAN

QUALITY = ANNOTATORS["quality"](None, allow_licences=())


def planned(tmp_path: Path, *work: dict[str, Any]) -> pa.Table:
    """The plan of one video that has vanished."""
    place = {"uri": str(tmp_path / "gone.mp4"), "member": "", "offset": 0, "bytes": 10, "etag": "1"}
    return pa.Table.from_pylist([{"video_id": "v", **place, "work": list(work)}], schema=PLAN)


def probed(batch: pa.Table, tmp_path: Path) -> list[dict[str, Any]]:
    settings = Settings("run", str(tmp_path / "tables"), {"quality": QUALITY})
    try:
        return steps.probe(batch, settings=settings).to_pylist()
    finally:
        close_guards()


def unit(annotator: str, done: list[int], n_segments: int | None) -> dict[str, Any]:
    return {"annotator": annotator, "model_id": "m", "done": done, "n_segments": n_segments}


def test_video_that_does_not_open_is_one_row(tmp_path: Path) -> None:
    (row,) = probed(planned(tmp_path, unit("quality", [], None), unit("actions", [], None)), tmp_path)
    assert (row["status"], row["reason"], row["segment"], row["n_segments"]) == ("missing", "missing", 0, 1)
    assert json.loads(row["work"]) == ["quality", "actions"]


def test_video_that_no_longer_opens_keeps_its_segments_and_fails_for_the_rest(tmp_path: Path) -> None:
    rows = probed(planned(tmp_path, unit("quality", [0, 2], 4), unit("actions", [], None)), tmp_path)
    segments = {(name, row["segment"], row["n_segments"]) for row in rows for name in json.loads(row["work"])}
    assert {place for place in segments if place[0] == "quality"} == {("quality", 1, 4), ("quality", 3, 4)}
    assert ("actions", 0, 4) in segments
    assert {row["status"] for row in rows} == {"missing"}
