"""Torn, odd and extreme videos decode as far as they go; colours, rotation and sound come out as they went in."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from decoding import Decoded, decode_all, probe
from made_videos import drawing, make_video, number_shown

from vidproc.errors import InputError
from vidproc.media.guard import Guard
from vidproc.media.limits import Limits
from vidproc.views import Audio, Clips, Frames, Picture

FRAMES = Frames(fps=4, picture=Picture(resize=(96, 128)))
RATE = 16_000


@pytest.fixture(scope="module")
def guard() -> Iterator[Guard]:
    with Guard(Limits(seconds=30)) as guard:
        yield guard


def decoded(guard: Guard, path: Path, *views: Any) -> tuple[dict[str, Any], Decoded]:
    facts = probe(guard, path)
    return facts, decode_all(guard, path, views, facts)


# --- torn files ---------------------------------------------------------------------------------------------------

H264 = {"preset": "ultrafast", "x264-params": "keyint=25:bframes=2"}


@pytest.mark.parametrize("sound", [None, np.zeros(48_000 * 10, np.int16)], ids=["silent", "sound"])
@pytest.mark.parametrize("name", ["torn.mp4", "torn.mkv", "torn.ts", "torn.flv"])
def test_half_a_file_gives_about_half_of_the_video(
    guard: Guard, tmp_path: Path, name: str, sound: np.ndarray | None
) -> None:
    muxer = {"movflags": "faststart"} if name.endswith("mp4") else {}
    path = make_video(tmp_path / name, "libx264", [i * 40 for i in range(250)], options=H264, muxer=muxer, sound=sound)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    facts, found = decoded(guard, path, FRAMES)
    reached_s = facts["end_us"] / 1_000_000 * found.coverage
    assert 3 < reached_s < 7
    declared_us = facts["declared_us"]
    assert declared_us is None or name.endswith(".ts") or 9_000_000 <= declared_us <= 11_000_000
    kept = [n for n, time_us in zip(map(number_shown, found.joined(0)), found.times(0), strict=True)]
    assert kept[:8] == [0, 6, 12, 19, 25, 31, 37, 44]


@pytest.mark.parametrize("name", ["bits.mp4", "bits.mkv", "bits.ts"])
def test_flipped_bits_harm_little(guard: Guard, tmp_path: Path, name: str) -> None:
    path = make_video(tmp_path / name, "libx264", [i * 40 for i in range(250)], options=H264)
    content = bytearray(path.read_bytes())
    for place in np.random.default_rng(3).integers(len(content) // 4, len(content) * 3 // 4, 12):
        content[place] ^= 0x55
    path.write_bytes(content)
    _, found = decoded(guard, path, FRAMES)
    assert not found.errors
    assert 0.3 < found.coverage <= 1


@pytest.mark.parametrize("seed", range(12))
def test_random_damage_ends_in_frames_or_a_typed_error(guard: Guard, tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    name = ["a.mp4", "a.mkv", "a.ts", "a.avi", "a.mpg", "a.flv"][seed % 6]
    codec = "mpeg4" if name.endswith("avi") else "mpeg2video" if name.endswith("mpg") else "libx264"
    sound = (random.normal(size=48_000) * 3000).astype(np.int16)
    voice = "mp3" if name.endswith("flv") else "mp2"
    path = make_video(tmp_path / name, codec, range(50), time_base=Fraction(1, 25), sound=sound, sound_codec=voice)
    content = bytearray(path.read_bytes())
    for _ in range(4):
        place, length = random.integers(0, len(content)), random.integers(1, 40)
        content[place : place + length] = random.bytes(int(length) * int(random.integers(0, 3)))
    path.write_bytes(content)
    try:
        _, found = decoded(guard, path, FRAMES, Audio())
    except InputError as error:
        assert error.reason not in ("killed_worker", "timeout")
    else:
        assert all(error.reason not in ("killed_worker", "timeout") for error in found.errors)


# --- geometry and colour ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(2, 2), (16, 16), (4096, 16), (16, 4096), (1920, 2)])
def test_extreme_sizes(guard: Guard, tmp_path: Path, size: tuple[int, int]) -> None:
    path = make_video(tmp_path / "a.mkv", "ffv1", [0, 40, 80], size=size)
    square = Frames(fps=25, picture=Picture(resize=32, crop=(32, 32)))
    exact = Clips(num_frames=2, fps=25, stride_s=1, picture=Picture(resize=(8, 8)))
    facts = probe(guard, path)
    assert (facts["width"], facts["height"]) == size
    assert decode_all(guard, path, [exact], facts).joined(0).shape == (1, 2, 8, 8, 3)
    found = decode_all(guard, path, [square], facts)
    assert found.errors[0].reason == "too_large" if found.errors else found.joined(0).shape == (3, 32, 32, 3)


@pytest.mark.parametrize("name", ["one.png", "one.jpg", "one.gif", "one.bmp", "one.tiff", "one.webp"])
def test_a_picture_is_a_video_of_one_frame(guard: Guard, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    codec = {"jpg": "mjpeg", "webp": "libwebp"}.get(name.split(".")[1], name.split(".")[1])
    pixels = {"mjpeg": "yuvj444p", "gif": "rgb8", "libwebp": "bgra", "bmp": "bgr24"}.get(codec, "rgb24")
    encoder = av.CodecContext.create(codec, "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 128, 96, pixels, Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(drawing(77), format="rgb24").reformat(format=pixels)
    frame.pts = 0
    if name == "one.gif":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("gif", rate=25)
            stream.width, stream.height, stream.pix_fmt = 128, 96, pixels
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    else:
        path.write_bytes(b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)]))
    clips = Clips(num_frames=4, fps=4, stride_s=1, picture=FRAMES.picture)
    facts, found = decoded(guard, path, FRAMES, clips)
    assert facts["still"]
    assert number_shown(found.joined(0)[0]) == 77
    assert (len(found.joined(0)), len(found.joined(1))) == (1, 0)


@pytest.mark.parametrize(("degrees", "turns"), [(90, 1), (180, 2), (270, 3)])
def test_a_rotated_video_comes_out_upright(guard: Guard, tmp_path: Path, degrees: int, turns: int) -> None:
    path = make_video(tmp_path / "a.mp4", "libx264", [i * 40 for i in range(10)])
    path.write_bytes(_turned(path.read_bytes(), degrees))
    square = Frames(fps=25, picture=Picture(resize=(64, 64)))
    facts, found = decoded(guard, path, square)
    plain = decoded(guard, make_video(tmp_path / "b.mp4", "libx264", [i * 40 for i in range(10)]), square)[1]
    assert facts["rotation"] == degrees
    assert (facts["width"], facts["height"]) == ((96, 128) if turns % 2 else (128, 96))
    expected = np.rot90(plain.joined(0), turns, axes=(1, 2))
    np.testing.assert_array_equal(found.joined(0), expected)


def _turned(video: bytes, degrees: int) -> bytes:
    """The MP4 with the matrix of its track header set to a rotation, counter-clockwise."""
    one = 1 << 16
    a, b = {90: (0, -one), 180: (-one, 0), 270: (0, one)}[degrees]
    matrix = [a, b, 0, -b, a, 0, 0, 0, 1 << 30]
    at = video.index(b"tkhd") + 4 + 40
    return video[:at] + b"".join((n & 0xFFFFFFFF).to_bytes(4, "big") for n in matrix) + video[at + 36 :]


@pytest.mark.parametrize("colour", ["rgb", "gray"])
@pytest.mark.parametrize("pixels", ["yuv420p", "yuvj420p", "yuv420p10le", "rgb24", "gray"])
@pytest.mark.parametrize("level", [0, 128, 255])
def test_black_is_0_and_white_is_255(guard: Guard, tmp_path: Path, pixels: str, colour: Any, level: int) -> None:
    codec = {"yuvj420p": "mjpeg", "rgb24": "png", "gray": "png"}.get(pixels, "ffv1")
    path = tmp_path / "a.mov" if codec == "png" else tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        full = np.full((48, 64, 3), level, np.uint8)
        frame = av.VideoFrame.from_ndarray(full, format="rgb24").reformat(
            format=pixels, dst_color_range="MPEG" if pixels.startswith("yuv4") else "JPEG"
        )
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    view = Frames(fps=25, picture=Picture(resize=(24, 32), colour=colour))
    _, found = decoded(guard, path, view)
    assert np.abs(found.joined(0).astype(int) - level).max() <= (2 if codec == "mjpeg" else 1)


def test_pixels_that_are_not_square_are_shown_as_wide_as_they_should(guard: Guard, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 96, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)
        for number in range(5):
            narrow = drawing(number).reshape(96, 64, 2, 3).mean(axis=2).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(narrow, format="rgb24")))
        container.mux(stream.encode(None))
    view = Frames(fps=25, picture=Picture(resize=96, crop=(96, 96)))
    _, found = decoded(guard, path, view)
    for number, picture in enumerate(found.joined(0).astype(int)):
        assert np.abs(picture[:32] - drawing(number)[:32, 16:-16]).mean() < 8


# --- streams that differ in length --------------------------------------------------------------------------------


def test_a_picture_stream_that_ends_before_the_sound(guard: Guard, tmp_path: Path) -> None:
    sound = np.zeros(48_000 * 20, np.int16)
    path = make_video(tmp_path / "a.mkv", "libx264", [i * 40 for i in range(50)], sound=sound)
    facts, found = decoded(guard, path, FRAMES, Audio())
    assert facts["end_us"] == 2_000_000
    assert len(found.joined(0)) == 8
    assert found.coverage == 1


def test_sound_that_ends_before_the_picture(guard: Guard, tmp_path: Path) -> None:
    sound = np.full(48_000 * 2, 1000, np.int16)
    path = make_video(
        tmp_path / "a.mkv", "libx264", [i * 100 for i in range(700)], sound=sound, sound_codec="pcm_s16le"
    )
    _, found = decoded(guard, path, Frames(fps=1, picture=FRAMES.picture), Audio(rate=RATE))
    heard = found.joined(1)[:, 0]
    assert len(found.joined(0)) == 70
    assert found.coverage == 1
    assert len(heard) == 70 * RATE
    assert (np.abs(heard[: 2 * RATE - 50].astype(int) - 1000) <= 1).all()
    assert not heard[2 * RATE + 50 :].any()


# --- sound --------------------------------------------------------------------------------------------------------


def clicks(seconds: int, *, every_s: float = 0.7) -> tuple[np.ndarray, list[float]]:
    """Sound at 48 kHz with short bursts, and when they are loudest."""
    sound = np.zeros(48_000 * seconds, np.float64)
    times = np.arange(0.25, seconds - 0.1, every_s)
    shape = np.hanning(97) * np.cos(np.arange(-48, 49) * 0.2)
    for time in times:
        at = round(time * 48_000)
        sound[at - 48 : at + 49] += 20_000 * shape
    return sound.astype(np.int16), [round(time * 48_000) / 48_000 for time in times]


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mkv", "flac"),
        ("a.mkv", "pcm_s16le"),
        ("a.mp4", "aac"),
        ("a.mov", "pcm_s16le"),
        ("a.webm", "libopus"),
        ("a.ts", "mp2"),
        ("a.avi", "pcm_s16le"),
    ],
)
@pytest.mark.parametrize("picture", [True, False], ids=["picture", "sound_only"])
def test_sound_is_where_it_was_in_every_segment(
    guard: Guard, tmp_path: Path, name: str, codec: str, picture: bool
) -> None:
    sound, times = clicks(64)
    path = tmp_path / name
    if picture:
        video, options = ("libvpx", {"deadline": "realtime", "cpu-used": "8"}) if "webm" in name else ("mpeg4", {})
        times_ms = [i * 100 for i in range(640)]
        if name == "a.avi":
            make_video(path, video, range(640), time_base=Fraction(1, 10), sound=sound, sound_codec=codec)
        else:
            make_video(path, video, times_ms, options=options, sound=sound, sound_codec=codec)
    else:
        _only_sound(path, codec, sound)
    facts, found = decoded(guard, path, Audio(rate=RATE))
    assert len(found.segments) >= 3
    heard = np.abs(found.joined(0)[:, 0].astype(int))
    peaks = []
    for time in times:
        at = round((time - facts["start_us"] / 1_000_000) * RATE)
        if 800 < at < len(heard) - 3200:
            near = heard[at - 800 : at + 3200]
            peaks.append((int(near.argmax()) - 800, int(near.max())))
    lags = np.array([lag for lag, _ in peaks])
    assert len(lags) > 80
    exact = 16 if name in ("a.mkv", "a.webm") else 1  # Matroska's times are whole milliseconds
    assert np.ptp(lags) <= exact, "no segment is shifted against another"
    assert all(peak > 12_000 for _, peak in peaks)
    if name not in ("a.ts", "a.webm"):  # these shift all streams alike
        assert abs(np.median(lags)) <= exact


def _only_sound(path: Path, codec: str, sound: np.ndarray) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=48_000, layout="mono")
        for start in range(0, len(sound), 960):
            frame = av.AudioFrame.from_ndarray(sound[None, start : start + 960], format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 48_000, start, Fraction(1, 48_000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_channels_are_mixed_and_kept(guard: Guard, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=RATE, layout="stereo")
        both = np.tile(np.array([1000, 3000], np.int16), 16_000)[None]
        frame = av.AudioFrame.from_ndarray(both, format="s16", layout="stereo")
        frame.sample_rate, frame.pts = RATE, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    _, found = decoded(guard, path, Audio(rate=RATE), Audio(rate=RATE, channels=2))
    mixed, kept = found.joined(0), found.joined(1)
    assert mixed.shape == (16_000, 1)
    assert (np.abs(mixed.astype(int) - 2000) <= 1).all()
    assert (kept == [1000, 3000]).all()


def test_a_gap_in_the_sound_stays_a_gap(guard: Guard, tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for second in (0, 1, 4, 5):
            loud = np.full((1, RATE), 5000, np.int16)
            frame = av.AudioFrame.from_ndarray(loud, format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, second * RATE, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    _, found = decoded(guard, path, Audio(rate=RATE))
    heard = found.joined(0)[:, 0]
    assert len(heard) == 6 * RATE
    assert (heard[: 2 * RATE] == 5000).all()
    assert not heard[2 * RATE : 4 * RATE].any()
    assert (heard[4 * RATE :] == 5000).all()
