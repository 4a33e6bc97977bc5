"""A small object store over local folders and S3: whole objects, create-only objects, asked again while that helps."""

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

import fsspec

from vidproc.errors import UsageError
from vidproc.media.patience import MANY_TRIES, ONE_TRY, code_of, patiently

_TEMPORARY = ".writing-"
_ONE_PUT_BYTES = 2**31  # below this size s3fs sends one PUT: there is no half of an object to see or to clean up
_READ_AHEAD_BYTES = 2**22
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class StoredFile:
    """One file as storage shows it. `modified_s`: seconds since 1970 on the storage's clock."""

    path: str
    bytes: int
    modified_s: float

    @property
    def is_temporary(self) -> bool:
        """Whether this is what a killed (or a busy) writer has not yet given its name."""
        return self.path.rpartition("/")[2].startswith(_TEMPORARY)


class _Objects(Protocol):
    """The verbs, on full paths, without retries."""

    def put(self, path: str, data: bytes) -> None: ...
    def create(self, path: str, data: bytes) -> bool: ...
    def get(self, path: str) -> bytes | None: ...
    def list(self, prefix: str) -> list[str]: ...
    def files(self, prefix: str) -> Sequence[StoredFile]: ...
    def size(self, path: str) -> int | None: ...
    def old_versions(self, prefix: str) -> int: ...
    def delete(self, path: str) -> None: ...
    def filesystem(self) -> Any: ...


class Store:
    """The objects below `url`: a local folder (`out/tables`, `/data/tables`, `file:///data/tables`) or `s3://bucket/prefix`.

    Paths are relative to `url`, with `/`. Safe to use from several threads. S3 takes its settings from the environment
    (`AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`, …), as delta-rs does. What passes is waited out; what lasts is raised as a
    `StorageError` that says what to do.
    """

    def __init__(self, url: str) -> None:
        scheme, _, rest = url.partition("://")
        if not rest:
            self.root, self._objects = str(Path(url).absolute()), _LocalObjects()
        elif scheme == "file":
            self.root, self._objects = unquote(urlsplit(url).path).rstrip("/"), _LocalObjects()
        elif scheme == "s3":
            self.root, self._objects = "s3://" + rest.strip("/"), _S3Objects()
        else:
            raise UsageError(
                f"{url!r}: {scheme}:// is not a place for tables: use a local folder or s3://bucket/prefix"
            )
        self.is_local = not self.root.startswith("s3://")

    _objects: _Objects

    def url_of(self, path: str = "") -> str:
        """The whole URL: an absolute path for a local folder. DeltaTable takes it as it is."""
        return f"{self.root}/{path}" if path else self.root

    def filesystem(self) -> Any:
        """The fsspec filesystem that holds the objects, for readers of many of them (pyarrow datasets)."""
        return self._objects.filesystem()

    def put(self, path: str, data: bytes) -> None:
        """Write a whole object, replacing what was there. Readers see the old or the new one, nothing between."""
        self._retry(lambda: self._objects.put(self.url_of(path), data))

    def create(self, path: str, data: bytes) -> bool:
        """Write a whole object unless one is there. Of many callers exactly one gets True.

        `data` must be unique to the caller (hold a random token): when the reply to a request was lost, that the object
        holds exactly `data` is how we know that the request was ours.
        """
        created = self._retry(lambda: self._objects.create(self.url_of(path), data))
        return created or self.get(path) == data

    def get(self, path: str) -> bytes | None:
        """The object's bytes, None if there is none."""
        return self._retry(lambda: self._objects.get(self.url_of(path)))

    def list(self, prefix: str) -> list[str]:
        """The paths of all objects in the folder `prefix` and below, sorted."""
        paths = self._retry(lambda: self._objects.list(self.url_of(prefix.rstrip("/"))))
        return sorted(path.removeprefix(self.root + "/") for path in paths)

    def files(self, prefix: str = "") -> Sequence[StoredFile]:
        """All files in the folder `prefix` and below, temporary ones included, by path."""
        found = self._retry(lambda: self._objects.files(self.url_of(prefix.rstrip("/"))))
        return sorted((replace(file, path=file.path.removeprefix(self.root + "/")) for file in found), key=_path_of)

    def size(self, path: str) -> int | None:
        """The object's size in bytes, None if there is none."""
        return self._retry(lambda: self._objects.size(self.url_of(path)))

    def old_versions(self) -> int:
        """How many old versions of removed or replaced objects a bucket still keeps here; 0 where nothing does that."""
        return self._retry(lambda: self._objects.old_versions(self.url_of()))

    def delete(self, path: str) -> None:
        """Remove an object; that there is none is fine."""
        self._retry(lambda: self._objects.delete(self.url_of(path)))

    def _retry(self, request: Callable[[], _Answer]) -> _Answer:
        return patiently(f"tables at {self.root}", request)


def _path_of(file: StoredFile) -> str:
    return file.path


def _raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


class _LocalObjects:
    """Files. A temporary file beside the target becomes the target by rename (put) or hard link (create)."""

    def put(self, path: str, data: bytes) -> None:
        with self._temporary(path, data) as temporary:
            temporary.replace(path)

    def create(self, path: str, data: bytes) -> bool:
        with self._temporary(path, data) as temporary:
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
        return True

    def get(self, path: str) -> bytes | None:
        try:
            return Path(path).read_bytes()
        except FileNotFoundError:
            return None

    def list(self, prefix: str) -> list[str]:
        files = [path for path in Path(prefix).rglob("*") if path.is_file() and not path.name.startswith(_TEMPORARY)]
        return [str(path) for path in files]

    def files(self, prefix: str) -> Sequence[StoredFile]:
        found = []
        for folder, _, names in os.walk(prefix, onerror=_raise_unless_gone):
            for name in names:
                path = f"{folder}/{name}"
                with contextlib.suppress(FileNotFoundError):  # gone since it was listed
                    state = Path(path).stat()
                    found.append(StoredFile(path, state.st_size, state.st_mtime))
        return found

    def size(self, path: str) -> int | None:
        try:
            return Path(path).stat().st_size
        except FileNotFoundError:
            return None

    def old_versions(self, prefix: str) -> int:  # noqa: ARG002
        return 0

    def delete(self, path: str) -> None:
        Path(path).unlink(missing_ok=True)

    def filesystem(self) -> Any:
        return fsspec.filesystem("file")

    @contextlib.contextmanager
    def _temporary(self, path: str, data: bytes) -> Iterator[Path]:
        folder = Path(path).parent
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f"{_TEMPORARY}{uuid.uuid4().hex}"
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)


class _S3Objects:
    """S3 through s3fs, whose own tries are left to `Store`."""

    def __init__(self) -> None:
        import s3fs  # here, because it costs half a second that local folders need not pay

        self._fs: Any = s3fs.S3FileSystem(use_listings_cache=False, config_kwargs=ONE_TRY)
        self._fs.retries = 1
        self._for_others: Any = s3fs.S3FileSystem(
            use_listings_cache=False, config_kwargs=MANY_TRIES, default_block_size=_READ_AHEAD_BYTES
        )

    def put(self, path: str, data: bytes) -> None:
        self._fs.pipe_file(path, data, chunksize=_ONE_PUT_BYTES)

    def create(self, path: str, data: bytes) -> bool:
        try:
            self._fs.pipe_file(path, data, chunksize=_ONE_PUT_BYTES, mode="create")
        except OSError as error:
            if isinstance(error, FileExistsError) or code_of(error) in ("PreconditionFailed", "412"):
                return False
            raise
        return True

    def get(self, path: str) -> bytes | None:
        try:
            data: bytes = self._fs.cat_file(path)
        except FileNotFoundError:
            return None
        return data

    def list(self, prefix: str) -> list[str]:
        return [f"s3://{path}" for path in self._fs.find(prefix)]

    def files(self, prefix: str) -> Sequence[StoredFile]:
        found = self._fs.find(prefix, detail=True)
        return [
            StoredFile(f"s3://{path}", info["size"], info["LastModified"].timestamp()) for path, info in found.items()
        ]

    def size(self, path: str) -> int | None:
        try:
            size_bytes: int = self._fs.info(path)["size"]
        except FileNotFoundError:
            return None
        return size_bytes

    def old_versions(self, prefix: str) -> int:
        bucket, _, key = prefix.removeprefix("s3://").partition("/")
        place, old = {"Bucket": bucket, "Prefix": f"{key}/"}, 0
        while True:
            page = self._fs.call_s3("list_object_versions", **place)
            old += sum(not version["IsLatest"] for version in page.get("Versions", ()))
            if not page.get("IsTruncated"):
                return old
            place |= {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page["NextVersionIdMarker"]}

    def delete(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(path)

    def filesystem(self) -> Any:
        return self._for_others
