"""Sound whose channels are counted, but not named, as in most WAV files: every view of it is filled."""

import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from media.decoding import decode_all, probe

from vidproc.media.guard import Guard
from vidproc.views import Audio

VIEWS = (Audio(rate=48_000, channels=2), Audio(rate=48_000), Audio(rate=16_000), Audio(rate=8_000))


def made_wave(path: Path, *, channels: int, rate: int) -> np.ndarray:
    """One second of a tone, each channel quieter than the one before: int16 [time, channels]."""
    tone = 16_000 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    sound = (tone[:, None] / np.arange(1, channels + 1)).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(sound.tobytes())
    return sound


@pytest.fixture(scope="module")
def guard() -> Iterator[Guard]:
    with Guard() as one:
        yield one


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_every_view_of_a_plain_wave_is_filled(guard: Guard, tmp_path: Path, channels: int, rate: int) -> None:
    sound = made_wave(tmp_path / "a.wav", channels=channels, rate=rate)
    found = decode_all(guard, tmp_path / "a.wav", VIEWS, probe(guard, tmp_path / "a.wav"))
    assert not found.errors
    [heard] = found.data
    for view, data in zip(VIEWS, heard, strict=True):
        assert data.shape == (view.rate, view.channels)
        assert np.abs(data[view.rate // 4 : view.rate // 2]).max() > 2_000, view
    if (channels, rate) == (2, 48_000):
        assert np.array_equal(heard[0], sound)
