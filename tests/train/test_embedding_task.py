"""Embedding: the drawn identities, margins against their formulas, verification, and that training tells strangers."""

import math
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from bench.small_tasks import before_and_after, embedding, identities, measured, train
from sklearn.metrics import roc_curve
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from vidproc.models.build import build
from vidproc.models.specs import Head, ResidualSpec, Stem
from vidproc.train import verification
from vidproc.train.drawn_identities import HELD_OUT, face, picture, write_folders
from vidproc.train.tasks.base import Batch
from vidproc.train.tasks.embedding import Embedding, Margin
from vidproc.train.verification import rank_one, true_accepts

# ---- the drawn identities


def test_pictures_of_one_identity_show_one_face_and_differ() -> None:
    faces = [face(identity) for identity in (0, 1, HELD_OUT)]
    assert len({one.width for one in faces}) == 3
    assert face(1).eyes == faces[1].eyes
    first, again, second = (picture(identity=5, take=take, size=48) for take in (0, 0, 1))
    assert first.shape == (48, 48, 3) and first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert np.abs(first.astype(int) - second).mean() > 5


def test_pixels_alone_hardly_tell_who_it_is() -> None:
    """What lies over the face, around it and on it hides it from a comparison of pixels; all about one embedding."""
    held = identities(first=HELD_OUT, count=100, takes=8)
    flat = held.pictures.reshape(len(held.labels), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    tars, _ = true_accepts(flat / np.linalg.norm(flat, axis=1, keepdims=True), held.labels, fars=[0.01])
    assert tars[0.01] < 0.2


def test_a_folder_for_each_identity(tmp_path: Path) -> None:
    write_folders(tmp_path / "val", identities=range(HELD_OUT, HELD_OUT + 2), pictures=3, size=24)
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    assert files == [f"val/{identity}/00{take}.png" for identity in (HELD_OUT, HELD_OUT + 1) for take in range(3)]
    with av.open(tmp_path / files[4]) as container:
        (frame,) = container.decode(video=0)
    assert np.array_equal(frame.to_ndarray(format="rgb24"), picture(identity=HELD_OUT + 1, take=1, size=24))


# ---- margins


def at_angle(theta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """An embedding of length 3 and its true direction, of length 2, with that angle between them; float64."""
    embedding = 3 * torch.tensor([[math.cos(theta), math.sin(theta), 0.0]], dtype=torch.float64)
    return embedding, torch.tensor([[2.0, 0, 0], [0, 0, 5.0]], dtype=torch.float64)


def true_score(kind: str, theta: float, *, margin: float, scale: float = 10.0) -> float:
    module = Margin(3, 2, kind=kind, scale=scale, margin=margin)
    given, directions = at_angle(theta)
    module.weight.data = directions
    scores = module(given, torch.tensor([0])).detach()
    assert scores.shape == (1, 2) and scores[0, 1].item() == pytest.approx(0, abs=1e-5)
    return scores[0, 0].item() / scale


@pytest.mark.parametrize("theta", [0.05, 0.4, 1.5, 2.2, 2.6])
def test_margins_are_what_the_papers_say(theta: float) -> None:
    assert true_score("arcface", theta, margin=0.5) == pytest.approx(math.cos(theta + 0.5), abs=1e-6)
    assert true_score("cosface", theta, margin=0.35) == pytest.approx(math.cos(theta) - 0.35, abs=1e-6)


def test_arcface_falls_all_the_way_to_pi() -> None:
    angles = np.linspace(0, math.pi, 200)
    scores = [true_score("arcface", theta, margin=0.5) for theta in angles]
    assert (np.diff(scores) < 1e-6).all()
    assert scores[-1] == pytest.approx(-1 - 0.5 * math.sin(0.5), abs=1e-5)


@pytest.mark.parametrize("kind", ["arcface", "cosface"])
def test_without_a_margin_it_is_softmax_of_scaled_cosines(kind: str) -> None:
    torch.manual_seed(0)
    module, given, labels = Margin(8, 5, kind=kind, scale=16.0, margin=0.0), torch.randn(6, 8), torch.arange(6) % 5
    expected = 16.0 * F.cosine_similarity(given[:, None], module.weight[None], dim=2)
    torch.testing.assert_close(module(given, labels), expected, rtol=1e-4, atol=1e-4)
    harder = Margin(8, 5, kind=kind, scale=16.0, margin=0.4)
    harder.weight = module.weight
    moved = module(given, labels) - harder(given, labels)
    true = F.one_hot(labels, 5).bool()
    assert (moved[true] > 0.01).all() and not moved[~true].any()


@pytest.mark.parametrize("kind", ["arcface", "cosface"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_are_finite_where_the_cosine_is_one_or_minus_one(kind: str, sign: float, autocast: bool) -> None:
    module = Margin(4, 3, kind=kind, scale=64.0, margin=0.5)
    module.weight.data = torch.eye(3, 4)  # of which cosines are exact
    given = (sign * torch.eye(3, 4)).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = F.cross_entropy(module(given, torch.arange(3)), torch.arange(3))
    loss.backward()
    assert loss.isfinite() and loss.dtype == torch.float32
    assert given.grad.isfinite().all() and module.weight.grad.isfinite().all()


def test_a_margin_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"margin 1\.6 in 0"):
        Margin(2, 2, kind="arcface", scale=1.0, margin=1.6)


# ---- verification


def scattered(*, people: int, each: int, spread: float, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    rng = np.random.default_rng(seed)
    vectors = np.repeat(rng.normal(size=(people, 16)), each, axis=0) + spread * rng.normal(size=(people * each, 16))
    labels = [f"person {person}" for person in range(people) for _ in range(each)]
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), labels


@pytest.mark.parametrize("at_once", [1 << 22, 400])
def test_true_accepts_are_those_of_the_roc_curve(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    """scikit-learn's, over all pairs at once; here also with the pairs in many pieces."""
    monkeypatch.setattr(verification, "_AT_ONCE", at_once)
    embeddings, labels = scattered(people=30, each=5, spread=0.9)
    first, second = np.triu_indices(150, k=1)
    scores = (embeddings @ embeddings.T)[first, second]
    same = np.array(labels)[first] == np.array(labels)[second]
    false, true, _ = roc_curve(same, scores, drop_intermediate=False)
    tars, impostors = true_accepts(embeddings, labels, fars=[0.1, 0.01, 0.001, 1e-9])
    assert impostors == (~same).sum() == 150 * 145 // 2
    for far, tar in tars.items():
        assert tar == pytest.approx(true[false <= far].max(), abs=0.01), far
    assert 0 < tars[0.001] < tars[0.01] < tars[0.1] < 1


def test_rank_one_asks_only_where_there_is_an_answer() -> None:
    embeddings = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9], [-1, 0], [0.8, 0.3]], np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    assert rank_one(embeddings, ["a", "a", "b", "b", "alone", "b"]) == pytest.approx(4 / 5)
    perfect, labels = scattered(people=10, each=3, spread=0.01)
    assert rank_one(perfect, labels) == 1.0


def test_nothing_to_compare_is_said() -> None:
    embeddings, labels = scattered(people=3, each=2, spread=0.1)
    with pytest.raises(ValueError, match="0 pairs of one identity and 15 of two"):
        true_accepts(embeddings, range(6), fars=[0.1])
    with pytest.raises(ValueError, match="15 pairs of one identity and 0 of two"):
        true_accepts(embeddings, [0] * 6, fars=[0.1])
    with pytest.raises(ValueError, match="no two pictures"):
        rank_one(embeddings, range(6))
    with pytest.raises(ValueError, match="diverged"):
        true_accepts(embeddings * np.float32("nan"), labels, fars=[0.1])


# ---- the task


@pytest.mark.parametrize("head", ["face", "mobile_face", "linear"])
def test_outputs_have_length_one_and_the_checkpoint_the_network_alone(head: str) -> None:
    spec = ResidualSpec(
        dims=2,
        stem=Stem(kind="face", width=8),
        depths=(1, 1),
        widths=(8, 8),
        strides=(2, 2),
        head=Head(kind=head, grid=(4, 4)),
    )
    task = Embedding(categories=("ann", "bob"), spec=spec, size=6)
    network = task.network().train()
    inputs = torch.randn(3, 3, 16, 16)
    outputs = np.stack(task.outputs(network, Batch(inputs, None)))
    assert outputs.shape == (3, 6) and outputs.dtype == np.float32 and not network.training
    assert np.linalg.norm(outputs, axis=1) == pytest.approx(1, abs=1e-5)
    state = task.state(torch.nn.ModuleDict({"module": network}))  # as DDP names them
    assert state.keys() == network.network.state_dict().keys()
    build(task.spec, classes=task.size).load_state_dict(state)


def test_labels_are_names_or_indices_and_strangers_have_no_loss() -> None:
    task = embedding("arcface", identities=3)
    assert task.truth(["2", 1, np.int64(0), "stranger", 7], "cpu").tolist() == [2, 1, 0, -1, -1]
    with pytest.raises(IndexError, match="-1 is out of bounds"):
        task.loss(task.network(), Batch(torch.randn(2, 3, 32, 32), task.truth(["stranger", "0"], "cpu")))


def test_one_forward_trains_network_and_directions_under_ddp(one_thread: None) -> None:
    task = embedding("arcface", identities=3)
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(task.network()).train()
        for _ in range(2):  # the second raises where the first left a parameter out
            task.loss(wrapped, Batch(torch.randn(4, 3, 32, 32), task.truth([0, 1, 2, 1], "cpu"))).backward()
        assert all(parameter.grad is not None for parameter in wrapped.parameters())
        assert len(task.outputs(wrapped, Batch(torch.randn(2, 3, 32, 32), None))) == 2
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("kind", ["arcface", pytest.param("cosface", marks=pytest.mark.slow)])
def test_training_learns_to_tell_strangers_apart(kind: str, one_thread: None) -> None:
    """150 steps on 100 identities; `tests/bench/small_tasks.py` takes 600 on 300."""
    held, task = identities(first=HELD_OUT, count=50, takes=6), embedding(kind, identities=100)
    torch.manual_seed(0)
    network = task.network()
    before = measured(task, network, held)
    train(task, network, identities(first=0, count=100, takes=20), steps=150, batch=64, rate=5e-3)
    after = measured(task, network, held)
    assert before["tar_at_far_0.01"] < 0.15 and before["rank_1"] < 0.3
    assert after["tar_at_far_0.01"] > 0.5 and after["rank_1"] > 0.7
    assert list(after) == ["tar_at_far_0.01", "tar_at_far_0.001", "rank_1", "impostor_pairs"]
    assert after["impostor_pairs"] == 300 * 294 / 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["arcface", "cosface"])
def test_a_full_training_tells_nearly_all_strangers_apart(kind: str, one_thread: None) -> None:
    before, after = before_and_after(kind)
    assert before["tar_at_far_0.01"] < 0.1
    assert after["tar_at_far_0.01"] > 0.9 and after["tar_at_far_0.001"] > 0.7
