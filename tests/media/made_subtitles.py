"""Files with text streams made for tests: cues are muxed as given, in their order of time, beside picture or sound."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from media.made_videos import drawing

MILLISECOND = Fraction(1, 1000)
SIZE = (64, 48)


@dataclass(frozen=True)
class Cue:
    """What is shown from `start_ms` on, for `length_ms` (0: the container does not say)."""

    start_ms: int
    length_ms: int
    payload: bytes


@dataclass(frozen=True)
class Track:
    """A text stream. `codec`: FFmpeg's name of it: subrip, webvtt, ass, mov_text."""

    codec: str
    cues: Sequence[Cue]
    language: str | None = None


def cue(codec: str, start_ms: int, length_ms: int, text: str) -> Cue:
    """A cue that shows `text`, as the codec's packets hold it."""
    payload = text.encode()
    if codec == "mov_text":
        payload = len(payload).to_bytes(2, "big") + payload
    elif codec == "ass":
        payload = b"0,0,Default,,0,0,0,," + payload
    return Cue(start_ms, length_ms, payload)


def make_subtitled(
    path: Path,
    tracks: Sequence[Track],
    *,
    seconds: float,
    picture: str | None = "libx264",
    sound: bool = False,
    fps: int = 10,
    late_ms: int = 0,
    start_ms: int = 0,
    metadata: dict[str, str] | None = None,
    chapters: Sequence[tuple[int, int, str | None]] = (),
) -> Path:
    """A video with a keyframe every two seconds from `start_ms` on, or sound, or text alone.

    Cues lie `late_ms` late in the file: behind the frames of that time.
    """
    with av.open(str(path), "w", options={"max_interleave_delta": "1"} if late_ms else {}) as container:
        container.metadata.update(metadata or {})
        container.set_chapters([_chapter(number, *given) for number, given in enumerate(chapters)])
        pictures: Any = container.add_stream(picture, rate=fps, options={"g": str(2 * fps)}) if picture else None
        voice: Any = container.add_stream("pcm_s16le", rate=8000, layout="mono") if sound else None
        streams = [_text_stream(container, track) for track in tracks]
        waiting = [(cue.start_ms + late_ms, i, cue) for i, track in enumerate(tracks) for cue in track.cues]
        waiting.sort(key=lambda item: item[:2])
        if pictures is not None:
            pictures.width, pictures.height, pictures.pix_fmt = *SIZE, "yuv420p"
            pictures.codec_context.thread_count = 1
        container.start_encoding()
        for number in range(round(seconds * fps) if picture or sound else 0):
            at_ms = start_ms + number * 1000 // fps
            while waiting and waiting[0][0] <= at_ms:
                _, i, cue = waiting.pop(0)
                container.mux(_packet(streams[i], cue))
            if pictures is not None:
                frame = av.VideoFrame.from_ndarray(drawing(number, width=SIZE[0], height=SIZE[1]), format="rgb24")
                frame.pts, frame.time_base = at_ms, MILLISECOND
                container.mux(pictures.encode(frame))
            if voice is not None:
                container.mux(voice.encode(_silence(number, fps)))
        for stream in (pictures, voice):
            if stream is not None:
                container.mux(stream.encode(None))
        for _, i, cue in waiting:
            container.mux(_packet(streams[i], cue))
    return path


def _text_stream(container: Any, track: Track) -> Any:
    stream = container.add_mux_stream(track.codec)
    stream.time_base = MILLISECOND
    if track.language:
        stream.metadata["language"] = track.language
    return stream


def _packet(stream: Any, cue: Cue) -> Any:
    packet = av.Packet(cue.payload)
    packet.stream, packet.time_base = stream, MILLISECOND
    packet.pts = packet.dts = cue.start_ms
    packet.duration = cue.length_ms
    return packet


def _silence(number: int, fps: int) -> Any:
    size = 8000 // fps
    frame = av.AudioFrame.from_ndarray(np.zeros((1, size), np.int16), format="s16", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = 8000, number * size, Fraction(1, 8000)
    return frame


def _chapter(number: int, start_ms: int, end_ms: int, title: str | None) -> Any:
    metadata = {"title": title} if title is not None else {}
    return {"id": number, "start": start_ms, "end": end_ms, "time_base": MILLISECOND, "metadata": metadata}
