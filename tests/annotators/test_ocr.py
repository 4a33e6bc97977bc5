"""Words in pictures: what is read, and how readings of many frames become spans."""

import importlib.util
import random
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lettering import lettered

from vidproc.annotators.ocr import PictureText, joined
from vidproc.errors import TooLarge, UsageError, WeightsError
from vidproc.media.samples import MOST_SPANS, Samples
from vidproc.schema import TEXT

S = 1_000_000


def test_a_line_that_stays_is_one_span() -> None:
    lines = [(0, 2, "News"), (2, 4, "News"), (2, 4, "Flood"), (4, 6, "News"), (4, 6, "Flood")]
    assert joined(lines) == [(0, 6, "News"), (2, 6, "Flood")]


def test_of_several_readings_the_one_that_stood_longest_counts() -> None:
    said = ["BREAKlNG NEWS", "BREAKING NEWS", "BREAKING NEWS", "BREAKINGNEWS"]
    assert joined((i, i + 1, text) for i, text in enumerate(said)) == [(0, 4, "BREAKING NEWS")]


def test_what_was_away_for_a_frame_begins_again() -> None:
    assert joined([(0, 2, "News"), (4, 6, "News")]) == [(0, 2, "News"), (4, 6, "News")]


def test_another_text_in_its_place_is_another_span() -> None:
    assert joined([(0, 2, "Are you there?"), (2, 4, "No, I am here.")]) == [
        (0, 2, "Are you there?"),
        (2, 4, "No, I am here."),
    ]


def test_what_differs_in_a_digit_is_another_line() -> None:
    lines = [(second, second + 1, f"Score {second} : 2") for second in range(3)]
    assert joined(lines) == lines


def test_a_line_does_not_drift_into_another() -> None:
    """Each is like the one before it; but what is compared is what stood longest so far."""
    said = ["abcdefghij", "abcdefghij", "abcdefghix", "abcdefgxyx", "abcdexgxyx"]
    assert joined((i, i + 1, text) for i, text in enumerate(said)) == [(0, 3, "abcdefghij"), (3, 5, "abcdefgxyx")]


def test_joined_at_borders_alone() -> None:
    lines = [(0, 2, "News"), (2, 30, "News"), (30, 32, "News")]
    assert joined(lines, at={0, 30}) == [(0, 2, "News"), (2, 32, "News")]


def test_very_many_lines_are_not_compared_letter_by_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidproc.annotators.ocr.SequenceMatcher", None)
    texts = ["".join(random.Random(i).choices("abcdef", k=30)) for i in range(100)]
    lines = [(second, second + 1, text + "xyz"[second]) for second in range(3) for text in texts]
    assert len(joined([*lines, (3, 4, texts[0] + "z")])) == 3 * len(texts)


def test_what_is_unchanged_goes_on_before_what_is_alike() -> None:
    lines = [(0, 2, "Room A left"), (2, 4, "Room B left"), (2, 4, "Room A left")]
    assert joined(lines) == [(0, 4, "Room A left"), (2, 4, "Room B left")]


def test_lines_that_are_alike_keep_apart() -> None:
    """Each goes on as the one that it is most like."""
    lines = [(0, 2, "Room A left"), (0, 2, "Room B left"), (2, 4, "Room B left"), (2, 4, "Room A left")]
    assert joined(lines) == [(0, 4, "Room A left"), (0, 4, "Room B left")]


@given(st.lists(st.lists(st.sampled_from(["News", "Flood", "12 June"]), max_size=4), max_size=12))
def test_nothing_is_lost_or_stands_twice(frames: list[list[str]]) -> None:
    lines = [(i, i + 1, text) for i, texts in enumerate(frames) for text in texts]
    spans = joined(lines)
    assert sorted((i, text) for i, _, text in lines) == sorted((i, text) for a, b, text in spans for i in range(a, b))
    assert spans == sorted(spans, key=lambda span: span[0])
    pieces = [(a, b, text) for a, b, text in spans for a, b in pairwise([a, *(m for m in (6,) if a < m < b), b])]
    again = joined(sorted(pieces, key=lambda span: span[0]))
    assert sorted(again) == sorted(spans), "cut at a border and joined again"


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'vidproc\[ocr\]'"):
        PictureText.from_spec()


def test_a_node_with_other_networks_is_told(annotator: PictureText) -> None:
    with pytest.raises(WeightsError, match=r"the driver 3\.0\.0: install the same everywhere"):
        replace(annotator, package="3.0.0").load("cpu")


def test_weights_are_refused() -> None:
    with pytest.raises(UsageError, match="leave out ocr=demo"):
        PictureText.from_spec("demo")


@pytest.fixture(scope="module")
def annotator() -> PictureText:
    pytest.importorskip("rapidocr")
    return PictureText.from_spec()


def samples(*pictures: np.ndarray, shown: tuple[int, int] | None = None) -> Samples:
    starts = np.arange(len(pictures), dtype=np.int64) * 2 * S
    nothing = np.empty((0, 0), np.int64)
    return Samples(start_us=starts, end_us=starts + 2 * S, frame_us=nothing, data=np.stack(pictures), shown=shown)


def test_words_are_read_with_their_times(annotator: PictureText, one_thread: None) -> None:
    first = {100: "BREAKING NEWS", 500: "Die Straße nach München"}
    second = {100: "BREAKING NEWS", 500: "www.example.org/video?id=42"}
    pictures = [lettered(words, seed=i) for i, words in enumerate((first, first, second, {}))]
    view = PictureText.view
    [annotation, none] = annotator.load("cpu").annotate([{view: samples(*pictures)}, {view: samples(pictures[3])}])
    rows = annotation.rows["text"]
    assert rows.schema == TEXT.body and annotation.samples == 4 and annotation.reason is None
    assert rows.select(["start_us", "end_us", "number", "text", "source"]).to_pylist() == [
        {"start_us": 0, "end_us": 6 * S, "number": 0, "text": first[100], "source": "picture"},
        {"start_us": 0, "end_us": 4 * S, "number": 1, "text": first[500], "source": "picture"},
        {"start_us": 4 * S, "end_us": 6 * S, "number": 0, "text": second[500], "source": "picture"},
    ]
    assert none.rows["text"].num_rows == 0


def test_what_lies_beside_a_portrait_picture_is_not_looked_at(annotator: PictureText, one_thread: None) -> None:
    picture = lettered({100: "of the picture", 500: "and of what is beside it"})
    network = annotator.load("cpu")
    [annotation] = network.annotate([{PictureText.view: samples(picture, shown=(480, 720))}])
    assert annotation.rows["text"]["text"].to_pylist()[0] == "of the picture"
    assert all(len(text) < len("and of what is beside") for text in annotation.rows["text"]["text"].to_pylist())


@pytest.mark.parametrize("shown", [(1, 720), (4000, 3)])
def test_a_strip_is_not_enlarged_without_end(annotator: PictureText, shown: tuple[int, int]) -> None:
    network: Any = annotator.load("cpu")
    seen = []
    network.read = lambda picture: seen.append(picture.shape) or SimpleNamespace(txts=None)
    network.annotate([{PictureText.view: samples(lettered({}), shown=shown)}])
    [(height, width, _)] = seen
    assert max(height, width) <= 4 * min(height, width)


def test_more_than_the_limit_is_told(annotator: PictureText, monkeypatch: pytest.MonkeyPatch) -> None:
    network = annotator.load("cpu")
    many = [f"{number:05d}" for number in range(MOST_SPANS + 1)]
    monkeypatch.setattr(network, "_lines", lambda frame, shown: many)
    [annotation] = network.annotate([{PictureText.view: samples(lettered({}))}])
    assert annotation.reason == TooLarge.reason and annotation.rows["text"].num_rows == MOST_SPANS
