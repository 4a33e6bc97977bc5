"""Detectors: torchvision's own with our backbone, and nothing between the picture and the boxes."""

from collections.abc import Iterator

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torchvision.models.detection import fasterrcnn_resnet50_fpn, retinanet_resnet50_fpn

from vidproc.models.detection import AsTheyCome, build_detector, in_pixels
from vidproc.models.detection_spec import DetectionSpec, SecondLook
from vidproc.models.specs import Block, Norm, ResidualSpec, Stem
from vidproc.models.zoo import ZOO

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = ResidualSpec(dims=2, stem=Stem(kind="cifar", width=8), depths=(1, 1), widths=(8, 16), strides=(2, 2))
KINDS = ("retinanet", "fasterrcnn")


def small(kind: str, **changed: object) -> DetectionSpec:
    given = {"anchor_sizes": ((8,), (16,)), "fpn_channels": 8, "second": SecondLook(proposals=8, width=16)}
    return DetectionSpec(kind=kind, backbone=SMALL, anchor_ratios=(1.0,), **(given | changed))


def truth(*boxes: tuple[float, float, float, float], labels: tuple[int, ...] = ()) -> dict[str, Tensor]:
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels or [0] * len(boxes), dtype=torch.int64),
    }


PUBLISHED = {
    "fasterrcnn": (fasterrcnn_resnet50_fpn, (), tuple((size,) for size in (32, 64, 128, 256, 512)), 100, 90),
    "retinanet": (
        retinanet_resnet50_fpn,
        (2, 3, 4),
        tuple((size, int(size * 2 ** (1 / 3)), int(size * 2 ** (2 / 3))) for size in (32, 64, 128, 256, 512)),
        300,
        91,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_torchvision_s_network_and_finds_the_same_boxes(kind: str) -> None:
    """With the same parameters, on a picture whose sides are no multiples of 32."""
    make, stages, sizes, most, classes = PUBLISHED[kind]
    torch.manual_seed(0)
    theirs = make(
        weights=None,
        weights_backbone=None,
        min_size=70,
        max_size=90,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
        **{f"{'box_' if kind == 'fasterrcnn' else ''}score_thresh": 0.005},
    ).eval()
    backbone = ZOO["resnet50"].spec
    spec = DetectionSpec(
        kind=kind, backbone=backbone, stages=stages, anchor_sizes=sizes, min_score=0.005, max_boxes=most
    )
    ours = build_detector(spec, classes=classes).eval()
    ours.load_state_dict(theirs.state_dict())
    picture = torch.randn(1, 3, 70, 90)
    with torch.inference_mode():
        (expected,), (found,) = theirs(list(picture)), ours(picture)
    assert len(expected["boxes"]) > 10
    torch.testing.assert_close(found["boxes"] * torch.tensor([90.0, 70.0] * 2), expected["boxes"], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found["scores"], expected["scores"])
    assert torch.equal(found["labels"] + (kind == "fasterrcnn"), expected["labels"])


def test_nothing_but_padding_happens_to_pictures_and_boxes() -> None:
    pictures = torch.randn(2, 3, 33, 50)
    wanted = [truth((0.1, 0.2, 0.3, 0.4)), truth()]
    listed, targets = AsTheyCome()(pictures, wanted)
    assert listed.tensors.shape == (2, 3, 64, 64) and listed.image_sizes == [(33, 50)] * 2
    assert torch.equal(listed.tensors[..., :33, :50], pictures)
    assert not listed.tensors[..., 33:, :].any() and not listed.tensors[..., 50:].any()
    assert targets is wanted and AsTheyCome().postprocess(wanted, [(33, 50)], [(1, 1)]) is wanted


@pytest.mark.parametrize("autocast", [False, True])
def test_a_network_that_moves_no_anchor_finds_the_anchors(autocast: bool) -> None:
    """End to end: on 40 × 72 pixels, with strides of 2 and 4, they are where they were laid, to the pixel."""
    network = build_detector(small("retinanet", min_score=0.0, max_boxes=1000), classes=1).eval()
    last = network.head.regression_head.bbox_reg
    nn.init.zeros_(last.weight), nn.init.zeros_(last.bias)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        (found,) = network(torch.randn(1, 3, 40, 72))
    boxes = found["boxes"] * torch.tensor([72.0, 40.0, 72.0, 40.0])
    inner = boxes[(boxes[:, :2] > 0).all(1) & (boxes[:, 2] < 72) & (boxes[:, 3] < 40)]
    sides = inner[:, 2:] - inner[:, :2]
    assert len(inner) > 20
    torch.testing.assert_close(boxes.round(), boxes, rtol=0, atol=1e-4)
    assert set(sides.round().flatten().tolist()) == {8.0, 16.0}
    assert found["scores"].dtype == torch.float32 and (found["labels"] == 0).all()


def test_true_boxes_become_pixels_within_the_picture_and_those_without_area_go() -> None:
    given = truth(
        (0.25, 0.5, 0.5, 1.0), (-1, 0, 2, 1), (0.3, 0.3, 0.3, 0.9), (0.5, 0.5, 0.4, 0.6), (float("nan"), 0, 1, 1),
        labels=(4, 3, 2, 1, 0),
    )  # fmt: skip
    (found,) = in_pixels([given], torch.zeros(1, 3, 20, 40))
    assert found["boxes"].tolist() == [[10, 10, 20, 20], [0, 0, 40, 20]]
    assert found["labels"].tolist() == [4, 3]


@pytest.fixture
def process_group() -> Iterator[None]:
    """This process alone, so that `DistributedDataParallel` does all that it does among several."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_has_a_gradient_even_of_pictures_without_boxes(kind: str, process_group: None) -> None:
    """DDP raises at the next forward where a parameter got none."""
    torch.manual_seed(0)
    network = DistributedDataParallel(build_detector(small(kind), classes=2)).train()
    full, thin, none = truth((0.1, 0.1, 0.6, 0.6), labels=(1,)), truth((0.5, 0.1, 0.5, 0.9)), truth()
    for wanted in ([none, none], [thin, none], [full, none], [none, thin]):
        losses = network(torch.randn(2, 3, 32, 32), wanted)
        total = torch.stack(list(losses.values())).sum()
        total.backward()
        assert torch.isfinite(total)
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("levels", [2, 3, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_levels_beyond_the_stages(kind: str, levels: int) -> None:
    spec = small(kind, anchor_sizes=tuple((8 * 2**level,) for level in range(levels)))
    maps = build_detector(spec, classes=1).backbone(torch.randn(1, 3, 64, 64))
    assert [tuple(one.shape[2:]) for one in maps.values()] == [(32 >> level,) * 2 for level in range(levels)]


def test_a_norm_stands_in_pyramid_and_heads_where_it_is_asked_for() -> None:
    bare, normed = (build_detector(small("retinanet", norm=n), classes=1) for n in (None, Norm(kind="group")))
    counts = [
        sum(isinstance(module, nn.GroupNorm) for module in part.modules())
        for network in (bare, normed)
        for part in (network.backbone.fpn, network.head)
    ]
    assert counts == [0, 0, 4, 8]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"backbone": ResidualSpec(dims=3, stem=Stem(kind="video"), depths=(1, 1))}, "needs dims=2, not 3"),
        ({"backbone": ResidualSpec(dims=2, block=Block(order="pre"), depths=(1, 1))}, "use post or ir"),
        ({"stages": (2, 3)}, "must rise and be among the backbone's 1..2"),
        ({"stages": (2, 1)}, "must rise"),
        ({"anchor_sizes": ((8,),)}, "has 1 levels, and 2 stages need 2 to 4"),
        ({"anchor_sizes": ((8,),) * 5}, "has 5 levels"),
        ({"anchor_sizes": ((8,), (16, 32))}, "every level as many sizes"),
        ({"anchor_sizes": ((), ())}, "at least one"),
        ({"min_score": 1.0}, "less than 1"),
    ],
)
def test_specs_that_cannot_be_say_what_can(changed: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        DetectionSpec(**({"backbone": SMALL, "anchor_sizes": ((8,), (16,))} | changed))
