"""What the decoder made of one view in one segment: pixels, sound or text, always together with their times."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vidproc.media.line21 import CHANNELS

SPAN = np.dtype([("stream", np.int32), ("language", object), ("text", object)])
"""What is said of one span of text. `stream`: its number in the container, `CHAPTER` for a chapter's title, one of
`CAPTIONS` for a caption.

`language`: a str as the container has it, "" if it has none. `text`: a str as `markup.sanitised` leaves it.
"""

CHAPTER = -1

CAPTIONS = {-1 - channel: channel for channel in CHANNELS}
"""The `stream` of captions that the pictures carry: which channel each is."""

LEAST_STREAM = min(CAPTIONS)

MOST_LANGUAGE = 35
"""Characters of a language tag: what RFC 5646, 4.4.1 asks programs to hold."""

MOST_SPANS = 5_000
"""Of one segment: more than a hundred a second, as in subtitles that are drawn frame by frame."""

MOST_SEGMENT_CHARACTERS = 500_000
"""Of one segment, over all its spans: they travel as JSON, with twelve bytes a character at the worst."""


@dataclass(frozen=True, eq=False)
class Samples:
    """The samples of one view that one segment owns.

    `data`: `Frames` uint8 [samples, height, width, channels]; `Clips` uint8 [samples, frames, height, width, channels];
    `Audio` int16 [time, channels], where `start_us` and `end_us` hold one span: that of the whole stretch of sound;
    `Text` `SPAN` [spans], by stream, then by start.
    `start_us`, `end_us`: int64 [samples], the half-open span that each sample speaks for.
    `frame_us`: int64 [samples, frames], the PTS of the frame that was taken for each target time; or nothing.
    `corrupt`: bool [samples, frames], whether the decoder called that frame corrupt; None: that is not known.
    `shown`: the displayed picture's width and height, pixels: `geometry.place` then says where in a sample it lies.
    `whole`: False where text was left out, because there is more of it than the limits allow.
    `subtitled`: of `Text`: False where the video has no stream of it, and there can be but chapters' titles.
    Data may be a read-only view of memory that somebody else owns.
    """

    start_us: npt.NDArray[np.int64]
    end_us: npt.NDArray[np.int64]
    frame_us: npt.NDArray[np.int64]
    data: npt.NDArray[Any]
    whole: bool = True
    subtitled: bool = True
    shown: tuple[int, int] | None = None
    corrupt: npt.NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.start_us)


@dataclass(frozen=True)
class TextSpan:
    """A piece of text and when it is shown, in µs of the video: one sample of a `Text` view."""

    stream: int
    start_us: int
    end_us: int
    language: str
    text: str


def text_bytes(spans: Sequence[TextSpan], *, whole: bool) -> bytes:
    """How the samples of a `Text` view travel from the decoder to the networks."""
    return json.dumps({"spans": [[*vars(span).values()] for span in spans], "whole": whole}).encode()


def text_samples(data: bytes) -> Samples:
    """What `text_bytes` packed."""
    told = json.loads(data)
    spans = [TextSpan(*fields) for fields in told["spans"]]
    starts, ends = (np.array([getattr(span, name) for span in spans], np.int64) for name in ("start_us", "end_us"))
    what = np.array([(span.stream, span.language, span.text) for span in spans], SPAN)
    return Samples(starts, ends, np.empty((len(spans), 0), np.int64), what, whole=told["whole"])
