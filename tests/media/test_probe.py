"""The facts of a video are those of its packets and frames, not those of its header; what is no video says why."""

import subprocess
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from decoding import SHARED, decode_all, probe
from made_videos import drawing, make_video

from vidproc.errors import INPUT_ERRORS, InputError, NoStreams
from vidproc.media.guard import Guard
from vidproc.media.limits import Limits
from vidproc.views import Audio, Frames, Picture

VIEWS = [Frames(fps=1, picture=Picture(resize=(24, 32))), Audio()]
BROKEN = SHARED / "broken"


@pytest.fixture(scope="module")
def guard() -> Iterator[Guard]:
    with Guard(Limits(seconds=30)) as guard:
        yield guard


def outcome(guard: Guard, path: Path) -> str:
    """The reason why a file is quarantined; else "partial" or "labelled"."""
    try:
        found = decode_all(guard, path, VIEWS, probe(guard, path), most_segments=3)
    except InputError as error:
        return error.reason
    if not found.answers:
        return found.errors[0].reason
    return "partial" if found.coverage < 0.98 else "labelled"


REASONS = {
    "1024_incrementing_bytes.mp3": "not_media",
    "corrupted.mp4": "partial",
    "declared_audio_missing.ts": "labelled",
    "fuzz_0-timescale.mp4": "damaged",
    "fuzz_bogus.ogv": "not_media",
    "fuzz_flvmeta_poc2": "no_streams",
    "fuzz_new.avi": "not_media",
    "go-mp4_sample_qt_truncated.mp4": "damaged",
    "invalid-bitstream.webm": "damaged",
    "jpeg_corrupt34_2.jpg": "damaged",
    "libwebm_bug_1417.webm": "damaged",
    "libwebm_chapters_7756s_no_frames.mkv": "damaged",
    "mp4parse_bipbop_header_only.mp4": "damaged",
    "mp4parse_chunk_out_of_range.mp4": "damaged",
    "mp4parse_no_timescale.mp4": "partial",
    "mp4parse_short-cenc.mp4": "unsupported",
    "nestegg_bug1539686.webm": "damaged",
    "nestegg_seek_encrypted.webm": "unsupported",
    "resnet18-5c106cde.pth": "not_media",
    "resnet18-f37072fd.pth": "not_media",
    "resnet18_lfs_pointer.onnx": "not_media",
    "subsample_encrypted.webm": "unsupported",
}


@pytest.mark.skipif(not BROKEN.exists(), reason=f"{BROKEN} is not there")
def test_each_broken_file_ends_with_a_known_reason(guard: Guard) -> None:
    outcomes = {path.name: outcome(guard, path) for path in sorted(BROKEN.iterdir())}
    assert set(outcomes.values()) <= {*INPUT_ERRORS, "partial", "labelled"}
    assert {name: outcomes[name] for name in REASONS} == REASONS
    assert not {"killed_worker", "timeout"} & set(outcomes.values())


def shared(name: str) -> Path:
    path = SHARED / "videos" / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("exo_sample_fragmented.mp4", {"end_us": 1_067_734}),  # its header claims 143,165 s
        ("moviepy_no_duration.webm", {"declared_us": None, "variable_rate": True}),
        ("delayed_start.mp4", {"start_us": 1_075_000}),
        ("bw_film_theora.ogv", {"start_us": 604_904_905, "codec": "theora", "has_audio": False}),
        ("rotation/exo_portrait_4k60.mp4", {"width": 2160, "height": 3840, "rotation": 270}),
        ("rotation/decord_video_180.mov", {"width": 568, "height": 320, "rotation": 180}),
        ("nasa_13013.mp4", {"width": 480, "height": 270}),
        ("subtitles/exo_sample_with_srt.mkv", {"has_subtitles": True, "has_audio": True}),
        ("framenumber/exo_testvid_1022ms_014.png", {"still": True, "fps": None, "width": 480}),
        ("newtonscradle.gif", {"still": False, "has_audio": False, "width": 200}),
        ("exo_audio_only_opus.mp4", {"has_picture": False, "has_audio": True, "codec": "opus"}),
        ("action/hmdb51_Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi", {"codec": "mpeg4", "start_us": 0}),
    ],
)
def test_facts_of_a_shared_video(guard: Guard, name: str, expected: dict[str, Any]) -> None:
    facts = probe(guard, shared(name))
    assert {key: facts[key] for key in expected} == expected


def test_facts_of_a_made_video(guard: Guard, tmp_path: Path) -> None:
    sound = np.zeros(48_000 * 4, np.int16)
    path = make_video(tmp_path / "a.mp4", "libx264", [i * 40 for i in range(100)], sound=sound)
    facts = probe(guard, path)
    assert facts.pop("bytes_read") > 0
    assert facts.pop("metadata")["major_brand"] == "isom"
    assert facts == {
        "container": "mov,mp4,m4a,3gp,3g2,mj2",
        "codec": "h264",
        "width": 128,
        "height": 96,
        "displayed_width": 128,
        "displayed_height": 96,
        "rotation": 0,
        "fps": 25.0,
        "variable_rate": False,
        "still": False,
        "has_picture": True,
        "has_audio": True,
        "has_subtitles": False,
        "has_text": False,
        "has_text_stream": False,
        "has_captions": False,
        "start_us": 0,
        "end_us": 4_000_000,
        "frame_us": 40_000,
        "declared_us": 4_000_000,
    }


def test_metadata_is_bounded_and_clean(guard: Guard, tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        container.metadata.update({f"key{i}": "\x07loud\n" + "x" * 5000 for i in range(100)})
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuvj420p"
        frame = av.VideoFrame.from_ndarray(drawing(1, width=32, height=32), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    metadata = probe(guard, path)["metadata"]
    assert len(metadata) <= 64
    assert all(len(value) <= 1000 and value.isprintable() for value in metadata.values())


def test_metadata_that_is_not_utf_8_is_no_obstacle(guard: Guard, tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mkv", "mjpeg", [0, 40], pixels="yuvj420p")
    path.write_bytes(path.read_bytes().replace(b"Lavf", b"L\xe9\xff\xfe"))
    assert probe(guard, path)["width"] == 128


def test_cover_art_is_no_video(guard: Guard, tmp_path: Path) -> None:
    path = tmp_path / "song.m4a"
    with av.open(str(path), "w", format="mp4") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        voice = container.add_stream("aac", rate=48_000, layout="mono")
        picture = av.VideoFrame.from_ndarray(drawing(1, width=64, height=64), format="rgb24")
        container.mux(cover.encode(picture.reformat(format="yuvj420p")))
        container.mux(cover.encode(None))
        for start in range(0, 48_000, 1024):
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), format="s16", layout="mono")
            sound.sample_rate, sound.pts, sound.time_base = 48_000, start, Fraction(1, 48_000)
            container.mux(voice.encode(sound))
        container.mux(voice.encode(None))
    facts = probe(guard, path)
    assert (facts["has_picture"], facts["has_audio"], facts["codec"]) == (False, True, "aac")


@pytest.mark.parametrize("content", [b"", b"\0" * 4096, b"hello, world\n" * 300, b"PK\x03\x04" + b"\1" * 500])
def test_what_is_no_video_says_so(guard: Guard, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "no_video.mp4"
    path.write_bytes(content)
    with pytest.raises(InputError) as told:
        probe(guard, path)
    assert told.value.reason == ("damaged" if not content else "not_media")


def test_a_container_with_neither_picture_nor_sound_says_so(guard: Guard, tmp_path: Path) -> None:
    path = tmp_path / "data.ts"
    with av.open(str(path), "w") as container:
        stream = container.add_data_stream("bin_data")
        for i in range(100):
            packet = av.Packet(b"hello" * 40)
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, i * 40, i * 40, Fraction(1, 1000)
            container.mux(packet)
    with pytest.raises(NoStreams):
        probe(guard, path)


def test_too_many_streams_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "many.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("pcm_s16le", rate=8000, layout="mono") for _ in range(9)]
        for stream in streams:
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts = 8000, 0
            container.mux(stream.encode(frame))
    with Guard(Limits(streams=8)) as guard, pytest.raises(InputError) as told:
        probe(guard, path)
    assert told.value.reason == "too_large"


def test_the_sandbox_says_when_it_cannot_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, command: list[str], **details: Any) -> None:
            super().__init__(["/bin/false"], **details)

    video = make_video(tmp_path / "video.mp4", "libx264", [0, 40])
    monkeypatch.setattr(subprocess, "Popen", Failing)
    with Guard() as guard, pytest.raises(RuntimeError, match="did not start 3 times"):
        probe(guard, video)
