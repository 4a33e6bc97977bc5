"""Where one video's bytes are, and reading them by range: never a mixture of two versions.

    with open_source(source) as opened:
        head = opened.read(0, 65536)

A local video hands out its file descriptor, so that a decoding child reads it without copies. A remote one is read
in blocks: sequential reads grow up to `MAX_RUN` blocks a request, and at most `CACHED_BLOCKS` blocks are held.
"""

import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, Protocol

from vidproc.errors import Unreadable
from vidproc.media.ranges import LocalRanges, Ranges, open_ranges

BLOCK_BYTES = 1 << 20
MAX_RUN = 4
CACHED_BLOCKS = 16
MOST_WAITING_S = 900.0
"""For how long one task waits for its video's bytes in all: well below what Ray Data takes for standing still."""
"""At most 16 MiB of a remote video are in memory; one request fetches 1, 2, then 4 MiB."""


@dataclass(frozen=True)
class Source:
    """One version of one video: a file, or a member of a tar shard.

    `member` is "" for a plain file. `offset` and `bytes`: where the video lies inside `uri`. `etag`: that of `uri`.
    """

    uri: str
    member: str
    offset: int
    bytes: int
    etag: str

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Source":
        """The source in a row of a listing, a plan or a table of examples."""
        return cls(**{field.name: row[field.name] for field in fields(cls)})

    @property
    def video_id(self) -> str:
        """32 hex digits that name this version: new bytes are a new video, and another offset alone is not."""
        identity = json.dumps([self.uri, self.member, self.etag, self.bytes], separators=(",", ":"))
        return hashlib.sha256(identity.encode()).hexdigest()[:32]


class OpenSource(Protocol):
    """An open video. For one thread at a time. All methods raise what `open_source` raises."""

    size: int
    local: tuple[int, int] | None
    """(file descriptor, offset of the video in it) of a local video; None of a remote one."""

    @property
    def bytes_read(self) -> int:
        """Bytes that were fetched from storage so far."""

    @property
    def requests(self) -> int:
        """Requests to storage so far, retries included."""

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` of the video; fewer only at its end."""

    def verify(self) -> None:
        """Raise `Changed` if the object is no longer the one that was listed."""


@contextmanager
def open_source(source: Source) -> Iterator[OpenSource]:
    """Open the listed version of a video.

    Raises `Missing`, `Changed` (already at opening), `Denied` or `Unreadable`; a `StorageError` where storage fails as
    a whole.
    """
    with open_ranges(source.uri, etag=source.etag) as ranges:
        if isinstance(ranges, LocalRanges):
            yield _LocalVideo(source, ranges)
        else:
            yield _RemoteVideo(source, ranges)


class _LocalVideo:
    def __init__(self, source: Source, ranges: LocalRanges) -> None:
        self.size = source.bytes
        self.local: tuple[int, int] | None = (ranges.fd, source.offset)
        self._offset = source.offset
        self._ranges = ranges

    @property
    def bytes_read(self) -> int:
        return self._ranges.bytes_read

    @property
    def requests(self) -> int:
        return self._ranges.requests

    def read(self, offset: int, size: int) -> bytes:
        size = clip_size(offset, size, whole=self.size)
        return self._ranges.fetch(self._offset + offset, size) if size else b""

    def verify(self) -> None:
        self._ranges.verify()


class _RemoteVideo:
    def __init__(self, source: Source, ranges: Ranges) -> None:
        self.size = source.bytes
        self.local: tuple[int, int] | None = None
        self._offset = source.offset
        self._ranges = ranges
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._runs: dict[int, int] = {}  # block → length of the run that fetched it
        self._waited_s = 0.0
        if self.size:
            self._block(0)  # every demuxer starts here; and it finds out now whether the object was replaced
        else:
            self.verify()

    @property
    def bytes_read(self) -> int:
        return self._ranges.bytes_read

    @property
    def requests(self) -> int:
        return self._ranges.requests

    def read(self, offset: int, size: int) -> bytes:
        size = clip_size(offset, size, whole=self.size)
        pieces = []
        while size:
            index, start = divmod(offset, BLOCK_BYTES)
            piece = self._block(index)[start : start + size]
            pieces.append(piece)
            offset, size = offset + len(piece), size - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def verify(self) -> None:
        self._ranges.verify()

    def _block(self, index: int) -> bytes:
        if index not in self._blocks:
            self._fetch_run(index)
        self._blocks.move_to_end(index)
        return self._blocks[index]

    def _fetch_run(self, index: int) -> None:
        """Fetch from block `index` on: one block after a jump, twice the previous run when reading on from it.

        The run is known per block, so picture and sound read alternately from far apart both count as sequential.
        """
        run = min(MAX_RUN, 2 * self._runs[index - 1]) if index - 1 in self._blocks else 1
        start = index * BLOCK_BYTES
        if self._waited_s > MOST_WAITING_S:
            raise Unreadable(f"storage took {self._waited_s:.0f} s to give {self.bytes_read} bytes: that is too slow")
        asked = time.monotonic()
        data = self._ranges.fetch(self._offset + start, min(run * BLOCK_BYTES, self.size - start))
        self._waited_s += time.monotonic() - asked
        for i in range(0, len(data), BLOCK_BYTES):
            block = index + i // BLOCK_BYTES
            self._blocks[block] = data[i : i + BLOCK_BYTES]
            self._runs[block] = run
        while len(self._blocks) > CACHED_BLOCKS:
            del self._runs[self._blocks.popitem(last=False)[0]]


def clip_size(offset: int, size: int, *, whole: int) -> int:
    """How many of `size` bytes from `offset` exist in a video of `whole` bytes. Raises ValueError."""
    if offset < 0 or size < 0:
        raise ValueError(f"offset {offset} and size {size} must not be negative")
    return max(0, min(size, whole - offset))
