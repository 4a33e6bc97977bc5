"""Runs probe and decode on a local file as the pipeline does: through the guard, segment by segment."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vidproc.errors import InputError
from vidproc.media import decode
from vidproc.media.guard import Guard
from vidproc.media.ranges import local_etag
from vidproc.media.sampling import Span, segments
from vidproc.media.sources import Source, open_source
from vidproc.views import Audio, View

SHARED = Path(__file__).parents[3] / "shared" / "data"


def source_of(path: Path | str) -> Source:
    status = Path(path).stat()
    return Source(uri=str(path), member="", offset=0, bytes=status.st_size, etag=local_etag(status))


def probe(guard: Guard, path: Path | str) -> dict[str, Any]:
    with open_source(source_of(path)) as opened:
        return guard.run("probe", {}, opened)[0]


@dataclass
class Decoded:
    """All segments of one file: per view the data and frame times of each segment."""

    segments: list[Span] = field(default_factory=list)
    data: list[list[np.ndarray]] = field(default_factory=list)  # [segment][view]
    frame_us: list[list[list[int]]] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)
    errors: list[InputError] = field(default_factory=list)

    def joined(self, view: int) -> np.ndarray:
        return np.concatenate([data[view] for data in self.data])

    def times(self, view: int) -> list[int]:
        return [time for times in self.frame_us for time in times[view]]

    @property
    def coverage(self) -> float:
        return float(np.mean([answer["coverage"] for answer in self.answers] + [0.0] * len(self.errors)))


def decode_all(
    guard: Guard, path: Path | str, views: Iterable[View], facts: dict[str, Any], *, most_segments: int = 1000
) -> Decoded:
    """Decode every segment; typed errors are collected, others raised."""
    found = Decoded()
    video = Span(facts["start_us"], facts["end_us"])
    views = [v for v in views if facts["has_audio" if isinstance(v, Audio) else "has_picture"]]
    with open_source(source_of(path)) as opened:
        for segment in list(segments(video))[:most_segments]:
            try:
                places, answer, memory = _decode_one(guard, opened, views, video=video, segment=segment, facts=facts)
            except InputError as error:
                found.errors.append(error)
                continue
            found.segments.append(segment)
            found.answers.append(answer)
            found.frame_us.append(answer["frame_us"])
            found.data.append(
                [
                    np.frombuffer(memory or b"", np.int16 if isinstance(v, Audio) else np.uint8)[
                        offset // (2 if isinstance(v, Audio) else 1) :
                    ][: int(np.prod(shape))].reshape(shape)
                    for v, (offset, shape) in zip(views, places, strict=True)
                ]
            )
    return found


def _decode_one(
    guard: Guard, opened: Any, views: list[View], *, video: Span, segment: Span, facts: dict[str, Any]
) -> tuple[Any, dict[str, Any], Any]:
    places, size = decode.layout(views, video=video, segment=segment, still=facts["still"])
    request = decode.request_of(views, facts, segment=segment)
    answer, memory = guard.run("decode", request, opened, output_bytes=size)
    return places, answer, memory
