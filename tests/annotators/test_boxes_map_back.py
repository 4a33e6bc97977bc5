"""A box that was drawn is said where it was drawn: through decode, letterbox and rotation, into rows of the table."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from media.decoding import source_of
from media.drawn_box import box_of, drawn, mask, turned

from vidproc.annotators import ANNOTATORS
from vidproc.annotators.detections import DetectionNetwork, Detections
from vidproc.media.geometry import displayed_of
from vidproc.media.glimpse import glimpses, probed
from vidproc.media.guard import Guard
from vidproc.media.samples import Samples
from vidproc.views import View

SIDE = 64
"""Of the demo detector's letterbox, pixels."""


SIZES = st.tuples(st.integers(20, 300), st.integers(20, 300))
TURNS = st.sampled_from([0, 90, 180, 270])


class White:
    """A finder that takes for a thing what is white, and not the letterbox's grey."""

    def boxes(self, data: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [np.stack([self._of(frame) for frame in frames])[:, None] for frames in data]

    def _of(self, frame: np.ndarray) -> np.ndarray:
        return np.array([*box_of((frame > 180).all(axis=-1)) / SIDE, 0.9, 1], np.float32)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("drawn")


@pytest.fixture(scope="module")
def guard() -> Iterator[Guard]:
    with Guard() as guard:
        yield guard


@settings(max_examples=20, deadline=None)
@given(SIZES, TURNS, st.data())
def test_a_box_is_said_where_it_was_drawn(
    shelf: Path, guard: Guard, size: tuple[int, int], degrees: int, data: Any
) -> None:
    """In videos of any size and rotation, to a pixel of what the network sees."""
    demo = ANNOTATORS["detections"]("demo")
    assert isinstance(demo, Detections)
    (x1, x2), (y1, y2) = (
        sorted(data.draw(st.lists(st.integers(0, side), min_size=2, max_size=2, unique=True))) for side in size
    )
    assume(min(x2 - x1, y2 - y1) * SIDE >= 3 * max(size))  # thinner things are dimmed by scaling
    box = (x1 / size[0], y1 / size[1], x2 / size[0], y2 / size[1])
    path = turned(drawn(shelf / "a.mp4", box=box, size=size), degrees)
    facts = probed(guard, source_of(path))
    start = facts["start_us"]
    pixels = glimpses(guard, source_of(path), facts, demo.view, starts_us=[start])
    upright, shown = np.rot90(mask(box, size=size), degrees // 90), displayed_of(facts)
    assert shown == upright.shape[::-1]
    times = np.array([start])
    segment: dict[View, Samples] = {demo.view: Samples(times, times + 200_000, times[:, None], pixels, shown=shown)}
    [annotation] = DetectionNetwork(demo, White()).annotate([segment])
    [row] = annotation.rows["detections"].to_pylist()
    error = np.array([row[side] for side in ("x1", "y1", "x2", "y2")]) * np.tile(shown, 2) - box_of(upright)
    assert np.abs(error).max() * SIDE / max(shown) <= 1
