"""Vectors of clips and frames: what the scores are made of, at length 1, from any classification network."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from test_annotators import noise_samples

from vidproc.annotators.embeddings import EmbeddingNetwork, Embeddings, unit_length
from vidproc.annotators.forward import load_embedding_network, load_scoring_network
from vidproc.errors import WeightsError
from vidproc.media.samples import Samples
from vidproc.models.build import build, without_scores
from vidproc.models.load import load_network
from vidproc.models.weights import resolve_weights
from vidproc.models.zoo import ZOO, spec_of
from vidproc.views import Clips, Frames

SMALL: dict[str, dict[str, Any]] = {
    "resnet18": {"depths": [1, 1], "widths": [8, 12]},
    "resnet50": {"depths": [1, 1], "widths": [8, 12]},
    "densenet121": {"depths": [2, 2], "growth": 8, "stem_width": 8},
    "densenet121_3d": {"depths": [2, 2], "growth": 8, "stem_width": 8},
    "cifar_preact_resnet164": {"depths": [1, 1], "widths": [8, 12]},
    "r2plus1d_18": {"depths": [1, 1], "widths": [8, 12]},
    "slowfast_r50": {
        "slow": {"depths": [1, 1], "widths": [8, 12]},
        "fast": {"depths": [1, 1], "widths": [4, 8]},
    },
    "panns_resnet22": {"depths": [1, 1], "widths": [8, 12]},
    "res8_narrow": {},
    "resnet1d_18": {"depths": [1, 1], "widths": [8, 12]},
}
WIDTHS = {
    "resnet18": 12, "resnet50": 48, "densenet121": 28, "densenet121_3d": 28, "cifar_preact_resnet164": 48,
    "r2plus1d_18": 12, "slowfast_r50": 80, "panns_resnet22": 48, "res8_narrow": 19, "resnet1d_18": 12,
}  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
def test_what_is_left_of_a_network_without_scores_makes_the_scores(name: str) -> None:
    torch.manual_seed(0)
    network = build(spec_of(name, SMALL[name]), classes=5).eval()
    size = tuple(min(extent, 64) for extent in ZOO[name].input)
    x = torch.randn(2, *size)
    with torch.inference_mode():
        scores = network(x)
        assert network.scores_name is not None
        layer = network.get_submodule(network.scores_name)
        vectors = without_scores(network)(x)
        assert vectors.shape == (2, WIDTHS[name])
        torch.testing.assert_close(layer(vectors), scores)


@pytest.mark.parametrize(("name", "options"), [("ir_resnet18", {"depths": [1, 1, 1, 1]}), ("mobilefacenet", {})])
def test_a_network_that_makes_embeddings_stays_as_it_is(name: str, options: dict[str, Any]) -> None:
    network = build(spec_of(name, options), classes=16).eval()
    x = torch.randn(1, *ZOO[name].input)
    with torch.inference_mode():
        torch.testing.assert_close(without_scores(network)(x), network(x))


@pytest.mark.parametrize("name", ["actions", "objects"])
def test_vectors_are_what_scores_are_made_of(name: str) -> None:
    weights = resolve_weights(f"demo:{name}")
    data = [noise_samples(weights.view, count=count, seed=count).data for count in (3, 0, 6)]
    found = load_embedding_network(weights, device="cpu", batch=4).outputs(data)
    logits = load_scoring_network(weights, device="cpu", batch=4).logits(data)
    layer = load_network(weights).fc
    assert isinstance(layer, torch.nn.Linear)
    for vectors, expected in zip(found, logits, strict=True):
        if len(vectors):
            given = layer(torch.from_numpy(vectors)).detach().numpy()
            np.testing.assert_allclose(given, expected, atol=1e-4)


def test_vectors_have_length_one_and_their_samples_times() -> None:
    annotator = Embeddings.from_spec("demo:objects")
    samples = noise_samples(annotator.view, count=5)
    [annotation] = annotator.load("cpu").annotate([{annotator.view: samples}])
    rows = annotation.rows["embeddings"]
    vectors = np.stack(rows["vector"].to_pylist())
    assert vectors.shape == (5, 56) and annotation.samples == 5 and annotation.tally is None
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert rows["start_us"].to_pylist() == samples.start_us.tolist()
    assert rows["end_us"].to_pylist() == samples.end_us.tolist()


class Given:
    """Its vectors are given."""

    def __init__(self, vectors: npt.NDArray[np.float32]) -> None:
        self.vectors = vectors

    def outputs(self, data: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[np.float32]]:
        return [self.vectors]


def test_a_vector_of_zeros_stays_one() -> None:
    view = Embeddings.from_spec("demo:objects").view
    times = np.arange(2, dtype=np.int64)
    samples = Samples(times, times + 1, times, np.zeros((2, *view.sample_shape), np.uint8))
    network = EmbeddingNetwork(view, Given(np.array([[3, 4], [0, 0]], np.float32)))
    [annotation] = network.annotate([{view: samples}])
    assert np.allclose(annotation.rows["embeddings"]["vector"].to_pylist(), [[0.6, 0.8], [0, 0]])


def test_lengths_do_not_overflow() -> None:
    assert np.isfinite(unit_length(np.full((1, 3), 1e30, np.float32))).all()


def test_views_are_the_weights() -> None:
    assert isinstance(Embeddings.from_spec("demo").view, Clips)
    assert isinstance(Embeddings.from_spec("demo:objects").view, Frames)


def test_model_id_follows_all_that_changes_vectors() -> None:
    weights = resolve_weights("demo:objects")
    base = Embeddings(weights=weights)
    others = [Embeddings(weights=replace(weights, **changed)) for changed in ({"sha256": "1" * 64}, {"std": (1, 1, 1)})]
    assert len({one.model_id for one in (base, *others)}) == 3
    assert Embeddings(weights=replace(weights, url="moved.safetensors", temperature=2.0), batch=3).model_id == (
        base.model_id
    )


def test_sound_is_refused(tmp_path: Path) -> None:
    weights = replace(
        resolve_weights("demo:objects"),
        architecture="resnet1d_18",
        options={},
        view={"kind": "audio", "rate": 16_000},
    )
    with pytest.raises(WeightsError, match="listen to sound, but embeddings are of clips or frames"):
        Embeddings(weights=weights)
