"""The network prepared for inference gives the same scores as the network as built."""

import pytest
import torch
from torch import nn

from vidproc.models.optimise import for_inference
from vidproc.models.residual import build
from vidproc.models.specs import SPECS, spec_of


def with_lived_in_norms(name: str) -> nn.Module:
    """Batch norms that really shift and scale, as after training."""
    torch.manual_seed(1)
    network = build(spec_of(name), classes=10).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, 0, 0.1)
    return network


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d", "r3d_18", "mc3_18", "r2plus1d_18", "cifar_resnet20"])
def test_prepared_network_gives_the_same(name: str) -> None:
    network = with_lived_in_norms(name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    prepared = for_inference(network, "cpu")
    assert not any(isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d) for module in prepared.modules())
    x = torch.randn((2, 3, 64, 64) if SPECS[name].dims == 2 else (2, 3, 8, 32, 32))
    with torch.inference_mode():
        expected = network(x)
        assert float((prepared(x) - expected).abs().max() / expected.abs().max()) < 1e-5
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items()), "the original changed"
