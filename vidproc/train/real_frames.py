"""Some frames of each video in a folder, for training on some videos and measuring on others."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from vidproc.errors import InputError
from vidproc.media.container import opened, picture_stream, prepare
from vidproc.media.limits import Limits

Pictures = list[npt.NDArray[np.uint8]]

_LIMITS = Limits(pixels=4096 * 2304)
_SHORT_SIDE = 240
"""Larger frames are scaled down to it, which also removes most of what the encoder did to them."""


def split_frames(folder: Path, *, each: int = 6, every: int = 10) -> tuple[Pictures, Pictures]:
    """(training, held-out) frames uint8 [height, width, 3]: of each video every tenth of the first, six at most.

    What does not open or decode is left out. Raises FileNotFoundError where there is no frame on either side.
    """
    training: Pictures = []
    held: Pictures = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        side = held if is_held_out(path.relative_to(folder)) else training
        side.extend(frames_of(path, each=each, every=every))
    if not training or not held:
        raise FileNotFoundError(f"{folder} needs videos to train on and to hold out: {len(training)} and {len(held)}")
    return training, held


def is_held_out(name: Path) -> bool:
    """Of about every third name, the same always: by the hash of its first word, or of the folder it is in.

    Videos of one folder, or whose names begin alike, are often cuts of one recording: they stay on one side.
    """
    first = re.findall(r"[a-z0-9]+", name.parts[0].lower())
    return hashlib.sha256("".join(first[:1]).encode()).digest()[0] % 3 == 0


def frames_of(path: Path, *, each: int, every: int) -> Pictures:
    """At most `each` frames; none of a file that is no video or damaged."""
    found: Pictures = []
    try:
        with path.open("rb") as file, opened(file, limits=asdict(_LIMITS)) as container:
            stream = picture_stream(container)
            if stream is not None:
                prepare(stream, limits=asdict(_LIMITS))
                found.extend(_spread(container.decode(stream), each=each, every=every))
    except (InputError, av.FFmpegError, ValueError):
        pass  # archives hold such files; what decoded before the damage is good
    return found


def _spread(frames: Iterator[av.VideoFrame], *, each: int, every: int) -> Iterator[npt.NDArray[np.uint8]]:
    for number, frame in enumerate(frames):
        if number % every == 0:
            scale = min(1.0, _SHORT_SIDE / min(frame.height, frame.width))
            size = round(frame.width * scale), round(frame.height * scale)
            yield frame.reformat(*size, format="rgb24", interpolation="AREA").to_ndarray().astype(np.uint8, copy=False)
        if number >= (each - 1) * every:
            return
