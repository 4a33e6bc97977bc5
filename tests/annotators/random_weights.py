"""Checkpoints with sidecars whose networks know nothing: for annotators that have no weights of their own."""

import atexit
import functools
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from vidproc.models.build import build
from vidproc.models.fuser import PATTERNS, Base, FusionSpec, FusionWeights
from vidproc.models.fusion import FusionNetwork
from vidproc.models.sidecar import sidecar_text
from vidproc.models.weights import resolve_weights
from vidproc.models.zoo import spec_of

LISTENING = {
    "seconds": 1.0,
    "stride_s": 0.5,
    "spectrum": {"rate": 8000, "window": 512, "hop": 128, "mels": 64, "low_hz": 50, "high_hz": 3500},
}
SIDECARS: dict[str, dict[str, Any]] = {
    "scenes": {
        "architecture": "resnet18",
        "view": {"kind": "frames", "fps": 2, "picture": {"resize": [32, 32]}},
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "categories": ["attic", "bay", "cave"],
    },
    "sounds": {
        "architecture": "panns_resnet22",
        "view": {"kind": "audio", "rate": 8000},
        "listening": LISTENING,
        "categories": ["bark", "rain", "speech"],
    },
}
"""Annotator → what its sidecar says; `written` adds the rest."""


def written(folder: Path, name: str, *, seed: int = 0, **changes: Any) -> str:
    """A network for the annotator `name`, with its sidecar as changed; returns its URL."""
    small = {"depths": [1, 1], "widths": [4, 8]}
    fields = {"options": small, "licence": "MIT", "provenance": "a test", **SIDECARS[name], **changes}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(spec_of(fields["architecture"], fields["options"]), classes=len(fields["categories"]))
    path = folder / f"{name}{seed}.safetensors"
    path.write_bytes(safetensors.torch.save(network.state_dict()))
    sidecar = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), **fields}
    path.with_name(f"{path.name}.json").write_text(json.dumps(sidecar))
    return str(path)


def fusion_written(folder: Path) -> str:
    """A fusing network over the shipped network for motions and a random one for sound; returns its URL."""
    ear = resolve_weights(written(folder, "sounds"))
    spec = FusionSpec(sizes=(36, 32), width=8, depth=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        data = safetensors.torch.save(FusionNetwork(spec, 2).state_dict())
    path = folder / "fusion.safetensors"
    path.write_bytes(data)
    fused = FusionWeights(
        url=str(path),
        sha256=hashlib.sha256(data).hexdigest(),
        licence="MIT",
        provenance="a test",
        fusion=spec,
        picture=Base(spec="demo:actions", sha256=resolve_weights("demo:actions").sha256),
        sound=Base(spec=ear.url, sha256=ear.sha256),
        categories=("agree", "differ"),
        temperatures=dict.fromkeys(PATTERNS, 1.0),
    )
    path.with_name(f"{path.name}.json").write_text(sidecar_text(fused))
    return str(path)


MADE = {*SIDECARS, "fusion"}
"""Annotators for which there are random weights."""


@functools.cache
def shared_by_tests(name: str) -> str:
    """One such checkpoint for the whole session."""
    folder = tempfile.TemporaryDirectory(prefix="vidproc-tests-")
    atexit.register(folder.cleanup)
    return fusion_written(Path(folder.name)) if name == "fusion" else written(Path(folder.name), name)
