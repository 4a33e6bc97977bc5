"""Two nights in this process: new, changed, deleted, late, repaired and broken videos, and a new annotator."""

from pathlib import Path

import pytest
from nights.changing_archive import ChangingArchive
from nights.nightly import Nightly

from vidproc.pipeline import label
from vidproc.pipeline.options import LabelConfig


def in_process(nightly: Nightly, tables: str) -> int:
    return label.run(
        LabelConfig(
            archive=(nightly.archive.url,),
            tables=tables,
            annotators=tuple(nightly.weights),
            failure_budget=nightly.history[-1].budget,
            date=nightly.date,
        )
    )


@pytest.fixture
def nightly(ray_cluster: None, tmp_path: Path) -> Nightly:
    archive = ChangingArchive(str(tmp_path / "archive"))
    return Nightly(archive, str(tmp_path / "tables"), tmp_path, {"quality": None}, in_process)


def test_two_nights(nightly: Nightly) -> None:
    archive = nightly.archive
    for number in range(4):
        archive.put(f"camera/clip-{number}.mp4", "scene", scene=number)
    archive.put_shard("shard-a.tar", [("0.mp4", "scene", 4), ("1.mp4", "letter", 0)])
    for kind in ("empty", "cut", "half", "long"):
        archive.put(f"odd/{kind}.mkv", kind)
    archive.link("odd/linked.mp4", "camera/clip-9.mp4")
    nightly.night = 1
    first = nightly.run()
    assert len(first.fresh) == 11

    archive.put("camera/clip-0.mp4", "scene", scene=8)
    archive.delete("camera/clip-1.mp4")
    archive.put("camera/clip-9.mp4", "titled", scene=9)
    archive.put("camera/late.mp4", "scene", scene=5, mtime_s=1_600_000_000)
    archive.put("odd/cut.mkv", "scene", scene=6)
    archive.put_shard("shard-a.tar", [("0.mp4", "scene", 4), ("2.mp4", "scene", 7)])
    nightly.night, nightly.weights["text"] = 2, None
    second = nightly.run()
    assert len({video for video, annotator, _ in second.fresh if annotator == "quality"}) == 7
