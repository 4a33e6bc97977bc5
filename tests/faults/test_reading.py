"""Reading videos from a store that fails now and then: waited out and counted, or told apart by whose fault it is."""

import os
import time

import pytest
import s3fs
from proxy import Act, Fault, FaultyProxy, answer, cut_off, delay, replaced, reset

from vidproc.errors import (
    Changed,
    Denied,
    InputError,
    Missing,
    StorageRefused,
    StorageUnreachable,
    Unreadable,
    VidprocError,
)
from vidproc.media import patience
from vidproc.media.archive import list_archive
from vidproc.media.listing import LISTING
from vidproc.media.ranges import filesystem_of, remote_etag, split_s3
from vidproc.media.sources import BLOCK_BYTES, Source, open_source
from vidproc.tables import sql

pytestmark = pytest.mark.s3
DATA = os.urandom(3 * BLOCK_BYTES + 5)


def put(uri: str, data: bytes = DATA) -> Source:
    bucket, key = split_s3(uri)
    filesystem = filesystem_of(uri)
    filesystem.call_s3("put_object", Bucket=bucket, Key=key, Body=data)
    etag = remote_etag(filesystem.call_s3("head_object", Bucket=bucket, Key=key))
    return Source(uri, "", 0, len(data), etag)


def whole(source: Source) -> bytes:
    with open_source(source) as opened:
        data = b"".join(opened.read(at, 300_000) for at in range(0, source.bytes, 300_000))
        opened.verify()
    return data


@pytest.fixture
def source(s3: str, proxy: FaultyProxy, hasty: None) -> Source:
    return put(f"{s3}/faults/reading/a.mp4")


@pytest.mark.parametrize(
    ("act", "methods", "why"),
    [
        (answer(503, "SlowDown"), "GET", "slow_down"),
        (answer(503, "SlowDown"), "HEAD", "slow_down"),
        (answer(500, "InternalError"), "GET", "error"),
        (answer(400, "RequestTimeout"), "GET", "timeout"),
        (reset, "GET", "connection"),
        (cut_off, "GET", "cut_off"),
    ],
)
def test_what_passes_is_waited_out_and_counted(
    source: Source, proxy: FaultyProxy, act: Act, methods: str, why: str
) -> None:
    proxy.faults = [Fault(act, methods=methods, keys="*/a.mp4", count=4)]
    assert whole(source) == DATA
    assert proxy.faults[0].done == 4
    counted = 4 if act is not reset else patience.RETRIES.total()  # aiohttp itself replaces a reused connection once
    assert patience.RETRIES[why] == counted == patience.RETRIES.total() >= 1


def test_a_share_of_all_requests_fails(source: Source, proxy: FaultyProxy) -> None:
    acts = (answer(503, "SlowDown"), reset, cut_off, answer(500, "InternalError"))
    proxy.faults = [Fault(act, keys="*/a.mp4", count=None, share=0.15) for act in acts]
    for _ in range(10):
        assert whole(source) == DATA
    failed = sum(fault.done for fault in proxy.faults)
    resets = proxy.faults[1].done
    assert failed >= 8 and failed - resets <= patience.RETRIES.total() <= failed


def test_an_answer_that_does_not_come_is_given_up(
    source: Source, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3fs.S3FileSystem, "read_timeout", 0.5)
    s3fs.S3FileSystem.clear_instance_cache()
    proxy.faults = [Fault(delay(3), methods="GET", keys="*/a.mp4", count=2)]
    begun = time.monotonic()
    assert whole(source) == DATA
    s3fs.S3FileSystem.clear_instance_cache()
    assert time.monotonic() - begun < 3


def test_waits_grow_are_capped_and_differ() -> None:
    waits = [[patience.backoff_s(attempt) for attempt in range(20)] for _ in range(50)]
    assert max(map(max, waits)) <= patience.LONGEST_WAIT_S
    assert all(row[0] < 0.21 and row[-1] >= patience.LONGEST_WAIT_S / 2 for row in waits)
    assert len({row[-1] for row in waits}) == 50


def test_the_budget_bounds_a_read_however_slow_each_try(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(patience.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(patience.time, "sleep", lambda wait_s: clock.__setitem__(0, clock[0] + wait_s))

    def times_out() -> None:
        clock[0] += 15
        raise TimeoutError

    with pytest.raises(StorageUnreachable):
        patience.patiently("somewhere", times_out)
    assert patience.BUDGET_S - 15 - patience.LONGEST_WAIT_S < clock[0] < patience.BUDGET_S + 15


@pytest.mark.parametrize("seen", [True, False])
def test_an_object_replaced_or_deleted_while_it_is_read(
    s3: str, source: Source, proxy: FaultyProxy, seen: bool
) -> None:
    for data, expected in ((DATA[::-1], Changed), (b"short", Changed), (None, Missing)):
        put(source.uri)
        # before the second block, or (all of it read) before the final look
        act = replaced(data)
        proxy.faults = [
            Fault(act, methods="GET", keys="*/a.mp4", skip=1) if seen else Fault(act, methods="HEAD", keys="*/a.mp4")
        ]
        with pytest.raises(expected):
            whole(source)
        assert patience.RETRIES.total() == 0


@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        ([Fault(answer(403, "AccessDenied"), keys="*/a.mp4", count=None)], Denied),
        ([Fault(answer(403, "AccessDenied"), methods="GET", keys="*/a.mp4", count=None)], Denied),
        ([Fault(answer(403, "InvalidObjectState"), methods="GET", keys="*/a.mp4", count=None)], Denied),
        ([Fault(answer(500, "InternalError"), keys="*/a.mp4", count=None)], Unreadable),
        ([Fault(answer(501, "NotImplemented"), keys="*/a.mp4", count=None)], Unreadable),
        ([Fault(cut_off, methods="GET", keys="*/a.mp4", count=None)], Unreadable),
        ([Fault(answer(503, "SlowDown"), count=None)], StorageUnreachable),
        ([Fault(reset, count=None)], StorageUnreachable),
        ([Fault(answer(403, "ExpiredToken"), count=None)], StorageRefused),
        ([Fault(answer(400, "ExpiredToken"), count=None)], StorageRefused),
        ([Fault(answer(403, "InvalidAccessKeyId"), count=None)], StorageRefused),
        ([Fault(answer(403, "RequestTimeTooSkewed"), count=None)], StorageRefused),
    ],
)
@pytest.mark.parametrize("reads", [True, False])
def test_what_lasts_is_the_objects_fault_or_the_stores(
    source: Source, proxy: FaultyProxy, faults: list[Fault], expected: type[VidprocError], reads: bool
) -> None:
    """Also where only a HEAD is sent, whose answer has no body to say why."""
    if not reads and faults[0].methods == "GET":
        pytest.skip("no GET is sent")
    for fault in faults:
        fault.seen = fault.done = 0
    if reads:
        proxy.faults = faults
        with pytest.raises(expected) as caught:
            whole(source)
    else:
        with open_source(source) as opened:
            proxy.faults = faults
            with pytest.raises(expected) as caught:
                opened.verify()
    assert type(caught.value) is expected or expected is not Unreadable
    assert isinstance(caught.value, InputError) == issubclass(expected, InputError)


def test_a_listing_that_fails_in_the_middle(s3: str, proxy: FaultyProxy, hasty: None) -> None:
    folder = f"{s3}/faults/listing"
    filesystem = filesystem_of(folder)
    bucket, prefix = split_s3(folder)
    names = [f"{i:04d}.mp4" for i in range(40)]
    for name in names:
        filesystem.call_s3("put_object", Bucket=bucket, Key=f"{prefix}/{name}", Body=b"x")
    real = filesystem.call_s3

    def small_pages(method: str, *given: object, **more: object) -> object:
        return real(method, *given, **({"MaxKeys": 8} | more if method == "list_objects_v2" else more))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(filesystem), "call_s3", lambda self, *given, **more: small_pages(*given, **more))
        proxy.faults = [
            Fault(answer(503, "SlowDown"), query="continuation-token", count=3),
            Fault(cut_off, query="continuation-token", skip=1),
            Fault(reset, query="continuation-token", skip=2),
        ]
        list_archive([folder], f"{s3}/faults/listings/whole")
        assert [fault.done for fault in proxy.faults] == [3, 1, 1]
        found = sql.parquet_folder(f"{s3}/faults/listings/whole", LISTING).to_table(columns=["uri"])["uri"].to_pylist()
        assert sorted(found) == [f"{folder}/{name}" for name in names]

        proxy.faults = [Fault(answer(503, "SlowDown"), query="continuation-token", count=None)]
        with pytest.raises(StorageUnreachable, match="cannot be listed"):
            list_archive([folder], f"{s3}/faults/listings/broken")
        proxy.faults = [Fault(answer(403, "AccessDenied"), query="continuation-token", count=None)]
        with pytest.raises(StorageRefused, match="allow it"):
            list_archive([folder], f"{s3}/faults/listings/broken")
    proxy.faults = []
    assert not filesystem.find(f"{s3}/faults/listings/broken")
