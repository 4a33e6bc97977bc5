"""List an archive: folders, prefixes, globs, tar shards and lists of URIs become rows of one Parquet listing.

    summary = list_archive(["s3://bucket/videos/"], "/tmp/listing")

The same archive gives the same set of rows; their order may differ. A video that two URLs reach (a glob and a list)
is listed twice, with one video_id; folders inside other given folders are left out.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from vidproc.errors import Unsupported, UsageError
from vidproc.media.listing import LISTING, Listed, ListingWriter, unusable
from vidproc.media.selection import KNOWN_SUFFIXES, Ignored, Selection
from vidproc.media.shards import ShardIndex, index_shard
from vidproc.media.uri_list import LIST_SUFFIXES, read_uri_list
from vidproc.media.walk import Found, Place, find, locate, look_up

__all__ = ["KNOWN_SUFFIXES", "LISTING", "ListingSummary", "list_archive"]

THREADS = 8


@dataclass(frozen=True)
class ListingSummary:
    """`listed` rows (some with a reason), `ignored` files, their most frequent endings, `shards` that were read."""

    listed: int
    ignored: int
    ignored_by_suffix: dict[str, int]
    shards: int


def list_archive(
    urls: Sequence[str],
    out_url: str,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    progress: Callable[[int], None] | None = None,
) -> ListingSummary:
    """Write the listing of all `urls` to Parquet files under `out_url`, a folder (any fsspec URL) without a listing.

    `include`, `exclude`: see `Selection`. `progress` is told the number of rows now and then. Memory is bounded: about
    100 MiB for any number of videos. Raises `UsageError` if a URL does not exist or holds nothing that is known, or if
    `out_url` is taken; then nothing is left there.
    """
    if not urls:
        raise UsageError("no archive was given: name at least one folder, glob, file or URL")
    places = _outermost([locate(url) for url in urls])
    writer = ListingWriter(out_url, progress=progress)
    lister = _Lister(Selection(include, exclude))
    try:
        for place in places:
            before, ignored = writer.rows, lister.ignored.counts.copy()
            for row in lister.rows(place):
                writer.add(row)
            if writer.rows == before:
                raise UsageError(_nothing_known(place, lister.ignored.counts - ignored))
        writer.close()
    except BaseException:
        writer.discard()
        raise
    return ListingSummary(writer.rows, lister.ignored.total, dict(lister.ignored.counts.most_common(8)), lister.shards)


class _Lister:
    def __init__(self, selection: Selection) -> None:
        self.ignored = Ignored()
        self.shards = 0
        self._selection = selection

    def rows(self, place: Place) -> Iterator[Listed]:
        """All rows of a place. A few threads read shards meanwhile; at most `THREADS` indexes are held."""
        with ThreadPoolExecutor(THREADS, thread_name_prefix="list") as pool:
            pending: deque[Future[ShardIndex]] = deque()
            for job in self._jobs(place):
                if isinstance(job, Listed):
                    yield job
                    continue
                pending.append(pool.submit(job))
                if len(pending) >= THREADS:
                    yield from self._finish(pending.popleft())
            while pending:
                yield from self._finish(pending.popleft())

    def _jobs(self, place: Place) -> Iterator[Listed | Callable[[], ShardIndex]]:
        if _is_uri_list(place):
            for uris in read_uri_list(place):
                yield partial(self._listed_uris, uris)
            return
        for found in find(place, wants=self._wants, ignored=self.ignored, threads=THREADS):
            yield self._job(found, {})

    def _wants(self, name: str) -> bool:
        choice = self._selection
        return choice.is_media(name) or choice.is_shard(name) or choice.is_packed_shard(name)

    def _job(self, found: Found, metadata: Mapping[str, str]) -> Listed | Callable[[], ShardIndex]:
        if found.problem:
            return unusable(found.source, found.problem)
        if self._selection.is_packed_shard(found.name):
            why = "a compressed tar cannot be read by range: repack it as plain .tar (videos hardly shrink anyway)"
            return unusable(found.source, Unsupported(why))
        if self._selection.is_shard(found.name):
            return partial(index_shard, found.source, self._selection, metadata=metadata)
        return Listed(found.source, metadata or None)

    def _finish(self, future: Future[ShardIndex]) -> list[Listed]:
        shard = future.result()
        self.shards += shard.shards
        for kind, count in shard.ignored.items():
            self.ignored.add(kind, count)
        return shard.rows

    def _listed_uris(self, uris: Sequence[tuple[str, Mapping[str, str]]]) -> ShardIndex:
        """A list names its files one by one: endings do not matter, the globs do."""
        whole = ShardIndex([])
        for uri, metadata in uris:
            name = uri.partition("://")[2] or uri
            if self._selection.is_excluded(name) or (self._selection.include and not self._wants(name)):
                whole.ignored["(not selected)"] += 1
                continue
            job = self._job(look_up(uri, name=name), metadata)
            part = ShardIndex([job]) if isinstance(job, Listed) else job()
            whole.rows += part.rows
            whole.ignored += part.ignored
            whole.shards += part.shards
        return whole


def _outermost(places: Sequence[Place]) -> list[Place]:
    """Without repeated places, and those inside others."""
    kept: list[Place] = []
    for place in places:
        if _is_uri_list(place) or not any(other.contains(place) for other in kept):
            kept = [other for other in kept if _is_uri_list(other) or not place.contains(other)] + [place]
    return kept


def _is_uri_list(place: Place) -> bool:
    return place.kind == "file" and place.path.lower().endswith(LIST_SUFFIXES)


def _nothing_known(place: Place, ignored: Counter[str]) -> str:
    seen = ", ".join(f"{count} × {ending}" for ending, count in ignored.most_common(5)) or "no files"
    return (
        f"archive {place.url} ({place.kind}) lists no video, sound or picture (seen: {seen}). Known are the endings "
        f"{' '.join(sorted(KNOWN_SUFFIXES))}, .tar shards of those, and .parquet or .csv lists of URIs; name others "
        "with --include '*.ending', and mind --exclude. A glob names files: use folder*/** to mean what is in folders"
    )
