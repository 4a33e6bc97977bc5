"""Who has a vote on a whole video, and how votes add up: the same whatever the order and the cut."""

import itertools
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from vidproc.annotators.actions import Actions
from vidproc.annotators.base import Annotation
from vidproc.annotators.classify import Classifier, ClassifierNetwork
from vidproc.annotators.objects import Objects
from vidproc.annotators.votes import BEST, Tallies, said_by
from vidproc.media.samples import Samples
from vidproc.models.weights import Weights, resolve_weights

Pixels = npt.NDArray[np.uint8]
SECOND_US = 1_000_000


def texture(number: int, size: int = 64) -> Pixels:
    return np.random.default_rng(number).integers(30, 256, (size, size, 3)).astype(np.uint8)


def moving(number: int, frames: int = 8, size: int = 64) -> Pixels:
    """A clip in which a small bright square goes its way: all else stands still."""
    clip = np.full((frames, size, size, 3), 60, np.uint8)
    for i in range(frames):
        at = 4 + number + 3 * i
        clip[i, 20:30, at : at + 10] = 220
    return clip


def samples_of(data: Pixels, *, corrupt: npt.NDArray[np.bool_] | None = None) -> Samples:
    starts = np.arange(len(data)) * SECOND_US
    return Samples(starts, starts + SECOND_US, starts, data, corrupt=corrupt)


def test_what_holds_a_corrupt_frame_has_no_vote() -> None:
    corrupt = np.zeros((4, 8), bool)
    corrupt[1, 7] = corrupt[2] = True
    said = said_by(samples_of(np.stack([moving(i) for i in range(4)]), corrupt=corrupt))
    assert said.votes.tolist() == said.fit.tolist() == [True, False, False, True]
    said = said_by(samples_of(np.stack([texture(i) for i in range(4)]), corrupt=corrupt[:, 7:]))
    assert said.votes.tolist() == [True, False, False, True] and said.known.all()


def test_black_has_no_vote_and_what_stands_still_has_one() -> None:
    dark = np.zeros((64, 64, 3), np.uint8)
    dark[:6, :6] = 255  # a clock in the corner, say: less than a fiftieth
    noisy = texture(1)
    noisy[0, 0] ^= 1
    said = said_by(
        samples_of(np.stack([texture(1), noisy, texture(1), texture(2), dark, dark, texture(2), texture(2) // 2]))
    )
    assert said.fit.tolist() == [True, True, True, True, False, False, True, True]
    assert said.votes.tolist() == [True, False, False, True, False, False, True, True]
    assert said.known.all()


def test_a_clip_in_which_nothing_moves_has_no_vote() -> None:
    still = np.repeat(texture(1)[None], 8, axis=0)
    black = np.zeros_like(still)
    fading = np.linspace(0, 200, 8)[:, None, None, None].astype(np.uint8) + np.zeros_like(still)
    late = still.copy()
    late[-1] = texture(2)  # it goes on in the last frame
    said = said_by(samples_of(np.stack([moving(0), still, black, fading, late])))
    assert said.votes.tolist() == said.fit.tolist() == [True, False, False, True, True]


@pytest.mark.parametrize("several", [False, True])
def test_segments_add_up_in_any_grouping(several: bool) -> None:
    """Chosen so that sums are exact: then all cuts and groupings give the same bits."""
    rng = np.random.default_rng(3)
    scores = rng.integers(0, 257, (24, 5)).astype(np.float32) / 256
    votes = rng.random(24) < 0.6
    votes[8:16] = False  # a stretch with nobody
    tallies = Tallies(labels=5, several=several)
    whole = tallies.means(tallies.of(scores, votes).astype(np.float64), 24)
    chosen = np.sort(scores[votes], axis=0)[-BEST:] if several else scores[votes]
    np.testing.assert_allclose(whole, chosen.mean(axis=0), rtol=1e-6)
    for cuts in itertools.combinations([5, 8, 16, 20], 2):
        rows = np.stack(
            [tallies.of(s, v) for s, v in zip(np.split(scores, cuts), np.split(votes, cuts), strict=True)]
        ).astype(np.float64)
        left = tallies.joined(np.stack([tallies.joined(rows[:2]), rows[2]]))
        right = tallies.joined(np.stack([rows[0], tallies.joined(rows[1:])]))
        for joined in (tallies.joined(rows), tallies.joined(rows[::-1]), left, right):
            assert np.array_equal(tallies.means(joined, 24), whole)


@pytest.mark.parametrize("several", [False, True])
def test_where_nobody_has_a_vote_all_have_one(several: bool) -> None:
    scores = np.array([[0.5, 0.25], [0.25, 0.5]], np.float32)
    nobody = np.zeros(2, bool)
    tallies = Tallies(labels=2, several=several)
    rows = np.stack([tallies.of(scores, nobody)] * 2).astype(np.float64)
    whole = tallies.means(tallies.joined(rows), 4)
    np.testing.assert_allclose(
        whole, np.sort(np.tile(scores, (2, 1)), axis=0)[-BEST:].mean(axis=0) if several else 0.375
    )


def test_of_several_labels_a_few_good_samples_count() -> None:
    """A dog for three seconds of a hundred is in the video; what one sample takes for a cat is not."""
    scores = np.full((100, 2), 0.01, np.float32)
    scores[40:43, 0] = 0.9
    scores[70, 1] = 0.9
    tallies = Tallies(labels=2, several=True)
    dog, cat = tallies.means(tallies.of(scores, np.ones(100, bool)).astype(np.float64), 100)
    assert dog == pytest.approx(0.9) and cat == pytest.approx((0.9 + 0.02) / 3)


class BySight:
    """Scores a sample by what it shows: (mean, 1 - mean) of its green; black is sure of the second label."""

    def scores(self, data: list[Pixels]) -> list[npt.NDArray[np.float32]]:
        bright = [one.reshape(len(one), -1).mean(axis=1) / 255 for one in data]
        return [np.stack([b, 1 - b], axis=1).astype(np.float32) for b in bright]


def two_labels(name: str) -> Weights:
    return replace(resolve_weights(name), categories=("light", "dark"))


def whole_scores(annotator: Classifier, segments: list[Pixels]) -> npt.NDArray[np.float32]:
    """What derive makes of a video with these segments."""
    view = annotator.view
    given = []
    for number, data in enumerate(segments):
        starts = (np.arange(len(data)) + 100 * number) * SECOND_US
        given.append({view: Samples(starts, starts + SECOND_US, starts, data)})
    found: list[Annotation] = ClassifierNetwork(annotator, BySight()).annotate(given)
    tallies = np.stack([one.tally for one in found if one.tally is not None]).astype(np.float64)
    return annotator.mean_scores(annotator.joined_tally(tallies), sum(one.samples for one in found))


@pytest.mark.parametrize("kind", ["actions", "objects"])
@pytest.mark.parametrize("bad", ["black", "frozen"])
@pytest.mark.parametrize("apart", [False, True])
def test_a_video_half_black_or_frozen_is_what_its_good_half_is(kind: str, bad: str, apart: bool) -> None:
    if kind == "actions":
        annotator: Classifier = Actions(weights=two_labels("demo:actions"))
        good = np.stack([moving(i) for i in range(6)])
        last = np.repeat(good[-1:, -1:], 8, axis=1)
    else:
        annotator = Objects(weights=two_labels("demo:objects"))
        good = np.stack([texture(i) for i in range(6)])
        last = good[-1:]
    rest = np.repeat(np.zeros_like(last) if bad == "black" else last, 6, axis=0)
    segments = [good, rest] if apart else [np.concatenate([good, rest])]
    alone = whole_scores(annotator, [good])
    found = whole_scores(annotator, segments)
    if kind == "objects" and bad == "frozen" and apart:  # the first frame of a segment follows on nothing: one vote
        assert np.abs(found - alone).max() < 0.01
        return
    assert np.array_equal(found, alone)
