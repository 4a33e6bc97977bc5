"""Every key of an S3 prefix, a page of 1000 at a time, from several parts of the key space at once."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

from vidproc.media.ranges import with_retries

_MAX_SCOUTS = 24
"""Requests that look for common prefixes before the listing starts."""

_UNORDERED = "--x-s3"
"""Directory buckets (S3 Express) list in no order and know no StartAfter: they are read in one go."""


class _Part(NamedTuple):
    """The keys after `after`, up to and with `last`; None is open. `token` goes on with a listing."""

    after: str | None
    last: str | None
    token: str | None = None


def has_keys(filesystem: Any, bucket: str, prefix: str) -> bool:
    """Whether any key starts with the prefix. Raises `Missing` (no such bucket) or `Unreadable`."""
    target = {"Bucket": bucket, "Prefix": prefix, "MaxKeys": 1}
    call = filesystem.call_s3
    answer = with_retries(f"s3://{bucket}/{prefix}", lambda: call("list_objects_v2", **target, **filesystem.req_kw))
    return bool(answer.get("Contents"))


def list_keys(filesystem: Any, *, bucket: str, prefix: str, threads: int) -> Iterator[Mapping[str, Any]]:
    """What list v2 says of every key: Key, Size, ETag, LastModified. In no particular order, each key once.

    At most `threads` pages are held. Raises `Missing` (no such bucket) or `Unreadable`.
    """

    def page(**arguments: Any) -> Mapping[str, Any]:
        target = {"Bucket": bucket, "Prefix": prefix} | {k: v for k, v in arguments.items() if v is not None}
        call = filesystem.call_s3
        answer: Mapping[str, Any] = with_retries(
            f"s3://{bucket}/{prefix}", lambda: call("list_objects_v2", **target, **filesystem.req_kw)
        )
        return answer

    borders = [] if bucket.endswith(_UNORDERED) else _borders(page, prefix, wanted=4 * threads)
    parts = [_Part(*pair) for pair in zip([None, *borders], [*borders, None], strict=True)]
    with ThreadPoolExecutor(threads, thread_name_prefix="list") as pool:
        running: dict[Future[Mapping[str, Any]], _Part] = {}
        while parts or running:
            while parts and len(running) < threads:
                part = parts.pop()
                start = {"ContinuationToken": part.token} if part.token else {"StartAfter": part.after}
                running[pool.submit(page, **start)] = part
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                part, answer = running.pop(future), future.result()
                keys = answer.get("Contents", [])
                yield from (key for key in keys if part.last is None or key["Key"] <= part.last)
                ended = bool(keys) and part.last is not None and keys[-1]["Key"] > part.last
                if answer.get("IsTruncated") and not ended:
                    parts.append(part._replace(token=answer["NextContinuationToken"]))


def _borders(page: Callable[..., Mapping[str, Any]], prefix: str, *, wanted: int) -> list[str]:
    """Up to `wanted` keys that cut the key space, from the common prefixes of the first levels, first pages only.

    They need not cut evenly, nor see every prefix: the parts between them cover all keys in any case.
    """
    level, scouts = [prefix], 0
    found: set[str] = set()
    while level and len(found) < wanted and scouts < _MAX_SCOUTS:
        below: list[str] = []
        for start in level[: _MAX_SCOUTS - scouts]:
            scouts += 1
            below += [entry["Prefix"] for entry in page(Prefix=start, Delimiter="/").get("CommonPrefixes", [])]
        found.update(below)
        level = below
    borders = sorted(found)
    return borders[:: max(1, len(borders) // wanted)]
