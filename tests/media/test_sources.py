"""Reading by range: exactly the listed version, in few requests, with bounded memory and typed errors."""

import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import s3fs
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from vidproc.errors import Changed, Denied, InputError, Missing, StorageRefused, Unreadable
from vidproc.media import patience, ranges, sources
from vidproc.media.ranges import local_etag, local_path, local_uri, remote_etag
from vidproc.media.sources import BLOCK_BYTES, CACHED_BLOCKS, Source, open_source

DATA = bytes(range(256)) * 20_000  # 5.1 MB


class Remote(MemoryFileSystem):
    """Storage in memory that counts reads, and fails or lies when it is told to."""

    protocol = "remote"
    reads = 0
    failures: list[Exception] = []  # noqa: RUF012  (one list for all instances: fsspec caches them by thread)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("remote://").lstrip("/")

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: object) -> bytes:
        Remote.reads += 1
        if Remote.failures:
            raise Remote.failures.pop(0)
        return super().cat_file(path, start=start, end=end, **kwargs)


fsspec.register_implementation("remote", Remote, clobber=True)


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> Iterator[Remote]:
    Remote.reads, Remote.failures = 0, []
    monkeypatch.setattr(patience, "backoff_s", lambda attempt: 0.0)
    filesystem = Remote()
    yield filesystem
    filesystem.store.clear()


def remote_source(filesystem: Remote, data: bytes = DATA, *, offset: int = 0, size: int | None = None) -> Source:
    filesystem.pipe_file("/a.mp4", data)
    etag = remote_etag(filesystem.info("/a.mp4"))
    return Source("remote:///a.mp4", "m" if offset else "", offset, len(data) - offset if size is None else size, etag)


def local_source(path: Path, *, offset: int = 0, size: int | None = None) -> Source:
    status = path.stat()
    return Source(str(path), "", offset, status.st_size - offset if size is None else size, local_etag(status))


def test_the_identity_of_a_video() -> None:
    source = Source("s3://b/a.tar", "a.mp4", 512, 1000, "e1")
    assert len(source.video_id) == 32 and int(source.video_id, 16)
    assert source.video_id == "477048322ff82a3eea2d87d6c10904f2"
    others = [
        Source("s3://b/b.tar", "a.mp4", 512, 1000, "e1"),
        Source("s3://b/a.tar", "b.mp4", 512, 1000, "e1"),
        Source("s3://b/a.tar", "a.mp4", 512, 1001, "e1"),
        Source("s3://b/a.tar", "a.mp4", 512, 1000, "e2"),
        Source("s3://b/a.tara.mp4", "", 512, 1000, "e1"),
        Source("s3://b/a.tar", 'a.mp4","e1', 512, 1000, ""),
    ]
    assert len({source.video_id, *(other.video_id for other in others)}) == 7
    assert Source("s3://b/a.tar", "a.mp4", 9999, 1000, "e1").video_id == source.video_id


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(DATA) + 10), st.integers(0, 3 * BLOCK_BYTES)), max_size=8),
    st.integers(0, 5000),
)
def test_remote_reads_equal_slices(reads: list[tuple[int, int]], start: int) -> None:
    filesystem = Remote()
    size = len(DATA) - start - 1000
    source = remote_source(filesystem, offset=start, size=size)
    with open_source(source) as opened:
        for offset, length in reads:
            assert opened.read(offset, length) == DATA[start : start + size][offset : offset + length]


def test_sequential_reading_takes_few_requests_and_bounded_memory(remote: Remote) -> None:
    data = os.urandom(40 * BLOCK_BYTES + 77)
    with open_source(remote_source(remote, data)) as opened:
        assert isinstance(opened, sources._RemoteVideo)
        pieces = []
        for offset in range(0, len(data), 32_768):
            pieces.append(opened.read(offset, 32_768))
            assert sum(map(len, opened._blocks.values())) <= CACHED_BLOCKS * BLOCK_BYTES
            assert len(opened._runs) == len(opened._blocks)
        assert b"".join(pieces) == data
        assert opened.bytes_read == len(data)
    assert Remote.reads <= 13  # 1 + 2 + 10 × 4 blocks


def test_two_streams_far_apart_both_read_ahead(remote: Remote) -> None:
    data = bytes(40 * BLOCK_BYTES)
    with open_source(remote_source(remote, data)) as opened:
        for offset in range(0, 16 * BLOCK_BYTES, 65_536):
            opened.read(offset, 65_536)
            opened.read(20 * BLOCK_BYTES + offset, 65_536)
        assert opened.bytes_read <= 40 * BLOCK_BYTES
    assert Remote.reads <= 14


def test_random_reads_fetch_one_block(remote: Remote) -> None:
    with open_source(remote_source(remote, bytes(40 * BLOCK_BYTES))) as opened:
        for block in (30, 10, 20):
            opened.read(block * BLOCK_BYTES + 5, 100)
        assert opened.bytes_read == 4 * BLOCK_BYTES


def test_replaced_while_read(remote: Remote) -> None:
    source = remote_source(remote, bytes(3 * BLOCK_BYTES))
    with open_source(source) as opened:
        remote.pipe_file("/a.mp4", b"\1" * 3 * BLOCK_BYTES)
        with pytest.raises(Changed, match="replaced"):
            opened.read(2 * BLOCK_BYTES, 10)
        with pytest.raises(Changed):
            opened.verify()
    with pytest.raises(Changed), open_source(source):
        pass


def test_empty_and_replaced_empty(remote: Remote) -> None:
    source = remote_source(remote, b"")
    with open_source(source) as opened:
        assert opened.read(0, 100) == b""
    remote.pipe_file("/a.mp4", b"now it has content")
    with pytest.raises(Changed), open_source(source):
        pass


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        ([OSError("reset")], None),
        ([TimeoutError(), ConnectionResetError()], None),
        ([OSError("again and again")] * patience.TRIES, Unreadable),
        ([FileNotFoundError()], Missing),
        ([PermissionError("no")], Denied),
        ([RuntimeError("a client's own error")] * patience.TRIES, Unreadable),
    ],
)
def test_passing_trouble_is_retried_and_lasting_trouble_has_a_type(
    remote: Remote, failures: list[Exception], expected: type[InputError] | None
) -> None:
    source = remote_source(remote, b"abc")
    Remote.failures = list(failures)
    if expected is None:
        with open_source(source) as opened:
            assert opened.read(0, 3) == b"abc"
    else:
        with pytest.raises(expected) as caught, open_source(source):
            pass
        assert type(caught.value) is expected
    assert Remote.reads == len(failures) + (expected is None)


def test_local_files_hand_over_their_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(DATA)
    with open_source(local_source(path, offset=1000, size=50)) as opened:
        assert opened.local is not None
        fd, base = opened.local
        assert os.pread(fd, 50, base) == DATA[1000:1050] == opened.read(0, 100)
        assert opened.size == 50 and opened.read(40, 100) == DATA[1040:1050]
        assert opened.read(50, 10) == opened.read(1000, 10) == b""
        assert opened.bytes_read == 60
        with pytest.raises(ValueError, match="negative"):
            opened.read(-1, 10)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@pytest.mark.parametrize("change", ["append", "truncate", "overwrite"])
def test_local_change_while_read(tmp_path: Path, change: str) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(DATA)
    os.utime(path, ns=(0, 0))
    source = local_source(path)
    with open_source(source) as opened:
        with path.open("r+b") as file:
            if change == "append":
                file.seek(0, os.SEEK_END)
            file.truncate(100) if change == "truncate" else file.write(b"other")
        with pytest.raises(Changed):
            opened.read(0, 1000)
        with pytest.raises(Changed):
            opened.verify()
    with pytest.raises(Changed), open_source(source):
        pass


def test_a_file_replaced_by_renaming_is_read_to_its_end(tmp_path: Path) -> None:
    path, other = tmp_path / "a.mp4", tmp_path / "b.mp4"
    path.write_bytes(b"old")
    other.write_bytes(b"new")
    with open_source(local_source(path)) as opened:
        other.rename(path)
        assert opened.read(0, 3) == b"old"
        opened.verify()


def test_local_errors(tmp_path: Path) -> None:
    with pytest.raises(Missing), open_source(Source(str(tmp_path / "no.mp4"), "", 0, 1, "e")):
        pass
    os.mkfifo(tmp_path / "fifo.mp4")
    for name in ("", "fifo.mp4"):
        with (
            pytest.raises(Unreadable, match="not a regular file"),
            open_source(Source(str(tmp_path / name), "", 0, 1, "e")),
        ):
            pass
    (tmp_path / "a.mp4").write_bytes(b"abc")
    with pytest.raises(Missing), open_source(Source(str(tmp_path / "a.mp4" / "b.mp4"), "", 0, 1, "e")):
        pass


@given(st.binary(min_size=1, max_size=40).filter(lambda name: b"\0" not in name))
def test_local_uris_are_utf8_and_lead_back(name: bytes) -> None:
    path = "/" + os.fsdecode(name)
    assert local_path(local_uri(path)) == path
    assert local_uri(path).encode()


@pytest.mark.s3
def test_s3_reads_are_pinned(s3: str) -> None:
    filesystem = s3fs.S3FileSystem()
    uri = f"{s3}/sources/odd ?&+é.mp4"
    bucket, key = ranges.split_s3(uri)

    def put(data: bytes) -> None:
        filesystem.call_s3("put_object", Bucket=bucket, Key=key, Body=data)

    put(DATA)
    etag = remote_etag(filesystem.call_s3("head_object", Bucket=bucket, Key=key))
    source = Source(uri, "m.mp4", 1000, 5_000_000, etag)
    with open_source(source) as opened:
        assert opened.read(0, 3_000_000) == DATA[1000:3_001_000]
        assert opened.read(4_999_990, 100) == DATA[5_000_990:5_001_000]
        opened.verify()
        put(DATA[::-1])
        with pytest.raises(Changed):
            opened.read(3 * BLOCK_BYTES, 10)
        with pytest.raises(Changed):
            opened.verify()
    with pytest.raises(Changed), open_source(source):
        pass
    put(DATA)  # the same bytes have the same etag: the same version
    with open_source(source) as opened:
        assert opened.read(0, 10) == DATA[1000:1010]


@pytest.mark.s3
def test_s3_errors(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for uri in (f"{s3}/sources/nothing.mp4", "s3://there-is-no-such-bucket/a.mp4"):
        with pytest.raises(Missing), open_source(Source(uri, "", 0, 1, "e")):
            pass
    s3fs.S3FileSystem().pipe_file(f"{s3}/sources/a.mp4", b"abc")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StorageRefused, match="renew"), open_source(Source(f"{s3}/sources/a.mp4", "", 0, 3, "e")):
        pass
    monkeypatch.undo()
    s3fs.S3FileSystem.clear_instance_cache()
