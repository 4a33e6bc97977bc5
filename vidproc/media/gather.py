"""What one segment's decoding fills: slots of its picture views, tracks of its sound views, spans of text; and how
good it is."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vidproc.errors import TooLarge
from vidproc.media.container import LateError
from vidproc.media.pixels import Slots
from vidproc.media.sampling import Span
from vidproc.media.sound import SoundTrack
from vidproc.media.subtitles import SegmentText
from vidproc.views import MICROSECONDS


@dataclass(eq=False)
class Gather:
    """One segment's views, being filled."""

    segment: Span
    max_frames: int
    max_pixels: int
    slots: list[Slots] = field(default_factory=list)
    tracks: list[SoundTrack] = field(default_factory=list)
    text: SegmentText | None = None
    frames: int = 0
    damaged: int = 0
    good_us: list[int] = field(default_factory=list)
    corrupt_us: list[int] = field(default_factory=list)
    pictures_done: bool = False
    by_us: int | None = None  # after a seek, the latest time at which pictures may set in
    _held: Any = None  # the frame before, which the next one's time decides about
    _held_us: int = 0

    def start(self) -> None:
        """All slots and tracks are in place."""
        self.pictures_done = all(slots.done for slots in self.slots)

    @property
    def targets_us(self) -> list[int]:
        """All times at which pictures are wanted, sorted, each once."""
        return sorted({t for slots in self.slots for t in slots.targets_us.reshape(-1).tolist()})

    def add_frame(self, frame: Any, time_us: int, *, wanted: bool = True) -> None:
        """Frames must come in presentation order; one that does not is left out: nothing shows when it should be seen.

        `wanted`: it is known to be nearest to a target; only such frames are judged.
        """
        self.frames += 1
        if self.frames > self.max_frames:
            raise TooLarge(f"more than {self.max_frames} frames in one segment")
        if frame.width * frame.height > self.max_pixels:
            raise TooLarge(f"a frame of {frame.width}x{frame.height} pixels; the limit is {self.max_pixels}")
        if self._held is not None:
            if time_us <= self._held_us:
                return
            self._give_held((self._held_us + time_us) // 2)  # a tie goes to the earlier frame
        if frame.is_corrupt:
            self.corrupt_us.append(time_us)
            self.damaged += wanted and time_us >= self.segment.start_us
        else:
            self.good_us.append(time_us)
        if self._held is None and self.by_us is not None and time_us > self.by_us:
            raise LateError
        self._held, self._held_us = frame, time_us

    def finish(self) -> None:
        """Nothing more will come."""
        for track in self.tracks:
            track.flush()
        if self.text is not None:
            self.text.finish()
        if self._held is not None:
            self._give_held(None)
        self._held = None

    def _give_held(self, until_us: int | None) -> None:
        for slots in self.slots:
            slots.take(self._held, self._held_us, until_us)
        self.pictures_done = all(slots.done for slots in self.slots)

    def coverage(self, frame_us: int) -> float:
        """Share of the segment that could be decoded: targets with a good frame at hand, or else sound that was filled,
        or else what of the packets could be read for their text.

        "At hand" means within twice the usual distance of frames, at least a second: a slide show has lost nothing.
        """
        targets = [slots.targets_us.reshape(-1) for slots in self.slots if slots.targets_us.size]
        if not targets:
            return self._sound_coverage()
        if not self.good_us:
            return 0.0
        wanted = np.concatenate(targets)
        inside = wanted < self.segment.end_us  # a last clip reaches beyond the video: nothing is lost there
        wanted = wanted[inside] if inside.any() else wanted
        good = np.unique(np.asarray(self.good_us, np.int64))
        near = max(MICROSECONDS, 2 * frame_us)
        if not self.damaged:  # gaps inside are the video's own; only a missing end is a loss
            return float(np.mean(wanted <= good[-1] + near))
        after = np.searchsorted(good, wanted).clip(0, len(good) - 1)
        distance = np.minimum(np.abs(good[after] - wanted), np.abs(wanted - good[(after - 1).clip(0)]))
        return min(float(np.mean(distance <= near)), len(good) / (len(good) + self.damaged))

    def _sound_coverage(self) -> float:
        longest = max(self.tracks, key=lambda track: track.length, default=None)
        if longest is None and self.text is not None:
            return self.text.coverage
        if longest is None or not longest.length:
            return 1.0 if not self.damaged else 0.0
        return longest.coverage
