"""From decoded sound to a view's samples: resampled, mixed, and placed by PTS, so that gaps stay gaps."""

from typing import Any

import av
import numpy as np
import numpy.typing as npt

from vidproc.media.container import microseconds
from vidproc.media.sampling import Span
from vidproc.views import MICROSECONDS, Audio

_JITTER_S = 0.02
"""Time stamps that disagree with the running position by less than this are rounding, not a gap."""


class SoundTrack:
    """Fills int16 [time, channels] of one segment, in shared memory that starts as silence."""

    def __init__(self, view: Audio, segment: Span, data: npt.NDArray[np.int16]) -> None:
        self._rate, self._segment, self._data = view.rate, segment, data
        self._layout = "mono" if view.channels == 1 else "stereo"
        self._resampler: Any = None
        self._shape: tuple[Any, ...] | None = None
        self._position: int | None = None
        self.filled = 0

    def add(self, frame: Any, time_us: int) -> None:
        """Place one decoded frame that starts at `time_us`."""
        shape = (frame.format.name, frame.layout.name, frame.sample_rate)
        if shape != self._shape:  # at the start, and where a stream changes its form half-way
            self.flush()
            self._resampler = av.AudioResampler(format="s16", layout=self._layout, rate=self._rate)
            self._shape, self._position = shape, None
        expected = (time_us - self._segment.start_us) * self._rate // MICROSECONDS
        if self._position is None or abs(expected - self._position) > self._rate * _JITTER_S:
            self._position = expected
        frame.pts = None
        self._place(self._resampler.resample(frame))

    def flush(self) -> None:
        """Place what the resampler still holds."""
        if self._resampler is not None:
            self._place(self._resampler.resample(None))
            self._resampler = None

    def _place(self, frames: list[Any]) -> None:
        for frame in frames:
            assert self._position is not None
            sound = np.frombuffer(frame.planes[0], np.int16)[: frame.samples * self._data.shape[1]].reshape(
                -1, self._data.shape[1]
            )
            start, stop = max(self._position, 0), min(self._position + len(sound), len(self._data))
            if start < stop:
                self._data[start:stop] = sound[start - self._position : stop - self._position]
                self.filled += stop - start
            self._position += len(sound)


def sound_time(frame: Any, stream: Any, expected_us: int | None) -> int | None:
    """Start of a sound frame in µs; where it has no time stamp, where the one before it ended."""
    if frame.pts is None:
        return expected_us
    return microseconds(frame.pts, frame.time_base or stream.time_base)
