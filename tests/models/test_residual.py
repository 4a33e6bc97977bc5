"""Our networks equal torchvision's, from random weights, and the published sizes."""

import pytest
import torch
import torchvision

from vidproc.models.residual import ResidualNetwork, build, parameters_count
from vidproc.models.specs import SPECS, spec_of

PUBLISHED = [name for name in SPECS if not name.startswith("cifar")]
SMALL_INPUT = {2: (2, 3, 64, 64), 3: (2, 3, 8, 32, 32)}


def theirs(name: str) -> torch.nn.Module:
    zoo = torchvision.models if SPECS[name].dims == 2 else torchvision.models.video
    torch.manual_seed(0)
    return getattr(zoo, name)(weights=None)


def ours(name: str, network: torch.nn.Module) -> ResidualNetwork:
    built = build(SPECS[name], classes=network.fc.out_features)
    built.load_state_dict(network.state_dict(), strict=True)
    return built


@pytest.mark.parametrize("name", PUBLISHED)
def test_equals_torchvision_with_its_weights(name: str) -> None:
    their = theirs(name)
    our = ours(name, their)
    their.load_state_dict(our.state_dict(), strict=True)  # and back
    x = torch.randn(SMALL_INPUT[SPECS[name].dims])
    with torch.inference_mode():
        assert torch.allclose(our.eval()(x), their.eval()(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d", "mc3_18", "r2plus1d_18"])
def test_trains_as_torchvision(name: str) -> None:
    their = theirs(name)
    our = ours(name, their)
    x = torch.randn(SMALL_INPUT[SPECS[name].dims])
    outputs = [network.train()(x) for network in (our, their)]
    assert torch.allclose(*outputs, rtol=0, atol=1e-6)
    for output in outputs:
        output.square().mean().backward()
    gradients = [{n: p.grad for n, p in network.named_parameters()} for network in (our, their)]
    assert all(torch.allclose(gradients[0][n], gradients[1][n], rtol=0, atol=1e-5) for n in gradients[1])
    assert all(torch.equal(our.state_dict()[n], value) for n, value in their.state_dict().items())  # running statistics


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("resnet18", 11.69),
        ("resnet50", 25.56),
        ("resnet152", 60.19),
        ("r3d_18", 33.37),
        ("mc3_18", 11.70),
        ("r2plus1d_18", 31.51),
    ],
)
def test_has_the_published_number_of_parameters(name: str, millions: float) -> None:
    with torch.device("meta"):
        network = build(SPECS[name], classes=1000 if SPECS[name].dims == 2 else 400)
    assert round(parameters_count(network) / 1e6, 2) == millions


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (56, 0.85)])
def test_cifar_networks_have_the_paper_s_number_of_parameters(depth: int, millions: float) -> None:
    network = build(SPECS[f"cifar_resnet{depth}"], classes=10)
    assert parameters_count(network) / 1e6 == pytest.approx(millions, abs=0.005)


def test_options_make_small_networks() -> None:
    network = build(spec_of("r3d_18", {"depths": [1, 1], "widths": [4, 8]}), classes=3)
    assert network(torch.randn(1, 3, 4, 16, 16)).shape == (1, 3)
    assert network.spec.depths == (1, 1)


@pytest.mark.parametrize(
    ("architecture", "options", "message"),
    [
        ("resnet19", {}, "architecture 'resnet19' is unknown: use one of"),
        ("resnet18", {"stem": "video"}, "options \\['stem'\\] are unknown: use some of"),
        ("resnet18", {"depths": [1, 1, 1, 1, 1]}, "need as many widths"),
        ("resnet18", {"widths": [0, 1, 1, 1]}, "whole numbers in 1..4096"),
        ("resnet18", {"convs": ["spatial"]}, "'plain' for pictures"),
        ("resnet18", {"shortcut": "Z"}, "'Z' A or B"),
    ],
)
def test_a_wrong_spec_says_what_is_allowed(architecture: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec_of(architecture, options)
