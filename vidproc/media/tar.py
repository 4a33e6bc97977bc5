"""The index of a tar file from its headers alone: what lies where, without reading (or trusting) the contents.

Reads ustar, GNU and pax headers, base-256 sizes, long names. Sources: POSIX.1-2017 `pax`, section "ustar Interchange
Format", and the GNU tar manual, "Basic Tar Format". Python's tarfile wants a seekable file and keeps every member with
all its headers; this one wants `fetch(offset, size)` and yields:

    for member in index(HeaderReader(fetch, size_bytes=size)): ...
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from vidproc.errors import Damaged, TooLarge

RECORD = 512
MAX_EXTENSION_BYTES = 64 << 10
"""Longest name or pax header that is read: real ones have a few hundred bytes, a hostile one could claim gigabytes."""

WINDOW_BYTES = 16 << 10
MAX_WINDOW_BYTES = 1 << 20
"""A read of headers fetches 16 KiB (a header and small neighbours), growing while members are small."""

_REGULAR, _CONTIGUOUS, _SPARSE = (b"0", b"\0"), b"7", b"S"
_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL, _PAX_SOLARIS = b"L", b"K", b"x", b"g", b"X"
_LINKS = (b"1", b"2")
_NO_DATA = (*_LINKS, b"3", b"4", b"5", b"6")  # links, devices, folders, FIFOs: their size field means nothing or 0
_MEMBERS = (*_REGULAR, _CONTIGUOUS, _SPARSE, *_LINKS)


@dataclass(frozen=True)
class Member:
    """One entry. `kind`: "sparse" where the stored bytes are not the file's bytes, "link" where they are elsewhere."""

    name: str
    offset: int
    bytes: int
    kind: Literal["file", "sparse", "link"]


Fetch = Callable[[int, int], bytes]


class HeaderReader:
    """The part of the tar that was fetched last. It grows while reading goes on from where it ended."""

    def __init__(self, fetch: Fetch, *, size_bytes: int) -> None:
        self._fetch, self.size_bytes = fetch, size_bytes
        self._start, self._data, self._length = 0, b"", WINDOW_BYTES // 2

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`, fewer at the end."""
        size = max(0, min(size, self.size_bytes - offset))
        start = offset - self._start
        if not 0 <= start <= len(self._data) - size:
            near = 0 <= start <= len(self._data) + self._length
            self._length = min(2 * self._length, MAX_WINDOW_BYTES) if near else WINDOW_BYTES
            self._data = self._fetch(offset, min(max(self._length, size), self.size_bytes - offset)) if size else b""
            self._start, start = offset, 0
        return self._data[start : start + size]


def index(reader: HeaderReader) -> Iterator[Member]:
    """The members of a tar, in order. Folders and devices are left out.

    A name that is not UTF-8 has its odd bytes written as `\\xff`. Raises `Damaged` where the tar stops making sense,
    and `TooLarge` for a header beyond `MAX_EXTENSION_BYTES`, after what came before was yielded.
    """
    size_bytes = reader.size_bytes
    defaults: dict[bytes, bytes] = {}
    extended: dict[bytes, bytes] = {}
    at = 0
    while True:
        block = reader.read(at, RECORD)
        if len(block) < RECORD:
            raise Damaged(f"the tar ends at byte {size_bytes} without its end marker: was it cut off?")
        if not any(block):
            return
        header = _parse(block, at)
        data_at, stored = at + RECORD, header.size
        if header.kind in (_LONG_NAME, _LONG_LINK, _PAX, _PAX_SOLARIS, _PAX_GLOBAL):
            _extend(extended, defaults, kind=header.kind, data=_extension(reader, data_at, stored))
        else:
            fields = defaults | extended
            if b"size" in fields:
                stored = _decimal(fields[b"size"], at)
            if header.kind in _NO_DATA:
                stored = 0
            if header.kind == _SPARSE:
                data_at = _after_sparse_map(reader, block, data_at)
            if data_at + stored > size_bytes:
                raise Damaged(f"the tar ends at byte {size_bytes}, inside {_name(header, fields)[:200]!r} at byte {at}")
            if header.kind in _MEMBERS:
                yield _member(header, fields, data_at=data_at, stored=stored)
            extended = {}
        at = data_at + -(-stored // RECORD) * RECORD


@dataclass(frozen=True)
class _Header:
    name: bytes
    size: int
    kind: bytes


def _parse(block: bytes, at: int) -> _Header:
    checksum = _number(block[148:156], at)
    rest = block[:148] + b" " * 8 + block[156:]
    if checksum not in (
        sum(rest),
        sum(byte - 256 if byte > 127 else byte for byte in rest),
    ):  # some old tars sum signed
        raise Damaged(f"no tar header at byte {at}: its checksum is wrong")
    name = _text(block[:100])
    if block[257:263] == b"ustar\0" and (prefix := _text(block[345:500])):
        name = prefix + b"/" + name
    kind = block[156:157]
    if kind == b"\0" and name.endswith(b"/"):  # how V7 wrote folders; a long name's first part may end so too
        kind = b"5"
    return _Header(name, _number(block[124:136], at), kind)


def _number(field: bytes, at: int) -> int:
    """An octal number, or (first bit set, as GNU writes sizes from 8 GiB on) a big-endian one. Raises `Damaged`."""
    if field[0] & 0x80:
        value = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        if field[0] & 0x40:
            raise Damaged(f"the tar header at byte {at} has a negative number")
        return value
    digits = _text(field).strip()
    if digits.strip(b"01234567"):
        raise Damaged(f"the tar header at byte {at} has {digits!r} where a number belongs")
    return int(digits or b"0", 8)


def _decimal(value: bytes, at: int) -> int:
    if not value.isdigit() or len(value) > 19:
        raise Damaged(f"the pax header of byte {at} has size {value[:40]!r}")
    return int(value)


def _extension(reader: HeaderReader, offset: int, size: int) -> bytes:
    if size > MAX_EXTENSION_BYTES:
        raise TooLarge(
            f"the tar header at byte {offset - RECORD} claims {size} bytes: {MAX_EXTENSION_BYTES} are allowed"
        )
    data = reader.read(offset, size)
    if len(data) < size:
        raise Damaged(f"the tar ends inside the header at byte {offset - RECORD}")
    return data


def _extend(extended: dict[bytes, bytes], defaults: dict[bytes, bytes], *, kind: bytes, data: bytes) -> None:
    """Take over what an extension header says of the next member, or of all that follow."""
    if kind == _LONG_NAME:
        extended[b"path"] = _text(data)
    elif kind == _PAX_GLOBAL:
        defaults.update(_pax(data))
    elif kind != _LONG_LINK:
        extended.update(_pax(data))


def _pax(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The `length key=value\\n` records that say where a member is and what it is called; others are passed over."""
    at = 0
    while at < len(data) and data[at] != 0:
        length, _, _ = data[at : at + 20].partition(b" ")
        if not length.isdigit() or int(length) <= len(length) + 1 or at + int(length) > len(data):
            raise Damaged(f"a pax header has a record of length {length!r}")
        record = data[at + len(length) + 1 : at + int(length) - 1]
        key, _, value = record.partition(b"=")
        if key in (b"path", b"size") or key.startswith(b"GNU.sparse."):
            yield key, value
        at += int(length)


def _after_sparse_map(reader: HeaderReader, block: bytes, data_at: int) -> int:
    """Where the data of an old GNU sparse member starts: after the records that carry on its map."""
    more = block[482]
    while more:
        record = reader.read(data_at, RECORD)
        if len(record) < RECORD:
            raise Damaged(f"the tar ends inside the sparse map at byte {data_at}")
        more, data_at = record[504], data_at + RECORD
    return data_at


def _member(header: _Header, fields: dict[bytes, bytes], *, data_at: int, stored: int) -> Member:
    kind: Literal["file", "sparse", "link"] = "file"
    if header.kind in _LINKS:
        kind = "link"
    elif header.kind == _SPARSE or any(key.startswith(b"GNU.sparse.") for key in fields):
        kind = "sparse"
    return Member(_name(header, fields), data_at, stored, kind)


def _name(header: _Header, fields: dict[bytes, bytes]) -> str:
    name = fields.get(b"GNU.sparse.name") or fields.get(b"path") or header.name
    return name.decode(errors="backslashreplace")


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]
