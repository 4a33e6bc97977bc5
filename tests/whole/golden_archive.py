"""A small archive with one of everything, drawn from nothing: the same on every machine, to within rounding.

Pictures are stored without loss and sound as plain samples, so that no encoder's rounding comes between two machines.
"""

import io
import json
import tarfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from media.made_subtitles import MILLISECOND, Track, cue
from PIL import Image

from vidproc.train.drawn_boxes import HELD_OUT, picture
from vidproc.train.synthetic import frames, render, scene

RATE = 16_000
SIZE = (96, 128)
"""(height, width) of the videos."""
Pictures = npt.NDArray[np.uint8]
Sound = npt.NDArray[np.int16]


def draw(folder: Path, *, noise: int = 0) -> Path:
    """Draw the archive into the folder, pixels changed at random by up to `noise` of 255; what stands still does so.

    A film of two scenes and black, with sound and subtitles; one that goes on into a second segment; shapes at rest; a
    picture; sound alone; a member of a shard; and two that cannot be opened.
    """
    folder.mkdir(parents=True)
    chance, fps = np.random.default_rng(0), 16

    def disturbed(pixels: Pictures) -> Pictures:
        moved = pixels + chance.integers(-noise, noise + 1, pixels.shape)
        return moved.clip(0, 255).astype(np.uint8)

    scenes = [
        disturbed(render(shape="star", motion="left", seconds=2, fps=fps, size=SIZE, seed=1)),
        disturbed(render(shape="circle", motion="down", seconds=2, fps=fps, size=SIZE, seed=2)),
        np.zeros((2 * fps, *SIZE, 3), np.uint8),
    ]
    said = Track(
        "subrip", [cue("subrip", 500, 1000, "Look, a star"), cue("subrip", 2500, 1000, "and <i>gone</i>")], "eng"
    )
    film = encoded(np.concatenate(scenes), fps=fps, sound=tone(3, seconds=6), text=said, title="two scenes")
    (folder / "film.mkv").write_bytes(film)
    slow = scene("circle", "right", seed=5, aspect=SIZE[1] / SIZE[0])
    long = frames(slow, (np.linspace(0, 0.99, 34 * 8) - slow.phase) * slow.period_s, size=SIZE)  # once across
    (folder / "long.mkv").write_bytes(encoded(disturbed(long), fps=8))
    shapes = np.repeat(disturbed(picture(seed=HELD_OUT + 17, size=128).pixels)[None], 10, axis=0)
    (folder / "shapes.mkv").write_bytes(encoded(shapes, fps=5, sound=tone(0, seconds=2)))
    Image.fromarray(disturbed(picture(seed=HELD_OUT + 33, size=128).pixels)).save(folder / "still.png")
    (folder / "sound.wav").write_bytes(encoded(None, fps=0, sound=tone(2, seconds=3), container="wav"))
    (folder / "cut.mkv").write_bytes(film[:300])
    (folder / "letter.mp4").write_bytes(b"Dear archivist, this was never a video.\n" * 20)
    member = encoded(disturbed(render(shape="cross", motion="up", seconds=2, fps=8, size=SIZE, seed=10)), fps=8)
    with tarfile.open(folder / "shard.tar", "w") as shard:
        for name, data in (("0000.mkv", member), ("0000.json", json.dumps({"camera": "studio"}).encode())):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            shard.addfile(entry, io.BytesIO(data))
    return folder


def tone(heard_s: float, *, seconds: float) -> Sound:
    """A tone of 1 kHz for so long, then silence: int16 [time]."""
    at = np.arange(round(seconds * RATE))
    wave = np.rint(8000 * np.sin(2 * np.pi * 1000 * at / RATE)).astype(np.int16)
    return np.where(at < heard_s * RATE, wave, 0).astype(np.int16)


def encoded(
    pictures: Pictures | None,
    *,
    fps: int,
    sound: Sound | None = None,
    text: Track | None = None,
    title: str = "",
    container: str = "matroska",
) -> bytes:
    """A file with lossless H.264, a keyframe every two seconds, and PCM."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        if title:
            out.metadata["title"] = title
        shown: Any = None
        if pictures is not None:
            shown = out.add_stream("libx264", rate=fps, options={"qp": "0", "preset": "veryfast", "g": str(2 * fps)})
            shown.height, shown.width, shown.pix_fmt = *pictures.shape[1:3], "yuv420p"
            shown.codec_context.thread_count = 1
        voice: Any = out.add_stream("pcm_s16le", rate=RATE, layout="mono") if sound is not None else None
        written: Any = None
        if text is not None:
            written = out.add_mux_stream(text.codec)
            written.time_base, written.metadata["language"] = MILLISECOND, text.language or ""
        packets = [
            *_pictures(shown, pictures, fps),
            *_sounds(voice, sound),
            *_words(written, text),
        ]
        out.start_encoding()
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            out.mux(packet)
    return file.getvalue()


def _pictures(stream: Any, pictures: Pictures | None, fps: int) -> list[Any]:
    packets = []
    for number, drawn in enumerate(() if pictures is None else pictures):
        frame = av.VideoFrame.from_ndarray(drawn, format="rgb24")
        frame.pts, frame.time_base = number, Fraction(1, fps)
        packets += stream.encode(frame)
    return packets + (stream.encode(None) if stream is not None else [])


def _sounds(stream: Any, sound: Sound | None) -> list[Any]:
    if sound is None:
        return []
    packets = []
    for first in range(0, len(sound), RATE // 10):
        frame = av.AudioFrame.from_ndarray(sound[None, first : first + RATE // 10], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, first, Fraction(1, RATE)
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def _words(stream: Any, text: Track | None) -> list[Any]:
    packets = []
    for one in text.cues if text is not None else ():
        packet = av.Packet(one.payload)
        packet.stream, packet.time_base = stream, MILLISECOND
        packet.pts = packet.dts = one.start_ms
        packet.duration = one.length_ms
        packets.append(packet)
    return packets
