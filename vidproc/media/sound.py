"""From decoded sound to a view's samples: resampled, mixed, and placed by PTS, so that gaps stay gaps."""

from typing import Any

import av
import numpy as np
import numpy.typing as npt

from vidproc.media.container import microseconds
from vidproc.media.sampling import Span
from vidproc.views import MICROSECONDS, Audio

_JITTER_US = 20_000
"""Time stamps that disagree with the running position by less than this are rounding, not a gap."""

_DEFAULT_LAYOUTS = {
    f"{count} channels": name
    for count, name in enumerate(("mono", "stereo", "2.1", "4.0", "5.0", "5.1", "6.1", "7.1"), start=1)
}
"""How FFmpeg calls channels without names → what it takes them for (libavutil, av_channel_layout_default)."""

_TOLERATED_S = 0.3
"""Sound may set in that late, or end that early, without counting as lost: encoders delay and pad it."""


class SoundTrack:
    """Fills int16 [time, channels] of one segment, in shared memory that starts as silence."""

    def __init__(self, view: Audio, segment: Span, data: npt.NDArray[np.int16]) -> None:
        self._rate, self._segment, self._data = view.rate, segment, data
        self._layout = "mono" if view.channels == 1 else "stereo"
        self._resampler: Any = None
        self._shape: tuple[Any, ...] | None = None  # sample format, layout and rate of what is being resampled
        self._base_us = self._fed = 0  # where this stretch began, and the samples of it that went in
        self._position = 0  # where the next resampled sample goes
        self._filled = 0

    @property
    def length(self) -> int:
        return len(self._data)

    @property
    def coverage(self) -> float:
        """Share of the segment that was filled."""
        missing = self.length - self._filled
        return 1.0 if missing <= self._rate * _TOLERATED_S else self._filled / self.length

    def add(self, frame: Any, time_us: int) -> None:
        """Place one decoded frame that starts at `time_us`."""
        shape = (frame.format.name, frame.layout.name, frame.sample_rate)
        ends_us = self._base_us + self._fed * MICROSECONDS // self._shape[2] if self._shape else 0
        if self._resampler is None or shape != self._shape or abs(time_us - ends_us) > _JITTER_US:
            self.flush()
            self._resampler = av.AudioResampler(format="s16", layout=self._layout, rate=self._rate)
            self._shape, self._base_us, self._fed = shape, time_us, 0
            self._position = round((time_us - self._segment.start_us) * self._rate / MICROSECONDS)
        self._fed += frame.samples
        frame.pts = None
        self._place(self._resampler.resample(frame))

    def flush(self) -> None:
        """Place what the resampler still holds."""
        if self._resampler is not None:
            self._place(self._resampler.resample(None))
            self._resampler = None

    def _place(self, frames: list[Any]) -> None:
        channels = self._data.shape[1]
        for frame in frames:
            sound = np.frombuffer(memoryview(frame.planes[0]), np.int16)[: frame.samples * channels]
            start, stop = max(self._position, 0), min(self._position + frame.samples, len(self._data))
            if start < stop:
                self._data[start:stop] = sound.reshape(-1, channels)[start - self._position : stop - self._position]
                self._filled += stop - start
            self._position += frame.samples


def sound_time(frame: Any, stream: Any, expected_us: int | None) -> int | None:
    """Start of a sound frame in µs; where it has no time stamp, where the one before it ended."""
    if frame.pts is None:
        return expected_us
    return microseconds(frame.pts, frame.time_base or stream.time_base)


def with_layout(frame: Any) -> Any:
    """The frame with channels that have names. Many files (most WAVs) only count them: each resampler would then guess
    anew and write its guess into the frame, where the next view's refuses it. The guess is FFmpeg's own default.
    """
    named = _DEFAULT_LAYOUTS.get(frame.layout.name)
    if named is None:
        return frame
    known = av.AudioFrame.from_ndarray(frame.to_ndarray(), format=frame.format.name, layout=named)
    known.sample_rate = frame.sample_rate
    return known
