"""An archive on this disk or on S3 that changes every night, and the truth about what lies in it at any moment."""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import fsspec
import numpy as np

from vidproc.train.synthetic import MOTIONS, SHAPES, render

SIZE = (72, 96)
FPS = 8


@dataclass(frozen=True)
class Version:
    """One version of one video as a listing should show it. `kind`: one of KINDS, from which its fate follows."""

    uri: str
    member: str
    etag: str
    bytes: int
    kind: str

    @property
    def video_id(self) -> str:
        identity = json.dumps([self.uri, self.member, self.etag, self.bytes], separators=(",", ":"))
        return hashlib.sha256(identity.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class _Object:
    """What was put under one name: the videos in it by member, "" for a plain file."""

    data: bytes
    kinds: Mapping[str, str]
    mtime_ns: int | None = None


class ChangingArchive:
    """Files and tar shards under one URL. What is done to it is remembered, so that its truth needs no listing."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._fs, self._root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        self._local = not url.startswith("s3://")
        self._objects: dict[str, _Object] = {}
        self._links: dict[str, str] = {}

    def put(self, name: str, kind: str, *, scene: int = 0, mtime_s: int | None = None) -> None:
        """Write a video, in the place of what was there. `scene` chooses among those that `kind` can show."""
        self._put(name, _Object(made(kind, scene), {"": kind}, mtime_s and mtime_s * 10**9))

    def put_shard(self, name: str, members: Sequence[tuple[str, str, int]], *, torn_in: str | None = None) -> None:
        """Write a tar shard of (member, kind, scene). `torn_in`: it is cut off inside the data of that member."""
        out, kinds = io.BytesIO(), {}
        with tarfile.open(fileobj=out, mode="w") as shard:
            for member, kind, scene in members:
                entry, data = tarfile.TarInfo(member), made(kind, scene)
                entry.size = len(data)
                shard.addfile(entry, io.BytesIO(data))
                if member == torn_in:
                    self._put(name, _Object(out.getvalue()[: -(entry.size // 2)], kinds | {"": "torn"}))
                    return
                kinds[member] = kind
        self._put(name, _Object(out.getvalue(), kinds))

    def delete(self, name: str) -> _Object:
        """Take a file away. What is returned can be given to `bring_back`."""
        gone = self._objects.pop(name)
        mtime_ns = os.stat(self._path(name)).st_mtime_ns if self._local else None  # noqa: PTH116
        self._fs.rm_file(self._path(name))
        return _Object(gone.data, gone.kinds, mtime_ns)

    def bring_back(self, name: str, gone: _Object) -> None:
        """As a restore from a backup does: the same bytes with the same time."""
        self._put(name, gone)

    def link(self, name: str, target: str) -> None:
        """A symbolic link, perhaps to what is not there (yet)."""
        Path(self._path(name)).symlink_to(self._path(target))
        self._links[name] = target

    def listed(self) -> list[Version]:
        """What the archive holds now."""
        found = [
            Version(self._uri(name), member, *self._state(name), kind)
            if member == ""
            else Version(self._uri(name), member, self._state(name)[0], len_of(self._objects[name], member), kind)
            for name, one in self._objects.items()
            for member, kind in one.kinds.items()
        ]
        for name, target in self._links.items():
            there = target in self._objects
            state = self._state(name) if there else ("", 0)
            found.append(Version(self._uri(name), "", *state, self._objects[target].kinds[""] if there else "missing"))
        return found

    def _put(self, name: str, one: _Object) -> None:
        if self._local:
            Path(self._path(name)).parent.mkdir(parents=True, exist_ok=True)
        self._fs.pipe_file(self._path(name), one.data)
        if one.mtime_ns is not None and self._local:
            os.utime(self._path(name), ns=(one.mtime_ns, one.mtime_ns))
        self._objects[name] = one

    def _state(self, name: str) -> tuple[str, int]:
        """(etag, size): of a file its time and size, of an object what the server says."""
        if self._local:
            status = os.stat(self._path(name))  # noqa: PTH116
            return f"{status.st_mtime_ns:x}-{status.st_size:x}", status.st_size
        info = self._fs.info(self._path(name), refresh=True)
        return info["ETag"].strip('"'), info["size"]

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _uri(self, name: str) -> str:
        return self._path(name) if self._local else f"{self.url}/{name}"


def len_of(shard: _Object, member: str) -> int:
    """Bytes of a member, as Python's own reader of tars has it (which says nothing of one that is torn)."""
    with tarfile.open(fileobj=io.BytesIO(shard.data), mode="r:", ignore_zeros=False) as tar:
        entry = tar.next()
        while entry is not None and entry.name != member:
            entry = tar.next()
    assert entry is not None, member
    return entry.size


@cache
def made(kind: str, scene: int) -> bytes:
    """A video of a kind. Those that can be read to some extent differ from scene to scene."""
    return KINDS[kind](scene)


def _frames(scene: int, *, seconds: float = 1.0) -> np.ndarray:
    shape, motion = SHAPES[scene % len(SHAPES)], MOTIONS[scene % len(MOTIONS)]
    return render(shape=shape, motion=motion, seconds=seconds, fps=FPS, size=SIZE, seed=scene)


def _encoded(frames: np.ndarray, *, fps: int = FPS, container: str = "mp4", title: str = "") -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format=container) as file:
        if title:
            file.metadata["title"] = title
        stream = file.add_stream("libx264", rate=fps, options={"preset": "veryfast", "g": "4"})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        stream.time_base = Fraction(1, fps)
        stream.codec_context.thread_count = 1
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode(None))
    return out.getvalue()


def _cut(video: bytes, share: float) -> bytes:
    return video[: int(len(video) * share)]


KINDS = {
    "scene": lambda scene: _encoded(_frames(scene)),
    "titled": lambda scene: _encoded(_frames(scene), title=f"Scene {scene}"),
    "long": lambda scene: _encoded(np.repeat(_frames(scene), 9, axis=0)[:66], fps=2),  # 33 s: two segments
    "empty": lambda _: b"",
    "letter": lambda scene: b"Dear archivist, this was never a video.\n" * (20 + scene),
    "cut": lambda scene: _cut(_encoded(_frames(scene)), 2 / 3),  # before its index
    "half": lambda scene: _cut(_encoded(_frames(scene, seconds=3), container="matroska"), 1 / 2),
}
"""Kind → what makes it. Beside them: `torn` (a shard that ends too early), `missing` (a link to nothing)."""
