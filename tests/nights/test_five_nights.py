"""Five nights as the CronJob has them, on this disk and on S3: things come, go, break, collide, are killed."""

import hashlib
import json
from pathlib import Path

import pytest
import safetensors.torch
from nights.changing_archive import ChangingArchive
from nights.nightly import Nightly, as_process
from pipeline.labelling import read

from vidproc.models.sidecar import DEMO

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]
DAY_S = 86_400
LONG_AGO_S = 1_600_000_000


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def nightly(request: pytest.FixtureRequest, tmp_path: Path) -> Nightly:
    root = str(tmp_path) if request.param == "local" else f"{request.getfixturevalue('s3')}/nights"
    archive = ChangingArchive(f"{root}/archive")
    return Nightly(archive, f"{root}/tables", tmp_path, {"quality": None, "objects": "demo"}, as_process)


def other_weights(folder: Path) -> str:
    """The demo's network with its last layer turned a little: another checkpoint, so another model."""
    state = safetensors.torch.load_file(DEMO / "objects.safetensors")
    state["fc.weight"] = state["fc.weight"] * 1.25
    data = safetensors.torch.save(state)
    path = folder / "retrained.safetensors"
    path.write_bytes(data)
    sidecar = json.loads((DEMO / "objects.safetensors.json").read_text())
    sidecar["sha256"] = hashlib.sha256(data).hexdigest()
    path.with_name(f"{path.name}.json").write_text(json.dumps(sidecar))
    return str(path)


def first_night(archive: ChangingArchive, *, links: bool) -> None:
    for number in range(10):
        archive.put(f"camera/clip-{number:02d}.mp4", "scene", scene=number)
    archive.put("camera/titled.mp4", "titled", scene=3)
    archive.put("camera/long.mp4", "long", scene=4)
    archive.put_shard("shards/a.tar", [("0.mp4", "scene", 1), ("1.mp4", "letter", 0), ("2.mp4", "titled", 2)])
    archive.put_shard("shards/b.tar", [("0.mp4", "scene", 5), ("1.mp4", "scene", 6)], torn_in="1.mp4")
    for kind in ("empty", "letter", "cut", "half"):
        archive.put(f"odd/{kind}.mkv", kind)
    if links:
        archive.link("odd/linked.mp4", "camera/not-yet.mp4")


def second_night(archive: ChangingArchive) -> None:
    for number in range(10, 14):
        archive.put(f"camera/clip-{number:02d}.mp4", "scene", scene=number)
    archive.put("camera/clip-00.mp4", "scene", scene=20)
    archive.put("camera/clip-01.mp4", "cut")
    archive.put("odd/cut.mkv", "scene", scene=21)
    archive.put("camera/late.mp4", "scene", scene=22, mtime_s=LONG_AGO_S)
    archive.delete("camera/clip-02.mp4")


def third_night(archive: ChangingArchive) -> None:
    """Enough for several commits."""
    for number in range(48):
        archive.put(f"camera-2/clip-{number:02d}.mp4", "scene", scene=number % 24)
    archive.put("camera/not-yet.mp4", "scene", scene=23)
    members = [("0.mp4", "scene", 1), ("1.mp4", "letter", 0), ("2.mp4", "titled", 2), ("3.mp4", "scene", 7)]
    archive.put_shard("shards/a.tar", members)


def test_five_nights(nightly: Nightly, tmp_path: Path) -> None:
    archive = nightly.archive
    nightly.night = 1
    first_night(archive, links="s3://" not in archive.url)
    nightly.run()

    nightly.night = 2
    gone = archive.delete("camera/clip-03.mp4")
    second_night(archive)
    nightly.starts_twice()
    nightly.maintain("compact")
    nightly.maintain("vacuum", "--older-than", "0")

    nightly.night = 3
    third_night(archive)
    nightly.killed_midway()
    resumed = nightly.run()
    assert len({video for video, _, _ in resumed.fresh}) >= 52

    nightly.night, nightly.weights["objects"] = 4, other_weights(tmp_path)
    archive.put("camera/clip-14.mp4", "scene", scene=14)
    archive.put("camera/clip-04.mp4", "titled", scene=15)
    archive.put_shard("shards/b.tar", [("0.mp4", "scene", 5), ("1.mp4", "scene", 6)])
    archive.delete("odd/empty.mkv")
    nightly.run()
    assert len({model for _, annotator, model in nightly.rows["labels"] if annotator == "objects"}) == 2

    nightly.night, nightly.weights["text"] = 5, None
    archive.bring_back("camera/clip-03.mp4", gone)  # known to some annotators and models, and not to others
    archive.put("camera/late-too.mp4", "titled", scene=16, mtime_s=LONG_AGO_S + DAY_S)
    archive.put("camera/clip-05.mp4", "empty")
    nightly.run()
    nightly.maintain("check")
    assert {run["date"].day for run in read(nightly.tables)["runs"]} == {1, 2, 3, 4, 5}
