"""Where the displayed picture lies in a sample, and so what boxes in the one are in the other. Needs no av, no torch.

A displayed picture has its pixels' aspect and its rotation applied. Its boxes are x1, y1, x2, y2 as shares 0..1 of it,
from its upper left corner; boxes in a sample are in the sample's pixels, whose edges have whole numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from vidproc.views import Picture

GREY = 114
"""What fills the rest of a letterboxed sample, in each channel."""

Size = tuple[int, int]
"""(width, height), pixels."""

Boxes = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Place:
    """A rectangle in pixels of a sample; that of a cropped picture reaches beyond it."""

    left: int
    top: int
    width: int
    height: int

    def shares(self, boxes: Boxes) -> Boxes:
        """Boxes [k, 4] in pixels of the sample → the same as shares of the picture; not clipped to it."""
        return (boxes - self._corner) / self._sides

    def pixels(self, boxes: Boxes) -> Boxes:
        """Boxes [k, 4] as shares of the picture → the same in pixels of the sample."""
        return boxes * self._sides + self._corner

    def seen(self, sample: Size) -> Boxes:
        """What of the picture a sample of that size holds, as a box of shares [4]: less than all if cropped."""
        return np.clip(self.shares(np.array([0, 0, *sample], np.float64)), 0, 1)

    @property
    def _corner(self) -> Boxes:
        return np.array([self.left, self.top] * 2, np.float64)

    @property
    def _sides(self) -> Boxes:
        return np.array([self.width, self.height] * 2, np.float64)


def plausible(aspect: Fraction | None) -> Fraction:
    """A pixel's width ÷ height; 1 where it is not given or, beyond 1:8, a header error."""
    return aspect if aspect and Fraction(1, 8) <= aspect <= 8 else Fraction(1)


def displayed(width: int, height: int, *, aspect: Fraction | None, turn: int) -> Size:
    """The displayed size of a frame of that many pixels. `turn`: degrees by which it is rotated, a multiple of 90."""
    width = max(round(width * plausible(aspect)), 1)
    return (height, width) if turn % 180 else (width, height)


def displayed_of(facts: Mapping[str, Any]) -> Size | None:
    """The displayed size of a video's picture, by what the probe found; None if that does not say."""
    width, height = facts.get("displayed_width"), facts.get("displayed_height")
    return (width, height) if width and height and min(width, height) > 0 else None


def scaled_size(picture: Picture, shown: Size) -> Size:
    """The size that a displayed picture is scaled to, before the crop or the filling; at least the crop."""
    width, height = shown
    if picture.letterbox:
        return _fitted(shown, (picture.shape[1], picture.shape[0]))
    if isinstance(picture.resize, tuple):
        return picture.resize[1], picture.resize[0]
    short = picture.resize
    crop_height, crop_width = picture.shape[:2]
    if width <= height:
        return max(short, crop_width), max(round(short * height / width), crop_height)
    return max(round(short * width / height), crop_width), max(short, crop_height)


def place(picture: Picture, shown: Size) -> Place:
    """Where a displayed picture of that size lies in a sample of the view: in the middle if cropped."""
    width, height = scaled_size(picture, shown)
    if picture.letterbox:
        return Place(0, 0, width, height)
    crop_height, crop_width = picture.shape[:2]
    return Place(-((width - crop_width) // 2), -((height - crop_height) // 2), width, height)


def _fitted(shown: Size, room: Size) -> Size:
    """The largest size of the same aspect inside `room`: one side fills it, the other is rounded, half a pixel up."""
    (width, height), (most_width, most_height) = shown, room
    if width * most_height >= height * most_width:
        return most_width, max((2 * height * most_width + width) // (2 * width), 1)
    return max((2 * width * most_height + height) // (2 * height), 1), most_height
