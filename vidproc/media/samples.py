"""What the decoder made of one view in one segment: pixels or sound, always together with their times."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Samples:
    """The samples of one view that one segment owns.

    `data`: `Frames` uint8 [samples, height, width, channels]; `Clips` uint8 [samples, frames, height, width, channels];
    `Audio` int16 [time, channels], where `start_us` and `end_us` hold one span: that of the whole stretch of sound.
    `start_us`, `end_us`: int64 [samples], the half-open span that each sample speaks for.
    `frame_us`: int64 [samples, frames], the PTS of the frame that was taken for each target time; empty for sound.
    Data may be a read-only view of memory that somebody else owns.
    """

    start_us: npt.NDArray[np.int64]
    end_us: npt.NDArray[np.int64]
    frame_us: npt.NDArray[np.int64]
    data: npt.NDArray[Any]

    def __len__(self) -> int:
        return len(self.start_us)
