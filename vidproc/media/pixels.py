"""From decoded frames to a view's samples: one swscale pass per kept frame, to the target size, into shared memory."""

from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import numpy.typing as npt
from av import VideoFrame
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

from vidproc.errors import TooLarge
from vidproc.media.fields import FirstField
from vidproc.media.geometry import GREY, Size, displayed, scaled_size
from vidproc.media.probe import rotation_of
from vidproc.views import Clips, Frames, Picture

# swscale's short cuts cost brightness (white becomes 253) and save nothing at these sizes: 0.80 ms either way for
# 640x360 to 455x256. FFmpeg's own programs leave them out, too.
_EXACT = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
_INTERPOLATION = {
    "bilinear": Interpolation.BILINEAR | _EXACT,
    "bicubic": Interpolation.BICUBIC | _EXACT,
    "area": Interpolation.AREA | _EXACT,
}
_LONGEST_SIDE = 16_384
_FORMAT = {"rgb": "rgb24", "gray": "gray8"}


class PictureConverter:
    """Turns frames into pixels of one `Picture`. Keeps its swscale context: a new one costs more than a scaling.

    `shown`: the displayed size by which a letterbox is laid out, whatever the size of later frames: boxes in it are
    those of the video then. None lays it out by each frame's own. `first_field`: the stream's, if views share it.
    """

    def __init__(self, picture: Picture, *, shown: Size | None = None, first_field: FirstField | None = None) -> None:
        self._picture = picture
        self._first_field = first_field or FirstField()
        self._shown = shown if picture.letterbox else None
        self._reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame, aspect: Fraction | None) -> npt.NDArray[np.uint8]:
        """uint8 [height, width, channels] of the displayed picture: pixel aspect and rotation applied, then cropped or
        filled up."""
        turn = rotation_of(frame)
        shown = self._shown or displayed(frame.width, frame.height, aspect=aspect, turn=turn)
        width, height = scaled_size(self._picture, shown)
        if max(width, height) > _LONGEST_SIDE:  # a strip: its middle is all that the crop will see
            raise TooLarge(f"{frame.width}x{frame.height} pixels would be scaled to {width}x{height}: too long a strip")
        across, down = (height, width) if turn % 180 else (width, height)
        small = self._reformatter.reformat(
            self._first_field(frame),
            width=across,
            height=down,
            format=_FORMAT[self._picture.colour],
            interpolation=_INTERPOLATION[self._picture.interpolation],
            dst_color_range=ColorRange.JPEG,
            threads=1,
        )
        channels = self._picture.shape[2]
        plane = small.planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[:down, : across * channels]
        pixels = np.rot90(rows.reshape(down, across, channels), turn // 90)
        return self._filled(pixels) if self._picture.letterbox else self._crop(pixels)

    def _crop(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        height, width, _ = self._picture.shape
        top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
        return pixels[top : top + height, left : left + width]

    def _filled(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        filled = np.full(self._picture.shape, GREY, np.uint8)
        filled[: pixels.shape[0], : pixels.shape[1]] = pixels
        return filled


@dataclass(eq=False)
class Slots:
    """Where one view's frames go. `data`: uint8 [samples, (frames,) height, width, channels] in shared memory.

    `shown`, `first_field`: as `PictureConverter` takes them.
    """

    view: Frames | Clips
    targets_us: npt.NDArray[np.int64]  # [samples, frames per sample]
    data: npt.NDArray[np.uint8]
    aspect: Fraction | None = None
    shown: Size | None = None
    first_field: FirstField = field(default_factory=FirstField)

    def __post_init__(self) -> None:
        self.frame_us = np.zeros(self.targets_us.shape, np.int64)
        flat = self.targets_us.reshape(-1)
        self._order = np.argsort(flat, kind="stable")
        self._sorted = flat[self._order]
        self._flat = self.data.reshape(-1, *self.view.picture.shape)
        self._next = 0
        self._convert = PictureConverter(self.view.picture, shown=self.shown, first_field=self.first_field)

    @property
    def done(self) -> bool:
        return self._next >= len(self._sorted)

    def take(self, frame: VideoFrame, time_us: int, until_us: int | None) -> None:
        """Give `frame` to all open targets up to and including `until_us` (None: to all that are left)."""
        stop = len(self._sorted) if until_us is None else int(np.searchsorted(self._sorted, until_us, side="right"))
        if stop <= self._next:
            return
        places = self._order[self._next : stop]
        self._flat[places[0]] = self._convert(frame, self.aspect)
        for place in places[1:]:
            self._flat[place] = self._flat[places[0]]
        self.frame_us.reshape(-1)[places] = time_us
        self._next = stop
