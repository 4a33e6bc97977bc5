"""Options of the label job: dry run, canary, the time to stop, pictures and sound, and what is wrong with a command."""

import csv
import datetime
import shutil
import signal
import sys
import threading
import time
import wave
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from labelling import DEMO, JOB, by_name, check, read, run

from vidproc.errors import CanaryWrong, UsageError
from vidproc.pipeline import label
from vidproc.pipeline.chosen import chosen_annotators
from vidproc.pipeline.options import LabelConfig
from vidproc.pipeline.stopping import Stop, Stopped
from vidproc.train.archive import Truth, make_archive

Label = Callable[..., int]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Truth]]:
    """Two good videos."""
    folder = tmp_path_factory.mktemp("options") / "archive"
    truth = make_archive(folder, plain=2, sharded=1, seconds=2)
    shutil.rmtree(folder / "broken")
    (folder / "shard-0001.tar").unlink()
    return folder, truth[:2]


def config(archive: Path, tables: Path, **options: Any) -> LabelConfig:
    return LabelConfig(archive=(str(archive),), tables=str(tables), **options)


def write_picture(path: Path) -> None:
    frame = av.VideoFrame.from_ndarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8))
    codec = av.CodecContext.create("png" if path.suffix == ".png" else "mjpeg", "w")
    codec.width, codec.height = 64, 48
    codec.pix_fmt = "rgb24" if path.suffix == ".png" else "yuvj420p"
    codec.time_base = Fraction(1)
    packets = [*codec.encode(frame.reformat(format=codec.pix_fmt)), *codec.encode(None)]
    path.write_bytes(b"".join(map(bytes, packets)))


def write_sound(path: Path, seconds: float) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        times = np.arange(int(16_000 * seconds)) / 16_000
        file.writeframes((np.sin(times * 440 * 2 * np.pi) * 8000).astype("<i2").tobytes())


def test_pictures_and_sound_get_states_of_their_own(ray_cluster: None, tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    folder.mkdir()
    write_picture(folder / "a.png")
    write_picture(folder / "b.jpg")
    write_sound(folder / "tone.wav", 3.0)
    (folder / "notes.txt").write_text("ignored and counted, not listed")
    options = {"annotators": ("quality", "objects", "actions"), "weights": DEMO}
    assert label.run(config(folder, tmp_path / "tables", **options)) == 0
    tables = read(str(tmp_path / "tables"))
    check(tables)
    videos = by_name(tables)
    assert {name: row["status"] for name, row in videos.items()} == dict.fromkeys(videos, "labelled")
    assert sorted(videos) == ["a.png", "b.jpg", "tone.wav"]
    assert (videos["a.png"]["width"], videos["a.png"]["height"]) == (64, 48)
    first = {(row["video_id"], row["annotator"]): row for row in tables["ledger"] if row["segment"] == 0}
    for name, annotator, status, reason in (
        ("a.png", "objects", "labelled", None),
        ("b.jpg", "objects", "labelled", None),
        ("a.png", "actions", "empty", "too_short"),
        ("tone.wav", "quality", "labelled", None),
        ("tone.wav", "objects", "empty", "no_picture"),
        ("tone.wav", "actions", "empty", "no_picture"),
    ):
        row = first[videos[name]["video_id"], annotator]
        assert (row["status"], row["reason"]) == (status, reason), (name, annotator)
    loud = [row["loudness_lufs"] for row in tables["quality"] if row["video_id"] == videos["tone.wav"]["video_id"]]
    assert loud and all(-40 < value < 0 for value in loud if value is not None)


def test_dry_run_tells_the_hours_and_writes_nothing(
    archive: tuple[Path, list[Truth]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert label.run(config(archive[0], tmp_path / "tables", dry_run=True)) == 0
    told = capsys.readouterr().out
    assert "would label    2 videos" in told and "video          0.00 hours" in told
    assert not (tmp_path / "tables").exists()


def write_canary(folder: Path, archive: tuple[Path, list[Truth]], label_of: Callable[[Truth], str]) -> None:
    folder.mkdir()
    with (folder / "expected.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "annotator", "label"])
        for one in archive[1]:
            shutil.copy(archive[0] / one.file, folder / Path(one.file).name)
            writer.writerow([Path(one.file).name, "objects", label_of(one)])


def test_canary_that_comes_out_wrong_stops_before_anything_is_committed(
    ray_cluster: None, archive: tuple[Path, list[Truth]], tmp_path: Path
) -> None:
    write_canary(tmp_path / "canary", archive, lambda one: "cross" if one.shape != "cross" else "star")
    options = {"annotators": ("objects",), "weights": {"objects": "demo"}, "canary": str(tmp_path / "canary")}
    with pytest.raises(CanaryWrong, match="nothing was committed") as caught:
        label.run(config(archive[0], tmp_path / "tables", **options))
    assert caught.value.exit_code == 5
    tables = read(str(tmp_path / "tables"))
    assert not tables["ledger"] and not tables["videos"] and not tables["labels"]
    (only,) = tables["runs"]
    assert (only["status"], only["exit_code"], only["deferred"]) == ("failed", 5, 2)


@pytest.mark.slow
def test_canary_that_comes_out_right_lets_the_run_go_on(
    ray_cluster: None, archive: tuple[Path, list[Truth]], tmp_path: Path
) -> None:
    write_canary(tmp_path / "canary", archive, lambda one: one.shape)
    options = {"annotators": ("objects",), "weights": {"objects": "demo"}, "canary": str(tmp_path / "canary")}
    assert label.run(config(archive[0], tmp_path / "tables", **options)) == 0
    tables = read(str(tmp_path / "tables"))
    check(tables)
    assert len(tables["videos"]) == 2, "the canary's own videos are no rows"


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        (None, "expected.csv must be a CSV file"),
        ("file,annotator,label\n", "must be able to fail"),
        ("file,annotator,label\na.mp4,objects,star\n", "must be able to fail"),
    ],
)
def test_a_canary_that_cannot_fail_is_a_usage_error(
    ray_cluster: None, archive: tuple[Path, list[Truth]], tmp_path: Path, expected: str | None, message: str
) -> None:
    (tmp_path / "canary").mkdir()
    if expected is not None:
        (tmp_path / "canary" / "expected.csv").write_text(expected)
    with pytest.raises(UsageError, match=message):
        label.run(config(archive[0], tmp_path / "tables", canary=str(tmp_path / "canary")))


# ---- the time to stop


def in_seconds(seconds: float) -> datetime.time:
    at = datetime.datetime.now() + datetime.timedelta(seconds=seconds)
    return at.time().replace(microsecond=0)


def test_stop_at_publishes_exits_0_and_the_next_run_goes_on(
    ray_cluster: None, archive: tuple[Path, list[Truth]], tmp_path: Path
) -> None:
    assert label.run(config(archive[0], tmp_path / "tables", stop_at=in_seconds(2))) == 0
    stopped = read(str(tmp_path / "tables"))
    check(stopped)
    (run,) = stopped["runs"]
    assert (run["status"], run["exit_code"], run["planned"]) == ("stopped", 0, 2)
    assert run["deferred"] == 2 - len(stopped["videos"])
    assert label.run(config(archive[0], tmp_path / "tables", stop_at=in_seconds(-60))) == 0, "that time is tomorrow's"
    tables = read(str(tmp_path / "tables"))
    check(tables)
    assert len(tables["videos"]) == 2
    assert [run["status"] for run in sorted(tables["runs"], key=lambda row: row["started_at"])] == ["stopped", "done"]


def test_batches_that_came_before_the_stop_are_kept() -> None:
    stop = Stop(in_seconds(2))
    with stop.listening():

        def batches() -> Any:
            yield 1
            yield 2
            while True:  # a batch that takes long does not keep the run beyond its time
                datetime.time()

        assert list(stop.until(batches())) == [1, 2]
    assert stop.exit_code == 0


def test_an_alarm_that_rings_late_stops_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = Stop._ring

    def late(self: Stop) -> None:
        time.sleep(0.5)
        ring(self)

    monkeypatch.setattr(Stop, "_ring", late)
    stop = Stop(in_seconds(2))

    def batches() -> Any:
        yield 1
        time.sleep(2.3)  # past the time, and the alarm has begun to ring
        yield 2
        yield 3

    with stop.listening():
        assert list(stop.until(batches())) == [1, 2]
        time.sleep(1)
    assert stop.exit_code == 0


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_ends_the_batches_and_a_second_one_whatever_comes_then(name: str, code: int) -> None:
    number = getattr(signal, name)
    stop = Stop()
    with stop.listening():

        def batches() -> Any:
            yield 1
            signal.raise_signal(number)
            yield 2

        assert list(stop.until(batches())) == [1]
        assert stop.exit_code == code
        with pytest.raises(Stopped) as caught:
            signal.raise_signal(number)
    assert caught.value.exit_code == code


def test_failures_that_are_no_stop_are_raised() -> None:
    def batches() -> Any:
        yield 1
        raise RuntimeError("Ray is gone")

    with pytest.raises(RuntimeError, match="Ray is gone"):
        list(Stop().until(batches()))


@pytest.mark.parametrize("when", ["while a batch is waited for", "in Ray's get", "while one is committed"])
def test_what_another_thread_finds_wrong_ends_the_batches(when: str) -> None:
    stop, kept = Stop(), []

    def fail_and_go_on() -> None:
        thread = threading.Timer(0.2, stop.fail, [OSError("no room")])
        thread.start()
        ends = time.monotonic() + 1
        while time.monotonic() < ends:
            time.sleep(0.01)
        thread.join()

    def batches() -> Any:
        yield 1
        try:
            if when != "while one is committed":
                fail_and_go_on()
        except BaseException as error:
            if when == "in Ray's get":  # which heeds nothing else that a handler raises, and raises one of its own
                assert isinstance(error, KeyboardInterrupt)
                raise KeyboardInterrupt from None
            raise
        yield 2

    with stop.listening(), pytest.raises(OSError, match="no room"):
        for batch in stop.until(batches()):
            if when == "while one is committed":
                fail_and_go_on()
            kept.append(batch)
    assert kept == [1]


# ---- what is wrong with a command


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"annotators": ("colours",)}, "choose from .*quality"),
        ({"annotators": ("quality",), "weights": {"actions": "demo"}}, "which --annotators does not"),
        ({"annotators": ("objects",)}, "weights"),
        ({"annotators": ("objects",), "weights": {"objects": "no-such-network"}}, "no-such-network"),
        ({"weights": {"restore": "demo"}}, "frames are not restored: add --restore"),
        ({"annotators": ("restore",), "restore": True}, "no annotator is called restore"),
        ({"restore": True, "weights": {"restore": "demo:objects"}}, "does not describe a restorer"),
    ],
)
def test_what_cannot_be_done_is_told_before_any_work(
    archive: tuple[Path, list[Truth]], tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        label.run(config(archive[0], tmp_path / "tables", **options))
    assert not (tmp_path / "tables").exists()


def test_restoration_is_off_by_default_and_makes_other_models(tmp_path: Path) -> None:
    options: dict[str, Any] = {"annotators": ("quality", "objects", "actions"), "weights": DEMO}
    plain = chosen_annotators(config(tmp_path, tmp_path, **options))
    restoring = chosen_annotators(config(tmp_path, tmp_path, restore=True, **options))
    assert {name for name in plain if plain[name].model_id != restoring[name].model_id} == {"objects", "actions"}
    named = {**options, "weights": {**DEMO, "restore": "demo:restore"}}
    again = chosen_annotators(config(tmp_path, tmp_path, restore=True, **named))
    assert again == restoring


def test_restoring_labels_again_what_was_labelled_without(
    ray_cluster: None, archive: tuple[Path, list[Truth]], tmp_path: Path
) -> None:
    options: dict[str, Any] = {"annotators": ("quality", "objects"), "weights": {"objects": "demo"}}
    for restore in (False, True):
        assert label.run(config(archive[0], tmp_path / "tables", restore=restore, **options)) == 0
    tables = read(str(tmp_path / "tables"))
    check(tables)
    runs = sorted(tables["runs"], key=lambda row: row["started_at"])
    assert [run["planned"] for run in runs] == [2, 2]
    models = {(row["annotator"], row["model_id"]) for row in tables["ledger"] if row["segment"] == 0}
    assert sorted(name for name, _ in models) == ["objects", "objects", "quality"]


def test_command_line_ends_with_2_for_usage_errors(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("archive: [x]\ntables: y\nbatch_size: 8\n")
    unknown = run([sys.executable, str(JOB), "--config", str(tmp_path / "run.yaml")])
    assert unknown.returncode == 2 and "'batch_size' is no option" in unknown.stderr
    absent = run(
        [sys.executable, str(JOB), "--archive", str(tmp_path / "nowhere"), "--tables", str(tmp_path / "tables")]
    )
    assert absent.returncode == 2 and "nowhere" in absent.stderr
    assert "Traceback" not in unknown.stderr + absent.stderr


def test_configuration_file_and_flags_make_one_run(archive: tuple[Path, list[Truth]], tmp_path: Path) -> None:
    text = f"archive: [{archive[0]}]\ntables: {tmp_path / 'tables'}\nannotators: quality\nlimit: 1\n"
    (tmp_path / "run.yaml").write_text(text)
    dry = run([sys.executable, str(JOB), "--config", str(tmp_path / "run.yaml"), "--dry-run", "--limit", "2"])
    assert dry.returncode == 0, dry.stderr
    assert "would label    2 videos" in dry.stdout
