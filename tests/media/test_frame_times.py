"""Decoded frames are those nearest in time of a brute-force full decode, pixel for pixel."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import brute_force
import numpy as np
import pytest
from decoding import SHARED, decode_all, probe

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

HEAVY = {
    "S001C001P001R001A001_rgb.avi",
    "bangkok_half_res.mp4",
    "car-detection.mp4",
    "dj_video4.mp4",
    "exo_portrait_4k60.mp4",
    "filename with spaces and '_half_res.mp4",
    "long_slides_122s_1080p.mp4",
    "mmaction2_demo_skeleton.mp4",
    "mmaction2_test_kinetics.mp4",
    "moviepy_big_buck_bunny_0_30.webm",
    "street_crowd_1080p.mp4",
}
"""More than two seconds each: left to the slow tests, their like is among the others."""

NO_PICTURE = {"exo_audio_only_eac3.mp4", "exo_audio_only_opus.mp4"}


@pytest.fixture(scope="module")
def guard() -> Iterator[Guard]:
    with Guard() as guard:
        yield guard


def shared_videos() -> list[Any]:
    videos = sorted(p for p in (SHARED / "videos").rglob("*.*") if p.suffix not in {".json", ".csv", ".txt"})
    return [
        pytest.param(path, id=path.name, marks=[pytest.mark.slow] if path.name in HEAVY else [])
        for path in videos
        if path.name not in NO_PICTURE
    ] or [pytest.param(None, id="none", marks=pytest.mark.skip(reason=f"{SHARED}/videos is not there"))]


def check(guard: Guard, path: Path) -> None:
    facts = probe(guard, path)
    for views in (SPARSE, DENSE):
        found = decode_all(guard, path, views, facts)
        assert not found.errors
        for i, (times, pixels) in enumerate(brute_force.samples(str(path), views, facts)):
            assert found.times(i) == times.reshape(-1).tolist(), views[i]
            ours = found.joined(i).reshape(pixels.shape)
            np.testing.assert_array_equal(ours, pixels, err_msg=str(views[i]))


@pytest.mark.parametrize("path", shared_videos())
def test_a_shared_video_decodes_like_brute_force(guard: Guard, path: Path) -> None:
    check(guard, path)
