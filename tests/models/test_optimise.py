"""The network prepared for inference gives the same scores as the network as built."""

import pytest
import torch
from torch import nn

from vidproc.models.build import Network, build
from vidproc.models.layers import BATCH_NORMS
from vidproc.models.optimise import for_inference
from vidproc.models.zoo import ZOO

LEFT = {
    "densenet121": 62,  # norms that come before their convolution: two a layer, one of which is folded
    "cifar_preact_resnet164": 55,
    "ir_resnet18": 10,
    "panns_resnet22": 1,  # of the mel bins
    "res8_narrow": 6,  # behind activations
}
"""Where norms stay, and how many: folding them would not be exact."""

SMALL = {
    "densenet121": (3, 64, 64),
    "ir_resnet18": (3, 112, 112),
    "mobilefacenet": (3, 112, 96),
    "panns_resnet22": (1, 64, 64),
    "res8_narrow": (1, 101, 40),
    "slowfast_r50": (3, 8, 32, 32),
    "resnet1d_18": (1, 512),
    "cifar_preact_resnet164": (3, 32, 32),
    "p3d_63": (3, 16, 32, 32),
}
NAMES = [
    *("resnet18", "resnext50_32x4d", "se_resnet50", "resnet50d", "cifar_resnet20"),
    *("r3d_18", "mc3_18", "r2plus1d_18", "tsm_r50"),
    *SMALL,
]


def with_lived_in_norms(name: str) -> Network:
    """Batch norms that really shift and scale, as after training."""
    torch.manual_seed(1)
    network = build(ZOO[name].spec, classes=10).eval()
    for module in network.modules():
        if isinstance(module, BATCH_NORMS):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.0)
                nn.init.normal_(module.bias, 0, 0.1)
    return network


@pytest.mark.parametrize("name", NAMES)
def test_prepared_network_gives_the_same(name: str) -> None:
    network = with_lived_in_norms(name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    prepared = for_inference(network, "cpu")
    left = sum(isinstance(module, BATCH_NORMS) for module in prepared.modules())
    assert left == LEFT.get(name, 0)
    shape = SMALL.get(name) or ((3, 64, 64) if ZOO[name].spec.dims == 2 else (3, 8, 32, 32))
    x = torch.randn(2, *shape)
    with torch.inference_mode():
        expected = network(x)
        assert float((prepared(x) - expected).abs().max() / expected.abs().max()) < 1e-5
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items()), "the original changed"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_network_gives_the_same() -> None:
    network = with_lived_in_norms("cifar_resnet20")
    x = torch.randn(4, 3, 32, 32)
    with torch.inference_mode():
        expected = network(x)
        found = for_inference(network, "cpu", compiled=True)(x)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-4
