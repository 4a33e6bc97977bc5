"""Our networks equal torchvision's: outputs, gradients and running statistics, from the same weights and back."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.video import resnet as video

from vidproc.models.build import Network, build
from vidproc.models.specs import Block, Norm, ResidualSpec, Stem
from vidproc.models.zoo import ZOO, spec_of

SMALL_INPUT = {2: (2, 3, 64, 64), 3: (2, 3, 8, 32, 32)}
NAMES = [name for name in ZOO if name in torchvision.models.list_models()]


def classes_of(network: nn.Module) -> int:
    return (network.fc if hasattr(network, "fc") else network.classifier).out_features


def ours(spec: Any, network: nn.Module) -> Network:
    """Our network with their weights, and theirs with ours again."""
    built = build(spec, classes=classes_of(network))
    built.load_state_dict(network.state_dict(), strict=True)
    network.load_state_dict(built.state_dict(), strict=True)
    return built


def assert_same(our: Network, their: nn.Module, *, train: bool) -> None:
    dims = our.spec.dims
    x = torch.randn(SMALL_INPUT[dims], generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert float((our.eval()(x) - their.eval()(x)).abs().max()) <= 1e-6
    if not train:
        return
    outputs = [network.train()(x) for network in (our, their)]
    assert float((outputs[0] - outputs[1]).detach().abs().max()) <= 1e-6
    for output in outputs:
        output.square().mean().backward()
    gradients = [{name: value.grad for name, value in network.named_parameters()} for network in (our, their)]
    assert all(float((gradients[0][name] - gradients[1][name]).abs().max()) <= 1e-5 for name in gradients[1])
    assert all(torch.equal(our.state_dict()[name], value) for name, value in their.state_dict().items())


def test_torchvision_knows_these() -> None:
    assert len(NAMES) == 17
    kinds = ("resnet", "resnext", "wide_resnet", "densenet", "r3d", "mc3", "r2plus1d")
    # quantized_ ones are the same networks; those for finding and segmenting objects are built on them
    known = [name for name in torchvision.models.list_models() if name.startswith(kinds)]
    assert sorted(known) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_equals_torchvision(name: str) -> None:
    torch.manual_seed(0)
    their = torchvision.models.get_model(name, weights=None)
    assert_same(ours(ZOO[name].spec, their), their, train=True)


MAKERS = {"plain": video.Conv3DSimple, "spatial": video.Conv3DNoTemporal, "factored": video.Conv2Plus1D}


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
@pytest.mark.parametrize(
    "kinds", [("plain",) * 4, ("factored",) * 4, ("spatial",) * 4, ("plain", "plain", "spatial", "spatial")]
)
def test_equals_torchvision_s_video_networks_at_other_depths(block: str, kinds: tuple[str, ...]) -> None:
    depths = (3, 1, 2, 1)
    factored = kinds[0] == "factored"
    torch.manual_seed(1)
    their = video.VideoResNet(
        block={"basic": video.BasicBlock, "bottleneck": video.Bottleneck}[block],
        conv_makers=[MAKERS[kind] for kind in kinds],
        layers=list(depths),
        stem=video.R2Plus1dStem if factored else video.BasicStem,
        num_classes=7,
    )
    spec = ResidualSpec(
        dims=3,
        stem=Stem(kind="video_factored" if factored else "video"),
        block=Block(kind=block),
        depths=depths,
        convs=kinds,
    )
    assert_same(ours(spec, their), their, train=True)


def test_a_34_layer_video_network_equals_torchvision_s() -> None:
    torch.manual_seed(2)
    their = video.VideoResNet(video.BasicBlock, [video.Conv3DSimple] * 4, [3, 4, 6, 3], video.BasicStem)
    assert_same(ours(ZOO["r3d_34"].spec, their), their, train=False)


# ---- what torchvision does not have


SMALL: dict[str, dict[str, Any]] = {
    "pre-activation": {"block": {"order": "pre"}},
    "squeeze": {"block": {"squeeze": 4}},
    "stochastic depth": {"block": {"drop_path": 0.3}},
    "dropout": {"block": {"dropout": 0.3}},
    "shortcut A": {"block": {"shortcut": "A"}},
    "shortcut C": {"block": {"shortcut": "C"}},
    "shortcut D": {"block": {"shortcut": "D"}},
    "no shortcut": {"block": {"shortcut": "none"}},
    "layer norm": {"norm": {"kind": "layer"}},
    "group norm": {"norm": {"kind": "group"}},
    "sync norm": {"norm": {"kind": "sync_batch"}},
    "frozen norm": {"norm": {"kind": "frozen"}},
    "silu": {"activation": "silu"},
    "prelu": {"activation": "prelu"},
    "gelu": {"activation": "gelu"},
    "ResNeXt": {"block": {"kind": "bottleneck", "cardinality": 4, "group_width": 16}},
}


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("name", SMALL)
def test_every_part_in_every_dimension_learns_and_resumes(name: str, dims: int) -> None:
    """Shapes come out right, all parameters get a gradient, and a saved state gives the same scores again."""
    torch.manual_seed(3)
    base = ResidualSpec(
        dims=dims, stem=Stem(kind="video" if dims == 3 else "cifar", width=8), depths=(1, 2), widths=(8, 16)
    )
    options = SMALL[name]
    spec = replace(
        base,
        **{
            key: replace(getattr(base, key), **value) if isinstance(value, dict) else value
            for key, value in options.items()
        },
    )
    network = build(spec, classes=5)
    x = torch.randn(4, 3, *{1: (32,), 2: (17, 16), 3: (4, 18, 16)}[dims])
    scores = network(x)
    assert scores.shape == (4, 5)
    nn.functional.cross_entropy(scores, torch.arange(4)).backward()
    learning = {key for key, value in network.named_parameters() if value.requires_grad}
    if name == "frozen norm":
        assert not any(isinstance(module, nn.BatchNorm2d) and module.training for module in network.modules())
        assert learning and not any(".bn" in key for key in learning)
    if name != "stochastic depth":  # which may drop every branch
        assert all(
            value.grad is not None and value.grad.abs().sum() > 0
            for value in network.parameters()
            if value.requires_grad
        )
    again = build(spec, classes=5)
    again.load_state_dict(network.state_dict(), strict=True)
    with torch.inference_mode():
        assert torch.equal(again.eval()(x), network.eval()(x))


def test_zero_init_makes_every_block_its_shortcut() -> None:
    for order, norm in (("post", "batch"), ("pre", "batch"), ("ir", "group"), ("post", "frozen")):
        spec = ResidualSpec(dims=2, block=Block(order=order), depths=(2, 2), widths=(8, 16), norm=Norm(kind=norm))
        network = build(spec, classes=2, zero_init=True).eval()
        x = torch.rand(2, 8, 6, 6)  # not negative, as what comes from an activation
        with torch.inference_mode():
            assert torch.equal(network.layer1(x), x), order
    plain = build(ResidualSpec(dims=2, depths=(1,), widths=(8,)), classes=2).eval()
    with torch.inference_mode():
        assert not torch.allclose(plain.layer1(x), x)


def test_zero_init_leaves_gradients_or_says_why_not() -> None:
    small = {"depths": [1, 1], "widths": [8, 8], "head": {"kind": "linear"}}
    for name in ("resnet18", "cifar_preact_resnet164", "ir_resnet18"):
        network = build(spec_of(name, small), classes=2, zero_init=True)
        network(torch.randn(2, 3, 32, 32)).square().sum().backward()
        gradients = [value.grad for value in network.layer2.parameters()]
        assert sum(gradient is not None and float(gradient.abs().sum()) > 0 for gradient in gradients) >= 1, name
    with pytest.raises(ValueError, match="no gradient would come through"):
        build(spec_of("res8"), classes=2, zero_init=True)


def test_stochastic_depth_falls_linearly_and_keeps_the_mean() -> None:
    spec = ResidualSpec(dims=2, block=Block(drop_path=0.4), depths=(2, 3), widths=(4, 8))
    network = build(spec, classes=2)
    drops = [module for module in network.modules() if type(module).__name__ == "StochasticDepth"]
    assert [drop.rate for drop in drops] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    torch.manual_seed(0)
    x = torch.ones(20_000, 1, 1, 1)
    dropped = drops[-1](x)
    assert dropped.unique().tolist() == [0.0, pytest.approx(1 / 0.6)]
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.03)
    assert torch.equal(drops[-1].eval()(x), x)


@pytest.mark.parametrize("kind", ["layer", "group", "batch"])
def test_only_batch_norm_looks_at_the_rest_of_the_batch(kind: Any) -> None:
    """In training a sample alone comes out as in company, but for batch norm."""
    torch.manual_seed(0)
    network = build(ResidualSpec(dims=2, norm=Norm(kind=kind), depths=(1,), widths=(8,)), classes=4).train()
    x = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        alone, in_company = network(x[:1]), network(x)[:1]
    assert torch.allclose(alone, in_company, atol=1e-5) == (kind != "batch")


def test_temporal_shift_moves_channels_by_a_frame() -> None:
    from vidproc.models.layers import TemporalShift

    x = torch.arange(3.0)[None, None, :, None, None].expand(1, 8, 3, 1, 1)  # the frame's number
    [shifted] = TemporalShift(8)(x)[..., 0, 0]
    assert shifted[0].tolist() == [1, 2, 0]  # the next frame, then nothing
    assert shifted[1].tolist() == [0, 0, 1]  # the frame before
    assert all(row.tolist() == [0, 1, 2] for row in shifted[2:])


def test_checkpointing_changes_memory_only() -> None:
    """Gradients and running statistics of a deep network are the same, computed twice or kept."""
    results = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        network = build(spec_of("cifar_resnet56"), classes=10, zero_init=True).train()
        network.checkpointed = checkpointed
        x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
        network(x).square().mean().backward()
        gradients = {name: value.grad for name, value in network.named_parameters()}
        results.append((gradients, network.state_dict()))
    (kept, kept_state), (again, again_state) = results
    assert all(torch.allclose(kept[name], again[name], rtol=1e-5, atol=1e-7) for name in kept)
    assert all(torch.equal(kept_state[name], again_state[name]) for name in kept_state)


def test_a_network_of_1202_layers_trains_in_little_memory() -> None:
    """Activations of a step: kept at every 15th block, they take a fraction of what all of them take."""
    kept = {}
    for checkpointed in (False, True):
        network = build(spec_of("cifar_resnet1202"), classes=10, zero_init=True).train()
        network.checkpointed = checkpointed
        sizes: list[int] = []

        def note(tensor: torch.Tensor, into: list[int] = sizes) -> torch.Tensor:
            into.append(tensor.numel())
            return tensor

        x = torch.randn(1, 3, 8, 8)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = network(x).square().mean()
            kept[checkpointed] = sum(sizes)
        loss.backward()
        assert all(value.grad is not None and value.grad.isfinite().all() for value in network.parameters())
    assert kept[True] < kept[False] / 5


def test_options_make_small_networks() -> None:
    network = build(spec_of("r3d_18", {"depths": [1, 1], "widths": [4, 8], "block": {"squeeze": 2}}), classes=3)
    assert network(torch.randn(1, 3, 4, 16, 16)).shape == (1, 3)
    assert (network.spec.depths, network.spec.block.squeeze) == ((1, 1), 2)


@pytest.mark.parametrize(
    ("architecture", "options", "message"),
    [
        ("resnet19", {}, "architecture 'resnet19' is unknown: use one of"),
        ("resnet18", {"dims": 3}, "options \\['dims'\\] are unknown: use some of"),
        ("resnet18", {"block": {"width": 3}}, "options \\['width'\\] are unknown: use some of"),
        ("resnet18", {"depths": [1, 1, 1, 1, 1]}, "need as many widths"),
        ("resnet18", {"strides": [1, 2]}, "need as many strides \\(or none\\), got \\(1, 2\\)"),
        ("resnet18", {"depths": {"a": 1}}, "stand for one value"),
        ("resnet18", {"head": {"kind": "face"}, "block": {"cardinality": 3}}, "must divide the widths"),
        ("resnet50", {"block": {"group_width": 1}, "widths": [8, 16, 32, 64]}, "leaves no channels"),
        ("resnet18", {"block": {"shortcut": "A"}, "widths": [64, 32, 32, 32]}, "must not fall"),
        ("resnet18", {"convs": ["pooled"]}, "use D"),
        ("resnet18", {"block": {"shortcut": "none", "drop_path": 0.5}}, "nothing would be left"),
        ("mobilefacenet", {"convs": ["pooled"]}, "is depthwise already"),
        ("r3d_18", {"head": {"kind": "audio"}}, "head 'audio' does not fit dims=3"),
        ("slowfast_r50", {"fusion_kernel": 6}, "must be odd"),
        ("slowfast_r50", {"fast": {"depths": [1, 1, 1]}}, "as many stages"),
        ("densenet121", {"depths": [0]}, "greater than or equal to 1"),
        ("resnet18", {"widths": [0, 1, 1, 1]}, "whole numbers in 1..8192"),
        ("resnet18", {"convs": ["spatial"]}, "need dims=3"),
        ("resnet18", {"block": {"shift": 8}}, "need dims=3"),
        ("resnet18", {"block": {"shortcut": "Z"}}, "'A', 'B', 'C', 'D', 'identity' or 'none'"),
        ("resnet18", {"stem": {"kind": "video"}}, "does not fit dims=2"),
        ("r3d_18", {"convs": ["depthwise"]}, "stand in the middle of a bottleneck"),
        ("r3d_18", {"convs": ["plain", "spatial"]}, "one for all stages, or one for each of 4"),
    ],
)
def test_a_wrong_spec_says_what_is_allowed(architecture: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec_of(architecture, options)
