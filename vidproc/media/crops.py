"""Pictures of boxes in one video, at given times, as JPEG: what thumbnails are made of.

    with Guard() as guard:
        for number, found in crops(guard, source, facts, [(1_500_000, (0.1, 0.2, 0.5, 0.6))], most=256):
            …

Frames are decoded behind the wall, at the size at which they are displayed; cut, scaled and written by Pillow.
"""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from vidproc.errors import Damaged, NoStreams
from vidproc.media.geometry import Size, displayed_of, place
from vidproc.media.glimpse import glimpses
from vidproc.media.guard import Guard
from vidproc.media.sampling import SEGMENT_US
from vidproc.media.sources import Source
from vidproc.views import Frames, Picture

MARGIN = 0.1
"""Of a box's sides, on each side, as far as the picture goes."""
QUALITY = 85
MOST_SIDE = 4096
"""Pixels of a decoded frame: what is larger is scaled down to it."""
MOST_BYTES = 1 << 28
"""Of frames that one visit brings back at once; a frame has at most 48 MiB."""

Box = tuple[float, ...]
"""x1, y1, x2, y2 as shares of the displayed picture, from its upper left corner."""


def crops(
    guard: Guard, source: Source, facts: Mapping[str, Any], boxes: Sequence[tuple[int, Box]], *, most: int
) -> Iterator[tuple[int, bytes | Damaged]]:
    """(number in `boxes`, JPEG) of each box at its time (µs), in time order; `most`: pixels of the longer side.

    The frame is that nearest to the time. `Damaged` in place of a JPEG where the box is none, its time is not the
    video's, or that stretch does not decode; other typed input errors are raised.
    """
    shown = displayed_of(facts)
    if not facts["has_picture"] or shown is None:
        raise NoStreams("the video has no picture")
    view = _view_of(shown)
    height, width, _ = view.picture.shape
    lies = place(view.picture, shown)
    usable = []
    for number, (time_us, box) in enumerate(boxes):
        wrong = _what_is_wrong(time_us, box, facts)
        if wrong:
            yield number, Damaged(f"the tables have a track with {wrong}: label the video anew")
        else:
            usable.append((time_us, number))
    for together in _stretches(sorted(usable), most_frames=max(MOST_BYTES // (height * width * 3), 1)):
        times = sorted({time_us for time_us, _ in together})
        try:
            frames = glimpses(guard, source, facts, view, starts_us=times)
        except Damaged as error:
            yield from ((number, error) for _, number in together)
            continue
        for time_us, number in together:
            around = lies.pixels(_grown(boxes[number][1]))
            yield number, _jpeg(frames[times.index(time_us)], around, most=most)


def _view_of(shown: Size) -> Frames:
    scale = min(1.0, MOST_SIDE / max(shown))
    width, height = (max(round(side * scale), 1) for side in shown)
    return Frames(fps=1000, picture=Picture(resize=(height, width), interpolation="bicubic"))


def _what_is_wrong(time_us: int, box: Box, facts: Mapping[str, Any]) -> str:
    if not facts["start_us"] <= time_us <= facts["end_us"]:
        return f"its best frame at {time_us} µs, outside the video"
    x1, y1, x2, y2 = (min(max(side, 0.0), 1.0) if math.isfinite(side) else math.nan for side in box)
    return "" if x1 < x2 and y1 < y2 else f"the box {box}, which is no part of a picture"


def _stretches(usable: Sequence[tuple[int, int]], *, most_frames: int) -> Iterator[list[tuple[int, int]]]:
    """Pieces that one decode takes: of one segment's length at the most, as `label` takes them, and so many frames."""
    piece: list[tuple[int, int]] = []
    frames = 0
    for time_us, number in usable:
        new = not piece or piece[-1][0] != time_us
        if piece and new and (frames >= most_frames or time_us - piece[0][0] >= SEGMENT_US):
            yield piece
            piece, frames = [], 0
        piece.append((time_us, number))
        frames += new
    if piece:
        yield piece


def _grown(box: Box) -> npt.NDArray[np.float64]:
    x1, y1, x2, y2 = np.clip(np.asarray(box, np.float64), 0, 1)
    across, down = MARGIN * (x2 - x1), MARGIN * (y2 - y1)
    grown: npt.NDArray[np.float64] = np.clip([x1 - across, y1 - down, x2 + across, y2 + down], 0, 1)
    return grown


def _jpeg(frame: npt.NDArray[np.uint8], box: npt.NDArray[Any], *, most: int) -> bytes:
    """What lies in a box, in pixels of the frame uint8 [height, width, 3]; whole pixels, at least one."""
    height, width, _ = frame.shape
    left, top = min(math.floor(box[0]), width - 1), min(math.floor(box[1]), height - 1)
    right, bottom = max(math.ceil(box[2]), left + 1), max(math.ceil(box[3]), top + 1)
    image = Image.fromarray(frame[top:bottom, left:right])
    image.thumbnail((most, most), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
