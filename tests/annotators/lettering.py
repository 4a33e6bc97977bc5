"""Pictures with words on them, drawn with the font that matplotlib brings."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

FONT = Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


def lettered(words: Mapping[int, str], *, size: tuple[int, int] = (1280, 720), seed: int = 0) -> npt.NDArray[np.uint8]:
    """uint8 [height, width, RGB]: each text at its height in pixels, white on noise."""
    width, height = size
    noise = np.random.default_rng(seed).integers(60, 120, (height, width, 3), np.uint8)
    picture = Image.fromarray(noise)
    draw = ImageDraw.Draw(picture)
    for top, text in words.items():
        draw.text((width // 16, top), text, font=ImageFont.truetype(FONT, height // 18), fill=(255, 255, 255))
    return np.asarray(picture)
