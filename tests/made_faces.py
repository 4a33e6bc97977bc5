"""Recognisers and galleries for tests: one of random weights, small and seeing faces everywhere, and a real one.

The real one's embedder states no licence: it is for tests only, and its test data stays where it is.
"""

import atexit
import functools
import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidproc.annotators.faces import Faces, Terms
from vidproc.models.gallery import Gallery, Person
from vidproc.models.recogniser import FaceRecogniser, resolve_recogniser
from vidproc.models.specs import Head, ResidualSpec, Stem
from vidproc.models.zoo import ZOO

SHARED = Path(__file__).parents[2] / "shared" / "data"
REAL = "mobilefacenet_xiaoccer_068.ckpt"
PURPOSE = "tests of the annotator"
TINY = ResidualSpec(
    dims=2, stem=Stem(kind="face", width=4), depths=(1,), widths=(4,), strides=(2,), head=Head(kind="face", grid=(8, 8))
)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def described(folder: Path, nets: dict[str, Path], embedder: Path, sidecar: dict[str, Any], **fields: Any) -> str:
    """Write a recogniser's description, and its embedder's sidecar; returns its URL."""
    about = {"licence": "MIT", "provenance": "a test", "sha256": sha256(embedder)}
    embedder.with_name(f"{embedder.name}.json").write_text(json.dumps(about | sidecar))
    files = {name: {"url": str(path), "sha256": sha256(path)} for name, path in nets.items()}
    told = {
        "detector": {**files, "licence": "MIT", "provenance": "facenet-pytorch", **fields.pop("detector", {})},
        "embedder": {"url": embedder.name, "sha256": sha256(embedder)},  # beside the description
        "threshold": 0.4,
    }
    path = folder / "faces.json"
    path.write_text(json.dumps(told | fields))
    return str(path)


@functools.cache
def random_recogniser() -> str:
    """The URL of one whose networks know nothing: it takes nearly all of a frame for faces, of good quality."""
    import torch

    from vidproc.models.build import build
    from vidproc.models.mtcnn import output_network, proposal_network, refinement_network

    keeper = tempfile.TemporaryDirectory(prefix="vidproc-tests-")
    atexit.register(keeper.cleanup)
    folder = Path(keeper.name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        nets = {"pnet": proposal_network(), "rnet": refinement_network(), "onet": output_network()}
        for name, net in nets.items():
            torch.save(net.state_dict(), folder / f"{name}.pt")
        torch.save(build(TINY, classes=8).state_dict(), folder / "embedder.pt")
    sidecar = {
        "embedding": asdict(TINY),
        "size": 8,
        "view": {"kind": "frames", "fps": 1, "picture": {"resize": [16, 16]}},
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    view = {"kind": "frames", "fps": 2, "picture": {"resize": [48, 64], "letterbox": True}}
    return described(
        folder,
        {name: folder / f"{name}.pt" for name in nets},
        folder / "embedder.pt",
        sidecar,
        detector={"thresholds": [0, 0, 0]},
        least_quality=0,
        view=view,
    )


def real_recogniser(folder: Path, **fields: Any) -> FaceRecogniser:
    """MTCNN and MobileFaceNet; skips where they are not."""
    if not (SHARED / "weights" / REAL).exists():
        pytest.skip(f"no weights of faces: {SHARED / 'weights'} is not there")
    return resolve_recogniser(real_description(folder, **fields), allow_licences=["not stated"])


def real_description(folder: Path, **fields: Any) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / REAL
    if not link.exists():
        link.symlink_to(SHARED / "weights" / REAL)
    sidecar = {
        "licence": "not stated",
        "embedding": asdict(ZOO["mobilefacenet"].spec),
        "size": 128,
        "layout": "mobilefacenet",
        "view": {"kind": "frames", "fps": 1, "picture": {"resize": [112, 96]}},
        "mean": [0.5] * 3,
        "std": [128 / 255] * 3,
    }
    return described(
        folder, {f"{n}net": SHARED / "weights" / f"mtcnn_{n}net.pt" for n in "pro"}, link, sidecar, **fields
    )


def person(name: str, vectors: Sequence[Sequence[float]]) -> Person:
    return Person(
        name=name,
        consent=f"consent of {name}",
        added_at="2026-01-01T00:00:00+00:00",
        pictures=tuple(f"{name}-{i}" for i in range(len(vectors))),
        vectors=np.asarray(vectors, np.float32),
    )


def gallery(embedder: str, *people: Person) -> Gallery:
    return Gallery(url="/nowhere/gallery", version="000001", embedder=embedder, people=people)


def offline_faces(*, keep_vectors: bool = False) -> Faces:
    """The annotator with random weights and two people of random vectors."""
    recogniser = resolve_recogniser(random_recogniser())
    ann, bob = np.eye(8, dtype=np.float32)[:2]
    people = gallery(recogniser.embedder.sha256, person("ann", [ann]), person("bob", [bob]))
    return Faces(recogniser=recogniser, terms=Terms(gallery=people, purpose=PURPOSE, keep_vectors=keep_vectors))
