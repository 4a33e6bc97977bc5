"""Beginning with given weights: what fits is taken, heads begin anew, another network's weights are refused."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from vidproc.errors import WeightsError
from vidproc.models.build import build
from vidproc.models.checkpoints import our_name
from vidproc.models.detection import build_detector
from vidproc.models.detection_spec import DetectionSpec
from vidproc.models.initial import begin_with
from vidproc.models.listener import Listener
from vidproc.models.spectrum import Listening, Spectrum
from vidproc.models.zoo import spec_of

SMALL = {"depths": [1, 1], "widths": [8, 16]}
PICTURES = {"kind": "frames", "fps": 2, "picture": {"resize": [32, 32]}}
CLIPS = {"kind": "clips", "num_frames": 4, "fps": 8, "stride_s": 1, "picture": {"resize": [32, 32]}}
LISTENING = Listening(
    spectrum=Spectrum(rate=16_000, window=512, hop=256, mels=32, low_hz=50, high_hz=7000), seconds=1, stride_s=1
)


def network(architecture: str, classes: int, *, seed: int, options: dict[str, Any] | None = None) -> nn.Module:
    torch.manual_seed(seed)
    return build(spec_of(architecture, SMALL if options is None else options), classes=classes)


def saved(path: Path, given: nn.Module, architecture: str, classes: int, **more: Any) -> str:
    """The URL of the network's checkpoint, with its sidecar."""
    data = safetensors.torch.save(given.state_dict())
    path.write_bytes(data)
    sidecar = {
        "sha256": hashlib.sha256(data).hexdigest(), "architecture": architecture, "options": SMALL,
        "categories": [f"class {i}" for i in range(classes)], "view": PICTURES, "licence": "MIT",
        "provenance": "made by a test",
    }  # fmt: skip
    Path(f"{path}.json").write_text(json.dumps(sidecar | more))
    return str(path)


def differing(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in one if name not in other or not torch.equal(one[name], other[name])}


def test_all_is_taken_where_all_fits(tmp_path: Path) -> None:
    given, wanted = network("resnet18", 3, seed=1), network("resnet18", 3, seed=2)
    assert differing(wanted.state_dict(), given.state_dict())
    assert begin_with(wanted, saved(tmp_path / "net.safetensors", given, "resnet18", 3)) == []
    assert not differing(wanted.state_dict(), given.state_dict())


def test_a_head_for_other_labels_begins_anew(tmp_path: Path) -> None:
    given, wanted = network("resnet18", 3, seed=1), network("resnet18", 5, seed=2)
    fresh = {name: value.clone() for name, value in wanted.state_dict().items()}
    assert begin_with(wanted, saved(tmp_path / "net.safetensors", given, "resnet18", 3)) == ["fc.bias", "fc.weight"]
    assert differing(wanted.state_dict(), given.state_dict()) == {"fc.bias", "fc.weight"}
    assert torch.equal(wanted.state_dict()["fc.weight"], fresh["fc.weight"])


def test_kernels_over_space_begin_those_over_time(tmp_path: Path) -> None:
    """A temporal shift's network for clips, from one for pictures: kernels of one frame."""
    given = network("resnet50", 3, seed=1)
    url = saved(tmp_path / "net.safetensors", given, "resnet50", 3, layout="tsm")
    wanted = network("tsm_r50", 3, seed=2)
    assert begin_with(wanted, url) == []
    taken = {our_name(name, "tsm"): value for name, value in given.state_dict().items()}
    kernels = {name: value for name, value in wanted.state_dict().items() if value.dim() == 5}
    assert kernels and not differing({name: value[:, :, 0] for name, value in kernels.items()}, taken)


def test_another_architecture_is_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    given = network("resnet18", 3, seed=1)
    url = saved(tmp_path / "net.safetensors", given, "resnet18", 3)
    wanted = network("resnet18", 3, seed=2, options={"depths": [1, 1], "widths": [12, 24]})
    before = {name: value.clone() for name, value in wanted.state_dict().items()}
    with pytest.raises(WeightsError, match=r"are of resnet18 and fit \d+% of this network: choose its architecture"):
        begin_with(wanted, url)
    assert not differing(wanted.state_dict(), before)


def test_of_a_network_of_sound_it_is_the_part_behind_the_spectrogram(tmp_path: Path) -> None:
    audio = {"depths": [1], "widths": [8]}
    inner = network("panns_resnet22", 3, seed=1, options=audio)
    url = saved(
        tmp_path / "net.safetensors", inner, "panns_resnet22", 3, options=audio,
        view={"kind": "audio", "rate": 16_000, "channels": 1},
    )  # fmt: skip
    listener = Listener(LISTENING, network("panns_resnet22", 3, seed=2, options=audio))
    assert begin_with(listener, url) == []
    assert not differing(listener.network.state_dict(), inner.state_dict())


def test_of_a_detector_it_is_the_backbone(tmp_path: Path) -> None:
    given = network("resnet18", 3, seed=1)
    url = saved(tmp_path / "net.safetensors", given, "resnet18", 3)
    torch.manual_seed(2)
    spec = DetectionSpec(backbone=spec_of("resnet18", SMALL), fpn_channels=8, anchor_sizes=((8,), (16,)))
    detector = build_detector(spec, classes=4)
    assert begin_with(detector, url) == []
    body = detector.get_submodule("backbone.body").state_dict()
    assert body and not differing(body, given.state_dict())


def test_a_licence_must_be_open_or_allowed(tmp_path: Path) -> None:
    given = network("resnet18", 3, seed=1)
    url = saved(tmp_path / "net.safetensors", given, "resnet18", 3, licence="private")
    with pytest.raises(WeightsError, match="allow 'private' by name"):
        begin_with(network("resnet18", 3, seed=2), url)
    assert begin_with(network("resnet18", 3, seed=2), url, allow_licences=["private"]) == []


def test_a_checkpoint_that_holds_more_than_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    url = saved(path, network("resnet18", 3, seed=1), "resnet18", 3)
    torch.save({"state_dict": {"fc.weight": [1.0, 2.0]}}, path)
    sidecar = json.loads(Path(f"{path}.json").read_text())
    Path(f"{path}.json").write_text(json.dumps({**sidecar, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}))
    with pytest.raises(WeightsError, match="no plain checkpoint: it must hold one dictionary of tensors"):
        begin_with(network("resnet18", 3, seed=2), url)
