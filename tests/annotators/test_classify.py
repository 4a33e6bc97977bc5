"""Scores become rows: batches across segments, top-k and floor, tallies, and what goes wrong on a device."""

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pytest
import torch
from torch import Tensor, nn

from vidproc.annotators.actions import Actions
from vidproc.annotators.classify import ClassifierNetwork, top_labels
from vidproc.annotators.forward import ScoringNetwork, load_scoring_network
from vidproc.annotators.objects import Objects
from vidproc.errors import NotFinite, UsageError, WeightsError
from vidproc.media.samples import Samples
from vidproc.models.weights import Weights, resolve_weights
from vidproc.views import Clips, Frames, Picture

WEIGHTS = Weights(
    url="none.safetensors",
    sha256="0" * 64,
    architecture="resnet18",
    categories=("red", "green", "blue"),
    view=Frames(fps=1, picture=Picture(resize=(4, 4))),
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    licence="MIT",
    provenance="none",
)


class Colours(nn.Module):
    """Logits = mean of each channel; remembers its batches; runs out of memory above `room` samples."""

    def __init__(self, room: int = 1000) -> None:
        super().__init__()
        self.room = room
        self.batches: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        if len(x) > self.room:
            raise torch.OutOfMemoryError(f"no room for {len(x)}")
        return x.mean(dim=(2, 3))


def frames(*values: int) -> npt.NDArray[np.uint8]:
    """Grey frames of these brightnesses, with a green that is one brighter."""
    data = np.empty((len(values), 4, 4, 3), np.uint8)
    data[:] = np.array(values)[:, None, None, None]
    data[..., 1] += 1
    data.flags.writeable = False
    return data


def expected_scores(data: npt.NDArray[np.uint8], *, sigmoid: bool = False) -> npt.NDArray[np.float64]:
    logits = ((data / 255 - 0.5) / 0.25).mean(axis=(1, 2))
    if sigmoid:
        return 1 / (1 + np.exp(-logits))
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("multi_label", [False, True])
def test_scores_are_normalised_and_come_back_in_order(multi_label: bool) -> None:
    network = Colours()
    scoring = ScoringNetwork(network, replace(WEIGHTS, multi_label=multi_label), device="cpu", batch=8)
    data = [frames(0, 10, 20), frames(), frames(250), frames(*range(30, 43))]
    scores = scoring.scores(data)
    assert network.batches == [8, 8, 4]  # 17 samples; the last one padded to the least batch
    assert [len(found) for found in scores] == [3, 0, 1, 13]
    expected = expected_scores(np.concatenate(data), sigmoid=multi_label)
    np.testing.assert_allclose(np.concatenate([s for s in scores if len(s)]), expected, atol=1e-6)


def test_out_of_memory_halves_the_batch_and_goes_on() -> None:
    network = Colours(room=3)
    scoring = ScoringNetwork(network, WEIGHTS, device="cpu", batch=16)
    data = frames(*range(0, 200, 10))
    [scores] = scoring.scores([data])
    np.testing.assert_allclose(scores, expected_scores(data), atol=1e-6)
    assert network.batches[:4] == [16, 8, 4, 2]
    assert scoring.batch == 2  # it does not try the larger ones again
    network.batches.clear()
    scoring.scores([data])
    assert set(network.batches) == {2}


def test_out_of_memory_of_a_single_sample_is_raised() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        ScoringNetwork(Colours(room=0), WEIGHTS, device="cpu", batch=4).scores([frames(1, 2)])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers_are_never_handed_on(bad: float) -> None:
    class Broken(Colours):
        def forward(self, x: Tensor) -> Tensor:
            logits = super().forward(x)
            logits[1] = bad
            return logits

    with pytest.raises(NotFinite, match="1 of 5 samples"):
        ScoringNetwork(Broken(), WEIGHTS, device="cpu").scores([frames(1, 2, 3, 4, 5)])


def test_top_labels_by_score_then_id_above_the_floor() -> None:
    scores = np.array([[0.1, 0.4, 0.4, 0.1], [0.97, 0.01, 0.01, 0.01]], np.float32)
    found = top_labels(scores, top_k=3, floors=0.05)
    assert found.sample.tolist() == [0, 0, 0, 1]
    assert found.label_id.tolist() == [1, 2, 0, 0]
    assert found.rank.tolist() == [1, 2, 3, 1]
    assert found.score.tolist() == [np.float32(0.4), np.float32(0.4), np.float32(0.1), np.float32(0.97)]


class Given:
    """A scorer whose scores are given."""

    def __init__(self, *scores: list[list[float]]) -> None:
        self.given = [np.array(s, np.float32) for s in scores]

    def scores(self, data: Sequence[npt.NDArray[np.uint8]]) -> list[npt.NDArray[np.float32]]:
        assert [len(d) for d in data] == [len(s) for s in self.given]
        return self.given


def test_rows_and_tallies() -> None:
    annotator = Objects(weights=WEIGHTS, top_k=2, floor=0.2)
    network = ClassifierNetwork(annotator, Given([[0.7, 0.2, 0.1], [0.05, 0.05, 0.9]]))
    times = np.array([5_000_000, 6_000_000])
    [annotation] = network.annotate([{annotator.view: Samples(times, times + 1_000_000, times, frames(1, 2))}])
    assert annotation.rows["labels"].to_pylist() == [
        {**common, "scope": "sample", "task": "object", "score": pytest.approx(score)}
        for common, score in [
            ({"start_us": 5_000_000, "end_us": 6_000_000, "label": "red", "label_id": 0, "rank": 1}, 0.7),
            ({"start_us": 5_000_000, "end_us": 6_000_000, "label": "green", "label_id": 1, "rank": 2}, 0.2),
            ({"start_us": 6_000_000, "end_us": 7_000_000, "label": "blue", "label_id": 2, "rank": 1}, 0.9),
        ]
    ]
    assert annotation.samples == 2
    np.testing.assert_allclose(annotation.tally, [0.75, 0.25, 1.0, 0], atol=1e-6)  # both are black: none has a vote
    whole = annotator.label_rows(annotator.mean_scores(annotation.tally, annotation.samples)).to_pylist()
    assert [(row["label"], row["rank"], row["task"]) for row in whole] == [("blue", 1, "object"), ("red", 2, "object")]


def test_model_id_follows_all_that_changes_rows() -> None:
    base = Objects(weights=WEIGHTS)
    others = [
        Objects(weights=replace(WEIGHTS, sha256="1" * 64)),
        Objects(weights=WEIGHTS, fps=2.0),
        Objects(weights=WEIGHTS, top_k=1),
        Objects(weights=WEIGHTS, floor=0.5),
    ]
    assert len({annotator.model_id for annotator in (base, *others)}) == 5
    assert Objects(weights=replace(WEIGHTS, url="moved.safetensors"), batch=3).model_id == base.model_id


def test_the_pace_of_the_view_can_be_changed() -> None:
    actions = Actions(weights=resolve_weights("demo:actions"), stride_s=2.0)
    assert isinstance(actions.view, Clips) and actions.view.stride_us == 2_000_000
    assert Objects(weights=WEIGHTS, fps=4.0).view.stride_us == 250_000


def test_weights_of_the_wrong_kind_are_refused() -> None:
    with pytest.raises(WeightsError, match="look at frames, but actions needs clips"):
        Actions(weights=WEIGHTS)
    with pytest.raises(UsageError, match="top_k and batch must be at least 1"):
        Objects(weights=WEIGHTS, top_k=0)


SHARED = Path(__file__).parents[3] / "shared" / "data"
CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def cifar_pictures(archive: Path, *, count: int) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """Every so-many-th picture: uint8 [count, 32, 32, 3] and the folder each lies in."""
    with tarfile.open(archive) as tar:
        members = sorted((m for m in tar.getmembers() if m.name.endswith(".jpg")), key=lambda m: m.name)
        chosen = members[:: len(members) // count][:count]
        pictures = [decoded_jpeg(tar.extractfile(member).read()) for member in chosen]
    return np.stack(pictures), [Path(member.name).parent.name for member in chosen]


def decoded_jpeg(data: bytes) -> npt.NDArray[np.uint8]:
    with av.open(io.BytesIO(data)) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


@pytest.mark.parametrize("depth", [20, 56])
def test_published_cifar_weights_classify_real_pictures(depth: int, tmp_path: Path) -> None:
    archive = SHARED / "images" / "cifar10_test2000_jpeg.tar.gz"
    checkpoints = list((SHARED / "weights").glob(f"akamaster_cifar10_resnet{depth}-*.th"))
    if not archive.exists() or not checkpoints:
        pytest.skip("the shared CIFAR pictures and weights are not there")
    path = tmp_path / "cifar.th"
    path.write_bytes(checkpoints[0].read_bytes())
    sidecar = {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "architecture": f"cifar_resnet{depth}",
        "layout": "akamaster",
        "categories": CIFAR_CLASSES,
        "view": {"kind": "frames", "fps": 1, "picture": {"resize": [32, 32]}},
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "licence": "BSD-2-Clause",
        "provenance": "akamaster/pytorch_resnet_cifar10",
    }
    path.with_name("cifar.th.json").write_text(json.dumps(sidecar))
    annotator = Objects.from_spec(str(path))
    pictures, truth = cifar_pictures(archive, count=400)
    times = np.arange(len(pictures)) * 1_000_000
    samples = Samples(times, times + 1_000_000, times, pictures)
    [annotation] = annotator.load("cpu").annotate([{annotator.view: samples}])
    best = annotation.rows["labels"].filter(pc.field("rank") == 1)["label"].to_pylist()
    assert len(best) == len(truth)
    assert np.mean([found == right for found, right in zip(best, truth, strict=True)]) >= 0.75


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_networks_score_the_same_and_see_one_shape() -> None:
    """Batches of any size are filled up, so that nothing is compiled twice; scores stay within float noise."""
    annotator = Objects.from_spec("demo")
    scorers = [load_scoring_network(annotator.weights, device="cpu", batch=8, compiled=c) for c in (False, True)]
    pixels = np.random.default_rng(0).integers(0, 256, (11, 64, 64, 3), np.uint8)
    plain, compiled = (scorer.scores([pixels[:3], pixels[3:]]) for scorer in scorers)
    assert [len(part) for part in compiled] == [3, 8]
    assert all(np.allclose(a, b, atol=1e-4) for a, b in zip(plain, compiled, strict=True))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
