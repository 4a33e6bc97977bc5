"""An archive whose truth is known: rendered scenes as videos, in folders and in a tar shard, some of them broken."""

import csv
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import av
import numpy as np

from vidproc.train.encoded import encode
from vidproc.train.synthetic import MOTIONS, SHAPES, render

FPS = 16
SIZE = (144, 192)
"""(height, width) of the videos."""


@dataclass(frozen=True)
class Truth:
    """What one video shows. `member` is "" for a plain file; `file` is relative to the archive."""

    file: str
    member: str
    shape: str
    motion: str


def make_archive(
    folder: Path, *, plain: int = 18, sharded: int = 6, seconds: float = 4.0, seed: int = 0
) -> list[Truth]:
    """Write the archive, and `truth.csv` beside it; returns the truth. `seed` decides all of it.

    Broken videos get no truth: an empty file, text and a playlist named .mp4, a video cut before its index, one cut
    in its middle, one black and one frozen.
    """
    scenes = _scenes(plain + sharded, seconds=seconds, seed=seed)
    truth = []
    for number in range(plain):
        shape, motion, video = next(scenes)
        file = f"camera-{number % 3 + 1}/clip-{number:03d}.mp4"
        _write(folder / file, video)
        truth.append(Truth(file, "", shape, motion))
    with tarfile.open(folder / "shard-0001.tar", "w") as shard:
        for number in range(sharded):
            shape, motion, video = next(scenes)
            _add(shard, f"{number:04d}.mp4", video)
            _add(shard, f"{number:04d}.json", json.dumps({"title": f"scene {number}", "camera": "studio"}).encode())
            truth.append(Truth("shard-0001.tar", f"{number:04d}.mp4", shape, motion))
    _write_broken(folder / "broken", seconds)
    with (folder.parent / "truth.csv").open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["file", "member", "shape", "motion"])
        writer.writerows([one.file, one.member, one.shape, one.motion] for one in truth)
    return truth


def _scenes(count: int, *, seconds: float, seed: int) -> Iterator[tuple[str, str, bytes]]:
    kinds = list(product(SHAPES, MOTIONS))
    order = np.random.default_rng(seed).permutation(len(kinds))
    for number in range(count):
        shape, motion = kinds[order[number % len(kinds)]]
        frames = render(shape=shape, motion=motion, seconds=seconds, fps=FPS, size=SIZE, seed=seed * 1000 + number)
        yield shape, motion, encode(frames, fps=FPS)


def _write_broken(folder: Path, seconds: float) -> None:
    frames = render(shape="star", motion="left", seconds=seconds, fps=FPS, size=SIZE, seed=7)
    whole = encode(frames, fps=FPS)
    _write(folder / "empty.mp4", b"")
    _write(folder / "letter.mp4", b"Dear archivist, this was never a video.\n" * 20)
    _write(folder / "playlist.mp4", b"#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:9/secret.ts\n#EXT-X-ENDLIST\n")
    _write(folder / "cut-before-index.mp4", whole[: len(whole) * 2 // 3])
    _write(folder / "cut-in-the-middle.mkv", _cut(_remux(whole, "matroska")))
    _write(folder / "black.mp4", encode(np.zeros_like(frames), fps=FPS))
    _write(folder / "frozen.mp4", encode(np.repeat(frames[:1], len(frames), axis=0), fps=FPS))


def _cut(video: bytes) -> bytes:
    return video[: len(video) // 2]


def _remux(video: bytes, container: str) -> bytes:
    """The same packets in another container."""
    out = io.BytesIO()
    with av.open(io.BytesIO(video), "r") as source, av.open(out, "w", format=container) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    return out.getvalue()


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _add(shard: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    shard.addfile(entry, io.BytesIO(data))
