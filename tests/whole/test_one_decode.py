"""One pass over the bitstream makes the views of all annotators: frames and bytes are counted, segment by segment."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import pyarrow as pa
import pytest
from annotators.random_weights import MADE, shared_by_tests
from made_faces import offline_faces
from media.decoding import SHARED, source_of
from media.made_videos import make_video

from vidproc.annotators import ANNOTATORS
from vidproc.media.guard import close_guards
from vidproc.pipeline import steps
from vidproc.pipeline.steps import Settings
from vidproc.tables.plan import PLAN
from vidproc.views import Clips

BUFFER_BYTES = 1 << 18
"""What the decoder's reader asks for at once."""
REAL = ("videos/action/SOX5yA1l24A.mp4", "videos/subtitles/exo_sample_with_srt.mkv", "videos/shots/fades.mp4")
MORE_REAL = ("videos/car-detection.mp4", "videos/nasa_13013.mp4", "videos/moviepy_big_buck_bunny_0_30.webm",
             "videos/long_slides_122s_1080p.mp4", "videos/dj_video3.mp4", "videos/muxjs_test-segment.ts",
             "videos/bottle-detection.mp4", "videos/exo_h265.ts",
             "videos/framenumber/A4_timecode.ogv", "videos/exo_sample_av1.mp4")  # fmt: skip
"""Not among them: VP9 that keeps frames which are never shown in packets of their own (`exo_roadtrip_vp9_10bit.webm`).
Its time stamps make plans that do not hold, and it is read a second time without one."""


class Count(NamedTuple):
    """Frames that came out of the decoder, and bytes that were read; `own`: frames that the segment itself has."""

    frames: int
    bytes: int
    own: int = 0


class Counted(io.BytesIO):
    """A file that counts what is read of it."""

    bytes_read = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.bytes_read += len(data)
        return data


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """What decoding children answer, in order."""
    told: list[dict[str, Any]] = []
    real = steps.run_verified

    def noted(guard: Any, task: str, *given: Any, **options: Any) -> Any:
        answer, output = real(guard, task, *given, **options)
        assert task == "decode"
        told.append(answer)
        return answer, output

    monkeypatch.setattr(steps, "run_verified", noted)
    yield told
    close_guards()


def settings(*names: str) -> Settings:
    """Those annotators, or all, with weights that are on this machine."""
    made = {
        name: offline_faces() if name == "faces" else ANNOTATORS[name](_weights(name))
        for name in names or tuple(ANNOTATORS)
    }
    return Settings("run", "nowhere", made)


def _weights(name: str) -> str | None:
    if name in ("ocr", "quality", "shots", "text"):
        return None
    return shared_by_tests(name) if name in MADE else "demo"


def decoded(path: Path, given: Settings, answers: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[Count]]:
    """The segments of a video, and what decoding each of them took, for all annotators of the settings."""
    source = source_of(path)
    work = [
        {"annotator": name, "model_id": one.model_id, "done": [], "n_segments": None}
        for name, one in given.annotators.items()
    ]
    row = {"video_id": source.video_id, **vars(source), "work": work}
    segments = steps.probe(pa.Table.from_pylist([row], schema=PLAN), settings=given)
    found = list(steps.decode(segments, settings=given))
    assert [one["status"][0].as_py() for one in found] == [None] * segments.num_rows
    counts = [Count(answer["frames"], answer["bytes_read"]) for answer in answers]
    answers.clear()
    return segments.to_pylist(), counts


def plain_pass(path: Path, segment: dict[str, Any], given: Settings) -> Count:
    """One plain reading of a segment, from the keyframe before it to the last clip's end, with nothing left out."""
    file = Counted(path.read_bytes())
    beyond_us = max(view.span_us - view.stride_us for view in given.views if isinstance(view, Clips))
    start_us, end_us = segment["start_us"], segment["end_us"] + beyond_us
    frames = own = 0
    with av.open(file, "r", buffer_size=BUFFER_BYTES, metadata_errors="ignore") as container:
        picture = container.streams.best("video")
        streams = [one for one in (picture, container.streams.best("audio"), *container.streams.subtitles) if one]
        if segment["segment"]:
            container.seek(int(start_us / 1e6 / picture.time_base), stream=picture)
        for packet in container.demux(streams):
            if packet.stream is not picture:
                continue
            for frame in packet.decode():
                frames += 1
                time_us = round(frame.time * 1e6)
                own += start_us <= time_us < segment["end_us"]
                if time_us >= end_us:
                    return Count(frames, file.bytes_read, own)
    return Count(frames, file.bytes_read, own)


def assert_one_pass(path: Path, answers: list[dict[str, Any]]) -> None:
    given = settings()
    segments, all_together = decoded(path, given, answers)
    assert len(all_together) == len(segments), "one decode a segment"
    for segment, count in zip(segments, all_together, strict=True):
        plain = plain_pass(path, segment, given)
        told = f"{path.name}, segment {segment['segment']}: {count}, in one plain pass {plain}"
        assert plain.own <= count.frames <= plain.frames + REORDERED, told
        assert count.bytes <= plain.bytes + 2 * BUFFER_BYTES, told


REORDERED = 16
"""Frames that a decoder may hold back, and so gives out behind the segment's end."""


def test_all_views_of_a_drawn_video_come_from_one_pass(tmp_path: Path, answers: list[dict[str, Any]]) -> None:
    """65 seconds with B-frames and sound: three segments, of which no frame is decoded twice."""
    sound = np.random.default_rng(0).integers(-3000, 3000, 65 * 48_000).astype(np.int16)
    times = [number * 100 for number in range(650)]
    path = make_video(tmp_path / "a.mp4", "libx264", times, sound=sound, options={"g": "20", "bf": "2"})
    assert_one_pass(path, answers)


@pytest.mark.parametrize("name", REAL)
def test_all_views_of_a_real_video_come_from_one_pass(name: str, answers: list[dict[str, Any]]) -> None:
    if not (SHARED / name).exists():
        pytest.skip(f"{SHARED / name} is not there")
    assert_one_pass(SHARED / name, answers)


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE_REAL)
def test_all_views_of_more_real_videos_come_from_one_pass(name: str, answers: list[dict[str, Any]]) -> None:
    test_all_views_of_a_real_video_come_from_one_pass(name, answers)


def test_another_annotator_costs_no_more_reading(tmp_path: Path, answers: list[dict[str, Any]]) -> None:
    """Shots look at every frame; with ten annotators beside them not one frame or byte more is read."""
    path = make_video(tmp_path / "a.mp4", "libx264", [number * 50 for number in range(200)], options={"bf": "2"})
    alone = decoded(path, settings("shots"), answers)[1]
    assert decoded(path, settings(), answers)[1] == alone
