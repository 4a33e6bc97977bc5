"""The tar index finds what Python's tarfile (and GNU tar) wrote, and survives what nobody should write."""

import io
import struct
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidproc.errors import Damaged, InputError, TooLarge
from vidproc.media import tar

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


class Storage:
    """Bytes that count how they are read."""

    def __init__(self, data: bytes) -> None:
        self.data, self.requests, self.bytes_read = data, 0, 0

    def fetch(self, offset: int, size: int) -> bytes:
        assert size > 0 and offset + size <= len(self.data), "a read beyond the end would be an error on S3"
        self.requests += 1
        self.bytes_read += size
        return self.data[offset : offset + size]

    def index(self) -> list[tar.Member]:
        return list(tar.index(tar.HeaderReader(self.fetch, size_bytes=len(self.data))))


def pack(members: list[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.PAX_FORMAT, **options: object) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, **options) as packed:
        for info, data in members:
            info.size = len(data)
            packed.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def file(name: str, data: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def theirs(data: bytes) -> list[tuple[str, int, int]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as packed:
        return [(m.name, m.offset_data, m.size) for m in packed if m.isreg()]


def ours(data: bytes) -> list[tuple[str, int, int]]:
    return [(m.name, m.offset, m.bytes) for m in Storage(data).index() if m.kind == "file"]


names = st.lists(
    st.text(st.characters(exclude_characters="/\0\n", exclude_categories=["Cs"]), min_size=1, max_size=60),
    min_size=1,
    max_size=5,
).map("/".join)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(names, st.binary(max_size=3000)), max_size=8),
    st.sampled_from(["gnu", "pax"]),
    st.sampled_from([b"", b"\0" * 20_000]),
)
def test_index_equals_tarfile(members: list[tuple[str, bytes]], form: str, tail: bytes) -> None:
    data = pack([file(name, content) for name, content in members], FORMATS[form])
    assert ours(data + tail) == theirs(data)
    for (_, offset, size), (_, content) in zip(ours(data), members, strict=True):
        assert data[offset : offset + size] == content


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.from_regex(r"[a-z]{1,90}(/[a-z]{1,60}){0,2}", fullmatch=True), st.binary(max_size=600))))
def test_index_equals_tarfile_ustar(members: list[tuple[str, bytes]]) -> None:
    data = pack([file(name, content) for name, content in members if len(name) <= 150], tarfile.USTAR_FORMAT)
    assert ours(data) == theirs(data)


@pytest.mark.parametrize("form", FORMATS)
def test_other_members_are_passed_over(form: str) -> None:
    entries = [
        file("folder", type=tarfile.DIRTYPE),
        file("fifo", type=tarfile.FIFOTYPE),
        file("a.mp4", b"x" * 700),
        file("hard.mp4", type=tarfile.LNKTYPE, linkname="a.mp4"),
        file("soft.mp4", type=tarfile.SYMTYPE, linkname="l" * 90),
        file("b.mp4", b"y"),
    ]
    members = Storage(pack(entries, FORMATS[form])).index()
    assert [(m.name, m.kind) for m in members] == [
        ("a.mp4", "file"), ("hard.mp4", "link"), ("soft.mp4", "link"), ("b.mp4", "file"),
    ]  # fmt: skip


def test_long_link_names_do_not_become_member_names() -> None:
    entries = [file("soft.mp4", type=tarfile.SYMTYPE, linkname="l" * 300), file("n" * 300 + ".mp4", b"abc")]
    assert [m.name for m in Storage(pack(entries, tarfile.GNU_FORMAT)).index()] == ["soft.mp4", "n" * 300 + ".mp4"]


def test_global_pax_headers() -> None:
    data = pack([file("a.mp4", b"abc")], pax_headers={"comment": "made by git archive"})
    assert ours(data) == theirs(data)


def test_names_that_are_not_utf8() -> None:
    data = pack([file("caf\udce9.mp4", b"abc")], tarfile.GNU_FORMAT)
    assert ours(data)[0][0] == "caf\\xe9.mp4"


def header(name: bytes = b"a.mp4", size: bytes = b"00000000000", kind: bytes = b"0", extra: bytes = b"") -> bytes:
    block = bytearray(
        name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + size.ljust(12, b"\0") + b"0" * 11 + b"\0"
    )
    block += b" " * 8 + kind + b"\0" * 100 + b"ustar\00000" + b"\0" * 247
    block[345 : 345 + len(extra)] = extra
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def test_sizes_beyond_octal_are_read() -> None:
    """GNU writes 8 GiB and more in base 256; the tar here is only as long as it claims to be."""
    size = 9 << 30
    head = header(size=struct.pack(">BxxxQ", 0x80, size))
    after = header(b"b.mp4")

    def fetch(offset: int, length: int) -> bytes:
        whole = {0: head, 512 + size: after + b"\0" * 1024}
        start = max(at for at in whole if at <= offset)
        return whole[start][offset - start :][:length].ljust(length, b"\0")

    members = list(tar.index(tar.HeaderReader(fetch, size_bytes=512 + size + 512 + 1024)))
    assert [(m.name, m.offset, m.bytes) for m in members] == [("a.mp4", 512, size), ("b.mp4", 1024 + size, 0)]


def test_old_gnu_sparse_members_are_told_apart_and_passed() -> None:
    sparse = bytearray(header(b"sparse.mp4", size=b"00000001000", kind=b"S"))
    sparse[482] = 1  # its map goes on in another record
    sparse[148:156] = b" " * 8
    sparse[148:156] = b"%06o\0 " % sum(sparse)
    data = bytes(sparse) + b"\0" * 512 + b"x" * 512 + header(b"after.mp4") + b"\0" * 1024
    assert [(m.name, m.offset, m.kind) for m in Storage(data).index()] == [
        ("sparse.mp4", 1024, "sparse"), ("after.mp4", 2048, "file"),
    ]  # fmt: skip


def test_pax_sparse_members_are_told_apart() -> None:
    data = pack(
        [file("GNUSparseFile.0/x.mp4", b"1\n", pax_headers={"GNU.sparse.major": "1", "GNU.sparse.name": "x.mp4"})]
    )
    assert [(m.name, m.kind) for m in Storage(data).index()] == [("x.mp4", "sparse")]


WHOLE = pack([file("a.mp4", b"x" * 1000), file("b.mp4", b"y" * 1000)])


@pytest.mark.parametrize(
    ("data", "names", "error", "message"),
    [
        (WHOLE[:2000], ["a.mp4"], Damaged, "without its end marker"),
        (WHOLE[:2200], ["a.mp4"], Damaged, "inside 'b.mp4'"),
        (WHOLE[:3072], ["a.mp4", "b.mp4"], Damaged, "without its end marker"),
        (b"", [], Damaged, "ends at byte 0"),
        (b"not a tar" * 100, [], Damaged, "no tar header|where a number"),
        (WHOLE[:1536] + b"\xff" * 512, ["a.mp4"], Damaged, "negative|no tar header"),
        (header(size=b"zzz"), [], Damaged, "where a number belongs"),
        (header(size=b"\xff" * 12), [], Damaged, "negative"),
        (header(kind=b"x", size=b"77777777777"), [], TooLarge, "claims 8589934591 bytes"),
        (header(kind=b"L", size=b"00000001000"), [], Damaged, "inside the header"),
        (header(kind=b"x", size=b"00000001000") + b"9999 path=a\n".ljust(512), [], Damaged, "record of length b'9999'"),
        (header(kind=b"x", size=b"00000001000") + b"0 path=a\n".ljust(512), [], Damaged, "record of length b'0'"),
        (header(kind=b"x", size=b"14") + b"12 size=-1\n\n".ljust(512, b"\0") + header(), [], Damaged, "size b'-1"),
    ],
)
def test_damage_is_told_after_what_came_before(
    data: bytes, names: list[str], error: type[InputError], message: str
) -> None:
    found: list[str] = []
    reader = tar.HeaderReader(Storage(data).fetch, size_bytes=len(data))
    with pytest.raises(error, match=message):
        found.extend(member.name for member in tar.index(reader))
    assert found == names


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_flipped_bytes_never_escape_the_error_tree(data: st.DataObject) -> None:
    packed = bytearray(pack([file("é" * 80 + ".mp4", b"x" * 600), file("b.mp4", b"y" * 600)]))
    for _ in range(data.draw(st.integers(1, 4))):
        packed[data.draw(st.integers(0, 3000))] = data.draw(st.integers(0, 255))
    try:
        members = Storage(bytes(packed)).index()
    except InputError:
        return
    assert all(m.offset + m.bytes <= len(packed) for m in members)


def test_only_headers_are_read() -> None:
    storage = Storage(pack([file(f"{i:06d}.mp4", bytes(1_000_000)) for i in range(20)]))
    assert len(storage.index()) == 20
    assert storage.requests <= 21
    assert storage.bytes_read < 0.02 * len(storage.data)


def test_small_members_are_read_in_large_pieces() -> None:
    storage = Storage(pack([file(f"{i:06d}.ogg", bytes(2000)) for i in range(2000)]))
    assert len(storage.index()) == 2000
    assert storage.requests < 20
