"""Small made-up rows for the tests of the tables."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from vidproc.annotators.base import OfSegments
from vidproc.media.listing import LISTING
from vidproc.schema import LABELS, LEDGER, TABLES, Table
from vidproc.tables import commit
from vidproc.tables.commit import Commits
from vidproc.tables.parts import Part, parquet_bytes, write_part
from vidproc.tables.store import Store

SLOW_ON_S3 = pytest.mark.parametrize(
    "place", ["local", pytest.param("s3", marks=[pytest.mark.s3, pytest.mark.slow])], indirect=True
)
"""For tests that open all tables again and again: each costs a second on S3."""

LENGTH_US = 1_000_000
NAMES = ("walk", "run")


class FakeAnnotator(OfSegments):
    """Two labels; the light half of an annotator, as derive needs it."""

    def __init__(self, name: str = "actions", model_id: str = "net-1") -> None:
        self.name, self.model_id = name, model_id

    def label_rows(self, mean_scores: npt.NDArray[np.float32]) -> pa.Table | None:
        order = np.argsort(-mean_scores, kind="stable")
        return pa.table(
            {
                "task": ["action"] * len(order),
                "label": [NAMES[i] for i in order],
                "label_id": pa.array(order, pa.int32()),
                "score": pa.array(mean_scores[order], pa.float32()),
                "rank": pa.array(range(len(order)), pa.int32()),
            }
        )


def facts(video_id: str, **more: Any) -> str:
    known = {"uri": f"a/{video_id}.mp4", "member": "", "etag": "e", "bytes": 10, "metadata": {"title": video_id}}
    return json.dumps(known | more)


def ledger_rows(video_id: str, segments: Sequence[int], *, n_segments: int, **changed: Any) -> list[dict[str, Any]]:
    """One ledger row per segment, each of one second; `changed` sets other columns."""
    return [
        {
            "video_id": video_id,
            "annotator": "actions",
            "model_id": "net-1",
            "run_id": "run-1",
            "segment": segment,
            "n_segments": n_segments,
            "start_us": segment * LENGTH_US,
            "end_us": (segment + 1) * LENGTH_US,
            "status": "labelled",
            "attempts": 1,
            "rows": 2,
            "coverage": 1.0,
            "decode_s": 0.5,
            "infer_s": 0.25,
            "at": datetime(2026, 1, 1, tzinfo=UTC),
            "facts": facts(video_id, start_us=0, end_us=n_segments * LENGTH_US, declared_us=n_segments * LENGTH_US),
            "samples": 2,
            "tally": [1.0 + segment, 0.5],
        }
        | changed
        for segment in segments
    ]


def label_rows(video_id: str, segments: Sequence[int], **changed: Any) -> list[dict[str, Any]]:
    """Two sample labels per segment."""
    return [
        {
            "video_id": video_id,
            "annotator": "actions",
            "model_id": "net-1",
            "run_id": "run-1",
            "start_us": segment * LENGTH_US,
            "end_us": (segment + 1) * LENGTH_US,
            "scope": "sample",
            "task": "action",
            "label": name,
            "label_id": i,
            "score": 0.75 - 0.5 * i,
            "rank": i,
        }
        | changed
        for segment in segments
        for i, name in enumerate(NAMES)
    ]


def part(url: str, table: Table, rows: list[dict[str, Any]]) -> Part:
    return write_part(url, table, pa.Table.from_pylist(rows, schema=table.schema))


def segment_parts(url: str, video_id: str, segments: Sequence[int], *, n_segments: int, **changed: Any) -> list[Part]:
    """The parts of `labels` and `ledger` for some segments of one video."""
    common = {name: value for name, value in changed.items() if name in ("annotator", "model_id", "run_id")}
    return [
        part(url, LABELS, label_rows(video_id, segments, **common)),
        part(url, LEDGER, ledger_rows(video_id, segments, n_segments=n_segments, **changed)),
    ]


def entered_only(url: str, parts: list[Part], patch: pytest.MonkeyPatch) -> None:
    """A commit that is in the sequence, and in no table: its driver failed between the two."""

    def failing(*_: Any) -> None:
        raise OSError("made up")

    with patch.context() as inner, Commits.open(url, run_id="run-2") as commits:
        inner.setattr(commit, "_apply", failing)
        with pytest.raises(OSError, match="made up"):
            commits.commit(parts)


WHEN = ("at", "labelled_at", "started_at", "ended_at")


def read(url: str, name: str) -> list[dict[str, Any]]:
    """All rows of a table in a fixed order, without the columns that tell the time of day."""
    rows = DeltaTable(f"{url}/{name}").to_pyarrow_table().to_pylist()
    rows = [{key: value for key, value in row.items() if key not in WHEN} for row in rows]
    return sorted(rows, key=lambda row: [str(row[key]) for key in TABLES[name].key] + [str(row)])


def read_all(url: str) -> dict[str, list[dict[str, Any]]]:
    return {name: read(url, name) for name in TABLES}


def unit_keys(video_id: str, annotator: str = "actions", model_id: str = "net-1") -> pa.Table:
    return pa.table({"video_id": [video_id], "annotator": [annotator], "model_id": [model_id]})


def write_listing(url: str, video_ids: Sequence[str]) -> None:
    """A listing of these videos in one Parquet file."""
    rows = [
        {"video_id": v, "uri": f"a/{v}.mp4", "member": "", "offset": 0, "bytes": 10, "etag": "e"} for v in video_ids
    ]
    Store(url).put("listing.parquet", parquet_bytes(pa.Table.from_pylist(rows, schema=LISTING)))
