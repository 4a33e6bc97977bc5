"""A tiny whole training of every kind but that of clips: its sidecar is of its kind, and its checkpoint fits that."""

import csv
import json
import math
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
from torch import nn

from vidproc.errors import UsageError
from vidproc.models.build import build
from vidproc.models.detection import build_detector
from vidproc.models.detector import Detector
from vidproc.models.embedder import Embedder
from vidproc.models.load import load_network, load_restorer
from vidproc.models.restorer import resolve_restorer
from vidproc.models.sidecar import described
from vidproc.models.weights import resolve_weights
from vidproc.train import drawn_boxes, drawn_identities
from vidproc.train.options import TrainConfig
from vidproc.train.run import run
from vidproc.train.synthetic import SHAPES

pytestmark = pytest.mark.ray

VIEW = {"kind": "frames", "fps": 1, "picture": {"resize": [32, 32]}}
SMALL = {"depths": [1, 1], "widths": [4, 8], "norm": {"kind": "group"}}
DETECTOR = {"fpn_channels": 8, "anchor_sizes": [[8], [16]], "norm": {"kind": "group"}}
LISTENING = {
    "seconds": 0.5,
    "stride_s": 0.5,
    "spectrum": {"rate": 8000, "window": 512, "hop": 128, "mels": 64, "low_hz": 50, "high_hz": 3500},
}


def config(data: Path, **options: Any) -> TrainConfig:
    """Two steps of one epoch, below the current folder."""
    given: dict[str, Any] = {
        "name": "tiny", "out": "out", "data": (str(data),), "view": VIEW, "architecture": "resnet18", "options": SMALL,
        "epochs": 1, "batch": 4, "licence": "MIT", "max_failures": 1,
    }  # fmt: skip
    return TrainConfig(**given | options)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trained(asked: TrainConfig, here: Path) -> tuple[str, dict[str, Any]]:
    """The checkpoint's URL, and its sidecar."""
    assert run(asked) == 0
    folder = here / "out" / "tiny"
    assert list((folder / "tensorboard").iterdir()), "a worker's curves lie below the folder of the command"
    sidecar = json.loads((folder / "network.safetensors.json").read_text())
    assert all(math.isfinite(value) for value in sidecar["metrics"].values())
    assert all(name in sidecar["protocol"] for name in sidecar["metrics"])
    return str(folder / "network.safetensors"), sidecar


def fits(url: str, network: nn.Module) -> None:
    network.load_state_dict(safetensors.torch.load_file(url), strict=True)


@pytest.mark.slow
def test_a_detector(ray_cluster: None, here: Path) -> None:
    held = drawn_boxes.HELD_OUT
    drawn_boxes.write_coco(here / "boxes", seeds=[*range(8), held, held + 1], size=32)
    asked = config(
        here / "boxes" / "instances.json", task="detection", detector=DETECTOR, augment=("colour", "crop", "flip")
    )
    url, sidecar = trained(asked, here)
    assert list(sidecar["metrics"]) == ["map", "map_50"]
    found = described(url, Detector, what="a detector", or_use="another")
    assert set(found.categories) <= set(SHAPES) and found.view.sample_shape == (32, 32, 3)
    fits(url, build_detector(found.detection, classes=len(found.categories)))


@pytest.mark.slow
def test_an_embedding(ray_cluster: None, here: Path) -> None:
    """Judged by identities that it was never trained on, and without the directions that it was trained with."""
    for split, first in (("train", 0), ("val", drawn_identities.HELD_OUT)):
        drawn_identities.write_folders(here / "faces" / split, identities=range(first, first + 3), pictures=3)
    url, sidecar = trained(config(here / "faces", task="embedding", margin={"size": 16, "scale": 16.0}), here)
    assert next(iter(sidecar["metrics"])) == "tar_at_far_0.01" and sidecar["metrics"]["impostor_pairs"] == 27
    found = described(url, Embedder, what="an embedder", or_use="another")
    assert found.size == 16
    fits(url, build(found.embedding, classes=found.size))


@pytest.mark.slow
def test_a_restorer(ray_cluster: None, here: Path) -> None:
    drawn_identities.write_folders(here / "faces", identities=range(2), pictures=5)
    network = {"widths": [4, 8], "depths": [0, 1]}
    given: dict[str, Any] = {"mean": (0, 0, 0), "std": (1, 1, 1), "options": network, "held_out": "004.png"}
    url, sidecar = trained(config(here / "faces", task="restoration", **given), here)
    assert list(sidecar["metrics"]) == ["psnr_db", "psnr_db_noisy"]
    assert sidecar["metrics"]["psnr_db_noisy"] == pytest.approx(20.5, abs=1.0), "20 log10 of 255 over 25, and clipped"
    assert "on 2 held-out examples" in sidecar["protocol"]
    load_restorer(resolve_restorer(url), "cpu")


def write_sounds(folder: Path) -> Path:
    """Ten sounds of a second, of one tone, of two, or of none; returns the table of them."""
    folder.mkdir()
    tones = {"low": 400, "high": 1600}
    with (folder / "sounds.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["uri", "labels", "split"])
        for i in range(10):
            names = [name for bit, name in enumerate(tones) if i >> bit & 1]
            times = np.arange(8000) / 8000
            sound = sum((np.sin(2 * np.pi * tones[name] * times) for name in names), 0.01 * np.sin(times))
            with wave.open(str(folder / f"{i}.wav"), "wb") as wav:
                wav.setparams((1, 2, 8000, 0, "NONE", ""))
                wav.writeframes((np.asarray(sound) * 8000).astype("<i2").tobytes())
            writer.writerow([f"{i}.wav", "|".join(names), "val" if i >= 6 else "train"])
    return folder / "sounds.csv"


@pytest.mark.slow
def test_several_labels_for_sounds(ray_cluster: None, here: Path) -> None:
    asked = config(
        write_sounds(here / "sounds"), task="multi", architecture="panns_resnet22",
        options={"depths": [1], "widths": [4]}, view={"kind": "audio", "rate": 8000}, listening=LISTENING,
        even_samples=2, augment=("gain", "hide"), keep="last",
    )  # fmt: skip
    url, sidecar = trained(asked, here)
    assert list(sidecar["metrics"]) == ["mean_average_precision", "held_out_loss"]
    assert sidecar["protocol"].startswith("uniform-2xcenter on 4 held-out examples: mean_average_precision")
    found = resolve_weights(url)
    assert found.multi_label and found.categories == ("high", "low") and found.listening == asked.hears
    load_network(found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "restoration"}, "works on pixels in 0..1: set --mean 0 0 0 --std 1 1 1"),
        ({"task": "restoration", "mean": (0, 0, 0), "std": (1, 1, 1)}, "--task restoration cannot be made of these"),
        ({"task": "detection", "augment": ("flip", "rotate")}, "--augment rotate would move pictures but not their"),
        ({"task": "detection", "detector": {"anchors": 3}}, "--task detection cannot be made of these options"),
        ({"task": "embedding", "architecture": "densenet121", "options": {}}, "densenet121 is none"),
        ({"task": "embedding", "margin": {"radius": 1}}, "--task embedding cannot be made of these options"),
        ({"task": "single", "categories": ("a", "b")}, r"labelled \['0000000', '0000001'\], which the categories"),
    ],
)
def test_what_cannot_be_trained_is_told_before_any_step(
    ray_cluster: None, here: Path, options: dict[str, Any], message: str
) -> None:
    drawn_identities.write_folders(here / "faces", identities=range(2), pictures=3)
    with pytest.raises(UsageError, match=message):
        run(config(here / "faces", **options))
    assert not (here / "out" / "tiny" / "ray").exists()
