"""Weights are found, checked and described before any work; whatever is wrong says so."""

import hashlib
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import pytest
import safetensors.torch
import torch

from vidproc.errors import WeightsError
from vidproc.models.build import build
from vidproc.models.load import load_network, load_saved
from vidproc.models.sidecar import DEMO
from vidproc.models.weights import resolve_weights
from vidproc.models.zoo import spec_of
from vidproc.views import Clips, Frames, Picture

OPTIONS = {"depths": [1], "widths": [4]}


def checkpoint_bytes(suffix: str, tmp_path: Path) -> bytes:
    torch.manual_seed(0)
    state = build(spec_of("resnet18", OPTIONS), classes=2).state_dict()
    if suffix == ".safetensors":
        return safetensors.torch.save(state)
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "saved")
    return (tmp_path / "saved").read_bytes()


def sidecar(data: bytes, **changes: Any) -> dict[str, Any]:
    fields = {
        "sha256": hashlib.sha256(data).hexdigest(),
        "architecture": "resnet18",
        "options": OPTIONS,
        "categories": ["cat", "dog"],
        "view": {"kind": "frames", "fps": 2, "picture": {"resize": 36, "crop": [32, 32]}},
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "licence": "MIT",
        "provenance": "made by a test",
    }
    fields |= changes
    return {key: value for key, value in fields.items() if value is not None}


def written(folder: Path, suffix: str = ".safetensors", **changes: Any) -> Path:
    path = folder / f"net{suffix}"
    path.write_bytes(checkpoint_bytes(suffix, folder))
    path.with_name(f"{path.name}.json").write_text(json.dumps(sidecar(path.read_bytes(), **changes)))
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".th"])
def test_a_checkpoint_with_its_sidecar(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path, suffix)
    weights = resolve_weights(str(path))
    assert weights.categories == ("cat", "dog")
    assert isinstance(weights.view, Frames) and weights.view.picture.crop == (32, 32)
    assert pickle.loads(pickle.dumps(weights)) == weights
    network = load_network(weights)
    assert not network.training
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 2)


def test_no_torch_is_imported_to_resolve(tmp_path: Path) -> None:
    path = written(tmp_path)
    code = (
        "import sys; from vidproc.models.weights import resolve_weights; from vidproc.annotators import ANNOTATORS;"
        f"resolve_weights({str(path)!r}); ANNOTATORS['objects']({str(path)!r}).model_id;"
        "ANNOTATORS['quality']().model_id;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": "0" * 64}, "SHA-256 .* but 0{64} was promised"),
        ({"sha256": None}, "sha256: Field required"),
        ({"sha256": "abc"}, "sha256: String should match pattern"),
        ({"licence": None}, "licence: Field required"),
        ({"licence": "CC-BY-NC-4.0"}, "allow 'CC-BY-NC-4.0' by name"),
        ({"colour": "blue"}, "colour: Unexpected keyword argument"),
        ({"architecture": "vgg16"}, "architecture 'vgg16' is unknown: use one of"),
        ({"options": {"dims": 3}}, "options \\['dims'\\] are unknown"),
        ({"options": {"stem": {"kind": "video"}}}, "does not fit dims=2"),
        ({"options": OPTIONS | {"stem": {"in_channels": 1}}}, "takes 1 channels, and pictures have 3"),
        ({"layout": "keras"}, "layout 'keras' is unknown: use one of"),
        ({"categories": []}, "categories: "),
        ({"view": {"kind": "frames"}}, "frames view: "),
        ({"view": {"kind": "audio"}}, "resnet18 needs a frames view"),
        ({"std": [0, 1, 1]}, "std must be positive"),
        ({"url": "elsewhere"}, "without a url"),
    ],
)
def test_a_wrong_sidecar_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = written(tmp_path)
    fields = sidecar(path.read_bytes(), **changes)
    path.with_name(f"{path.name}.json").write_text(json.dumps(fields))
    with pytest.raises(WeightsError, match=message):
        resolve_weights(str(path))


def test_a_licence_can_be_allowed_by_name(tmp_path: Path) -> None:
    path = written(tmp_path, licence="CC-BY-NC-4.0")
    assert resolve_weights(str(path), allow_licences=["CC-BY-NC-4.0"]).licence == "CC-BY-NC-4.0"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("demo:nothing", "use one of \\['demo:actions', 'demo:detections', 'demo:objects', 'demo:restore'\\]"),
        ("resnet50", "use demo, a torchvision name such as ResNet50_Weights.IMAGENET1K_V2, or a URL"),
        ("/nowhere/net.pt", "net.pt.json does not exist: weights need a checkpoint and its sidecar"),
        ("nonsense://bucket/net.pt", "cannot be read: .*nonsense"),
        ("VGG16_Weights.DEFAULT", "architecture 'vgg16' is unknown"),
        ("ResNet50_Weights.IMAGENET21K", "see torchvision's list of weights for resnet50"),
    ],
)
def test_an_unknown_spec_says_what_there_is(spec: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        resolve_weights(spec)


def test_a_checkpoint_that_changes_after_it_was_resolved_is_not_loaded(tmp_path: Path) -> None:
    path = written(tmp_path)
    weights = resolve_weights(str(path))
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(WeightsError, match="was altered or cut short"):
        load_saved(weights)


def test_a_checkpoint_that_would_run_code_is_not_loaded(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "attacked",))

    path = written(tmp_path, ".pt")
    torch.save({"state_dict": Attack()}, path)
    path.with_name(f"{path.name}.json").write_text(json.dumps(sidecar(path.read_bytes())))
    with pytest.raises(WeightsError, match="no plain checkpoint"):
        load_saved(resolve_weights(str(path)))
    assert not (tmp_path / "attacked").exists()


def test_weights_that_do_not_fit_the_architecture_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, categories=["one", "two", "three"])
    with pytest.raises(WeightsError, match=r"(?s)do not fit resnet18 .* with 3 categories.*fc.weight"):
        load_network(resolve_weights(str(path)))


def test_remote_checkpoints_are_cached_by_their_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDPROC_CACHE", str(tmp_path / "cache"))
    path = written(tmp_path)
    memory = fsspec.filesystem("memory")
    for name in (path.name, f"{path.name}.json"):
        memory.pipe(f"/weights/{name}", (tmp_path / name).read_bytes())
    weights = resolve_weights("memory://weights/net.safetensors")
    [cached] = (tmp_path / "cache" / "weights").iterdir()
    assert cached.name == f"{weights.sha256}-net.safetensors"
    memory.rm("/weights/net.safetensors")
    assert load_saved(weights).keys()  # from the cache alone
    cached.write_bytes(b"rotten")
    memory.pipe("/weights/net.safetensors", path.read_bytes())
    assert load_saved(weights).keys()  # a damaged cache is fetched anew
    assert cached.read_bytes() == path.read_bytes()


def placed_by_hand(data: bytes, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The entry's file in torch.hub's cache, where a user without a network puts it; its URL promises these bytes."""
    from torchvision.models import get_weight

    monkeypatch.setenv("TORCH_HOME", str(folder))
    file_name = f"{name.split('_Weights', maxsplit=1)[0].lower()}-{hashlib.sha256(data).hexdigest()[:8]}.pth"
    monkeypatch.setattr(get_weight(name).value, "url", f"https://download.pytorch.org/models/{file_name}")
    path = folder / "hub" / "checkpoints" / file_name
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    return path


def test_a_torchvision_image_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(build(spec_of("resnet18"), classes=1000).state_dict(), tmp_path / "saved")
    name = "ResNet18_Weights.IMAGENET1K_V1"
    path = placed_by_hand((tmp_path / "saved").read_bytes(), name, tmp_path, monkeypatch)
    weights = resolve_weights(name)
    assert weights.view == Frames(fps=1, picture=Picture(resize=256, crop=(224, 224)))
    assert weights.mean == (0.485, 0.456, 0.406)
    assert (weights.categories[0], len(weights.categories)) == ("tench", 1000)
    assert load_network(weights).fc.out_features == 1000
    path.write_bytes(b"cut short")
    for use in (lambda: resolve_weights(name), lambda: load_saved(weights)):
        with pytest.raises(WeightsError, match="was altered or cut short"):
            use()


def test_a_torchvision_video_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    placed_by_hand(b"hashed, not yet read", "R3D_18_Weights.KINETICS400_V1", tmp_path, monkeypatch)
    weights = resolve_weights("R3D_18_Weights.KINETICS400_V1")
    picture = Picture(resize=(128, 171), crop=(112, 112))
    assert weights.view == Clips(num_frames=16, fps=15, stride_s=2.0, picture=picture)
    assert (weights.architecture, len(weights.categories)) == ("r3d_18", 400)


def test_no_network_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(
        WeightsError, match=r"could not be downloaded .*put the file at .*resnet50-11ad3fa6.pth by hand"
    ):
        resolve_weights("ResNet50_Weights.IMAGENET1K_V2")


@pytest.mark.parametrize("name", ["actions", "objects"])
def test_the_shipped_checkpoints(name: str) -> None:
    weights = resolve_weights(f"demo:{name}")
    assert (DEMO / f"{name}.safetensors").stat().st_size < 400_000
    assert weights.licence == "Apache-2.0"
    assert weights.provenance == f"python -m vidproc.train.demo {name}"
    load_network(weights)
