"""Inputs that crash, hang or starve their decoder cost one row each: the right reason, and all others labelled."""

import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from labelling import BUDGET_EXCEEDED, SHARED, Tables, by_name, check, read
from planting import poisoned

from vidproc.errors import INPUT_ERRORS
from vidproc.pipeline import label
from vidproc.pipeline.options import LabelConfig
from vidproc.train.encoded import encode
from vidproc.train.synthetic import render

POISON = {
    "segfault": ("segfault", "killed_worker", 2),
    "decode-segfault": ("decode/segfault", "killed_worker", 2),
    "decode-hang": ("decode/sleep", "timeout", 2),
    "hang": ("sleep", "timeout", 2),
    "memory": ("memory", "too_large", 1),
    "decode-memory": ("decode/memory", "too_large", 1),
    "killed": ("decode/kill", "killed_worker", 2),
    "killed-with-sandbox": ("decode/kill_sandbox", "killed_worker", 2),
    "nonsense": ("decode/garbage", "killed_worker", 2),
}
"""File → the fault planted in it, the reason it gets, and the attempts that takes."""
GOOD = 4
LIMITS: dict[str, Any] = {"segment_seconds_limit": 3, "memory_limit_gib": 0.5}


def sandboxes() -> list[psutil.Process]:
    """The decoding processes of this session's Ray, zombies included."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.status() == psutil.STATUS_ZOMBIE or "vidproc.media.sandbox" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def assert_no_child_is_left() -> None:
    """A worker keeps its one sandbox for the next task; below that there is nothing, and nothing waits to be reaped."""
    time.sleep(0.5)
    found = sandboxes()
    assert not [one for one in found if one.status() == psutil.STATUS_ZOMBIE]
    assert not [child for one in found for child in one.children()]
    parents = [one.ppid() for one in found]
    assert len(parents) == len(set(parents)), "a worker has two sandboxes"


@pytest.fixture(scope="module")
def poisoned_run(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Tables]:
    folder = tmp_path_factory.mktemp("poison")
    (folder / "archive").mkdir()
    frames = render(shape="star", motion="left", seconds=1, fps=16, size=(96, 128), seed=1)
    video = encode(frames, fps=16)
    for number in range(GOOD):
        (folder / "archive" / f"good-{number}.mp4").write_bytes(video)
    for name, (fault, _, _) in POISON.items():
        (folder / "archive" / f"{name}.mp4").write_bytes(poisoned(video, fault))
    tables_url = str(folder / "tables")
    config = LabelConfig(archive=(str(folder / "archive"),), tables=tables_url, failure_budget=0.5, **LIMITS)
    code = label.run(config)
    return code, read(tables_url)


def test_every_poison_has_its_reason_and_all_others_are_labelled(poisoned_run: tuple[int, Tables]) -> None:
    code, tables = poisoned_run
    check(tables)
    videos = by_name(tables)
    states = {name: (row["status"], row["reason"]) for name, row in videos.items()}
    expected = {f"{name}.mp4": ("quarantined", reason) for name, (_, reason, _) in POISON.items()}
    assert states == expected | {f"good-{number}.mp4": ("labelled", None) for number in range(GOOD)}
    assert code == BUDGET_EXCEEDED
    (run,) = tables["runs"]
    assert (run["labelled"], run["quarantined"]) == (GOOD, len(POISON))


def test_killed_and_hanging_decoders_get_a_second_attempt(poisoned_run: tuple[int, Tables]) -> None:
    _, tables = poisoned_run
    names = {row["video_id"]: name for name, row in by_name(tables).items()}
    attempts = {names[row["video_id"]]: row["attempts"] for row in tables["ledger"] if row["segment"] == 0}
    assert attempts == {f"{name}.mp4": count for name, (_, _, count) in POISON.items()} | {
        f"good-{number}.mp4": 1 for number in range(GOOD)
    }


def test_details_say_what_happened(poisoned_run: tuple[int, Tables]) -> None:
    _, tables = poisoned_run
    names = {row["video_id"]: name for name, row in by_name(tables).items()}
    details = {names[row["video_id"]]: row["detail"] for row in tables["ledger"] if row["segment"] == -1}
    assert "SIGSEGV" in details["segfault.mp4"] and "SIGSEGV" in details["decode-segfault.mp4"]
    assert "3 s" in details["hang.mp4"] and "memory" in details["memory.mp4"]


def test_no_child_and_no_zombie_is_left(poisoned_run: tuple[int, Tables]) -> None:
    assert_no_child_is_left()


@pytest.mark.slow
def test_broken_files_of_every_kind(ray_cluster: None, tmp_path: Path) -> None:
    """Real broken files: each ends in one state with a known reason; what ffmpeg decodes in part is not thrown away."""
    if not (SHARED / "broken").exists():
        pytest.skip(f"no real broken files: {SHARED}/broken is not there")
    url = str(tmp_path / "tables")
    config = LabelConfig(
        archive=(str(SHARED / "broken"),),
        tables=url,
        include=("*",),
        annotators=("quality", "actions", "objects"),
        weights={"actions": "demo", "objects": "demo"},
        failure_budget=1.0,
        segment_seconds_limit=60,
    )
    assert label.run(config) == 0
    tables = read(url)
    check(tables)
    videos = by_name(tables)
    assert sorted(videos) == sorted(path.name for path in (SHARED / "broken").iterdir())
    for name, row in videos.items():
        assert row["status"] in ("labelled", "partial", "quarantined", "empty"), (name, row["status"])
        assert row["reason"] in {*INPUT_ERRORS, None} and (row["status"] == "labelled") == (row["reason"] is None), name
    for name in ("resnet18-f37072fd.pth", "resnet18_lfs_pointer.onnx", "fuzz_bogus.ogv"):
        assert (videos[name]["status"], videos[name]["reason"]) == ("quarantined", "not_media"), name
    assert not [name for name, row in videos.items() if row["reason"] in ("killed_worker", "timeout")]
    for name in ("mp4parse_no_timescale.mp4", "declared_audio_missing.ts", "fuzz_bug482461.ogv"):
        assert videos[name]["status"] in ("labelled", "partial"), name
    assert_no_child_is_left()
