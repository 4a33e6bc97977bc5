"""Tar shards of videos in WebDataset layout: which members are videos, and what their sidecars say of them.

`shots/000123.mp4`, `shots/000123.json`, `shots/000123.txt` belong together: one folder, one name up to its first dot.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from vidproc.errors import InputError, TooLarge, Unsupported
from vidproc.media.listing import Listed, text, unusable
from vidproc.media.ranges import open_ranges
from vidproc.media.selection import Selection, suffix
from vidproc.media.sources import Source
from vidproc.media.tar import HeaderReader, Member, index

MAX_MEMBERS = 100_000
MAX_INDEX_BYTES = 32 << 20
"""Names and sidecars of one shard that are held at once. Shards in use have 100 to 10 000 members."""

SIDECAR_SUFFIXES = (".json", ".txt")
MAX_SIDECAR_BYTES = 64 << 10
_MAX_FIELDS, _MAX_VALUE_CHARS, _MAX_DEPTH = 256, 4096, 16

PROBLEM = "metadata_problem"
"""The metadata key that says why a sidecar could not be used."""


@dataclass
class ShardIndex:
    """What one shard adds to the listing."""

    rows: list[Listed]
    ignored: Counter[str] = field(default_factory=Counter)
    shards: int = 0


def index_shard(shard: Source, selection: Selection, *, metadata: Mapping[str, str] | None = None) -> ShardIndex:
    """Rows of a shard's videos, read from its headers alone. `metadata` is what the shard itself came with.

    Of members of one name the last counts, as when tar unpacks them. A shard that cannot be read to its end gives the
    rows up to there, and a row for itself with the reason.
    """
    contents = _Contents(selection)
    problem: InputError | None = None
    try:
        with open_ranges(shard.uri, etag=shard.etag) as ranges:
            reader = HeaderReader(ranges.fetch, size_bytes=shard.bytes)
            for member in index(reader):
                contents.add(member, reader)
    except InputError as error:
        problem = error
    rows = [contents.row(shard, member, metadata or {}) for member in contents.videos.values()]
    if problem:
        rows.append(unusable(shard, problem))
    return ShardIndex(rows, contents.ignored(), shards=1)


class _Contents:
    def __init__(self, selection: Selection) -> None:
        self.videos: dict[str, Member] = {}
        self._selection = selection
        self._sidecars: dict[str, dict[str, dict[str, str]]] = {}  # key → ending → fields
        self._others: Counter[str] = Counter()
        self._index_bytes = 0

    def add(self, member: Member, reader: HeaderReader) -> None:
        if self._selection.is_media(member.name):
            self.videos[member.name] = member
            self._take_room(len(member.name))
        elif suffix(member.name) in SIDECAR_SUFFIXES and member.kind == "file":
            fields = _read_sidecar(member, reader)
            self._sidecars.setdefault(_key(member.name), {})[suffix(member.name)] = fields
            self._take_room(len(member.name) + sum(len(key) + len(value) for key, value in fields.items()))
        elif len(self._others) < 1000:
            self._others[text(suffix(member.name))[:16] or "(none)"] += 1

    def row(self, shard: Source, member: Member, metadata: Mapping[str, str]) -> Listed:
        source = Source(shard.uri, member.name, member.offset, member.bytes, shard.etag)
        if member.kind != "file":
            way = "with --hard-dereference --dereference" if member.kind == "link" else "without --sparse"
            return unusable(
                source, Unsupported(f"member {member.name[:200]!r} is a {member.kind}: repack the tar {way}")
            )
        sidecars = self._sidecars.get(_key(member.name), {})
        return Listed(source, {**metadata, **sidecars.get(".json", {}), **sidecars.get(".txt", {})} or None)

    def ignored(self) -> Counter[str]:
        """Members by ending that are neither videos nor the sidecars of one."""
        keys = {_key(name) for name in self.videos}
        alone = Counter(ending for key, endings in self._sidecars.items() if key not in keys for ending in endings)
        return self._others + alone

    def _take_room(self, size_bytes: int) -> None:
        self._index_bytes += size_bytes
        if len(self.videos) + len(self._sidecars) > MAX_MEMBERS or self._index_bytes > MAX_INDEX_BYTES:
            raise TooLarge(
                f"the index of this shard is beyond {MAX_MEMBERS} members or {MAX_INDEX_BYTES >> 20} MiB of names and "
                "metadata: split it"
            )


def _key(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _read_sidecar(member: Member, reader: HeaderReader) -> dict[str, str]:
    if member.bytes > MAX_SIDECAR_BYTES:
        return {PROBLEM: f"{member.name[-200:]} has {member.bytes} bytes, {MAX_SIDECAR_BYTES} are read"}
    data = reader.read(member.offset, member.bytes)
    if suffix(member.name) == ".txt":
        return {"txt": data.decode(errors="replace").strip()}
    try:
        return flatten(json.loads(data))
    except (ValueError, RecursionError):
        return {PROBLEM: f"{member.name[-200:]} is not JSON"}


def flatten(value: object) -> dict[str, str]:
    """A JSON value as one level of strings: `{"a": {"b": 1}}` gives `{"a.b": "1"}`; lists stay JSON; null is left out.

    A value that is no object is called "json". Bounded: 256 fields, 16 levels (deeper ones stay JSON), 4096 characters.
    """
    if not isinstance(value, dict):
        value = {"json": value}
    flat: dict[str, str] = {}
    pending = [("", value, 0)]
    while pending:
        prefix, fields, depth = pending.pop()
        for name, item in fields.items():
            if len(flat) + len(pending) >= _MAX_FIELDS:
                flat[PROBLEM] = f"only the first {_MAX_FIELDS} fields are kept"
                return flat
            if isinstance(item, dict) and depth < _MAX_DEPTH:
                pending.append((f"{prefix}{name}.", item, depth + 1))
            elif item is not None:
                shown = item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)
                flat[text(prefix + name)[:_MAX_VALUE_CHARS]] = text(shown)[:_MAX_VALUE_CHARS]
    return flat
