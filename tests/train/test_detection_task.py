"""Detection: what the drawn pictures hold, what the task makes of labels, and that training finds boxes."""

import json
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from bench.small_tasks import before_and_after, boxes, detector, measured, train
from pydantic import TypeAdapter

from vidproc.models.detection import build_detector
from vidproc.models.detection_spec import DetectionSpec
from vidproc.train import drawn_boxes
from vidproc.train.synthetic import SHAPES
from vidproc.train.tasks.base import Batch
from vidproc.train.tasks.detection import Detection

TASK = Detection(categories=SHAPES, spec=detector("retinanet").spec)


def found(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 6)


# ---- the drawn pictures


def test_boxes_enclose_exactly_what_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a background without texture or noise, whatever differs from it is a shape."""
    monkeypatch.setattr(drawn_boxes, "_texture", lambda rng, size: np.zeros((size, size, 1)))
    checked = 0
    for seed in range(200):
        drawn = drawn_boxes.picture(seed=seed)
        if len(drawn.boxes) != 1:
            continue
        pixels = drawn.pixels.astype(float)
        background = np.median(pixels.reshape(-1, 3), axis=0)
        colour = pixels[np.abs(pixels - background).sum(-1) > 0.8 * np.abs(pixels - background).sum(-1).max()].mean(0)
        share = ((pixels - background) @ (colour - background)) / ((colour - background) ** 2).sum()
        rows, columns = np.nonzero(share > 0.5)
        box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert np.abs(drawn.boxes[0] * 64 - box).max() <= 1, seed  # noise may move a pixel of the edge
        assert drawn.areas[0] == pytest.approx((share > 0.5).sum(), rel=0.1)
        checked += 1
    assert checked >= 10


def test_pictures_hold_several_shapes_or_none_and_come_from_the_seed() -> None:
    drawn = [drawn_boxes.picture(seed=seed) for seed in range(200)]
    assert {len(one.labels) for one in drawn} == {0, 1, 2, 3, 4}
    assert set(np.concatenate([one.labels for one in drawn]).tolist()) == set(range(len(SHAPES)))
    every = np.concatenate([one.boxes for one in drawn])
    assert (every >= 0).all() and (every <= 1).all() and (every[:, 2:] - every[:, :2] > 3 / 64).all()
    again, other = drawn_boxes.picture(seed=0), drawn_boxes.picture(seed=1)
    assert np.array_equal(again.pixels, drawn[0].pixels) and np.array_equal(again.boxes, drawn[0].boxes)
    assert not np.array_equal(other.pixels, again.pixels)


def test_a_coco_folder_holds_the_pictures_and_their_boxes(tmp_path: Path) -> None:
    seeds = [0, 1, 2, drawn_boxes.HELD_OUT]
    drawn_boxes.write_coco(tmp_path, seeds=seeds, size=48)
    told = json.loads((tmp_path / "instances.json").read_text())
    names = {one["id"]: one["name"] for one in told["categories"]}
    assert [one["split"] for one in told["images"]] == ["train"] * 3 + ["val"]
    assert len({one["id"] for one in told["annotations"]}) == len(told["annotations"])
    for image in told["images"]:
        drawn = drawn_boxes.picture(seed=image["id"], size=48)
        with av.open(tmp_path / image["file_name"]) as container:
            (frame,) = container.decode(video=0)
        assert np.array_equal(frame.to_ndarray(format="rgb24"), drawn.pixels)
        own = [one for one in told["annotations"] if one["image_id"] == image["id"]]
        assert [names[one["category_id"]] for one in own] == [SHAPES[label] for label in drawn.labels]
        corners = [(x, y, x + width, y + height) for x, y, width, height in (one["bbox"] for one in own)]
        assert np.allclose(np.array(corners).reshape(-1, 4) / 48, drawn.boxes)
    with pytest.raises(FileExistsError):
        drawn_boxes.write_coco(tmp_path, seeds=seeds)


# ---- the task


def test_the_task_is_light() -> None:
    """A driver makes it, and need not wait for torchvision."""
    code = "import sys, vidproc.train.tasks.detection; print('torchvision' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_labels_may_be_names_or_indices_and_boxes_none() -> None:
    box = [0.1, 0.2, 0.5, 0.6]
    named, numbered, none, thin = TASK.truth(
        [
            {"boxes": [box], "labels": ["star"]},
            {"boxes": np.array([box]), "labels": np.array([3])},
            {"boxes": [], "labels": []},
            {"boxes": [[0.1, 0.2, 0.1, 0.6], box], "labels": [0, 1]},
        ],
        "cpu",
    )
    assert named["labels"].tolist() == numbered["labels"].tolist() == [3]
    assert torch.equal(named["boxes"], numbered["boxes"])
    assert none["boxes"].shape == (0, 4) and none["labels"].shape == (0,)
    assert thin["labels"].tolist() == [1]
    for unknown in ("blob", len(SHAPES), -1):
        with pytest.raises(ValueError, match=f"{unknown}.*none of the categories"):
            TASK.truth([{"boxes": [box], "labels": [unknown]}], "cpu")


def test_mean_average_precision_of_known_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """And among several workers it is this one's affair: no other is waited for."""
    label = {"boxes": [[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]], "labels": ["circle", "star"]}
    circle, star = (0, 0, 0.5, 0.5, 0.9, 0), (0.5, 0.5, 1, 1, 0.8, 3)
    near = (0.5, 0.5, 1, 0.85, 0.8, 3)  # IoU 0.7: right at 0.50 to 0.70, five of ten
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_gather", lambda *_, **__: pytest.fail("it talks to others"))

    def measures(*rows: tuple[float, ...]) -> list[float]:
        return list(TASK.measures([found(*rows), found()], [label, {"boxes": [], "labels": []}]).values())

    assert measures(circle, star) == pytest.approx([1, 1])
    assert measures(circle, near) == pytest.approx([0.75, 1], abs=0.051)
    assert measures(circle) == pytest.approx([0.5, 0.5])
    assert measures((*circle[:5], 3), (*star[:5], 0)) == pytest.approx([0, 0])
    assert measures() == pytest.approx([0, 0])
    assert next(iter(TASK.measures([found()], [label]))) == "map"


@pytest.mark.parametrize("kind", ["retinanet", "fasterrcnn"])
def test_outputs_are_shares_of_the_picture_scores_and_categories(kind: str, one_thread: None) -> None:
    torch.manual_seed(0)
    task = detector(kind)
    network = task.network().train()
    rows = task.outputs(network, Batch(torch.randn(3, 3, 48, 64), None))
    assert len(rows) == 3 and not network.training
    assert all(one.dtype == np.float32 and one.shape[1:] == (6,) for one in rows)
    every = np.concatenate(rows)
    assert (every[:, :5] >= 0).all() and (every[:, :5] <= 1).all()
    assert set(every[:, 5].tolist()) <= set(range(len(SHAPES)))


@pytest.mark.parametrize("kind", ["retinanet", "fasterrcnn"])
def test_the_checkpoint_and_its_sidecar_make_the_same_network(kind: str) -> None:
    task = detector(kind)
    as_json = TypeAdapter(DetectionSpec).dump_json(task.spec)
    spec = TypeAdapter(DetectionSpec).validate_json(as_json)
    assert spec == task.spec
    trained = task.network()
    fresh = build_detector(spec, classes=len(task.categories))
    fresh.load_state_dict(task.state(torch.nn.ModuleDict({"module": trained})))  # as DDP names them
    for name, value in trained.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value), name


def test_training_learns_to_find_boxes(one_thread: None) -> None:
    """RetinaNet on 1000 pictures for 150 steps; `tests/bench/small_tasks.py` trains it for 1200, on 4000."""
    held, task = boxes(first=drawn_boxes.HELD_OUT, count=60), detector("retinanet")
    torch.manual_seed(0)
    network = task.network()
    assert measured(task, network, held)["map_50"] < 0.05
    train(task, network, boxes(first=0, count=1000), steps=150, batch=16, rate=4e-3)
    assert measured(task, network, held)["map_50"] > 0.15


def test_faster_rcnn_learns_labels_from_0(one_thread: None) -> None:
    """Of four pictures by heart: each box has its own label, none of them is taken for the background."""
    examples, task = boxes(first=0, count=4), detector("fasterrcnn")
    torch.manual_seed(0)
    network = task.network()
    train(task, network, examples, steps=80, batch=4, rate=4e-3)
    assert measured(task, network, examples)["map_50"] > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["retinanet", "fasterrcnn"])
def test_a_full_training_finds_nearly_all(one_thread: None, kind: str) -> None:
    before, after = before_and_after(kind)
    assert before["map_50"] < 0.02
    assert after["map_50"] > 0.8 and after["map"] > 0.6
