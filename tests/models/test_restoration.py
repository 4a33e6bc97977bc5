"""The residual encoder-decoder by itself, and its weights: found, checked and described before any work."""

import hashlib
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from vidproc.errors import WeightsError
from vidproc.models.build import parameters_count
from vidproc.models.load import load_restorer
from vidproc.models.restoration import RestorationNetwork, restore_frames
from vidproc.models.restorer import resolve_restorer
from vidproc.models.sidecar import DEMO
from vidproc.models.specs import RestorationSpec

SMALL = RestorationSpec(widths=(4, 6, 8), depths=(1, 0, 1))


def lived_in(spec: RestorationSpec = SMALL) -> RestorationNetwork:
    """A network that is no longer the identity."""
    torch.manual_seed(0)
    network = RestorationNetwork(spec)
    torch.nn.init.normal_(network.exit.weight, std=0.05)
    return network.eval()


@pytest.mark.parametrize("size", [(32, 48), (33, 50), (7, 5), (1, 1)])
@pytest.mark.parametrize("dims", [2, 3])
def test_any_size_goes_through(dims: int, size: tuple[int, int]) -> None:
    network = lived_in(RestorationSpec(dims=dims, widths=(4, 6, 8), depths=(0, 1, 1)))
    x = torch.rand(2, 3, *([5] if dims == 3 else []), *size)
    y = network(x)
    assert y.shape == x.shape and not torch.equal(y, x)


@pytest.mark.parametrize("dims", [2, 3])
def test_it_begins_as_the_identity(dims: int) -> None:
    x = torch.rand(1, 3, *([3] if dims == 3 else []), 17, 12)
    assert torch.equal(RestorationNetwork(RestorationSpec(dims=dims))(x), x)


@pytest.mark.parametrize("dims", [2, 3])
def test_every_parameter_learns_after_one_step(dims: int) -> None:
    torch.manual_seed(0)
    network = RestorationNetwork(RestorationSpec(dims=dims, widths=(4, 8), depths=(1, 1)))
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(2):  # at first the last convolution is zero, and nothing before it has a gradient
        x = torch.rand(2, 3, *([2] if dims == 3 else []), 12, 12)
        optimiser.zero_grad()
        (network(x) - x.flip(-1)).abs().mean().backward()
        optimiser.step()
    assert all(float(p.grad.abs().sum()) > 0 for p in network.parameters())


def test_twice_the_light_is_twice_the_answer() -> None:
    """No biases: the noise level is read from the picture, whatever its scale."""
    network, x = lived_in(), torch.rand(1, 3, 16, 16)
    assert torch.allclose(network(2 * x), 2 * network(x), atol=1e-5)


def test_a_clip_is_restored_frame_by_frame() -> None:
    network = lived_in()
    clips = torch.randint(0, 256, (2, 3, 9, 11, 3)).float()
    whole = restore_frames(network, clips)
    assert whole.shape == clips.shape and whole.min() >= 0 and whole.max() <= 255
    for frame in range(3):
        assert torch.allclose(restore_frames(network, clips[:, frame]), whole[:, frame], atol=1e-3)
    expected = network(clips[0].movedim(-1, 1) / 255).clamp(0, 1) * 255
    assert torch.allclose(whole[0].movedim(-1, 1), expected, atol=1e-3)


def test_it_is_small() -> None:
    assert parameters_count(RestorationNetwork(RestorationSpec())) <= 300_000


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"widths": (8, 16)}, "must be as many"),
        ({"dims": 1}, "dims"),
        ({"widths": (8, 0), "depths": (0, 0)}, "greater than or equal to 1"),
        ({"norm": "batch"}, "norm"),
    ],
)
def test_an_impossible_spec_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RestorationSpec(**fields)


# ---- weights


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "net.safetensors"
    path.write_bytes(safetensors.torch.save(lived_in().state_dict()))
    fields = {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "restoration": {"widths": [4, 6, 8], "depths": [1, 0, 1]},
        "licence": "MIT",
        "provenance": "made by a test",
    }
    path.with_name(f"{path.name}.json").write_text(json.dumps(fields | changes))
    return path


def test_a_checkpoint_with_its_sidecar(tmp_path: Path) -> None:
    restorer = resolve_restorer(str(written(tmp_path)))
    assert restorer.restoration == SMALL
    assert pickle.loads(pickle.dumps(restorer)) == restorer
    network, x = load_restorer(restorer, "cpu"), torch.rand(1, 3, 10, 10)
    assert not network.training
    assert torch.allclose(network(x), lived_in()(x), atol=1e-6)


def test_no_torch_is_imported_to_resolve() -> None:
    code = (
        "import sys; from vidproc.models.restorer import resolve_restorer; from vidproc.annotators import ANNOTATORS;"
        "ANNOTATORS['objects']('demo', restorer=resolve_restorer('demo')).model_id; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": "0" * 64}, "SHA-256 .* but 0{64} was promised"),
        ({"restoration": {"widths": [4]}}, "does not describe a restorer: restoration: .*must be as many"),
        ({"restoration": {"dims": 3}}, "for clips \\(dims=3\\), but frames are restored one by one"),
        ({"licence": "private"}, "allow 'private' by name"),
        ({"categories": ["a"]}, "categories: Unexpected keyword argument"),
    ],
)
def test_a_wrong_sidecar_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        resolve_restorer(str(written(tmp_path, **changes)))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("demo:nothing", "use one of .*'demo:restore'"),
        ("demo:objects", "does not describe a restorer: .*restoration: Field required"),
        ("ResNet50_Weights.DEFAULT", "are no checkpoint: use demo, or a URL ending in"),
    ],
)
def test_what_is_no_restorer_says_so(spec: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        resolve_restorer(spec)


def test_a_licence_can_be_allowed_by_name(tmp_path: Path) -> None:
    path = written(tmp_path, licence="private")
    assert resolve_restorer(str(path), allow_licences=["private"]).licence == "private"


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, restoration={"widths": [4, 6, 8], "depths": [0, 0, 1]})
    with pytest.raises(WeightsError, match=r"(?s)do not fit RestorationSpec.*blocks_in\.0\.0\.conv1\.weight"):
        load_restorer(resolve_restorer(str(path)), "cpu")


def test_the_shipped_checkpoint() -> None:
    restorer = resolve_restorer("demo")
    assert resolve_restorer("demo:restore") == restorer
    assert (DEMO / "restore.safetensors").stat().st_size < 1_300_000
    assert restorer.licence == "Apache-2.0"
    assert restorer.provenance == "python -m vidproc.train.restoration"
    load_restorer(restorer, "cpu")
