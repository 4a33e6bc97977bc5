"""Runs `shots` on a file as the pipeline does, decoder and all, and writes films of known cuts to run it on."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from media.decoding import decode_all, probe

from vidproc.annotators.shots import Shots
from vidproc.media.guard import Guard
from vidproc.media.samples import Samples
from vidproc.media.sampling import Span, owned_starts
from vidproc.schema import SHOTS

Row = dict[str, Any]


class Run(NamedTuple):
    """What became of a file: the probe's facts, each segment's rows, the shots."""

    facts: Row
    provisional: list[list[Row]]
    shots: list[Row]


def samples_of(guard: Guard, path: Path, facts: Mapping[str, Any]) -> list[Samples]:
    """The view of `shots`, segment by segment."""
    view, video = Shots.clips, Span(facts["start_us"], facts["end_us"])
    decoded = decode_all(guard, path, [view], dict(facts))
    found = []
    for segment, data, times in zip(decoded.segments, decoded.data, decoded.frame_us, strict=True):
        starts = owned_starts(view, video=video, segment=segment, still=facts["still"])
        frame_us = np.array(times[0], np.int64).reshape(len(starts), view.num_frames)
        found.append(Samples(starts, np.minimum(starts + view.span_us, video.end_us), frame_us, data[0]))
    return found


def shots_of(guard: Guard, path: Path) -> Run:
    """Probe, decode, annotate, join."""
    facts = probe(guard, path)
    segments = [{Shots.clips: samples} for samples in samples_of(guard, path, facts)]
    rows = [annotation.rows[SHOTS.name] for annotation in Shots().load("cpu").annotate(segments)]
    return Run(facts, [piece.to_pylist() for piece in rows], joined(rows, facts))


def joined(rows: Sequence[pa.Table], facts: Mapping[str, Any]) -> list[Row]:
    """Segments' rows as derive hands them over, joined."""
    order = [(name, "ascending") for name in ("start_us", "shot")]
    made = Shots().over_video({SHOTS.name: pa.concat_tables(rows).sort_by(order)}, facts)
    return made[SHOTS.name].to_pylist() if made else []


def write_film(
    path: Path, frames: Sequence[npt.NDArray[np.uint8]], *, times: Sequence[int], rate: Fraction, crf: int = 23
) -> Path:
    """Encode yuv420p pictures [height × 3 / 2, width] by H.264; picture i is shown from times[i] in 1 / 90,000 s."""
    height, width = frames[0].shape[0] * 2 // 3, frames[0].shape[1]
    with av.open(str(path), "w", options={"video_track_timescale": "90000"}) as container:
        stream: Any = container.add_stream("libx264", rate=rate, options={"crf": str(crf), "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 90_000)
        stream.codec_context.thread_count = 1
        for pixels, time in zip(frames, times, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="yuv420p")
            frame.pts, frame.time_base = time, Fraction(1, 90_000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def faded(frames: npt.NDArray[np.uint8], shares: Sequence[float], *, white: bool = False) -> npt.NDArray[np.uint8]:
    """yuv420p pictures mixed with black or white: `shares` of each remain."""
    height = frames.shape[1] * 2 // 3
    flat = np.full(frames.shape[1:], 128.0)
    flat[:height] = 235 if white else 16
    left = np.asarray(shares)[:, None, None]
    mixed: npt.NDArray[np.uint8] = np.round(frames * left + flat * (1 - left)).astype(np.uint8)
    return mixed
