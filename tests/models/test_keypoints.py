"""Keypoint R-CNN: torchvision's own on our backbone; and its sidecar."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from made_faces import offline_faces
from models.untrained_keypoints import SMALL, saved
from pydantic import TypeAdapter, ValidationError
from torch.nn.parallel import DistributedDataParallel
from torchvision.models.detection import keypointrcnn_resnet50_fpn

from vidproc.errors import WeightsError
from vidproc.models.detection import build_detector
from vidproc.models.detection_spec import DetectionSpec, KeypointHead
from vidproc.models.detector import Detector, resolve_detector
from vidproc.models.zoo import ZOO

pytestmark = pytest.mark.usefixtures("one_thread")

# ---- the network


def test_it_is_torchvision_s_network_and_finds_the_same_points() -> None:
    """With the same parameters, on a picture whose sides are no multiples of 32."""
    torch.manual_seed(0)
    theirs = keypointrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=2, num_keypoints=5, min_size=70, max_size=90,
        image_mean=[0.0] * 3, image_std=[1.0] * 3, box_score_thresh=0.005, box_detections_per_img=3,
    ).eval()  # fmt: skip
    sizes = tuple((size,) for size in (32, 64, 128, 256, 512))
    spec = DetectionSpec(
        kind="keypoint_rcnn", backbone=ZOO["resnet50"].spec, anchor_sizes=sizes, min_score=0.005, max_boxes=3,
        keypoints=KeypointHead(),
    )  # fmt: skip
    ours = build_detector(spec, classes=1).eval()
    ours.load_state_dict(theirs.state_dict())
    picture = torch.randn(1, 3, 70, 90)
    with torch.inference_mode():
        (expected,), (found,) = theirs(list(picture)), ours(picture)
    assert expected["keypoints"].shape == (3, 5, 3)
    points = found["keypoints"] * torch.tensor([90.0, 70.0, 1.0])
    torch.testing.assert_close(points, expected["keypoints"], rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(found["keypoints_scores"], expected["keypoints_scores"])
    torch.testing.assert_close(found["scores"], expected["scores"])


@pytest.fixture
def process_group() -> Iterator[None]:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_every_parameter_has_a_gradient_even_where_no_point_is_known(process_group: None) -> None:
    """DDP raises at the next forward where a parameter got none."""
    torch.manual_seed(0)
    network = DistributedDataParallel(build_detector(SMALL, classes=1)).train()
    boxes = {"boxes": torch.tensor([[0.1, 0.1, 0.6, 0.6]]), "labels": torch.tensor([0])}
    full, blind = ({**boxes, "keypoints": torch.full((1, 5, 3), value)} for value in (0.4, 0.0))
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long(), "keypoints": torch.zeros(0, 5, 3)}
    for wanted in ([none, none], [full, none], [blind, blind]):
        losses = network(torch.randn(2, 3, 32, 32), wanted)
        torch.stack(list(losses.values())).sum().backward()
        assert (losses["loss_keypoint"] > 0) == any(one is full for one in wanted)
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


def test_left_and_right_change_places_in_a_mirror() -> None:
    assert KeypointHead().mirrored == (1, 0, 2, 4, 3)
    assert KeypointHead(names=("bright_spot", "right wing", "left wing")).mirrored == (0, 2, 1)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"keypoints": None}, "keypoint_rcnn, and no other kind, has keypoints"),
        ({"kind": "fasterrcnn"}, "keypoint_rcnn, and no other kind, has keypoints"),
        ({"keypoints": {"names": ["left_eye", "nose"]}}, r"need their other side, \['right_eye'\]"),
        ({"keypoints": {"names": ["nose", "nose"]}}, "must be different"),
        ({"keypoints": {"names": []}}, "at least 1 item"),
        ({"keypoints": {"names": [str(i) for i in range(65)]}}, "at most 64 items"),
        ({"keypoints": {"widths": [10**9]}}, "less than or equal to 8192"),
        ({"keypoints": {"depth": 8}}, "depth.*Unexpected keyword argument"),
    ],
)
def test_specs_that_cannot_be_say_what_can_and_so_do_sidecars(
    tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    fields = TypeAdapter(DetectionSpec).dump_python(SMALL) | changed
    with pytest.raises(ValidationError, match=rf"(?s){said}"):
        TypeAdapter(DetectionSpec).validate_python(fields)
    path = Path(f"{saved(tmp_path).url}.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"detection": json.loads(json.dumps(fields))}))
    with pytest.raises(WeightsError, match=said):
        resolve_detector(str(path.with_suffix("")))


# ---- its sidecar


def test_the_sidecar_makes_the_same_description_again(tmp_path: Path) -> None:
    detector = saved(tmp_path)
    assert resolve_detector(detector.url) == detector and detector.architecture == "keypoint_rcnn"


def test_detectors_without_keypoints_keep_the_text_that_they_had() -> None:
    """The model's name is a hash of it: rows that were written before keep theirs."""
    shipped = resolve_detector("demo")
    assert isinstance(shipped, Detector)
    told = json.loads(Path(f"{shipped.url}.json").read_text())["detection"]
    assert TypeAdapter(DetectionSpec).dump_python(shipped.detection, mode="json") == told
    assert offline_faces().model_id.startswith("mtcnn_arcface-")
