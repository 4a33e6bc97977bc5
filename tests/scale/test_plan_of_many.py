"""Planning thousands of videos: exactly the right rows, in memory that does not grow with them.

`tests/bench/plan_scale.py` does the same with a million, and tells the figures.
"""

from pathlib import Path

import pyarrow.dataset as ds
import pytest
from bench.plan_scale import ANNOTATOR, MODEL, in_a_process, prepare, source

from vidproc.tables.plan import make_plan

FEW, MANY = 5_000, 50_000
GROWTH_MIB = 160
"""Peak memory may grow by so much, and a row has 400 bytes in Python: 45,000 of them with all their copies would not
fit. What does grow are the buffers of pyarrow and DuckDB, up to their limits."""


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    prepare(folder, MANY)
    return folder


def planned(folder: Path, listing: str, wanted: dict[str, str], out: Path) -> list[tuple[str, list[str]]]:
    """(video_id, models) as the plan has them, in its order."""
    make_plan(str(folder / listing), str(folder / "tables"), wanted=wanted, out_url=str(out))
    files = sorted(out.glob("*.parquet"))
    rows = ds.dataset(files).to_table(columns=["video_id", "work"]).to_pylist() if files else []
    return [(row["video_id"], [unit["model_id"] for unit in row["work"]]) for row in rows]


def in_order(numbers: range) -> list[str]:
    return [one.video_id for one in sorted(map(source, numbers), key=lambda one: one.uri)]


def test_the_plan_is_exact(many: Path, tmp_path: Path) -> None:
    assert planned(many, "listing", {ANNOTATOR: MODEL}, tmp_path / "idle") == []
    fresh = in_order(range(MANY, MANY + MANY // 100))
    assert planned(many, "next-night", {ANNOTATOR: MODEL}, tmp_path / "one-in-a-hundred") == [
        (video, [MODEL]) for video in fresh
    ]
    everything = in_order(range(MANY))
    assert planned(many, "listing", {ANNOTATOR: "other"}, tmp_path / "model") == [
        (video, ["other"]) for video in everything
    ]
    both = planned(many, "listing", {ANNOTATOR: MODEL, "text": "t"}, tmp_path / "annotator")
    assert both == [(video, ["t"]) for video in everything]


def test_memory_does_not_grow_with_the_archive(many: Path, tmp_path: Path) -> None:
    prepare(tmp_path, FEW)
    few, lots = (in_a_process("model", folder) for folder in (tmp_path, many))
    assert lots["planned"] == 10 * few["planned"]
    assert lots["peak_mib"] - few["peak_mib"] < GROWTH_MIB, (few, lots)
