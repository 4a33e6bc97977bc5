"""Samples at times of one's own choosing: those of one-by-one calls and of a brute-force decoder, found by seeking."""

import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from brute_force import all_frames, nearest, picture
from decoding import source_of
from made_videos import make_video

from vidproc.errors import NoStreams
from vidproc.media.glimpse import glimpses, probed
from vidproc.media.guard import Guard
from vidproc.views import Audio, Clips, Frames, Picture

PIXELS = Picture(resize=40, crop=(32, 36))
VIEWS = [Clips(num_frames=3, fps=7, stride_s=1, picture=PIXELS), Frames(fps=2, picture=PIXELS)]
STARTS = [2_345_678, 0, 4_999_999, 1_000_001, 2_345_678, 3_000_000]
SOUND = Audio(rate=16_000)


class Counting(Guard):
    """Keeps what the children answered."""

    def run(self, task: str, request: dict[str, Any], source: Any, *, output_bytes: int = 0) -> Any:
        self.last, output = super().run(task, request, source, output_bytes=output_bytes)
        return self.last, output


@pytest.fixture(scope="module")
def guard() -> Iterator[Counting]:
    with Counting() as guard:
        yield guard


@pytest.fixture(scope="module")
def minute(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 seconds, a keyframe every two, and frames that refer to later ones."""
    path = tmp_path_factory.mktemp("minute") / "minute.mp4"
    return make_video(path, "libx264", [i * 100 for i in range(600)], options={"g": "20", "bf": "2"}, size=(64, 48))


def noise(path: Path, seconds: float) -> np.ndarray:
    """Write a WAV file of noise; returns its samples."""
    samples = np.random.default_rng(0).integers(-20_000, 20_000, int(seconds * 16_000)).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(samples.tobytes())
    return samples


def brute_force(path: Path, view: Frames | Clips, starts_us: list[int]) -> np.ndarray:
    frames = {time_us: (frame, stream.sample_aspect_ratio) for time_us, frame, stream in all_frames(str(path))}
    times = np.array(sorted(frames))
    wanted = [[frames[nearest(times, start + offset)] for offset in view.offsets_us] for start in starts_us]
    pixels = [[picture(frame, view.picture, aspect) for frame, aspect in sample] for sample in wanted]
    return np.array(pixels, np.uint8).reshape(len(starts_us), *view.sample_shape)


@pytest.mark.parametrize("view", VIEWS, ids=["clips", "frames"])
@pytest.mark.parametrize(("codec", "ending"), [("libx264", "mp4"), ("mpeg4", "avi")])
def test_samples_at_any_times(guard: Counting, tmp_path: Path, codec: str, ending: str, view: Frames | Clips) -> None:
    """Of times that are unsorted, twice the same, and near the end, where the last frame stands for what is missing."""
    path = make_video(tmp_path / f"video.{ending}", codec, [i * 100 for i in range(50)], options={"g": "12"})
    source = source_of(path)
    facts = probed(guard, source)
    together = glimpses(guard, source, facts, view, starts_us=STARTS)
    assert together.shape == (len(STARTS), *view.sample_shape) and together.dtype == np.uint8
    alone = [glimpses(guard, source, facts, view, starts_us=[start])[0] for start in STARTS]
    assert np.array_equal(together, np.stack(alone))
    assert np.array_equal(together, brute_force(path, view, STARTS))
    assert len({sample.tobytes() for sample in together}) == len(set(STARTS))


def test_a_sample_late_in_a_long_video_costs_no_more_than_an_early_one(guard: Counting, minute: Path) -> None:
    source = source_of(minute)
    facts = probed(guard, source)
    frames = {}
    for start_us in (0, 30_050_000, 59_000_000):
        found = glimpses(guard, source, facts, VIEWS[0], starts_us=[start_us])
        assert np.array_equal(found, brute_force(minute, VIEWS[0], [start_us])), start_us
        frames[start_us] = guard.last["frames"]
    assert max(frames.values()) <= 2 * 20, f"frames decoded, by start: {frames}"
    both = glimpses(guard, source, facts, VIEWS[0], starts_us=[59_000_000, 0])
    assert guard.last["frames"] <= 2 * 2 * 20, "what lies between is skipped"
    assert np.array_equal(both, brute_force(minute, VIEWS[0], [59_000_000, 0]))


def test_a_video_that_begins_late_is_asked_at_its_own_times(guard: Counting, tmp_path: Path) -> None:
    path = make_video(tmp_path / "late.mkv", "libx264", [5_000 + i * 100 for i in range(30)])
    facts = probed(guard, source_of(path))
    assert facts["start_us"] == 5_000_000
    starts = [6_510_000, 5_000_000]
    found = glimpses(guard, source_of(path), facts, VIEWS[0], starts_us=starts)
    assert np.array_equal(found, brute_force(path, VIEWS[0], starts))


def test_pieces_of_sound(guard: Counting, tmp_path: Path) -> None:
    samples = noise(tmp_path / "noise.wav", 3.0)
    source = source_of(tmp_path / "noise.wav")
    facts = probed(guard, source)
    starts = [1_500_000, 0, 2_750_000, 1_500_000]
    found = glimpses(guard, source, facts, SOUND, starts_us=starts, sound_us=500_000)
    assert found.shape == (4, 8000, 1) and found.dtype == np.int16
    silent = np.concatenate([samples, np.zeros(8000, np.int16)])
    for piece, start_us in zip(found[..., 0], starts, strict=True):
        first = start_us * 16_000 // 1_000_000
        assert np.array_equal(piece, silent[first : first + 8000]), start_us
    (alone,) = glimpses(guard, source, facts, SOUND, starts_us=[2_750_000], sound_us=500_000)
    assert np.array_equal(alone, found[2]), "what lies behind the end is silence"


def test_what_a_view_cannot_look_at_is_a_typed_error(guard: Counting, tmp_path: Path, minute: Path) -> None:
    noise(tmp_path / "noise.wav", 1.0)
    sound, video = source_of(tmp_path / "noise.wav"), source_of(minute)
    with pytest.raises(NoStreams, match="no picture"):
        glimpses(guard, sound, probed(guard, sound), VIEWS[0], starts_us=[0])
    with pytest.raises(NoStreams, match="no sound"):
        glimpses(guard, video, probed(guard, video), SOUND, starts_us=[0], sound_us=500_000)
