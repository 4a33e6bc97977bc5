"""A whole training through Ray: what one worker or two learn, what a kill changes (nothing), and what is left."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import s3fs
import safetensors.torch
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vidproc.annotators.actions import Actions
from vidproc.errors import UsageError
from vidproc.train.encoded import encode
from vidproc.train.options import TrainConfig
from vidproc.train.run import run
from vidproc.train.synthetic import MOTIONS, SHAPES, render

pytestmark = pytest.mark.ray

JOB = Path(__file__).parents[2] / "jobs" / "train.py"
VIEW = {"kind": "clips", "num_frames": 4, "fps": 8, "stride_s": 0.5, "picture": {"resize": [24, 24]}}
SMALL = {"depths": [1, 1], "widths": [4, 8], "norm": {"kind": "group"}}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of four short videos."""
    folder = tmp_path_factory.mktemp("clips")
    for motion in MOTIONS[:3]:
        for i in range(4):
            frames = render(shape=SHAPES[i], motion=motion, seconds=1.0, fps=12, size=(48, 64), seed=i)
            path = folder / motion / f"scene-{i}.mp4"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(encode(frames, fps=12))
    return folder


def config(clips: Path, out: Path, **options: Any) -> TrainConfig:
    given: dict[str, Any] = {
        "name": "motions", "out": str(out), "data": (str(clips),), "held_out": "scene-3*", "view": VIEW,
        "options": SMALL, "samples": 4, "epochs": 2, "batch": 6, "learning_rate": 0.01, "warmup_steps": 2,
        "augment": ("crop", "colour"), "licence": "CC0-1.0", "ema": 0.9, "l1": 0.001, "max_failures": 4,
    }  # fmt: skip
    return TrainConfig(**given | options)


def losses(folder: Path) -> list[float]:
    """Of each step, as TensorBoard's files have them; an attempt that ended within an epoch leaves an empty one."""
    found: dict[int, float] = {}
    for file in sorted((folder / "tensorboard").iterdir()):
        events = EventAccumulator(str(file)).Reload()
        if "step/loss" in events.Tags()["scalars"]:
            found |= {event.step: event.value for event in events.Scalars("step/loss")}
    return [found[step] for step in sorted(found)]


def state(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "network.safetensors")


@pytest.fixture(scope="module")
def undisturbed(ray_cluster: None, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training by one worker."""
    out = tmp_path_factory.mktemp("undisturbed")
    assert run(config(clips, out)) == 0
    return out / "motions"


def test_a_training_leaves_what_label_loads(undisturbed: Path, clips: Path) -> None:
    weights = str(undisturbed / "network.safetensors")
    actions = Actions.from_spec(weights)
    assert actions.weights.categories == tuple(sorted(MOTIONS[:3]))
    assert actions.weights.options == SMALL and actions.weights.view.sample_shape == (4, 24, 24, 3)
    actions.load("cpu")
    sidecar = json.loads(Path(f"{weights}.json").read_text())
    assert 0 <= sidecar["metrics"]["accuracy"] <= 1
    assert sidecar["protocol"].startswith("uniform-1xcenter on 3 held-out examples")
    assert set(sidecar["origin"]) == {"data", "config", "code_version"}
    assert len(losses(undisturbed)) == 2 * (3 * 3 * 4 // 6)


def test_the_same_command_again_does_nothing_and_another_one_is_refused(
    undisturbed: Path, clips: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")}
    assert run(config(clips, undisturbed.parent, workers=(1, 2))) == 0, "where it runs is no part of what it is"
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")} == before
    assert "trained already" in capfd.readouterr().err
    with pytest.raises(UsageError, match=r"learning_rate was 0\.01 and is now 0\.02.*choose another --name"):
        run(config(clips, undisturbed.parent, learning_rate=0.02))


@pytest.mark.slow
def test_a_training_that_was_killed_before_its_result_was_written_writes_it(undisturbed: Path, clips: Path) -> None:
    files = [undisturbed / f"network.safetensors{ending}" for ending in ("", ".json")]
    before = [file.read_bytes() for file in files]
    for file in files:
        file.unlink()
    assert run(config(clips, undisturbed.parent)) == 0
    assert [file.read_bytes() for file in files] == before


@pytest.mark.parametrize("shard", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["ddp", "fsdp"])
def test_two_workers_learn_what_one_learns(undisturbed: Path, clips: Path, tmp_path: Path, shard: bool) -> None:
    assert run(config(clips, tmp_path, workers=2, shard=shard)) == 0
    one, two = losses(undisturbed), losses(tmp_path / "motions")
    assert one == pytest.approx(two, abs=2e-5)
    assert max(one) - min(one) > 1e-3, "a network that learns nothing would agree too"


@pytest.mark.slow
def test_samples_decoded_anew_in_each_epoch(undisturbed: Path, clips: Path, tmp_path: Path) -> None:
    assert run(config(clips, tmp_path, decode="stream", workers=(1, 2))) == 0
    told = losses(tmp_path / "motions")
    assert len(told) == len(losses(undisturbed)) and all(0 < value < 5 for value in told)


def train_workers() -> list[psutil.Process]:
    return [one for one in psutil.process_iter(["cmdline"]) if "RayTrainWorker" in " ".join(one.info["cmdline"] or ())]


@contextmanager
def workers_killed(folder: Path) -> Iterator[None]:
    """All workers are, once, as soon as the training has a checkpoint."""
    killed = []

    def kill() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not killed:
            if list((folder / "ray").glob("checkpoint_*/training.pt")):
                for worker in train_workers():
                    worker.send_signal(signal.SIGKILL)
                    killed.append(worker.pid)
            time.sleep(0.02)

    thread = threading.Thread(target=kill)
    thread.start()
    yield
    thread.join()
    assert killed, "the training ended before anybody was killed"


@pytest.mark.slow
def test_a_worker_that_is_killed_changes_nothing(undisturbed: Path, clips: Path, tmp_path: Path) -> None:
    with workers_killed(tmp_path / "motions"):
        assert run(config(clips, tmp_path, checkpoint_steps=2)) == 0
    assert losses(tmp_path / "motions") == losses(undisturbed)
    assert same(state(undisturbed), state(tmp_path / "motions"))


@pytest.mark.slow
def test_sharded_workers_that_are_killed_change_nothing(ray_cluster: None, clips: Path, tmp_path: Path) -> None:
    sharded = {"checkpoint_steps": 2, "workers": 2, "shard": True}
    assert run(config(clips, tmp_path / "calm", **sharded)) == 0
    with workers_killed(tmp_path / "motions"):
        assert run(config(clips, tmp_path, **sharded)) == 0
    assert losses(tmp_path / "motions") == losses(tmp_path / "calm" / "motions")
    assert same(state(tmp_path / "calm" / "motions"), state(tmp_path / "motions"))


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_network_that_does_not_fit_its_view_is_refused_before_any_work(
    ray_cluster: None, clips: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="resnet18 needs a frames view"):
        run(config(clips, tmp_path, architecture="resnet18"))
    assert not (tmp_path / "motions" / "ray").exists()


@pytest.mark.slow
def test_what_fails_for_good_ends_the_training_with_its_message(ray_cluster: None, clips: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="lower --learning-rate"):
        run(config(clips, tmp_path, learning_rate=1e30, warmup_steps=0, optimiser="sgd", ema=0.0, l1=0.0))


@pytest.mark.slow
@pytest.mark.s3
def test_data_checkpoints_and_curves_may_lie_on_s3(undisturbed: Path, clips: Path, s3: str, tmp_path: Path) -> None:
    filesystem = s3fs.S3FileSystem()
    filesystem.put(str(clips), f"{s3}/training/clips", recursive=True)
    path = tmp_path / "train.yaml"
    given = config(clips, tmp_path).model_dump(mode="json", exclude_unset=True)
    path.write_text(json.dumps(given | {"data": [f"{s3}/training/clips"], "out": f"{s3}/training/out"}))
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, str(JOB), "--config", str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    filesystem.invalidate_cache()
    filesystem.get(f"{s3}/training/out/motions", str(tmp_path / "motions"), recursive=True)
    assert same(state(undisturbed), state(tmp_path / "motions"))
    assert losses(tmp_path / "motions") == pytest.approx(losses(undisturbed), abs=1e-6)


@pytest.mark.slow
def test_a_driver_that_is_killed_changes_nothing(undisturbed: Path, clips: Path, tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(json.dumps(config(clips, tmp_path, checkpoint_steps=2).model_dump(mode="json", exclude_unset=True)))
    command = [sys.executable, str(JOB), "--config", str(path)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as driver:
        deadline = time.monotonic() + 200
        while not list((tmp_path / "motions" / "ray").glob("checkpoint_*/training.pt")):
            assert driver.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        driver.send_signal(signal.SIGKILL)
    assert not (tmp_path / "motions" / "network.safetensors").exists()
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr[-3000:]
    assert same(state(undisturbed), state(tmp_path / "motions"))
