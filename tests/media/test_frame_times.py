"""Decoded frames are those nearest in time of a brute-force full decode, pixel for pixel."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import brute_force
import numpy as np
import pytest
from decoding import SHARED, decode_all, probe
from made_videos import make_video, number_shown

from vidproc.media.guard import Guard
from vidproc.views import Clips, Frames, Picture

SPARSE = [
    Frames(fps=0.2, picture=Picture(resize=(45, 80), colour="gray")),
    Frames(fps=2, picture=Picture(resize=64, crop=(56, 56))),
]
DENSE = [
    Clips(num_frames=8, fps=8, stride_s=2, picture=Picture(resize=(48, 64), interpolation="bicubic")),
    Frames(fps=20, picture=Picture(resize=(20, 32), colour="gray", interpolation="area")),
]
NUMBERS = Frames(fps=5, picture=Picture(resize=(96, 128)))

HEAVY = {
    "R6llTwEh07w.mp4",
    "S001C001P001R001A001_rgb.avi",
    "bangkok_half_res.mp4",
    "bottle-detection.mp4",
    "car-detection.mp4",
    "dj_video3.mp4",
    "dj_video4.mp4",
    "exo_portrait_4k60.mp4",
    "filename with spaces and '_half_res.mp4",
    "long_slides_122s_1080p.mp4",
    "mmaction2_demo.mp4",
    "mmaction2_demo_skeleton.mp4",
    "mmaction2_test_kinetics.mp4",
    "moviepy_big_buck_bunny_0_30.webm",
    "street_crowd_1080p.mp4",
}
"""A second or more each: left to the slow tests, their like is among the others."""

ALIKE = {
    f"{sign}.mkv"
    for sign in ["eat", "help", "hungry", "learn", "milk", "night", "no", "school", "sorry", "thanks", "want"]
}
"""Of fourteen recordings with the same camera two are enough."""

NO_PICTURE = {"exo_audio_only_eac3.mp4", "exo_audio_only_opus.mp4"}


@pytest.fixture(scope="module")
def guard() -> Iterator[Guard]:
    with Guard() as guard:
        yield guard


def check(guard: Guard, path: Path, *, batches: list[list[Any]]) -> None:
    facts = probe(guard, path)
    for views in batches:
        found = decode_all(guard, path, views, facts)
        assert not found.errors
        assert found.coverage == 1
        for i, (times, pixels) in enumerate(brute_force.samples(str(path), views, facts)):
            assert found.times(i) == times.reshape(-1).tolist(), views[i]
            np.testing.assert_array_equal(found.joined(i).reshape(pixels.shape), pixels, err_msg=str(views[i]))


def shared_videos() -> list[Any]:
    videos = sorted(p for p in (SHARED / "videos").rglob("*.*") if p.suffix not in {".json", ".csv", ".txt"})
    return [
        pytest.param(path, id=path.name, marks=[pytest.mark.slow] if path.name in HEAVY | ALIKE else [])
        for path in videos
        if path.name not in NO_PICTURE
    ] or [pytest.param(None, id="none", marks=pytest.mark.skip(reason=f"{SHARED}/videos is not there"))]


@pytest.mark.parametrize("path", shared_videos())
def test_a_shared_video_decodes_like_brute_force(guard: Guard, path: Path) -> None:
    check(guard, path, batches=[SPARSE, DENSE])


def steady(count: int, step: int = 100, start: int = 0) -> list[int]:
    return [start + i * step for i in range(count)]


def varying(count: int) -> list[int]:
    steps = np.random.default_rng(5).choice([5, 20, 33, 40, 41, 120, 400, 900], count)
    return np.cumsum(steps).tolist()


def x264(parameters: str) -> dict[str, str]:
    return {"preset": "ultrafast", "x264-params": parameters}


TENTHS = {"time_base": Fraction(1, 10)}
TWENTY_FIFTHS = {"time_base": Fraction(1, 25)}
KEEP_NEGATIVE = {"avoid_negative_ts": "disabled"}
OPEN_GOP = x264("keyint=24:min-keyint=24:bframes=3:open-gop=1:scenecut=0")

MADE: dict[str, tuple[str, list[int], dict[str, Any]]] = {
    "b_frames.mp4": ("libx264", steady(350), {"options": x264("keyint=60:bframes=3:b-pyramid=normal:scenecut=0")}),
    "open_gop.mkv": ("libx264", steady(350), {"options": OPEN_GOP}),
    "open_gop.ts": ("libx264", steady(350), {"options": OPEN_GOP}),
    "intra_refresh.ts": ("libx264", steady(350), {"options": x264("keyint=50:intra-refresh=1:bframes=0")}),
    "varying.mkv": ("libx264", varying(250), {"options": x264("keyint=40:bframes=2")}),
    "varying.mp4": ("libx264", varying(250), {"options": x264("bframes=2")}),
    "one_keyframe.mp4": ("libx264", steady(400), {"options": x264("keyint=infinite:scenecut=0:bframes=2")}),
    "keyframe_each_third.mp4": ("libx264", steady(350), {"options": x264("keyint=3:min-keyint=1:bframes=1")}),
    "late_start.ts": ("libx264", steady(100, 40, 7300), {"options": x264("bframes=2")}),
    "late_start.mp4": ("libx264", steady(100, 40, 7300), {"options": x264("bframes=2")}),
    "edit_list.mp4": (
        "libx264",
        steady(120, 40, -1310),
        {"options": x264("keyint=30:bframes=3"), "muxer": {**KEEP_NEGATIVE, "use_editlist": "1"}},
    ),
    "negative_start.mkv": ("libx264", steady(120, 40, -1310), {"options": x264("bframes=2"), "muxer": KEEP_NEGATIVE}),
    "fragments.mp4": (
        "libx264",
        steady(350),
        {"options": x264("keyint=50:bframes=2"), "muxer": {"movflags": "frag_keyframe+empty_moov"}},
    ),
    "slides.mp4": (
        "libx264",
        [0, 7000, 20000, 31000, 33000, 61000, 100000],
        {"options": x264("bframes=2"), "sound": np.zeros(48_000 * 100, np.int16)},
    ),
    "hevc_open_gop.mp4": (
        "libx265",
        steady(330),
        {"options": {"preset": "ultrafast", "x265-params": "keyint=40:bframes=3:open-gop=1:log-level=none"}},
    ),
    "hevc.ts": (
        "libx265",
        steady(330),
        {"options": {"preset": "ultrafast", "x265-params": "keyint=40:bframes=3:log-level=none"}},
    ),
    "alt_ref.webm": (
        "libvpx",
        steady(330),
        {"options": {"cpu-used": "8", "deadline": "realtime", "auto-alt-ref": "1", "lag-in-frames": "16", "g": "50"}},
    ),
    "alt_ref_vp9.webm": (
        "libvpx-vp9",
        steady(120),
        {"options": {"cpu-used": "8", "deadline": "realtime", "auto-alt-ref": "1", "lag-in-frames": "16", "g": "50"}},
    ),
    "av1.mkv": ("libsvtav1", steady(330), {"options": {"preset": "12", "g": "48", "svtav1-params": "lp=1"}}),
    "mpeg2.ts": (
        "mpeg2video",
        steady(800, 1),
        {
            **TWENTY_FIFTHS,
            "options": {"bf": "2", "g": "15"},
            "sound": np.zeros(48_000 * 32, np.int16),
            "sound_codec": "mp2",
        },
    ),
    "mpeg2.mpg": ("mpeg2video", steady(800, 1), {**TWENTY_FIFTHS, "options": {"bf": "2", "g": "15"}}),
    "mpeg4.avi": ("mpeg4", steady(350, 1), {**TENTHS, "options": {"bf": "2", "g": "50"}}),
    "h264.avi": ("libx264", steady(350, 1), {**TENTHS, "options": x264("keyint=50:bframes=3")}),
    "mpeg4.mp4": ("mpeg4", steady(350), {"options": {"bf": "2", "g": "50"}}),
    "mjpeg.mkv": ("mjpeg", steady(100), {"pixels": "yuvj420p"}),
    "ffv1.mkv": ("ffv1", steady(40), {}),
    "prores.mov": ("prores_ks", steady(40), {"pixels": "yuv422p10le"}),
    "raw.h264": ("libx264", steady(800, 1), {**TWENTY_FIFTHS, "options": x264("keyint=50:bframes=3")}),
    "moving.gif": ("gif", steady(40), {"pixels": "rgb8"}),
    "interlaced.mp4": ("libx264", steady(120), {"options": {"x264-params": "tff=1:keyint=50:bframes=2"}}),
    "flash.flv": ("libx264", steady(350), {"options": x264("keyint=50:bframes=2")}),
}


@pytest.mark.parametrize("name", MADE)
def test_a_made_video_decodes_like_brute_force_and_shows_the_right_numbers(
    guard: Guard, tmp_path: Path, name: str
) -> None:
    codec, times, details = MADE[name]
    path = make_video(tmp_path / name, codec, times, **details)
    check(guard, path, batches=[SPARSE, [*DENSE, NUMBERS]])
    facts = probe(guard, path)
    found = decode_all(guard, path, [NUMBERS], facts)
    drawn_us = [int(time * details.get("time_base", Fraction(1, 1000)) * 1_000_000) for time in times]
    shown = [number_shown(picture) for picture in found.joined(0)]
    lags = {time_us - drawn_us[number] for time_us, number in zip(found.times(0), shown, strict=True)}
    assert len(lags) == 1, "each frame is under its own time, but for what the container adds to all"


def test_frames_are_those_of_the_pictures_beside_the_video(guard: Guard) -> None:
    folder = SHARED / "videos" / "framenumber"
    if not folder.exists():
        pytest.skip(f"{folder} is not there")
    numbers = [0, 14, 15, 29]
    exact = Frames(fps=1, picture=Picture(resize=(360, 480)))
    still = {
        "start_us": 0,
        "end_us": 40_000,
        "frame_us": 40_000,
        "still": True,
        "has_picture": True,
        "has_captions": False,
    }
    pictures = {
        n: decode_all(guard, folder / f"exo_testvid_1022ms_{n:03}.png", [exact], still).joined(0)[0] for n in numbers
    }
    video = folder / "exo_testvid_1022ms.mp4"
    each = Frames(fps=100, picture=exact.picture)
    found = decode_all(guard, video, [each], probe(guard, video))
    times = sorted(set(found.times(0)))
    assert len(times) == 30
    for number in numbers:
        frame = found.joined(0)[found.times(0).index(times[number])].astype(int)
        distances = {n: np.abs(frame - picture).mean() for n, picture in pictures.items()}
        assert min(distances, key=distances.__getitem__) == number, distances
