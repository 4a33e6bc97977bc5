"""What lies at an archive URL: files of folders, prefixes and globs, streamed with their sizes and etags.

    place = locate("s3://bucket/2024/")          # raises UsageError if nothing is there
    for found in find(place, wants=is_video, ignored=ignored): ...

Local folders: links to files are followed (a row under the link's name); links to folders are not, so that there are
no loops and nothing is listed twice: they are counted as ignored. Give the folder behind one as a URL of its own.
"""

import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from fsspec.utils import glob_translate

from vidproc.errors import (
    Denied,
    InputError,
    Missing,
    StorageRefused,
    StorageUnreachable,
    Unreadable,
    UsageError,
    VidprocError,
)
from vidproc.media.ranges import (
    filesystem_of,
    is_s3,
    local_etag,
    local_path,
    local_uri,
    remote_etag,
    split_s3,
    storage_errors,
    with_retries,
)
from vidproc.media.s3_keys import has_keys, list_keys
from vidproc.media.selection import Ignored
from vidproc.media.sources import Source

LINK_TO_FOLDER = "(link to a folder)"
NOT_A_FILE = "(not a regular file)"
_MAGIC = re.compile(r"[*?\[]")


class Found(NamedTuple):
    """A file: where it is, its name below the archive's URL, or why it cannot be read."""

    source: Source
    name: str
    problem: InputError | None = None


@dataclass(frozen=True)
class Place:
    """An archive URL, looked up. `filesystem`: None for local ones. `path`: the filesystem's own form of the URL."""

    url: str
    kind: Literal["file", "folder", "glob"]
    path: str
    filesystem: Any = None

    @property
    def root(self) -> str:
        """The folder that names are relative to, with its last slash; of a glob the part without magic."""
        if self.kind == "folder":
            return self.path.rstrip("/") + "/"
        magic = _MAGIC.search(self.path) if self.kind == "glob" else None
        return self.path[: magic.start() if magic else None].rpartition("/")[0] + "/"

    @property
    def uri(self) -> str:
        """The URI that a single file has in every listing, however its URL was written."""
        if self.filesystem is None:
            return local_uri(self.path)
        exact = is_s3(self.filesystem) or _is_http(self.filesystem)
        return self.url if exact else str(self.filesystem.unstrip_protocol(self.path))

    def contains(self, other: "Place") -> bool:
        """Whether everything of the other place is found here too."""
        if type(self.filesystem) is not type(other.filesystem):
            return False
        if self.kind != "folder":
            return (self.kind, self.path) == (other.kind, other.path)
        if self.filesystem is None:  # a link to a folder is not followed: what is behind one is elsewhere
            return f"{os.path.realpath(other.root)}/".startswith(f"{os.path.realpath(self.root)}/".replace("//", "/"))
        return other.root.startswith(self.root)


def locate(url: str) -> Place:
    """Raises `UsageError` if there is nothing at the URL, or if it cannot be asked; `StorageError` if storage fails."""
    path = local_path(url)
    if path is not None:
        return _locate_local(url, path)
    if "::" in url:
        raise UsageError(f"archive {url}: chained URLs cannot be read by range and pinned: give the files themselves")
    try:
        filesystem = filesystem_of(url)
    except (ValueError, ImportError) as error:
        raise UsageError(f"{url}: {error}: use a path, s3://…, https://… or another fsspec URL") from error
    path = url.partition("://")[2] if is_s3(filesystem) else str(filesystem._strip_protocol(url))
    try:
        return Place(url, _kind(url, filesystem, path), path, filesystem)
    except InputError as error:
        raise _not_listed(url, error) from error


def find(place: Place, *, wants: Callable[[str], bool], ignored: Ignored, threads: int = 8) -> Iterator[Found]:
    """The wanted files of a place, in no particular order. Names that are not wanted go to `ignored`.

    Raises `UsageError` or `StorageError` if the place itself cannot be listed; a folder in it that cannot is a `Found`
    with a problem.
    """
    if place.kind == "file":
        name = (
            urlsplit(place.url).path.rpartition("/")[2] if _is_http(place.filesystem) else place.path.rpartition("/")[2]
        )
        if wants(name):
            yield look_up(place.uri, name=name)
        else:
            ignored.add_name(name)
        return
    pattern = re.compile(glob_translate(place.path)) if place.kind == "glob" else None
    names = _Names(wants, ignored, pattern, place.root)
    try:
        if place.filesystem is None:
            depth = None if place.kind == "folder" or "**" in place.path else place.path[len(place.root) :].count("/")
            yield from _walk_local(place.root, depth, names)
        elif is_s3(place.filesystem):
            yield from _walk_s3(place, names, threads)
        else:
            yield from _walk_remote(place, names)
    except InputError as error:
        raise _not_listed(place.url, error) from error


def _not_listed(url: str, error: InputError) -> VidprocError:
    """What is not there was asked for wrongly; what storage does not give today may be there tomorrow."""
    if isinstance(error, Denied):
        return StorageRefused(f"archive {url} cannot be listed: {error}: allow it, then run the same command again")
    if isinstance(error, Unreadable):
        return StorageUnreachable(f"archive {url} cannot be listed: {error}: run the same command again later")
    return UsageError(f"archive {url} cannot be listed: {error}")


def look_up(uri: str, *, name: str) -> Found:
    """One file by its URI: for local ones a stat, for remote ones a HEAD."""
    path = local_path(uri)
    if path is not None:
        return _local_file(path, name)
    filesystem = filesystem_of(uri)
    try:
        return _remote_file(uri, name, _info(uri, filesystem))
    except InputError as error:
        return Found(Source(uri, "", 0, 0, ""), name, error)


def _locate_local(url: str, path: str) -> Place:
    if url.startswith("file://") and os.path.lexists(url.removeprefix("file://")):
        path = url.removeprefix("file://")  # given as it is, not percent-encoded
    path = os.path.abspath(Path(path).expanduser())  # noqa: PTH100  (Path.absolute keeps "..")
    if os.path.isdir(path):  # noqa: PTH112
        return Place(url, "folder", path)
    if os.path.lexists(path):
        return Place(url, "file", path)
    if _MAGIC.search(path):
        return Place(url, "glob", path)
    raise UsageError(
        f"archive {url} does not exist (looked for {local_uri(path)}): give a file, a folder, a glob or a URL"
    )


def _kind(url: str, filesystem: Any, path: str) -> Literal["file", "folder", "glob"]:
    if is_s3(filesystem) and (path.endswith("/") or "/" not in path):
        return "folder"
    if _is_http(filesystem) and urlsplit(url).path.endswith("/"):
        raise UsageError(f"archive {url}: HTTP has no folders: give a .csv or .parquet list of URIs")
    try:
        info = _info(url, filesystem)
    except Missing:
        if is_s3(filesystem) and has_keys(filesystem, *split_s3(url + "/")):
            return "folder"
        if _MAGIC.search(path) and not _is_http(filesystem):
            return "glob"
        raise
    return "folder" if info.get("type") == "directory" else "file"


def _info(uri: str, filesystem: Any) -> Mapping[str, Any]:
    """What storage says of one object. s3fs would cut a `?versionId=` off a key, hence a HEAD of our own for S3."""
    if not is_s3(filesystem):
        return with_retries(uri, lambda: dict(filesystem.info(uri)))
    bucket, key = split_s3(uri)
    head = with_retries(uri, lambda: filesystem.call_s3("head_object", Bucket=bucket, Key=key, **filesystem.req_kw))
    return {**head, "size": head["ContentLength"]}


def _is_http(filesystem: Any) -> bool:
    """HTTP has no folders; and in its URLs `?` and `[` are no magic."""
    return filesystem is not None and "https" in filesystem.protocol


@dataclass(frozen=True)
class _Names:
    """Which names below `root` to yield. Names that a glob does not match were not asked for: they are not counted."""

    wants: Callable[[str], bool]
    ignored: Ignored
    pattern: re.Pattern[str] | None
    root: str

    def wanted(self, name: str) -> bool:
        if self.pattern and not self.pattern.match(self.root + name):
            return False
        wanted = self.wants(name)
        if not wanted:
            self.ignored.add_name(name)
        return wanted


def _walk_local(root: str, depth: int | None, names: _Names) -> Iterator[Found]:
    pending = [(root, 0)]
    while pending:
        folder, level = pending.pop()
        try:
            entries = os.scandir(folder)
        except OSError as error:
            source = Source(local_uri(folder), "", 0, 0, "")
            yield Found(source, folder[len(root) :], Unreadable(f"folder {local_uri(folder)}: {error.strerror}"))
            continue
        with entries:
            for entry in entries:
                name = entry.path[len(root) :]
                if entry.is_dir(follow_symlinks=False):
                    if depth is None or level < depth:
                        pending.append((entry.path, level + 1))
                elif entry.is_symlink() and entry.is_dir():
                    names.ignored.add(LINK_TO_FOLDER)
                elif names.wanted(name):
                    found = _local_file(entry.path, name)
                    if isinstance(found.problem, _NotAFile):
                        names.ignored.add(NOT_A_FILE)
                    else:
                        yield found


class _NotAFile(Unreadable):
    """A folder, FIFO, socket or device."""


def _local_file(path: str, name: str) -> Found:
    uri = local_uri(path)
    try:
        with storage_errors(uri):
            status = os.stat(path)  # noqa: PTH116
    except InputError as error:
        return Found(Source(uri, "", 0, 0, ""), name, error)
    problem = None if stat.S_ISREG(status.st_mode) else _NotAFile(f"{uri} is not a regular file")
    return Found(Source(uri, "", 0, status.st_size, local_etag(status)), name, problem)


def _walk_s3(place: Place, names: _Names, threads: int) -> Iterator[Found]:
    protocol = place.url.partition("://")[0]
    bucket, prefix = split_s3(f"{protocol}://{place.path}")
    if place.kind == "folder":
        prefix = prefix and prefix.rstrip("/") + "/"
    else:
        prefix = _MAGIC.split(prefix)[0]
    start = len(place.root) - len(bucket) - 1
    for key in list_keys(place.filesystem, bucket=bucket, prefix=prefix, threads=threads):
        name = key["Key"][start:]
        if not name.endswith("/") and names.wanted(name):  # "folder/" is what consoles create to show an empty folder
            yield Found(Source(f"{protocol}://{bucket}/{key['Key']}", "", 0, key["Size"], remote_etag(key)), name)


def _walk_remote(place: Place, names: _Names) -> Iterator[Found]:
    """One folder at a time: fsspec's `find` would hold the whole tree."""
    root = place.root.rstrip("/") or "/"
    with storage_errors(place.url):
        for _, _, files in place.filesystem.walk(root, detail=True, on_error="raise"):
            for info in files.values():
                name = info["name"][len(place.root) :]
                if names.wanted(name):
                    yield _remote_file(place.filesystem.unstrip_protocol(info["name"]), name, info)


def _remote_file(uri: str, name: str, info: Mapping[str, Any]) -> Found:
    size, etag = info.get("size"), remote_etag(info)
    if info.get("type") == "directory":
        return Found(Source(uri, "", 0, 0, etag), name, _NotAFile(f"{uri} is a folder: name the files in it"))
    if size is None:
        problem = Unreadable(f"{uri}: its server does not tell its size, which reading by range needs")
        return Found(Source(uri, "", 0, 0, etag), name, problem)
    return Found(Source(uri, "", 0, size, etag), name)
