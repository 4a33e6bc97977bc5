"""The object store: whole objects, create-only objects, and what is retried."""

import errno
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from vidproc.errors import StorageFull, StorageRefused, StorageUnreachable, UsageError
from vidproc.media import patience
from vidproc.tables import store as store_module
from vidproc.tables.store import Store


def test_objects_are_put_replaced_listed_sized_and_deleted(place: str) -> None:
    store = Store(place)
    assert store.list("a") == []
    assert store.get("a/x") is None
    assert store.size("a/x") is None
    store.put("a/x", b"old")
    store.put("a/x", b"newer")
    store.put("a/deep/y", b"")
    store.put("ab/z", b"not below a")
    assert store.get("a/x") == b"newer"
    assert store.size("a/x") == 5
    assert store.list("a") == ["a/deep/y", "a/x"]
    store.delete("a/x")
    store.delete("a/x")
    assert store.list("a") == ["a/deep/y"]


def test_of_many_creators_exactly_one_wins(place: str) -> None:
    store = Store(place)
    won: list[int] = []

    def create(i: int) -> None:
        if store.create("n/1", f"token {i}".encode()):
            won.append(i)

    threads = [threading.Thread(target=create, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.get("n/1") == f"token {won[0]}".encode()


def test_create_whose_reply_was_lost_is_still_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path))
    link = store_module.os.link
    replies = iter([True, False])

    def link_and_lose_the_reply(source: str, target: str) -> None:
        link(source, target)
        if next(replies):
            raise OSError(errno.ETIMEDOUT, "the reply was lost")

    monkeypatch.setattr(store_module.os, "link", link_and_lose_the_reply)
    monkeypatch.setattr(patience, "backoff_s", lambda attempt: 0.0)
    assert store.create("n/1", b"token 1")
    assert not store.create("n/1", b"token 2")


def failing(times: int, code: int, answer: bytes) -> tuple[Callable[[str], bytes], list[str]]:
    calls: list[str] = []

    def get(path: str) -> bytes:
        calls.append(path)
        if len(calls) <= times:
            raise OSError(code, "made up")
        return answer

    return get, calls


def test_transient_errors_are_retried_with_growing_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path))
    waits: list[float] = []
    monkeypatch.setattr(patience.time, "sleep", waits.append)
    get, calls = failing(4, errno.ECONNRESET, b"there")
    monkeypatch.setattr(store._objects, "get", get)
    assert store.get("x") == b"there"
    assert len(calls) == 5
    assert len(waits) == 4
    assert all(0.5 * 0.2 * 2**i <= wait <= 0.2 * 2**i for i, wait in enumerate(waits))


@pytest.mark.parametrize(
    ("code", "tries", "error"),
    [
        (errno.ECONNRESET, patience.TRIES, StorageUnreachable),
        (errno.EACCES, 1, StorageRefused),
        (errno.ENOSPC, 1, StorageFull),
        (errno.EDQUOT, 1, StorageFull),
        (errno.EISDIR, 1, OSError),
    ],
)
def test_errors_end_in_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, tries: int, error: type[Exception]
) -> None:
    store = Store(str(tmp_path))
    monkeypatch.setattr(patience, "backoff_s", lambda attempt: 0.0)
    get, calls = failing(99, code, b"")
    monkeypatch.setattr(store._objects, "get", get)
    with pytest.raises(error, match="made up"):
        store.get("x")
    assert len(calls) == tries


def test_a_half_written_file_is_never_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path))

    def full(descriptor: int) -> None:
        assert store.list("") == []
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr(store_module.os, "fsync", full)
    with pytest.raises(StorageFull, match=r"no room to write.*disk full.*free space"):
        store.put("a/x", b"half")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("url", ["gs://bucket/x", "https://host/x"])
def test_unknown_places_are_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError, match="use a local folder or s3://"):
        Store(url)


def test_urls_of_local_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Store("out/tables").url_of("labels") == f"{tmp_path}/out/tables/labels"
    assert Store(f"file://{tmp_path}/a%20b/").url_of() == f"{tmp_path}/a b"
    assert Store("s3://bucket/prefix/").url_of("labels") == "s3://bucket/prefix/labels"
