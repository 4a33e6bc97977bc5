"""Videos with a white box on black: how boxes are held against pixels that were decoded."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

Box = tuple[float, float, float, float]

SIZE = (64, 48)
BOX = (0.125, 0.25, 0.5, 0.375)
"""Of the stored picture: whole pixels of 64 × 48, and elsewhere whichever way the picture is turned."""


def mask(box: Box = BOX, *, size: tuple[int, int] = SIZE) -> np.ndarray:
    """bool [height, width] of the stored picture."""
    x1, y1, x2, y2 = (round(share * side) for share, side in zip(box, size * 2, strict=True))
    inside = np.zeros(size[::-1], bool)
    inside[y1:y2, x1:x2] = True
    return inside


def drawn(path: Path, *, aspect: Fraction = Fraction(1), box: Box = BOX, size: tuple[int, int] = SIZE) -> Path:
    """A dark video with the box in white, of pixels of that aspect."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"qp": "1"})
        stream.width, stream.height = size
        stream.pix_fmt = "yuv444p"
        stream.codec_context.sample_aspect_ratio = stream.sample_aspect_ratio = aspect
        picture = np.repeat(mask(box, size=size)[..., None] * np.uint8(255), 3, axis=2)
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def turned(path: Path, degrees: int) -> Path:
    """The same MP4 with a rotation, counter-clockwise, in its track's header."""
    one, video = 1 << 16, path.read_bytes()
    a, b = {0: (one, 0), 90: (0, -one), 180: (-one, 0), 270: (0, one)}[degrees]
    at = video.index(b"tkhd") + 4 + 40
    matrix = b"".join((n & 0xFFFFFFFF).to_bytes(4, "big") for n in (a, b, 0, -b, a, 0, 0, 0, 1 << 30))
    path.write_bytes(video[:at] + matrix + video[at + 36 :])
    return path


def box_of(mask: np.ndarray) -> np.ndarray:
    """x1, y1, x2, y2 in pixels of the smallest box around all that is true."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)
