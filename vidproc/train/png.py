"""Pictures as PNG files, for data sets that are drawn here and read elsewhere."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt


def write_png(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    """uint8 [height, width, 3], without loss. Raises FileExistsError where there is a file."""
    context = av.CodecContext.create("png", "w")
    context.height, context.width = pixels.shape[:2]
    context.pix_fmt = "rgb24"
    context.time_base = Fraction(1)
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
    with path.open("xb") as file:
        for packet in (*context.encode(frame), *context.encode(None)):
            file.write(bytes(packet))
