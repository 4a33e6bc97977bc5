"""Range reads of one version of one object: local, S3 or any fsspec filesystem, with retries and typed errors.

local   fstat against the etag after every read: one descriptor sees one file, but the file may be written to
S3      If-Match on every GET, and the etag of every answer compared
others  info() after every read: the bytes in between are those of the etag
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Protocol, TypeVar
from urllib.parse import quote, unquote_to_bytes

import fsspec
from fsspec.asyn import sync

from vidproc.errors import Changed, Denied, InputError, Missing, StorageError, Unreadable
from vidproc.media.patience import ONE_TRY, CutOff, again, code_of, passing, refused, unreachable

_ASKED_AGAIN = 4
"""Tries of the question whether the store answers at all: by then one request has been patient already."""
_BODY_S = 60.0
"""How long the body of one answer may take: at most 4 MiB."""
_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_ETAG_FIELDS = ("ETag", "etag", "md5Hash", "content_md5", "generation", "hash", "sha256", "crc32c")
_TIME_FIELDS = ("mtime", "LastModified", "last_modified", "Last-Modified", "updated", "modified", "created")

Result = TypeVar("Result")


class Ranges(Protocol):
    """One version of one object, open for reading by range."""

    bytes_read: int
    requests: int

    def fetch(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes from `offset`, of the version that was asked for."""

    def verify(self) -> None:
        """Raise `Changed` if the object is no longer that version."""


@contextmanager
def open_ranges(uri: str, *, etag: str) -> Iterator[Ranges]:
    """Open the version `etag` of `uri`. Raises `Missing`, `Changed`, `Denied`, `Unreadable` or a `StorageError`."""
    path = local_path(uri)
    if path is None:
        filesystem = filesystem_of(uri)
        yield S3Ranges(uri, etag, filesystem) if is_s3(filesystem) else FsspecRanges(uri, etag, filesystem)
        return
    local = LocalRanges(uri, etag, path)
    try:
        yield local
    finally:
        os.close(local.fd)


def local_path(uri: str) -> str | None:
    """The path of a local URI, None of others. `file://` is percent-decoded, a plain path is taken as it is."""
    if uri.startswith("file://"):
        return os.fsdecode(unquote_to_bytes(uri.removeprefix("file://")))
    return None if "://" in uri else uri


def local_uri(path: str) -> str:
    """The URI of an absolute local path: itself, or percent-encoded with `file://` if the name is not UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "file://" + quote(os.fsencode(path))
    return path


def filesystem_of(uri: str) -> Any:
    """The fsspec filesystem of a URI, without its cache of listings: a cached answer would hide a replaced object.

    That of S3 tries once: who asks again is `with_retries`.
    """
    protocol = uri.partition("://")[0]
    options = {"config_kwargs": ONE_TRY} if protocol in ("s3", "s3a") else {}
    filesystem = fsspec.core.url_to_fs(uri, use_listings_cache=False, **options)[0]
    if options:
        filesystem.retries = 1
    return filesystem


def is_s3(filesystem: Any) -> bool:
    return "s3" in (filesystem.protocol if isinstance(filesystem.protocol, tuple) else (filesystem.protocol,))


def local_etag(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"


def remote_etag(info: Mapping[str, Any]) -> str:
    """The version in what storage says of an object: a content tag, else a time, else ""."""
    for field in (*_ETAG_FIELDS, *_TIME_FIELDS):
        if info.get(field):
            value = info[field]
            if isinstance(value, datetime):  # some filesystems list a time as a number and describe it as a date
                value = value.timestamp()
            return f"{value:.6f}" if isinstance(value, float) else str(value).strip('"')
    return ""


class LocalRanges:
    def __init__(self, uri: str, etag: str, path: str) -> None:
        self.bytes_read = self.requests = 0
        self._uri, self._etag = uri, etag
        with storage_errors(uri):
            self.fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO must not block
        try:
            if not stat.S_ISREG(os.fstat(self.fd).st_mode):
                raise Unreadable(f"{uri} is not a regular file")
            self.verify()
        except InputError:
            os.close(self.fd)
            raise

    def fetch(self, offset: int, size: int) -> bytes:
        pieces: list[bytes] = []
        wanted = size
        with storage_errors(self._uri):
            while wanted:
                piece = os.pread(self.fd, wanted, offset)
                self.requests += 1
                if not piece:
                    raise Changed(f"{self._uri} ends at byte {offset}, before what was listed")
                pieces.append(piece)
                offset, wanted = offset + len(piece), wanted - len(piece)
        self.bytes_read += size
        self.verify()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def verify(self) -> None:
        with storage_errors(self._uri):
            now = local_etag(os.fstat(self.fd))
        check_etag(self._uri, listed=self._etag, now=now)


class S3Ranges:
    def __init__(self, uri: str, etag: str, filesystem: Any) -> None:
        self.bytes_read = self.requests = 0
        self._uri, self._etag, self._filesystem = uri, etag, filesystem
        self._bucket, self._key = split_s3(uri)

    def fetch(self, offset: int, size: int) -> bytes:
        def get() -> bytes:
            self.requests += 1
            answer = self._call("get_object", Range=f"bytes={offset}-{offset + size - 1}")
            try:
                data: bytes = sync(self._filesystem.loop, answer["Body"].read, timeout=_BODY_S)
            finally:
                answer["Body"].close()
            self.bytes_read += len(data)
            if len(data) != size:
                raise CutOff(f"{len(data)} bytes came instead of {size}")
            return data

        return with_retries(self._uri, get, ask_store=self._ask_store)

    def verify(self) -> None:
        def head() -> None:
            self.requests += 1
            self._call("head_object")

        with_retries(self._uri, head, ask_store=self._ask_store)

    def _ask_store(self) -> None:
        """A question that is not about the object. Its answer has a body, which says why we are refused."""
        self.requests += 1
        target = {"Bucket": self._bucket, "Prefix": self._key, "MaxKeys": 1}
        self._filesystem.call_s3("list_objects_v2", **target, **self._filesystem.req_kw)

    def _call(self, method: str, **arguments: Any) -> Mapping[str, Any]:
        target = {"Bucket": self._bucket, "Key": self._key, "IfMatch": f'"{self._etag}"'}
        answer: Mapping[str, Any] = self._filesystem.call_s3(method, **target, **arguments, **self._filesystem.req_kw)
        check_etag(self._uri, listed=self._etag, now=remote_etag(answer))  # some servers ignore If-Match
        return answer


class FsspecRanges:
    def __init__(self, uri: str, etag: str, filesystem: Any) -> None:
        self.bytes_read = self.requests = 0
        self._uri, self._etag, self._filesystem = uri, etag, filesystem

    def fetch(self, offset: int, size: int) -> bytes:
        def get() -> bytes:
            self.requests += 1
            data: bytes = self._filesystem.cat_file(self._uri, start=offset, end=offset + size)
            self.bytes_read += len(data)
            if len(data) != size:
                self.verify()
                raise CutOff(f"{len(data)} bytes came instead of {size}")
            return data

        data = with_retries(self._uri, get)
        self.verify()
        return data

    def verify(self) -> None:
        def info() -> Mapping[str, Any]:
            self.requests += 1
            answer: Mapping[str, Any] = self._filesystem.info(self._uri)
            return answer

        check_etag(self._uri, listed=self._etag, now=remote_etag(with_retries(self._uri, info)))


def split_s3(uri: str) -> tuple[str, str]:
    """Bucket and key of an S3 URI; unlike s3fs, a key may hold `?versionId=`."""
    bucket, _, key = uri.partition("://")[2].partition("/")
    return bucket, key


def check_etag(uri: str, *, listed: str, now: str) -> None:
    if now != listed:
        raise Changed(f"{uri} was replaced: its etag was {listed!r} when it was listed and is {now!r} now")


def with_retries(uri: str, call: Callable[[], Result], *, ask_store: Callable[[], object] | None = None) -> Result:
    """Call, again while storage has a passing trouble. Raises `Missing`, `Changed`, `Denied` or `Unreadable`.

    `ask_store`: asks the same store something that is not about this object. If that fails too, it is no video's fault:
    raises `StorageUnreachable`, or `StorageRefused`.
    """

    def once() -> Result:
        with storage_errors(uri):
            return call()

    try:
        return again(once, passing=lambda error: error.why if isinstance(error, _Passing) else None)
    except _Passing as error:
        if ask_store is not None:
            _blame_store(uri, ask_store)
        raise Unreadable(f"{error} (tried again and again)") from error.__cause__
    except (Denied, Unreadable):
        if ask_store is not None:
            _blame_store(uri, ask_store)
        raise


def _blame_store(uri: str, ask_store: Callable[[], object]) -> None:
    """Raise what is wrong with the store as a whole. That it does not let us list tells nothing."""
    try:
        again(ask_store, passing=passing, tries=_ASKED_AGAIN)
    except Exception as error:
        if (refusal := refused(uri, error)) is not None:
            raise refusal from error
        if passing(error) is not None:
            raise unreachable(uri, error) from error


class _Passing(Unreadable):
    """Worth another try. `why`: as `patience.passing` says it, or "other"."""

    def __init__(self, told: str, why: str) -> None:
        super().__init__(told)
        self.why = why


@contextmanager
def storage_errors(uri: str) -> Iterator[None]:
    """Turn what storage clients raise into typed errors. They share no base class, hence `Exception`.

    What is this machine's fault (no memory, no descriptors) is raised as it is, and that it has no valid credentials as
    `StorageRefused`: no video pays for it.
    """
    try:
        yield
    except (InputError, StorageError, MemoryError):
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Missing(f"{uri} is not there (any more)") from error
    except Exception as error:
        if getattr(error, "errno", None) in _OURS:
            raise
        if (refusal := refused(uri, error)) is not None:
            raise refusal from error
        code = code_of(error)
        if code in ("PreconditionFailed", "412"):
            raise Changed(f"{uri} was replaced after it was listed") from error
        if code in ("InvalidRange", "416"):
            raise Changed(f"{uri} is shorter than it was when it was listed") from error
        if code == "InvalidObjectState":
            raise Denied(f"{uri} lies in cold storage: restore it there first: {error}") from error
        if isinstance(error, PermissionError):
            raise Denied(f"{uri}: access denied: {error}") from error
        told = f"{uri}: {type(error).__name__}: {error}"
        why = passing(error)
        if why is None and code:  # an answer, and not one of those that pass
            raise Unreadable(told) from error
        raise _Passing(told, why or "other") from error
