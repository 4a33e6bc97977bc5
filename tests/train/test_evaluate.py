"""`evaluate` through Ray: figures into the tables, plots, a calibrated sidecar that `label` then goes by."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidproc.annotators.objects import Objects
from vidproc.errors import UsageError
from vidproc.models.sidecar import DEMO
from vidproc.models.weights import resolve_weights
from vidproc.tables.query import connect
from vidproc.train.demo import draw_videos
from vidproc.train.evaluate import OutputOptions, evaluate, evaluation_view
from vidproc.train.scored import Scored
from vidproc.train.synthetic import HELD_OUT, SHAPES
from vidproc.views import Frames, Picture

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six unseen scenes in each shape."""
    folder = tmp_path_factory.mktemp("unseen")
    draw_videos(folder, "objects", scenes=6, first=HELD_OUT + 300)
    return folder


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The demo's, with a sidecar that may be changed."""
    for ending in ("", ".json"):
        shutil.copyfile(DEMO / f"objects.safetensors{ending}", tmp_path / f"objects.safetensors{ending}")
    return tmp_path / "objects.safetensors"


def options(scenes: Path, **more: Any) -> OutputOptions:
    return OutputOptions(data=(str(scenes),), samples=3, **more)


def test_figures_go_to_tables_and_plots_under_label_s_name_of_the_model(
    ray_cluster: None, scenes: Path, checkpoint: Path, tmp_path: Path
) -> None:
    given = options(
        scenes, weights=str(checkpoint), tables=str(tmp_path / "tables"), out=tmp_path / "plots", corruptions=True
    )
    assert evaluate(given) == 0
    assert evaluate(given) == 0, "the same evaluation again takes the place of the first"
    rows = connect(str(tmp_path / "tables")).sql("SELECT * FROM evaluations").to_arrow_table().to_pylist()
    figures = {(row["metric"], row["slice"]): row["value"] for row in rows}
    assert len(figures) == len(rows)
    assert {row["model_id"] for row in rows} == {Objects.from_spec(str(checkpoint)).model_id}
    assert {row["protocol"] for row in rows} == {"uniform-3xcenter"}
    assert figures["examples", ""] == 30 and figures["top1", ""] >= 0.8
    assert {f"label={shape}" for shape in SHAPES} <= {row["slice"] for row in rows if row["metric"] == "recall"}
    worst = figures["top1_corrupted", "corruption=gaussian_noise,severity=5"]
    assert worst < figures["top1", ""] and 0 < figures["top1_corrupted", ""] < 1
    page = (tmp_path / "plots" / "index.html").read_text()
    for picture in ("reliability", "curves", "confusion", "robustness"):
        assert (tmp_path / "plots" / f"{picture}.png").stat().st_size > 1000 and f"{picture}.png" in page


def test_calibration_is_written_where_label_finds_it(ray_cluster: None, scenes: Path, checkpoint: Path) -> None:
    before = Objects.from_spec(str(checkpoint))
    given = options(scenes, weights=str(checkpoint), calibrate=0.7, precision=0.6).model_copy(update={"samples": 8})
    with pytest.raises(UsageError, match=r"no label reaches a precision of 0\.6 on the 12 samples"):
        evaluate(given.model_copy(update={"samples": 1, "calibrate": 0.4}))
    assert evaluate(given) == 0
    after = Objects.from_spec(str(checkpoint))
    assert after.weights.temperature != 1 and len(after.weights.thresholds) == len(SHAPES)
    assert after.model_id != before.model_id, "other scores are another model"
    wanted = [np.inf if one is None else np.float32(one) for one in after.weights.thresholds]
    assert after.floors.tolist() == wanted
    network = after.load("cpu").scorer  # type: ignore[attr-defined]
    pixels = np.random.default_rng(0).integers(0, 255, (4, *after.view.sample_shape), np.uint8)
    [scores], [logits] = network.scores([pixels]), network.logits([pixels])
    powers = np.exp((logits - logits.max(axis=1, keepdims=True)) / after.weights.temperature)
    assert scores == pytest.approx(powers / powers.sum(axis=1, keepdims=True), abs=1e-5)
    metrics = json.loads(Path(f"{checkpoint}.json").read_text())["metrics"]
    assert metrics["precision_wanted"] == 0.6 and metrics["temperature"] == after.weights.temperature


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"weights": "demo:objects", "calibrate": 0.5}, "name a checkpoint"),
        ({"weights": "demo:objects", "split": "test"}, "no example is in the split 'test'"),
        ({"weights": "demo:actions"}, "the data is labelled .*circle"),
        ({"weights": "demo:objects", "crops": "3"}, "use 1"),
    ],
)
def test_what_cannot_be_measured_is_told_before_any_work(
    monkeypatch: pytest.MonkeyPatch, scenes: Path, more: dict[str, Any], message: str
) -> None:
    monkeypatch.delattr("vidproc.train.evaluate.connected")
    given = options(scenes, weights="demo:objects").model_dump() | more
    with pytest.raises(UsageError, match=message):
        evaluate(OutputOptions(**given))


def test_scores_of_an_example_are_the_mean_over_its_samples() -> None:
    weights = resolve_weights("demo:objects")
    logits = np.log(np.array([[0.7, 0.1, 0.1, 0.05, 0.05], [0.1, 0.7, 0.1, 0.05, 0.05], [0.2] * 5], np.float32))
    found = Scored(logits, np.array([0, 0, 1]), np.array([0, 1]), {("noise", 1): logits})
    assert found.scores(weights)[0] == pytest.approx([0.4, 0.4, 0.1, 0.05, 0.05], abs=1e-6)
    second = found.only(np.array([False, True]))
    assert second.example.tolist() == [0] and second.truth.tolist() == [1]
    assert second.damaged["noise", 1] == pytest.approx(logits[2:])


def test_three_crops_are_cut_from_the_square_that_is_decoded() -> None:
    weights = resolve_weights("demo:objects")
    cropping = replace(weights, view=Frames(fps=1, picture=Picture(resize=72, crop=(64, 64))))
    assert evaluation_view(cropping, crops=3).picture.shape == (72, 72, 3)  # type: ignore[union-attr]
    assert evaluation_view(cropping, crops=1) == cropping.view
