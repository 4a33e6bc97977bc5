"""Bring a checkpoint's bytes here: read by fsspec, cached by SHA-256, checked every time."""

import hashlib
import os
import tempfile
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from vidproc.errors import WeightsError


def cache_dir() -> Path:
    """Where remote checkpoints are kept: `$VIDPROC_CACHE`, else `~/.cache/vidproc`."""
    return Path(os.environ.get("VIDPROC_CACHE") or Path.home() / ".cache" / "vidproc")


def checked_bytes(url: str, *, sha256: str) -> bytes:
    """The bytes at `url`, from the cache if they were fetched before. Raises `WeightsError` if their hash differs."""
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise WeightsError(f"weights {url}: {error}") from error
    if isinstance(filesystem, LocalFileSystem):
        data = _read(url)
    else:
        cached = cache_dir() / "weights" / f"{sha256}-{Path(path).name}"
        data = cached.read_bytes() if cached.exists() else b""
        if hashlib.sha256(data).hexdigest() != sha256:  # not here yet, or damaged here
            data = _read(url)
            if hashlib.sha256(data).hexdigest() == sha256:
                _write_whole(cached, data)
    check(url, data, sha256=sha256)
    return data


def first_seen(url: str, *, md5: str = "") -> tuple[bytes, str]:
    """The bytes at `url` and their SHA-256, which nobody published: what came first is kept, and stands for it.

    `md5`: what they must have, where that was published. Raises `WeightsError` if they have not, or are no longer those
    that came first.
    """
    name = Path(url).name
    note = cache_dir() / "published" / f"{name}.sha256"
    if note.exists():
        sha256 = note.read_text().strip()
        return checked_bytes(url, sha256=sha256), sha256
    data = _read(url)
    if md5 and (found := md5_of(data)) != md5:
        raise WeightsError(f"{url} has the MD5 {found}, but {md5} was published: fetch it again, or from elsewhere")
    sha256 = hashlib.sha256(data).hexdigest()
    _write_whole(cache_dir() / "weights" / f"{sha256}-{name}", data)
    _write_whole(note, sha256.encode())
    return data, sha256


def md5_of(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def check(url: str, data: bytes, *, sha256: str) -> None:
    """Raises `WeightsError` unless the bytes' SHA-256 starts with `sha256`."""
    found = hashlib.sha256(data).hexdigest()
    if not found.startswith(sha256):
        raise WeightsError(
            f"weights {url} have the SHA-256 {found}, but {sha256} was promised: the file was altered or cut short; "
            "fetch it again, or correct the sidecar if the change was meant"
        )


def read_text(url: str) -> str:
    try:
        return _read(url).decode()
    except UnicodeDecodeError as error:
        raise WeightsError(f"{url} is not UTF-8 text") from error


def _read(url: str) -> bytes:
    try:
        with fsspec.open(url, "rb") as file:
            data: bytes = file.read()
            return data
    except FileNotFoundError as error:
        raise WeightsError(
            f"{url} does not exist: weights need a checkpoint and its sidecar <checkpoint>.json"
        ) from error
    except Exception as error:  # each storage library has errors of its own
        raise WeightsError(f"{url} cannot be read: {type(error).__name__}: {error}") from error


def _write_whole(path: Path, data: bytes) -> None:
    """Readers see all of it or nothing: workers of one machine share the cache."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(data)
    Path(file.name).replace(path)
