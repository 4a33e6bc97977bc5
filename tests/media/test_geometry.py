"""Where a picture lies in a sample: boxes go there and back, and are where the decoder put the pixels."""

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from decoding import source_of
from drawn_box import SIZE, box_of, drawn, mask, turned
from hypothesis import given
from hypothesis import strategies as st

from vidproc.media.geometry import GREY, displayed, displayed_of, place
from vidproc.media.glimpse import glimpses, probed
from vidproc.media.guard import Guard
from vidproc.media.pixels import PictureConverter
from vidproc.views import Clips, Frames, Picture, view_from_json, view_to_json

SIDES = st.integers(1, 5000)
ASPECTS = st.fractions(Fraction(1, 8), 8, max_denominator=64)
TURNS = st.sampled_from([0, 90, 180, 270])


@given(st.tuples(SIDES, SIDES), ASPECTS, TURNS, st.tuples(st.integers(1, 1000), st.integers(1, 1000)), st.data())
def test_boxes_go_to_a_letterboxed_sample_and_back(
    stored: tuple[int, int], aspect: Fraction, turn: int, resize: tuple[int, int], data: st.DataObject
) -> None:
    """The picture fills the sample one way; its aspect is kept to half a pixel; no box moves by a pixel of either."""
    down, across = resize
    shown = displayed(*stored, aspect=aspect, turn=turn)
    where = place(Picture(resize=(down, across), letterbox=True), shown)
    assert (where.left, where.top) == (0, 0)
    assert 1 <= where.width <= across and 1 <= where.height <= down
    assert where.width == across or where.height == down
    exact = min(Fraction(across, shown[0]), Fraction(down, shown[1]))
    assert abs(where.width - max(shown[0] * exact, 1)) <= Fraction(1, 2) and abs(
        where.height - max(shown[1] * exact, 1)
    ) <= Fraction(1, 2)
    corners = data.draw(st.lists(st.floats(0, 1), min_size=4, max_size=4))
    box = np.array([*np.sort(corners[::2]), *np.sort(corners[1::2])])[[0, 2, 1, 3]]
    there = where.pixels(box)
    assert (there >= 0).all() and (there <= np.tile([where.width, where.height], 2)).all()
    np.testing.assert_allclose(where.shares(there), box, atol=1e-12)
    in_float32 = where.shares(there.astype(np.float32)).astype(np.float32)
    assert (np.abs(in_float32 - box) * np.tile(shown, 2)).max() < 0.01 * max(1, max(shown) / 5000)


@given(SIDES, SIDES, st.integers(1, 300), st.integers(0, 200), st.integers(0, 200))
def test_a_cropped_picture_reaches_beyond_its_sample(
    width: int, height: int, short: int, less_down: int, less_across: int
) -> None:
    crop = max(short - less_down, 1), max(short - less_across, 1)
    where = place(Picture(resize=short, crop=crop), (width, height))
    seen = where.seen((crop[1], crop[0]))
    np.testing.assert_allclose(where.pixels(seen), [0, 0, crop[1], crop[0]], atol=1e-6)
    assert where.left <= 0 and where.top <= 0


def test_views_without_a_letterbox_keep_the_text_that_they_had() -> None:
    """A model's name has a hash of it."""
    plain = Picture(resize=(4, 6))
    for view in (Frames(fps=1, picture=plain), Clips(num_frames=2, fps=1, stride_s=1, picture=plain)):
        told = json.loads(view_to_json(view))
        assert set(told["picture"]) == {"resize", "crop", "colour", "interpolation"}
        assert view_from_json(told) == view
    boxed = Frames(fps=1, picture=Picture(resize=(4, 6), letterbox=True))
    assert json.loads(view_to_json(boxed))["picture"]["letterbox"] is True
    assert view_from_json(view_to_json(boxed)) == boxed != Frames(fps=1, picture=plain)


@pytest.mark.parametrize("wrong", [{"resize": 8, "crop": (8, 8)}, {"resize": (8, 8), "crop": (4, 4)}])
def test_a_letterbox_needs_a_size_and_no_crop(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"needs resize=\(height, width\), and no crop"):
        Picture(**wrong, letterbox=True)  # type: ignore[arg-type]


def test_facts_that_say_no_size() -> None:
    assert displayed_of({}) is None
    assert displayed_of({"displayed_width": 0, "displayed_height": 4}) is None
    assert displayed_of({"displayed_width": 3, "displayed_height": 4}) == (3, 4)


# ---- against pixels that were decoded


@pytest.mark.parametrize("aspect", [Fraction(1), Fraction(4, 3), Fraction(8, 15)])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_a_drawn_box_is_found_where_it_is(tmp_path: Path, degrees: int, aspect: Fraction) -> None:
    """In letterboxes of every shape, within a pixel of the sample."""
    path = turned(drawn(tmp_path / "a.mp4", aspect=aspect), degrees)
    upright = np.rot90(mask(), degrees // 90)
    sides = np.tile(upright.shape[::-1], 2)
    with Guard() as guard:
        source = source_of(path)
        facts = probed(guard, source)
        shown = displayed_of(facts)
        assert shown == displayed(*SIZE, aspect=aspect, turn=degrees)
        for resize in ((120, 120), (64, 200), (199, 61), (480, 640)):
            view = Frames(fps=10, picture=Picture(resize=resize, letterbox=True))
            [sample] = glimpses(guard, source, facts, view, starts_us=[facts["start_us"]])
            where = place(view.picture, shown)
            assert (sample[where.height :] == GREY).all() and (sample[:, where.width :] == GREY).all()
            inside = sample[: where.height, : where.width, 0]
            expected = where.pixels(box_of(upright) / sides)
            assert np.abs(expected - box_of(inside > 127)).max() <= 1, (resize, degrees)


def test_a_frame_of_another_size_is_laid_out_as_the_video_is() -> None:
    """So that boxes in it are shares of the same picture."""
    picture = Picture(resize=(40, 40), letterbox=True)
    frame = av.VideoFrame.from_ndarray(np.full((16, 64, 3), 255, np.uint8), format="rgb24")
    own, video_s = PictureConverter(picture)(frame, None), PictureConverter(picture, shown=(64, 48))(frame, None)
    assert (own[:10] == 255).all() and (own[10:] == GREY).all()
    assert (video_s[:30] == 255).all() and (video_s[30:] == GREY).all()
