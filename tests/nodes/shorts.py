"""Many short videos, drawn cheaply: 64 pixels, one second, each with other pixels, so that no two have one etag."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import s3fs

from vidproc.train.encoded import encode
from vidproc.train.synthetic import MOTIONS, SHAPES, render

FPS = 12


def draw(folder: Path, count: int) -> Path:
    """Write `count` videos into `folder`."""
    folder.mkdir(parents=True)
    for number in range(count):
        shape, motion = SHAPES[number % len(SHAPES)], MOTIONS[number % len(MOTIONS)]
        frames = render(shape=shape, motion=motion, seconds=1, fps=FPS, size=(64, 64), seed=number)
        (folder / f"short-{number:03d}.mp4").write_bytes(encode(frames, fps=FPS))
    return folder


def upload(folder: Path, url: str) -> str:
    """Put a folder's files on S3."""
    filesystem = s3fs.S3FileSystem()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda path: filesystem.pipe_file(f"{url}/{path.name}", path.read_bytes()), folder.iterdir()))
    return url
