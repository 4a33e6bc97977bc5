"""Videos whose sound is composed of clips at known times: a drawn picture, AAC in MP4."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from media.decoding import source_of
from media.made_videos import make_video

from vidproc.media.glimpse import glimpses, probed
from vidproc.media.guard import Guard
from vidproc.views import Audio

RATE = 48_000
Sound = npt.NDArray[np.int16]


def clip(guard: Guard, path: Path) -> Sound:
    """A file's sound: int16 [time] at 48 kHz."""
    source = source_of(path)
    facts = probed(guard, source)
    length_us = facts["end_us"] - facts["start_us"]
    found = glimpses(guard, source, facts, Audio(rate=RATE), starts_us=[facts["start_us"]], sound_us=length_us)
    sound: Sound = found[0, :, 0]
    return sound


def mixed(placed: Iterable[tuple[float, Sound]], *, seconds: float) -> Sound:
    """Silence with clips laid over it, each from its second on: int16 [time] at 48 kHz."""
    whole = np.zeros(round(seconds * RATE), np.int32)
    for start_s, sound in placed:
        first = round(start_s * RATE)
        whole[first : first + len(sound)] += sound
    mixture: Sound = whole.clip(-32768, 32767).astype(np.int16)
    return mixture


def composed(path: Path, sound: Sound) -> Path:
    """The video, with five frames a second for as long as the sound is."""
    frames = len(sound) * 5 // RATE
    times = [number * 200 for number in range(frames)]
    return make_video(path, "libx264", times, sound=sound, options={"g": "25"}, size=(64, 48))
