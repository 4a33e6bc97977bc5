"""Frames without noise before they are scored: another model, other scores, the same promises."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from vidproc.annotators import ANNOTATORS
from vidproc.annotators.forward import ScoringNetwork
from vidproc.models.restorer import Restorer, resolve_restorer
from vidproc.models.weights import resolve_weights

CLASSIFIERS = ("actions", "objects")


@pytest.fixture(scope="module")
def restorer() -> Restorer:
    return resolve_restorer("demo")


def samples(name: str, *, count: int) -> npt.NDArray[np.uint8]:
    [view] = ANNOTATORS[name]("demo").views
    return np.random.default_rng(0).integers(0, 256, (count, *view.sample_shape), dtype=np.uint8)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_restored_frame_is_another_model_s(name: str, restorer: Restorer) -> None:
    plain, restoring = ANNOTATORS[name]("demo"), ANNOTATORS[name]("demo", restorer=restorer)
    assert plain.model_id != restoring.model_id
    assert plain.views == restoring.views, "what is decoded is shared"
    data = samples(name, count=5)
    [without], [with_it] = (one.load("cpu").scorer.scores([data]) for one in (plain, restoring))
    assert without.shape == with_it.shape and np.abs(without - with_it).max() > 1e-3


def test_quality_measures_the_noise_that_is_there(restorer: Restorer) -> None:
    assert ANNOTATORS["quality"](restorer=restorer) == ANNOTATORS["quality"]()


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_scores_do_not_depend_on_their_company(name: str, restorer: Restorer) -> None:
    """Bit for bit, as without a restorer."""
    scorer = ANNOTATORS[name]("demo", restorer=restorer).load("cpu").scorer
    data = samples(name, count=11)
    [together] = scorer.scores([data])
    for start, stop in ((0, 1), (1, 4), (4, 11)):
        assert np.array_equal(scorer.scores([data[start:stop]])[0], together[start:stop]), (start, stop)


def test_frames_of_any_size_do_not_depend_on_their_company(restorer: Restorer) -> None:
    from vidproc.models.load import load_restorer
    from vidproc.models.restoration import restore_frames

    network = load_restorer(restorer, "cpu")
    pixels = torch.rand(8, 224, 224, 3) * 255
    with torch.inference_mode():
        together = restore_frames(network, pixels)
        assert torch.equal(restore_frames(network, pixels[:4]), together[:4])
        assert torch.equal(restore_frames(network, pixels[3:8]), together[3:8])


def test_out_of_memory_while_restoring_halves_the_batch() -> None:
    class Narrow(nn.Module):
        """The identity, with room for three frames."""

        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 3:
                raise torch.OutOfMemoryError("no room")
            return x

    class Means(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean(dim=(2, 3))

    weights = resolve_weights("demo:objects")
    data = samples("objects", count=9)
    plain = ScoringNetwork(Means(), weights, device="cpu", batch=16)
    scoring = ScoringNetwork(Means(), weights, device="cpu", batch=16, restorer=Narrow())
    np.testing.assert_allclose(scoring.scores([data])[0], plain.scores([data])[0], atol=1e-5)
    assert scoring.batch == 2
