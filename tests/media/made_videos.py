"""Videos made for tests: every frame shows its number and differs everywhere, so a wrong frame is a wrong picture."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

WIDTH, HEIGHT = 128, 96
_BITS = 12


def drawing(number: int, *, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """uint8 [height, width, 3]: the number as black and white blocks in the upper third, a moving pattern below."""
    y, x = np.mgrid[0:height, 0:width]
    picture = np.stack([(x * 2 + number * 5) % 256, (y * 3 + number * 3) % 256, (x + y + number * 7) % 256], axis=-1)
    picture[height // 2 :, :, 0] = np.random.default_rng(number // 6).integers(0, 256, (height - height // 2, width))
    block = width // _BITS
    for bit in range(_BITS):
        picture[: height // 3, bit * block : (bit + 1) * block] = 255 * (number >> bit & 1)
    return picture.astype(np.uint8)


def number_shown(picture: np.ndarray) -> int:
    """The number that `drawing` drew, read from a picture of any size."""
    height, width = picture.shape[:2]
    block = width * (WIDTH // _BITS) / WIDTH
    row = picture[height // 6].astype(int).reshape(width, -1).mean(axis=1)
    return sum(1 << bit for bit in range(_BITS) if row[int((bit + 0.5) * block)] > 127)


def make_video(
    path: Path,
    codec: str,
    times: Sequence[int],
    *,
    time_base: Fraction = Fraction(1, 1000),
    options: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
    pixels: str = "yuv420p",
    sound: np.ndarray | None = None,
    sound_codec: str = "aac",
    size: tuple[int, int] = (WIDTH, HEIGHT),
) -> Path:
    """Encode frame n, shown at `times[n]` (in `time_base`). `sound`: int16 [samples] at 48 kHz, from time 0."""
    with av.open(str(path), "w", options=muxer or {}) as container:
        stream: Any = container.add_stream(codec, rate=_rate(times, time_base), options=options or {})
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        stream.time_base = stream.codec_context.time_base = time_base
        stream.codec_context.thread_count = 1
        voice: Any = container.add_stream(sound_codec, rate=48_000, layout="mono") if sound is not None else None
        packets = _sound_packets(voice, sound) if sound is not None else []
        for number, time in enumerate(times):
            drawn = drawing(number, width=size[0], height=size[1])
            frame = av.VideoFrame.from_ndarray(drawn, format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = time, time_base
            seconds = float(time * time_base)
            while packets and packets[0][0] <= seconds:
                container.mux(packets.pop(0)[1])
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        for _, packet in packets:
            container.mux(packet)
    return path


def _rate(times: Sequence[int], time_base: Fraction) -> Fraction:
    span = (times[-1] - times[0]) * time_base if len(times) > 1 else Fraction(0)
    return Fraction((len(times) - 1) / span).limit_denominator(1000) if span else Fraction(25)


def _sound_packets(stream: Any, sound: np.ndarray) -> list[tuple[float, Any]]:
    packets = []
    size = 1024
    for start in range(0, len(sound), size):
        frame = av.AudioFrame.from_ndarray(sound[None, start : start + size], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48_000, start, Fraction(1, 48_000)
        packets += [(start / 48_000, packet) for packet in stream.encode(frame)]
    return packets + [(len(sound) / 48_000, packet) for packet in stream.encode(None)]
