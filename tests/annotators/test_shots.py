"""Cuts and fades of drawn scenes at known frames: to the frame, at any rate, whatever the segments are."""

import itertools
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from annotators.shot_runs import Row, faded, joined, shots_of, write_film
from media.decoding import SHARED

from vidproc.annotators import ANNOTATORS
from vidproc.annotators.rows import rows_of
from vidproc.annotators.shots import LEAST_SHOT_US, Shots
from vidproc.errors import UsageError
from vidproc.media.guard import Guard
from vidproc.media.samples import Samples
from vidproc.media.sampling import Span, owned_starts, segments, target_times
from vidproc.schema import SHOTS

VIEW = Shots.clips
HEIGHT, WIDTH, _ = VIEW.picture.shape
Pixels = npt.NDArray[np.uint8]


def scene(seed: int, frames: int) -> Pixels:
    """Smooth waves of colours of its own that drift: uint8 [frames, height, width, 3]."""
    rng = np.random.default_rng(seed)
    y, x, t = np.arange(HEIGHT)[:, None, None], np.arange(WIDTH)[None, :, None], np.arange(frames)[:, None, None, None]
    pixels = np.zeros((frames, HEIGHT, WIDTH, 3)) + rng.uniform(60, 195, 3)
    for _ in range(4):
        (across, down, drift), start = rng.uniform(-0.35, 0.35, 3), rng.uniform(0, 6.3, 3)
        pixels += rng.uniform(5, 40, 3) * np.sin(across * x + down * y + drift / 8 * t + start)
    return pixels.clip(30, 225).round().astype(np.uint8)


def flat(level: int, frames: int) -> Pixels:
    return np.full((frames, HEIGHT, WIDTH, 3), level, np.uint8)


def ramp(pixels: Pixels, first: float, last: float, *, white: bool = False) -> Pixels:
    shares = np.linspace(first, last, len(pixels))[:, None, None, None]
    return np.round(pixels * shares + (255 if white else 0) * (1 - shares)).astype(np.uint8)


def times_of(frames: int, fps: float, *, start_us: int = 0) -> npt.NDArray[np.int64]:
    return start_us + np.round(np.arange(frames) * 1e6 / fps).astype(np.int64)


def found(
    pixels: Pixels, times: npt.NDArray[np.int64], *, cut_up: bool = True, lost: Sequence[int] = ()
) -> tuple[list[Row], int]:
    """The shots, and the video's end: sampled as the decoder samples. `cut_up` False: in one segment, however long."""
    end_us = int(times[-1] + (times[-1] - times[-2]))
    video = Span(int(times[0]), end_us)
    given = []
    for number, segment in enumerate(segments(video) if cut_up else [video]):
        if number in lost:
            continue
        starts = owned_starts(VIEW, video=video, segment=segment, still=False)
        targets = target_times(VIEW, starts)
        nearest = np.searchsorted((times[:-1] + times[1:]) // 2, targets)  # of two equally near ones the earlier
        ends = np.minimum(starts + VIEW.span_us, video.end_us)
        given.append({VIEW: Samples(starts, ends, times[nearest], pixels[nearest])})
    rows = [annotation.rows["shots"] for annotation in Shots().load("cpu").annotate(given)]
    return joined(rows, {"start_us": video.start_us, "end_us": video.end_us}), end_us


def begins(shots: Sequence[Row]) -> list[tuple[int, str]]:
    return [(row["start_us"], row["transition"]) for row in shots]


def check_tiles(shots: Sequence[Row], start_us: int, end_us: int) -> None:
    assert [row["shot"] for row in shots] == list(range(len(shots)))
    assert (shots[0]["start_us"], shots[0]["transition"], shots[-1]["end_us"]) == (start_us, "start", end_us)
    for one, other in itertools.pairwise(shots):
        assert one["start_us"] < one["end_us"] == other["start_us"]
    assert all(0 <= row["score"] <= 1 for row in shots)


@pytest.mark.parametrize("fps", [10, 15, 24_000 / 1001, 24, 25, 30_000 / 1001, 30, 48, 50, 60_000 / 1001, 60])
def test_cuts_are_at_the_frame(fps: float) -> None:
    lengths = [round(fps * seconds) for seconds in (1.3, 0.7, 2.1, 1.9, 0.9)]
    pixels = np.concatenate([scene(i, length) for i, length in enumerate(lengths)])
    times = times_of(len(pixels), fps, start_us=604_904_905)
    shots, end_us = found(pixels, times)
    starts = np.cumsum([0, *lengths[:-1]])
    assert begins(shots) == [(times[i], "cut" if i else "start") for i in starts]
    assert min(row["score"] for row in shots) > 0.9
    check_tiles(shots, int(times[0]), end_us)


def test_cuts_are_at_the_frame_where_the_rate_varies() -> None:
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.choice([17_000, 33_000, 40_000, 120_000], 300)).astype(np.int64)
    pixels = np.concatenate([scene(i, 60) for i in range(5)])
    shots, _ = found(pixels, times)
    assert [row["start_us"] for row in shots[1:]] == times[[60, 120, 180, 240]].tolist()


@pytest.mark.parametrize("frame", [749, 750, 751])
def test_a_cut_by_a_segment_s_border(frame: int) -> None:
    """At 25 frames a second the border at 30 s is frame 750."""
    pixels = np.concatenate([scene(0, frame), scene(1, 850 - frame)])
    times = times_of(850, 25)
    shots, _ = found(pixels, times)
    assert begins(shots) == [(0, "start"), (frame * 40_000, "cut")]
    assert shots == found(pixels, times, cut_up=False)[0]


@pytest.mark.parametrize("shift_us", [0, 7_000, 500_000, 29_500_000])
def test_borders_change_nothing(shift_us: int) -> None:
    """Shots of every length, flashes and fades, cut up by borders at all phases: as in one segment."""
    rng = np.random.default_rng(shift_us)
    made: list[Pixels] = []
    while sum(map(len, made)) < 62 * 24:
        made.append(scene(len(made), int(rng.integers(3, 90))))
        kind = rng.integers(4)
        if kind == 0:
            made += [ramp(made[-1][-20:], 1, 0), flat(0, int(rng.integers(3, 40))), ramp(scene(len(made), 20), 0, 1)]
        elif kind == 1:
            made += [flat(255, 2), made[-1][-1:]]
    pixels = np.concatenate(made)
    pixels = np.concatenate([scene(999, round(shift_us * 24 / 1e6)), pixels])
    times = times_of(len(pixels), 24)
    assert found(pixels, times)[0] == found(pixels, times, cut_up=False)[0]
    assert len(found(pixels, times)[0]) > 20


@pytest.mark.parametrize("white", [False, True])
def test_a_fade_begins_the_shot_that_comes_out_of_it(white: bool) -> None:
    one, other = scene(1, 80), scene(2, 80)
    parts = [one[:60], ramp(one[60:], 0.95, 0, white=white), flat(255 if white else 0, 10)]
    dark = sum(map(len, parts))
    pixels = np.concatenate([*parts, ramp(other[:20], 0.05, 1, white=white), other[20:]])
    shots, _ = found(pixels, times_of(len(pixels), 25))
    assert [row["transition"] for row in shots] == ["start", "fade"]
    assert abs(shots[1]["start_us"] // 40_000 - dark) <= 1
    assert shots[1]["score"] > 0.4


def test_a_fade_over_a_segment_s_border() -> None:
    one, other = scene(1, 725), scene(2, 125)
    out, into = ramp(one[700:], 1, 0), ramp(other[:25], 0, 1)
    pixels = np.concatenate([one[:700], out, flat(0, 60), into, other[25:]])
    shots, _ = found(pixels, times_of(len(pixels), 25))
    assert [row["transition"] for row in shots] == ["start", "fade"]
    assert 785 <= shots[1]["start_us"] / 40_000 <= 788


@pytest.mark.parametrize("odd", [flat(255, 1), flat(255, 3), flat(0, 2), scene(50, 1)])
def test_a_flash_is_no_cut(odd: Pixels) -> None:
    one = scene(3, 100)
    pixels = np.concatenate([one[:50], odd, one[50:]])
    assert begins(found(pixels, times_of(len(pixels), 25))[0]) == [(0, "start")]


def test_a_first_shot_that_fades_in_begins_with_the_video() -> None:
    for lead in (5, 40, 800):
        pixels = np.concatenate([flat(0, lead), ramp(scene(1, 25), 0, 1), scene(1, 50), scene(2, 50)])
        shots, _ = found(pixels, times_of(len(pixels), 25))
        assert begins(shots) == [(0, "start"), ((lead + 75) * 40_000, "cut")]


def test_black_between_two_cuts_is_a_shot_and_black_alone_one() -> None:
    pixels = np.concatenate([scene(1, 50), flat(0, 30), scene(2, 50)])
    assert begins(found(pixels, times_of(130, 25))[0]) == [(0, "start"), (2_000_000, "cut"), (3_200_000, "cut")]
    assert begins(found(flat(0, 100), times_of(100, 25))[0]) == [(0, "start")]


def test_an_even_motion_of_any_speed_is_no_cut() -> None:
    for step in (1, 4, 9):
        texture = np.kron(np.random.default_rng(step).uniform(0, 255, (HEIGHT, 60, 3)), np.ones((1, 8, 1)))
        pixels = np.stack([texture[:, i * step % 400 :][:, :WIDTH] for i in range(44)]).astype(np.uint8)
        assert len(found(pixels, times_of(len(pixels), 25))[0]) == 1


@pytest.mark.parametrize("frames", [2, 3, 10])
def test_short_videos_are_one_shot(frames: int) -> None:
    shots, end_us = found(scene(0, frames), times_of(frames, 25))
    check_tiles(shots, 0, end_us)
    assert len(shots) == 1


def test_an_early_and_a_late_cut() -> None:
    pixels = np.concatenate([scene(0, 8), scene(1, 40), scene(2, 6)])
    shots, _ = found(pixels, times_of(54, 25))
    assert begins(shots) == [(0, "start"), (320_000, "cut"), (1_920_000, "cut")]


def test_slides_change_every_three_seconds() -> None:
    pixels = np.concatenate([scene(i, 1) for i in range(15)])
    shots, _ = found(pixels, times_of(15, 1 / 3))
    assert [row["start_us"] for row in shots] == [3_000_000 * i for i in range(15)]


def test_a_lost_segment_belongs_to_the_shot_before() -> None:
    pixels = np.concatenate([scene(i, 250) for i in range(10)])
    shots, end_us = found(pixels, times_of(2500, 25), lost=[1])
    check_tiles(shots, 0, end_us)
    assert [row["start_us"] for row in shots] == [s * 1_000_000 for s in (0, 10, 20, 30, 70, 80, 90)]
    shots, _ = found(pixels, times_of(2500, 25), lost=[0])
    check_tiles(shots, 0, end_us)


def provisional(*rows: tuple[int, int, str, float]) -> Any:
    shot, start, transition, score = zip(*rows, strict=True)
    columns = {"shot": shot, "start_us": start, "end_us": np.array(start) + 1, "transition": transition, "score": score}
    return rows_of(SHOTS, columns)


def test_of_transitions_too_near_the_weightier_stands() -> None:
    step = LEAST_SHOT_US // 2
    rows = provisional(
        (0, 0, "start", 1), (1, 9 * step, "cut", 0.6), (2, 10 * step, "fade", 0.9), (3, 11 * step, "cut", 0.8),
        (4, 13 * step, "cut", 0.7), (5, 14 * step, "cut", 0.7),
    )  # fmt: skip
    shots = joined([rows], {"start_us": 0, "end_us": 99 * step})
    assert [row["start_us"] for row in shots] == [0, 9 * step, 11 * step, 13 * step]


def test_what_lies_outside_the_video_or_was_decided_before_is_left_out() -> None:
    rows = [
        provisional((0, 0, "start", 1), (-1, 300_000, "cut", 0.9), (1, 30_200_000, "cut", 0.9)),
        provisional((0, 30_000_000, "start", 1), (-1, 30_210_000, "cut", 1), (1, 41_000_000, "cut", 0.9)),
    ]
    shots = joined(rows, {"start_us": 0, "end_us": 40_000_000})
    assert [row["start_us"] for row in shots] == [0, 300_000, 30_200_000]
    assert joined([SHOTS.body.empty_table()], {"uri": "a"}) == []


def test_takes_no_weights() -> None:
    with pytest.raises(UsageError, match="leave out shots=demo"):
        ANNOTATORS["shots"]("demo")


@pytest.fixture(scope="module")
def guard() -> Iterator[Guard]:
    with Guard() as guard:
        yield guard


def planes(pixels: Pixels) -> Pixels:
    """Larger, as yuv420p of grey and two flat colours: uint8 [frames, 96 × 3 / 2, 160]."""
    luma = 16 + pixels.mean(axis=-1, keepdims=True) * 219 / 255
    large = np.kron(luma[..., 0], np.ones((1, 4, 4)))
    colour = np.full((len(pixels), 48, 160), 128.0)
    return np.concatenate([large, colour], axis=1).round().astype(np.uint8)


@pytest.mark.parametrize("fps", [Fraction(30_000, 1001), Fraction(60)])
def test_an_encoded_film_through_the_decoder(guard: Guard, tmp_path: Path, fps: Fraction) -> None:
    """A cut by the border at 30 s, one after it, and a fade; H.264 with frames out of order."""
    border = int(30 * fps)
    one, other = planes(scene(1, border - 1)), planes(scene(2, 80))
    pixels = np.concatenate(
        [one, other[:60], faded(other[60:], np.linspace(1, 0, 20)), faded(one[:20], np.zeros(20)), one[:60]]
    )
    times = [round(i * 90_000 / fps) for i in range(len(pixels))]
    path = write_film(tmp_path / "film.mp4", pixels, times=times, rate=fps)
    run = shots_of(guard, path)
    cuts = [border - 1, border + 59 + 40]
    assert [row["start_us"] for row in run.shots[1:]] == [round(times[i] / 0.09) for i in cuts]
    assert len(run.provisional) == 2
    check_tiles(run.shots, run.facts["start_us"], run.facts["end_us"])


SEEN = {"action/SOX5yA1l24A.mp4": [138, 219, 292], "bw_film_theora.ogv": [37, 95], "shots/fades.mp4": [84, 167]}


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data are not there")
@pytest.mark.parametrize("name", SEEN)
def test_real_films(guard: Guard, name: str) -> None:
    """Cuts as seen; fades where PySceneDetect's golden has the middle of the black: there picture sets in after it."""
    run = shots_of(guard, SHARED / "videos" / name)
    frames = [(row["start_us"] - run.facts["start_us"]) / run.facts["frame_us"] for row in run.shots[1:]]
    if name.startswith("shots"):
        frames = frames[1::2]  # the others are through white
        assert all(0 <= frame - middle <= 5 for frame, middle in zip(frames, SEEN[name], strict=True))
    else:
        assert frames == pytest.approx(SEEN[name], abs=0.5)
