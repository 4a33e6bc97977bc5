"""The signal measures on signals whose measures are known, and loudness against FFmpeg's ebur128."""

import math
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest

from vidproc.annotators.quality import Quality
from vidproc.annotators.signals import k_weighted_power, lufs
from vidproc.media.samples import Samples

HEIGHT, WIDTH, _ = Quality.frames.picture.shape
RATE = Quality.audio.rate
STEP_US = Quality.frames.stride_us


def picture(frames: npt.NDArray[Any], *, start_us: int = 0) -> dict[Any, Samples]:
    """Luma 0..255 [frames, height, width] as the decoder hands it over."""
    starts = start_us + np.arange(len(frames)) * STEP_US
    data = np.clip(np.round(frames), 0, 255).astype(np.uint8)[..., None]
    return {Quality.frames: Samples(starts, starts + STEP_US, starts, data)}


def sound(wave: npt.NDArray[Any], *, start_us: int = 0) -> dict[Any, Samples]:
    """A wave in -1..1 [time, channels] as the decoder hands it over."""
    data = np.clip(np.round(wave * 32768), -32768, 32767).astype(np.int16)
    span = np.array([start_us]), np.array([start_us + len(wave) * 1_000_000 // RATE])
    return {Quality.audio: Samples(*span, np.array([], np.int64), data)}


def measured(segment: dict[Any, Samples]) -> list[dict[str, Any]]:
    [annotation] = Quality().load("cpu").annotate([segment])
    return annotation.rows["quality"].to_pylist()


def grey(level: float, *, frames: int = 8) -> npt.NDArray[Any]:
    return np.full((frames, HEIGHT, WIDTH), level)


def checkerboard(*, frames: int = 8, square: int = 12) -> npt.NDArray[Any]:
    rows, columns = np.indices((HEIGHT, WIDTH)) // square
    return np.broadcast_to(((rows + columns) % 2) * 160.0 + 40, (frames, HEIGHT, WIDTH))


def sine(amplitude: float, *, seconds: float, hertz: float = 997.0, channels: int = 2) -> npt.NDArray[Any]:
    wave = amplitude * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)
    return np.repeat(wave[:, None], channels, axis=1)


def test_flat_grey() -> None:
    [row] = measured(picture(grey(128)))
    assert row["brightness"] == pytest.approx(128 / 255, abs=1e-6)
    assert row["contrast"] == row["sharpness"] == row["noise"] == row["motion"] == pytest.approx(0, abs=1e-6)
    assert (row["black"], row["frozen"]) == (False, True)
    assert row["blockiness"] is row["loudness_lufs"] is row["silent"] is None


@pytest.mark.parametrize(("bright_share", "black"), [(0.0, True), (0.015, True), (0.03, False)])
def test_black_is_98_percent_dark(bright_share: float, black: bool) -> None:
    frames = grey(20)
    frames.reshape(8, -1)[:, : round(bright_share * HEIGHT * WIDTH)] = 200
    assert measured(picture(frames))[0]["black"] is black


def test_one_bright_frame_is_not_black() -> None:
    frames = grey(10)
    frames[5] = 90
    assert measured(picture(frames))[0]["black"] is False


def test_contrast_is_the_standard_deviation() -> None:
    assert measured(picture(checkerboard()))[0]["contrast"] == pytest.approx(80 / 255, rel=0.01)


@pytest.mark.parametrize("sigma", [4.0, 10.0])
def test_noise_is_found(sigma: float) -> None:
    noisy = grey(128) + np.random.default_rng(0).normal(0, sigma, (8, HEIGHT, WIDTH))
    assert measured(picture(noisy))[0]["noise"] == pytest.approx(sigma / 255, rel=0.03)


def test_blur_takes_sharpness() -> None:
    sharp = checkerboard()
    blurred = sharp
    for axis in (1, 2):
        blurred = (np.roll(blurred, 1, axis) + blurred + np.roll(blurred, -1, axis)) / 3
    found = [measured(picture(frames))[0]["sharpness"] for frames in (sharp, blurred)]
    assert found[1] < 0.5 * found[0]


def test_sharpness_and_noise_by_their_formulas() -> None:
    """Against the plain sums over every pixel's neighbourhood."""
    frame = np.random.default_rng(3).integers(0, 256, (HEIGHT, WIDTH)).astype(float)
    [row] = measured(picture(np.stack([frame, frame])))
    x = frame / 255
    inner = x[1:-1, 1:-1]
    laplacian = x[:-2, 1:-1] + x[2:, 1:-1] + x[1:-1, :-2] + x[1:-1, 2:] - 4 * inner
    corners = x[:-2, :-2] + x[:-2, 2:] + x[2:, :-2] + x[2:, 2:]
    sides = x[:-2, 1:-1] + x[2:, 1:-1] + x[1:-1, :-2] + x[1:-1, 2:]
    immerkaer = np.abs(corners - 2 * sides + 4 * inner).sum() * math.sqrt(math.pi / 2) / (6 * inner.size)
    assert row["sharpness"] == pytest.approx(laplacian.var(), rel=1e-4)
    assert row["noise"] == pytest.approx(immerkaer, rel=1e-4)


def test_motion_and_frozen_by_stretch() -> None:
    """Two seconds moving by 10 grey levels a frame, two seconds still, one frame alone."""
    levels = [10 * i for i in range(8)] + [100] * 8 + [100]
    rows = measured(picture(np.stack([grey(level, frames=1)[0] for level in levels]), start_us=30_000_000))
    assert [row["start_us"] for row in rows] == [30_000_000, 32_000_000, 34_000_000]
    assert [row["end_us"] for row in rows] == [32_000_000, 34_000_000, 34_250_000]
    assert [row["frozen"] for row in rows] == [False, True, None]
    expected = [10 / 255, 30 / 8 / 255, 0]  # the second stretch begins with a step of 30 levels
    assert [row["motion"] for row in rows] == pytest.approx(expected, abs=1e-6)


def test_many_frames_are_measured_as_few_are() -> None:
    """More frames than are worked on at once give what they give one by one."""
    frames = np.random.default_rng(1).integers(0, 256, (40, HEIGHT, WIDTH)).astype(float)
    rows = measured(picture(frames))
    assert len(rows) == 5
    changes = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2)) / 255
    found = np.array([row["motion"] for row in rows])
    expected = [changes[:7].mean(), *(changes[7 + 8 * i : 15 + 8 * i].mean() for i in range(4))]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_sine_has_its_known_loudness() -> None:
    """EBU Tech 3341, case 1 and 2: a stereo 1 kHz sine with peaks at -23 dBFS has -23 LUFS."""
    for level in (-23.0, -33.0):
        rows = measured(sound(sine(10 ** (level / 20), seconds=4, hertz=1000)))
        assert [row["loudness_lufs"] for row in rows] == pytest.approx([level, level], abs=0.1)
        assert all(row["silent"] is False and row["brightness"] is None for row in rows)


def test_silence_and_near_silence() -> None:
    wave = np.concatenate([np.zeros((2 * RATE, 2)), sine(10 ** (-70 / 20), seconds=2), sine(0.1, seconds=2)])
    rows = measured(sound(wave))
    assert rows[0]["loudness_lufs"] == pytest.approx(-120.7, abs=0.1)
    assert [row["silent"] for row in rows] == [True, True, False]


def test_picture_and_sound_share_their_stretches() -> None:
    rows = measured(picture(grey(128, frames=16)) | sound(sine(0.1, seconds=5)))
    assert [(row["brightness"] is None, row["loudness_lufs"] is None) for row in rows] == [
        (False, False),
        (False, False),
        (True, False),  # sound that outlasts the picture
    ]


def ebur128_short_term(wave: npt.NDArray[Any]) -> dict[int, float]:
    """FFmpeg's short-term loudness (of the 3 s before): time in ms → LUFS."""
    graph = av.filter.Graph()
    source = graph.add_abuffer(sample_rate=RATE, format="s16", layout="stereo", time_base=None)
    meter = graph.add("ebur128", "metadata=1")
    sink = graph.add("abuffersink")
    source.link_to(meter)
    meter.link_to(sink)
    graph.configure()
    found = {}
    data = np.clip(np.round(wave * 32768), -32768, 32767).astype(np.int16)
    for start in range(0, len(data), 4800):
        frame = av.AudioFrame.from_ndarray(data[start : start + 4800].reshape(1, -1), format="s16", layout="stereo")
        frame.sample_rate, frame.pts = RATE, start
        graph.push(frame)
        while True:
            try:
                out = graph.pull()
            except (av.BlockingIOError, av.EOFError):
                break
            if "lavfi.r128.S" in out.metadata:
                found[round((out.pts + out.samples) * 1000 / RATE)] = float(out.metadata["lavfi.r128.S"])
    return found


def test_loudness_agrees_with_ffmpeg() -> None:
    """Coloured noise that swells, with a rumble that the K-weighting must take away, and unlike channels."""
    rng = np.random.default_rng(5)
    seconds = 9
    noise = rng.normal(0, 1, (seconds * RATE, 2))
    noise[1:] += 0.9 * noise[:-1]
    swell = 0.02 + 0.1 * np.linspace(0, 1, len(noise))[:, None] ** 2
    wave = noise * swell * [1.0, 0.4] + sine(0.2, seconds=seconds, hertz=25)
    reference = ebur128_short_term(wave)
    power = k_weighted_power(np.round(wave * 32768).clip(-32768, 32767).astype(np.int16), device="cpu")
    ends = [time for time in reference if time >= 3000]
    assert len(ends) >= 50
    ours = [float(lufs(power[(end - 3000) * RATE // 1000 : end * RATE // 1000].mean())) for end in ends]
    np.testing.assert_allclose(ours, [reference[end] for end in ends], atol=0.2)
