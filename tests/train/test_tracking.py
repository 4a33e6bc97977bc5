"""Curves go to event files, locally or in an object store, and to trackers that are installed and set up."""

import importlib.util
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vidproc.train.options import TrainConfig
from vidproc.train.tracking import Tracker

TOLD = [
    {"epoch": 1, "step": 3, "loss": 2.0, "accuracy": 0.25, "eta_s": 9},
    {"epoch": 2, "step": 6, "loss": 1.0, "accuracy": 0.5, "eta_s": 0},
]
LOSSES = [[3.0, 2.0, 1.0], [1.5, 1.0, 0.5]]
FIGURES = [{"loss": 2.0, "accuracy": 0.25, "eta_s": 9.0}, {"loss": 1.0, "accuracy": 0.5, "eta_s": 0.0}]


@pytest.fixture(autouse=True)
def nothing_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def memory() -> Iterator[str]:
    """A folder of fsspec's store in this process."""
    yield "memory://tracking"
    fsspec.filesystem("memory").rm("/tracking", recursive=True)


def track(out: str | Path, *, close: bool = True) -> Tracker:
    tracker = Tracker(TrainConfig(name="motions", out=str(out)))
    for told, losses in zip(TOLD, LOSSES, strict=True):
        tracker.epoch(told, losses)
    if close:
        tracker.close()
    return tracker


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    (file,) = folder.iterdir()
    events = EventAccumulator(str(file)).Reload()
    return {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


EXPECTED = {
    "step/loss": [(1, 3.0), (2, 2.0), (3, 1.0), (4, 1.5), (5, 1.0), (6, 0.5)],
    "epoch/loss": [(1, 2.0), (2, 1.0)],
    "epoch/accuracy": [(1, 0.25), (2, 0.5)],
    "epoch/eta_s": [(1, 9.0), (2, 0.0)],
}


def test_event_files_lie_in_the_trainings_folder(tmp_path: Path) -> None:
    track(tmp_path)
    assert scalars(tmp_path / "motions" / "tensorboard") == EXPECTED


def test_an_object_store_has_them_since_the_last_epochs_end(memory: str, tmp_path: Path) -> None:
    track(memory, close=False)
    fsspec.filesystem("memory").get("/tracking/motions/tensorboard/", f"{tmp_path}/fetched/", recursive=True)
    assert scalars(tmp_path / "fetched") == EXPECTED


class Fake(types.ModuleType):
    """A tracker's module, or a run of it, that keeps what it is told."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.told: list[tuple[Any, ...]] = []

    def start_run(self, *, run_name: str) -> None:
        self.told.append(("start_run", run_name))

    def log_params(self, values: dict[str, str]) -> None:
        self.told.append(("log_params", values))

    def log_metrics(self, figures: dict[str, float], *, step: int) -> None:
        self.told.append(("log_metrics", figures, step))

    def end_run(self) -> None:
        self.told.append(("end_run",))

    def init(self, **how: Any) -> "Fake":
        self.told.append(("init", how))
        return self

    def log(self, figures: dict[str, float], *, step: int) -> None:
        self.told.append(("log", figures, step))

    def finish(self) -> None:
        self.told.append(("finish",))


def installed(monkeypatch: pytest.MonkeyPatch, name: str) -> Fake:
    fake = Fake(name)
    fake.__spec__ = importlib.util.spec_from_loader(name, loader=None)
    monkeypatch.setitem(sys.modules, name, fake)
    return fake


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in names else find(name, *a))


def test_mlflow_is_told_the_options_and_the_figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = installed(monkeypatch, "mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.invalid")
    track(tmp_path)
    started, (_, parameters), *told, ended = fake.told
    assert started == ("start_run", "motions") and ended == ("end_run",)
    assert parameters["learning_rate"] and all(isinstance(value, str) for value in parameters.values())
    assert told == [("log_metrics", FIGURES[0], 3), ("log_metrics", FIGURES[1], 6)]


def test_wandb_goes_on_with_the_same_run_after_a_kill(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = installed(monkeypatch, "wandb")
    monkeypatch.setenv("WANDB_API_KEY", "a key")
    track(tmp_path, close=False)
    assert fake.told[1:] == [("log", FIGURES[0], 3), ("log", FIGURES[1], 6)]
    track(tmp_path)
    begun = [how for what, how in (one for one in fake.told if one[0] == "init")]
    assert begun[0] == begun[1] and begun[0]["resume"] == "allow" and begun[0]["id"].startswith("motions-")
    assert fake.told[-1] == ("finish",)
    Tracker(TrainConfig(name="motions", out=str(tmp_path / "other"), seed=1)).close()
    assert fake.told[-2][1]["id"] != begun[0]["id"], "other options are another run"


def test_trackers_that_are_not_installed_or_not_set_up_are_told_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fakes = [installed(monkeypatch, name) for name in ("mlflow", "wandb")]
    track(tmp_path / "not set up")
    without(monkeypatch, "mlflow", "wandb")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.invalid")
    monkeypatch.setenv("WANDB_API_KEY", "a key")
    track(tmp_path / "not installed")
    assert [fake.told for fake in fakes] == [[], []]
    assert scalars(tmp_path / "not installed" / "motions" / "tensorboard") == EXPECTED
