"""Windows of sound: where they lie, what they speak for, how loud that is."""

import numpy as np
import numpy.typing as npt
import pytest

from vidproc.media.samples import Samples
from vidproc.media.windows import Windows, piece_length, pieces, windows
from vidproc.views import Audio

VIEW = Audio(rate=8000)
SECOND = 1_000_000


def sound(data: npt.NDArray[np.int16], *, start_us: int = 0, view: Audio = VIEW) -> Samples:
    data = data.reshape(-1, view.channels)
    data.flags.writeable = False
    starts = np.array([start_us])
    return Samples(starts, starts + len(data) * SECOND // view.rate, np.empty(0, np.int64), data)


def of(seconds: float, *, length_s: float, stride_s: float, start_us: int = 0) -> Windows:
    silent = sound(np.zeros(round(seconds * VIEW.rate), np.int16), start_us=start_us)
    return windows(silent, VIEW, length_us=round(length_s * SECOND), stride_us=round(stride_s * SECOND))


def test_each_step_has_the_window_around_it() -> None:
    found = of(4.0, length_s=2.0, stride_s=1.0, start_us=30 * SECOND)
    assert found.start_us.tolist() == [30 * SECOND, 31 * SECOND, 32 * SECOND, 33 * SECOND]
    assert found.end_us.tolist() == [31 * SECOND, 32 * SECOND, 33 * SECOND, 34 * SECOND]
    # around the middles 0.5, 1.5, 2.5 and 3.5: the first and the last are moved inside
    assert found.offsets_us[found.window].tolist() == [0, SECOND // 2, 3 * SECOND // 2, 2 * SECOND]


@pytest.mark.parametrize("seed", range(20))
def test_steps_leave_no_gap_and_lie_in_their_windows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    seconds, stride_s = rng.uniform(0.1, 30), rng.uniform(0.02, 4)
    length_s = stride_s * rng.uniform(1, 8)
    found = of(seconds, length_s=length_s, stride_s=stride_s, start_us=7)
    duration_us = round(seconds * VIEW.rate) * SECOND // VIEW.rate
    assert (found.start_us[0], found.end_us[-1]) == (7, 7 + duration_us)
    assert np.array_equal(found.start_us[1:], found.end_us[:-1])
    assert (found.start_us < found.end_us).all()
    offsets_us = found.offsets_us[found.window]
    length_us = round(length_s * SECOND)
    assert (offsets_us >= 0).all() and (offsets_us <= max(0, duration_us - length_us)).all()
    assert (7 + offsets_us <= found.start_us).all() and (found.end_us <= 7 + offsets_us + length_us).all()


def test_steps_that_divide_a_segment_lie_on_one_grid_over_the_video() -> None:
    whole = of(60.0, length_s=2.0, stride_s=0.75)
    halves = [of(30.0, length_s=2.0, stride_s=0.75, start_us=start) for start in (0, 30 * SECOND)]
    assert np.array_equal(np.concatenate([half.start_us for half in halves]), whole.start_us)


def test_sound_shorter_than_a_window_begins_it() -> None:
    found = of(1.2, length_s=5.0, stride_s=0.5)
    assert found.offsets_us.tolist() == [0] and set(found.window.tolist()) == {0}
    assert found.end_us[-1] == 1_200_000
    data = np.arange(1, 9601, dtype=np.int16).reshape(-1, 1)
    [piece] = pieces(data, VIEW, offsets_us=[0], length_us=5 * SECOND)
    assert len(piece) == piece_length(VIEW, 5 * SECOND) == 40_000
    assert np.array_equal(piece[:9600], data) and not piece[9600:].any()


def test_a_step_longer_than_the_window_is_spoken_for_where_it_was_heard() -> None:
    found = of(20.0, length_s=1.0, stride_s=10.0)
    assert found.start_us.tolist() == [4_500_000, 14_500_000]
    assert found.end_us.tolist() == [5_500_000, 15_500_000]


@pytest.mark.parametrize(("seconds", "steps"), [(0.09, 0), (0.1, 1)])
def test_of_next_to_no_sound_nothing_is_said(seconds: float, steps: int) -> None:
    assert len(of(seconds, length_s=1.0, stride_s=1.0).start_us) == steps


def test_pieces_are_no_copies() -> None:
    data = np.zeros((16_000, 1), np.int16)
    found = pieces(data, VIEW, offsets_us=[0, 250_000, SECOND], length_us=SECOND)
    assert [len(piece) for piece in found] == [8000, 8000, 8000]
    assert all(np.shares_memory(piece, data) for piece in found)


@pytest.mark.parametrize("channels", [1, 2])
def test_how_loud_a_step_is(channels: int) -> None:
    square = np.where(np.arange(8000) // 40 % 2, 32_767, -32_768).astype(np.int16)
    data = np.repeat(np.concatenate([square, square // 2, 0 * square])[:, None], channels, axis=1)
    view = Audio(rate=8000, channels=channels)
    found = windows(sound(data, view=view), view, length_us=SECOND, stride_us=SECOND)
    assert found.level_db[:2] == pytest.approx([0, -6.02], abs=0.01)
    assert found.level_db[2] == -np.inf
