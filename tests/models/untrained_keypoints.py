"""A Keypoint R-CNN that knows nothing, small and saved with its sidecar, and a recogniser that names it."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from made_faces import PURPOSE, gallery, person, random_recogniser

from vidproc.annotators.faces import Faces, Terms
from vidproc.models.detection import build_detector
from vidproc.models.detection_spec import DetectionSpec, KeypointHead, SecondLook
from vidproc.models.detector import Detector
from vidproc.models.recogniser import resolve_recogniser
from vidproc.models.sidecar import sidecar_text
from vidproc.models.specs import ResidualSpec, Stem
from vidproc.views import Frames, Picture

SMALL = DetectionSpec(
    kind="keypoint_rcnn",
    backbone=ResidualSpec(dims=2, stem=Stem(kind="cifar", width=8), depths=(1, 1), widths=(8, 16), strides=(2, 2)),
    anchor_sizes=((8,), (16,)), anchor_ratios=(1.0,), fpn_channels=8, second=SecondLook(proposals=8, width=16),
    keypoints=KeypointHead(widths=(8,)), min_score=0.0, max_boxes=5,
)  # fmt: skip
VIEW = Frames(fps=4, picture=Picture(resize=(48, 64), letterbox=True))


def saved(folder: Path, *, spec: DetectionSpec = SMALL, categories: tuple[str, ...] = ("face",)) -> Detector:
    """A network that knows nothing, with its sidecar."""
    folder.mkdir(exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        data = safetensors.torch.save(build_detector(spec, classes=len(categories)).state_dict())
    path = folder / "keypoints.safetensors"
    path.write_bytes(data)
    detector = Detector(
        url=str(path), sha256=hashlib.sha256(data).hexdigest(), licence="MIT", provenance="a test", detection=spec,
        categories=categories, view=VIEW, mean=(0.5,) * 3, std=(0.25,) * 3,
    )  # fmt: skip
    path.with_name(f"{path.name}.json").write_text(sidecar_text(detector))
    return detector


def description(folder: Path, detector: Detector, **changed: Any) -> str:
    """Of a recogniser that names it, beside it, and the embedder of the tests."""
    embedder = Path(random_recogniser()).parent / "embedder.pt"
    told = {
        "detector": {"url": Path(detector.url).name, "sha256": detector.sha256, "least_score": 0.0} | changed,
        "embedder": {"url": str(embedder), "sha256": hashlib.sha256(embedder.read_bytes()).hexdigest()},
        "threshold": 0.4,
        "least_quality": 0,
    }
    (folder / "faces.json").write_text(json.dumps(told))
    return str(folder / "faces.json")


def annotator(folder: Path, **changed: Any) -> Faces:
    recogniser = resolve_recogniser(description(folder, saved(folder), **changed))
    people = gallery(recogniser.embedder.sha256, person("ann", [np.eye(8)[0]]))
    return Faces(recogniser=recogniser, terms=Terms(gallery=people, purpose=PURPOSE))
