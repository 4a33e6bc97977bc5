"""Whatever an archive looks like, its listing has one row per video, says what it left out, and fails on no name."""

import csv
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vidproc.errors import INPUT_ERRORS, UsageError
from vidproc.media import listing, s3_keys, shards
from vidproc.media.archive import KNOWN_SUFFIXES, LISTING, ListingSummary, list_archive
from vidproc.media.ranges import filesystem_of
from vidproc.media.s3_keys import list_keys
from vidproc.media.sources import Source, open_source

Row = dict[str, Any]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with videos on three levels, and other things."""
    root = tmp_path / "archive"
    for name in (
        "a.mp4",
        "B.MOV",
        "notes.txt",
        "2024/c.webm",
        "2024/05/d.mkv",
        "2024/05/e.jpg",
        "2024/05/._d.mkv",
        "bare",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


class Lister:
    """Calls `list_archive` into folders of its own and gives the rows, sorted."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls = folder, 0
        self.summary = ListingSummary(0, 0, {}, 0)

    def __call__(self, *urls: str | Path, **options: Any) -> list[Row]:
        self.calls += 1
        out = self.folder / f"listing{self.calls}"
        self.summary = list_archive([str(url) for url in urls], str(out), **options)
        table = pq.read_table(out)
        assert table.schema.equals(LISTING)
        rows: list[Row] = sorted(table.to_pylist(), key=lambda row: (row["uri"], row["member"]))
        assert self.summary.listed == len(rows)
        for row in rows:
            assert source(row).video_id == row["video_id"]
            assert row["reason"] is None or row["reason"] in INPUT_ERRORS
        return rows

    def names(self, *urls: str | Path, **options: Any) -> list[str]:
        return [row["uri"].rpartition("/")[2] for row in self(*urls, **options)]


@pytest.fixture
def lister(tmp_path: Path) -> Lister:
    return Lister(tmp_path)


def source(row: Row) -> Source:
    return Source(row["uri"], row["member"], row["offset"], row["bytes"], row["etag"])


def content(row: Row) -> bytes:
    with open_source(source(row)) as opened:
        return opened.read(0, opened.size)


def write_tar(path: Path, members: dict[str, bytes | str]) -> bytes:
    """A tar of files; a text value makes a symbolic link. Returns its bytes."""
    with tarfile.open(path, "w") as packed:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(data, str):
                info.type, info.linkname = tarfile.SYMTYPE, data
                packed.addfile(info)
            else:
                info.size = len(data)
                packed.addfile(info, io.BytesIO(data))
    return path.read_bytes()


def test_a_folder_with_its_folders(lister: Lister, tree: Path) -> None:
    rows = lister(tree)
    assert [row["uri"] for row in rows] == [
        str(tree / name) for name in ("2024/05/d.mkv", "2024/05/e.jpg", "2024/c.webm", "B.MOV", "a.mp4")
    ]
    assert content(rows[0]) == b"2024/05/d.mkv"
    assert lister.summary == ListingSummary(5, 3, {".txt": 1, ".mkv": 1, "(none)": 1}, 0)


def test_the_same_archive_gives_the_same_rows_and_a_new_version_a_new_one(lister: Lister, tree: Path) -> None:
    first = lister(tree)
    assert lister(f"{tree}/") == first == lister(tree, tree / "2024", f"file://{tree}")
    os.utime(tree / "a.mp4", ns=(1, 1))
    changed = [
        row["uri"] for row, before in zip(lister(tree), first, strict=True) if row["video_id"] != before["video_id"]
    ]
    assert changed == [str(tree / "a.mp4")]


def test_relative_paths_are_listed_as_absolute(lister: Lister, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = lister(tree / "2024")
    monkeypatch.chdir(tree)
    assert lister("2024") == lister("05/../2024/") == first


@pytest.mark.parametrize(
    ("glob", "names"),
    [
        ("*", ["B.MOV", "a.mp4"]),
        ("*.mp4", ["a.mp4"]),
        ("*/*", ["c.webm"]),
        ("20??/**", ["d.mkv", "e.jpg", "c.webm"]),
        ("**/[de].*", ["d.mkv", "e.jpg"]),
    ],
)
def test_globs(lister: Lister, tree: Path, glob: str, names: list[str]) -> None:
    assert lister.names(f"{tree}/{glob}") == names


def test_what_a_glob_does_not_match_is_not_counted_as_ignored(lister: Lister, tree: Path) -> None:
    lister(f"{tree}/*.[mt]*")
    assert lister.summary.ignored_by_suffix == {".txt": 1}


def test_a_name_with_magic_in_it_is_itself(lister: Lister, tree: Path) -> None:
    (tree / "2024").rename(tree / "[old]")
    assert lister.names(tree / "[old]") == ["d.mkv", "e.jpg", "c.webm"]


def test_include_and_exclude(lister: Lister, tree: Path) -> None:
    assert lister.names(tree, include=["*.txt", "2024/05/*"]) == ["d.mkv", "e.jpg", "notes.txt"]
    assert lister.names(tree, exclude=["2024/*", "*.MOV"]) == ["a.mp4"]
    assert lister.names(tree, include=["*.m*"], exclude=["a.*"]) == ["d.mkv"]


def test_links(lister: Lister, tree: Path) -> None:
    """Files behind links are videos; folders behind links are counted, not followed: so a loop ends."""
    (tree / "loop").symlink_to(tree)
    (tree / "file.mp4").symlink_to(tree / "2024/05/d.mkv")
    (tree / "broken.mp4").symlink_to(tree / "nowhere")
    rows = lister(tree)
    assert len(rows) == 7
    by_name = {Path(row["uri"]).name: row for row in rows}
    assert content(by_name["file.mp4"]) == b"2024/05/d.mkv"
    assert by_name["broken.mp4"]["reason"] == "missing"
    assert lister.summary.ignored_by_suffix["(link to a folder)"] == 1
    assert len(lister(tree / "loop")) == 7
    (tree / "2024").rename(tree.parent / "elsewhere")
    (tree / "2024").symlink_to(tree.parent / "elsewhere")
    assert lister.names(tree, exclude=["broken.mp4", "file.mp4"]) == ["B.MOV", "a.mp4"]
    assert lister.names(tree, tree / "2024", exclude=["broken.mp4", "file.mp4"]) == [
        "d.mkv", "e.jpg", "c.webm", "B.MOV", "a.mp4",
    ]  # fmt: skip


def test_odd_files(lister: Lister, tree: Path) -> None:
    """An empty file is listed; a FIFO neither blocks nor counts as a video; a name that is not UTF-8 is kept."""
    (tree / "empty.mp4").touch()
    os.mkfifo(tree / "fifo.mp4")
    odd = Path(os.fsdecode(os.fsencode(tree) + b"/caf\xe9 %41.mp4"))
    odd.write_bytes(b"odd")
    rows = {row["uri"]: row for row in lister(tree)}
    assert rows[str(tree / "empty.mp4")]["bytes"] == 0
    assert content(rows[str(tree / "empty.mp4")]) == b""
    assert content(rows[f"file://{tree}/caf%E9%20%2541.mp4"]) == b"odd"
    assert lister.summary.ignored_by_suffix["(not a regular file)"] == 1
    assert content(lister(odd)[0]) == b"odd"


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_forbidden_folder_is_a_row(lister: Lister, tree: Path) -> None:
    (tree / "2024/05").chmod(0)
    rows = lister(tree)
    (tree / "2024/05").chmod(0o700)
    assert [(row["uri"], row["reason"]) for row in rows if row["reason"]] == [(str(tree / "2024/05"), "unreadable")]


def test_a_folder_that_cannot_be_read_is_a_row(lister: Lister, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if path.endswith("05"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    rows = lister(tree)
    assert [(row["uri"], row["reason"]) for row in rows if row["reason"]] == [(str(tree / "2024/05"), "unreadable")]
    assert len(rows) == 4


def test_tar_shards(lister: Lister, tmp_path: Path) -> None:
    shard = tmp_path / "s/shard-0.TAR"
    shard.parent.mkdir()
    data = write_tar(
        shard,
        {
            "x/1.mp4": b"one" * 500,
            "x/1.json": json.dumps(
                {"caption": "é", "size": {"w": 3, "tags": [1, "a"]}, "none": None, "yes": True}
            ).encode(),
            "x/1.txt": b"a text \n",
            "y/1.mp4": b"of another folder",
            "x/2.left.webm": b"left",
            "x/2.right.webm": b"right",
            "x/2.json": b"[1, 2]",
            "x/3.json": b"{}",
            "x/4.npy": b"array",
            "../../etc/passwd.mp4": b"hostile",
            "x/empty.mp4": b"",
        },
    )
    rows = {row["member"]: row for row in lister(tmp_path / "s")}
    assert set(rows) == {"x/1.mp4", "y/1.mp4", "x/2.left.webm", "x/2.right.webm", "../../etc/passwd.mp4", "x/empty.mp4"}
    assert all(row["uri"] == str(shard) for row in rows.values())
    assert content(rows["x/1.mp4"]) == b"one" * 500 == data[512:2012]
    assert content(rows["../../etc/passwd.mp4"]) == b"hostile"
    assert json.loads(rows["x/1.mp4"]["metadata"]) == {
        "caption": "é", "size.w": "3", "size.tags": '[1, "a"]', "yes": "true", "txt": "a text",
    }  # fmt: skip
    assert rows["y/1.mp4"]["metadata"] is None
    assert (
        json.loads(rows["x/2.left.webm"]["metadata"])
        == {"json": "[1, 2]"}
        == json.loads(rows["x/2.right.webm"]["metadata"])
    )
    assert lister.summary == ListingSummary(6, 2, {".npy": 1, ".json": 1}, 1)
    assert lister(shard) == list(rows.values())


def test_include_and_exclude_choose_members_and_shards(lister: Lister, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_tar(tmp_path / f"{name}.tar", {"x/1.mp4": b"1", "x/2.dat": b"2"})
    assert [row["member"] for row in lister(f"{tmp_path}/*.tar", include=["x/*.dat"], exclude=["b.tar"])] == ["x/2.dat"]


def test_of_members_of_one_name_the_last_counts(lister: Lister, tmp_path: Path) -> None:
    first = write_tar(tmp_path / "one.tar", {"a.mp4": b"first", "a.txt": b"1"})[:2048]
    second = write_tar(tmp_path / "two.tar", {"a.mp4": b"second", "a.txt": b"2"})
    (tmp_path / "both.tar").write_bytes(first + second)
    (row,) = lister(tmp_path / "both.tar")
    assert content(row) == b"second"
    assert json.loads(row["metadata"]) == {"txt": "2"}


@pytest.mark.parametrize(
    ("cut", "members"), [(1000, []), (3000, ["a.mp4"]), (4096, ["a.mp4", "b.mp4"]), (10_240, ["a.mp4", "b.mp4"])]
)
def test_a_broken_shard_gives_what_came_before_and_a_row_of_its_own(
    lister: Lister, tmp_path: Path, cut: int, members: list[str]
) -> None:
    path = tmp_path / "s.tar"
    data = write_tar(path, {"a.mp4": b"a" * 1500, "b.mp4": b"b" * 1500})
    path.write_bytes(data[:cut])
    rows = lister(path)
    assert [row["member"] for row in rows if row["member"]] == members
    damaged = [(row["uri"], row["bytes"], row["reason"]) for row in rows if not row["member"]]
    assert damaged == ([] if cut == 10_240 else [(str(path), cut, "damaged")])


def test_shards_that_cannot_be_read_by_range(lister: Lister, tmp_path: Path) -> None:
    endings = ("tar.gz", "tgz", "tar.zst", "TAR.XZ", "tar.bz2")
    for ending in endings:
        (tmp_path / f"s.{ending}").write_bytes(b"x")
    rows = lister(f"{tmp_path}/*")
    assert len(rows) == len(endings)
    assert {row["reason"] for row in rows} == {"unsupported"}
    assert all("repack it as plain .tar" in row["detail"] for row in rows)


def test_linked_members_are_rows_with_a_reason(lister: Lister, tmp_path: Path) -> None:
    write_tar(tmp_path / "s.tar", {"a.mp4": b"a", "b.mp4": "a.mp4", "c.doc": "a.mp4"})
    a, b = lister(tmp_path / "s.tar")
    assert (a["member"], a["reason"]) == ("a.mp4", None)
    assert (b["member"], b["reason"]) == ("b.mp4", "unsupported")
    assert "--dereference" in b["detail"]


def test_sidecars_that_are_no_use_never_stop_a_listing(lister: Lister, tmp_path: Path) -> None:
    sidecars = {
        "large": b'"' + b"x" * 70_000 + b'"',
        "deep": b"[" * 60_000,
        "nested": b'{"a":' * 500 + b"1" + b"}" * 500,
        "binary": b"\xff\xfe\x00",
        "surrogate": b'{"\\ud800": "\\udfff", "ok": "yes"}',
        "wide": json.dumps({f"k{i}": i for i in range(2000)}).encode(),
        "long": json.dumps({"k": "v" * 10_000}).encode(),
        "number": b"NaN",
    }
    members: dict[str, bytes | str] = {}
    for name, data in sidecars.items():
        members |= {f"{name}.mp4": b"v", f"{name}.json": data}
    write_tar(tmp_path / "s.tar", members | {"text.mp4": b"v", "text.txt": b"caf\xe9"})
    found = {row["member"][:-4]: json.loads(row["metadata"]) for row in lister(tmp_path / "s.tar")}
    assert "70002 bytes" in found["large"][shards.PROBLEM]
    assert "not JSON" in found["deep"][shards.PROBLEM]
    assert "not JSON" in found["binary"][shards.PROBLEM]
    assert len(found["nested"]) == 1
    assert found["surrogate"] == {"\\ud800": "\\udfff", "ok": "yes"}
    assert len(found["wide"]) <= 257 and "first 256" in found["wide"][shards.PROBLEM]
    assert len(found["long"]["k"]) == 4096
    assert found["number"] == {"json": "NaN"}
    assert found["text"] == {"txt": "caf\ufffd"}


def test_a_shard_with_too_large_an_index_is_bounded(
    lister: Lister, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "MAX_MEMBERS", 20)
    write_tar(tmp_path / "s.tar", {f"{i:03d}.mp4": b"" for i in range(100)})
    rows = lister(tmp_path / "s.tar")
    assert len(rows) == 22 and [row["reason"] for row in rows if not row["member"]] == ["too_large"]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_lists_of_uris(lister: Lister, tree: Path, ending: str) -> None:
    write_tar(tree / "s.tar", {"m.mp4": b"m", "m.txt": b"text"})
    entries = [
        {"uri": str(tree / "a.mp4"), "title": "A, first", "year": "2024"},
        {"uri": "2024/c.webm", "title": "", "year": ""},
        {"uri": str(tree / "bare"), "title": "no ending", "year": ""},
        {"uri": str(tree / "s.tar"), "title": "a shard", "year": ""},
        {"uri": str(tree / "gone.mp4"), "title": "", "year": ""},
        {"uri": str(tree / "2024"), "title": "", "year": ""},
    ]
    path = tree / f"list.{ending}"
    if ending == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["uri", "title", "year"])
            writer.writeheader()
            writer.writerows(entries)
    else:
        pq.write_table(pa.Table.from_pylist(entries), path)
    rows = {row["uri"].removeprefix(f"{tree}/"): row for row in lister(path)}
    assert {name: row["reason"] for name, row in rows.items()} == {
        "a.mp4": None, "2024/c.webm": None, "bare": None, "s.tar": None, "gone.mp4": "missing", "2024": "unreadable",
    }  # fmt: skip
    assert json.loads(rows["a.mp4"]["metadata"]) == {"title": "A, first", "year": "2024"}
    assert rows["2024/c.webm"]["metadata"] is None
    assert rows["s.tar"]["member"] == "m.mp4"
    assert json.loads(rows["s.tar"]["metadata"]) == {"title": "a shard", "txt": "text"}
    assert lister.names(path, include=["*.mp4"], exclude=["*gone*", "*.tar"]) == ["a.mp4"]
    assert len(lister(tree, path)) == 5 + 1 + 6, "a list inside a given folder is still read"


def test_other_filesystems(lister: Lister) -> None:
    memory = fsspec.filesystem("memory")
    for name in ("a.mp4", "b/c.mkv", "b/d.doc"):
        memory.pipe_file(f"/test_other/{name}", name.encode())
    try:
        rows = lister("memory://test_other")
        assert [(row["uri"], content(row)) for row in rows] == [
            ("memory:///test_other/a.mp4", b"a.mp4"), ("memory:///test_other/b/c.mkv", b"b/c.mkv"),
        ]  # fmt: skip
        assert lister.summary.ignored_by_suffix == {".doc": 1}
        assert lister("memory://test_other/*.mp4") == rows[:1] == lister("memory://test_other/a.mp4")
    finally:
        memory.rm("/test_other", recursive=True)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("{tree}/nowhere", "does not exist"),
        ("{tree}/notes.txt", r"seen: 1 × \.txt.*--include"),
        ("{tree}/*.avi", "seen: no files"),
        ("{tree}/2024/05/..", None),
        ("nonsense://x", "Protocol not known"),
        ("memory://nowhere/at/all", "is not there"),
        ("zip://a.mp4::{tree}/x.zip", "chained"),
        ("http://127.0.0.1:9/folder/", "list of URIs"),
    ],
)
def test_wrong_urls_are_usage_errors(lister: Lister, tree: Path, tmp_path: Path, url: str, message: str | None) -> None:
    url = url.format(tree=tree)
    if message is None:
        assert lister(url)
        return
    with pytest.raises(UsageError, match=message):
        lister(tree / "2024", url)
    assert not list(tmp_path.glob("listing1/*")), "a failed listing leaves nothing behind"


def test_wrong_lists_are_usage_errors(lister: Lister, tmp_path: Path) -> None:
    for name, data in (("a.csv", b"path\nx.mp4\n"), ("b.parquet", b"not parquet"), ("c.csv", b"uri\n\xff\xfe")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UsageError, match=r"needs one called uri|cannot be read"):
            lister(tmp_path / name)
    with pytest.raises(UsageError, match="no archive"):
        lister()


def test_a_listing_is_never_mixed_with_another(tree: Path, tmp_path: Path) -> None:
    list_archive([str(tree)], str(tmp_path / "out"))
    with pytest.raises(UsageError, match="already holds a listing"):
        list_archive([str(tree)], str(tmp_path / "out"))


def test_large_listings_go_out_in_pieces(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "GROUP_ROWS", 10)
    monkeypatch.setattr(listing, "FILE_ROWS", 30)
    for i in range(100):
        (tree / f"{i}.mp4").touch()
    counts: list[int] = []
    list_archive([str(tree)], str(tmp_path / "out"), progress=counts.append)
    assert counts == [*range(10, 101, 10), 105]
    sizes = [pq.read_metadata(path).num_rows for path in sorted((tmp_path / "out").iterdir())]
    assert sizes == [30, 30, 30, 15]


def test_known_endings() -> None:
    assert {".mp4", ".mkv", ".mxf", ".gif", ".mp3", ".wav", ".jpg", ".tiff"} <= KNOWN_SUFFIXES
    assert not {".m3u8", ".m3u", ".ffconcat", ".sdp", ".txt", ".json", ".tar"} & KNOWN_SUFFIXES


class Pages:
    """Answers list v2 from sorted keys, as S3 does, in small pages."""

    req_kw: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, keys: list[str], page: int) -> None:
        self.keys, self.page, self.requests = sorted(keys), page, 0

    def call_s3(self, method: str, **query: Any) -> dict[str, Any]:
        assert method == "list_objects_v2"
        self.requests += 1
        prefix, after = query["Prefix"], query.get("ContinuationToken") or query.get("StartAfter") or ""
        keys = [key for key in self.keys if key.startswith(prefix) and key > after]
        if delimiter := query.get("Delimiter"):
            cut = {key[: key.index(delimiter, len(prefix)) + 1] for key in keys if delimiter in key[len(prefix) :]}
            return {"CommonPrefixes": [{"Prefix": name} for name in sorted(cut)[: self.page]]}
        answer = {"Contents": [{"Key": key, "Size": 1, "ETag": '"e"'} for key in keys[: self.page]]}
        more = len(keys) > self.page
        return answer | {"IsTruncated": more} | ({"NextContinuationToken": keys[self.page - 1]} if more else {})


@pytest.mark.parametrize("threads", [1, 2, 8])
@pytest.mark.parametrize(
    "keys",
    [
        [],
        ["p/a"],
        [f"p/{i:04d}" for i in range(300)],
        [f"p/{i % 7}/{i % 5}/{i}" for i in range(300)],
        [f"p/{i}/x" for i in range(300)],
        [f"p/one/two/three/{i % 3}/{i}" for i in range(100)] + ["p/one/", "p/one/two/", "p/zzz"],
        [f"p/{chr(0x1F600 + i)}/{chr(0xE000 + i)}" for i in range(40)],
    ],
)
def test_parts_of_the_key_space_cover_it_exactly_once(keys: list[str], threads: int) -> None:
    pages = Pages([*keys, "o/before", "q/after", "p0"], page=10)
    found = [key["Key"] for key in list_keys(pages, bucket="b", prefix="p/", threads=threads)]
    assert sorted(found) == sorted(keys)
    assert pages.requests <= len(keys) / 10 + 2 * 4 * threads + s3_keys._MAX_SCOUTS + 3


@pytest.mark.s3
def test_s3_archives(s3: str, lister: Lister, tmp_path: Path) -> None:
    filesystem = filesystem_of(s3)
    bucket = s3.removeprefix("s3://")
    files = [f"list/{folder}/{i}.mp4" for folder in ("a", "b/c", "é x") for i in range(40)]
    odd = "list/odd ?versionId=1&[x]#.mp4"
    for key in [*files, odd, "list/notes.txt", "list2/not-this.mp4"]:
        filesystem.call_s3("put_object", Bucket=bucket, Key=key, Body=key.encode())
    filesystem.call_s3("put_object", Bucket=bucket, Key="list/empty folder/", Body=b"")
    rows = lister(f"{s3}/list")
    assert [row["uri"] for row in rows] == sorted(f"{s3}/{key}" for key in [*files, odd])
    assert lister.summary.ignored_by_suffix == {".txt": 1}
    assert lister(f"{s3}/list/") == rows
    assert content(rows[0]) == rows[0]["uri"].removeprefix(f"{s3}/").encode()
    (same,) = lister(f"{s3}/{odd}")
    assert same in rows and content(same) == odd.encode()
    assert len(lister(f"{s3}/list/*/1*.mp4")) == 22
    assert len(lister(f"{s3}/list/**/1*.mp4")) == 33
    with pytest.raises(UsageError, match="is not there"):
        lister(f"{s3}/nothing")
    with pytest.raises(UsageError, match="cannot be listed"):
        lister("s3://there-is-no-such-bucket")


@pytest.mark.s3
def test_s3_shards_are_read_by_their_headers(s3: str, lister: Lister, tmp_path: Path) -> None:
    data = write_tar(
        tmp_path / "s.tar", {f"{i:03d}.{e}": bytes(n) for i in range(8) for e, n in (("mp4", 500_000), ("txt", 9))}
    )
    filesystem_of(s3).pipe_file(f"{s3}/shards/s.tar", data)
    rows = lister(f"{s3}/shards/", f"{s3}/shards/s.tar")
    local = lister(tmp_path / "s.tar")
    columns = ("member", "offset", "bytes", "metadata", "reason")
    assert [[row[name] for name in columns] for row in rows] == [[row[name] for name in columns] for row in local]
    assert content(rows[3]) == bytes(500_000)
    list_archive([f"{s3}/shards"], f"{s3}/listings/1")
    assert pq.read_table(f"{s3}/listings/1".removeprefix("s3://"), filesystem=filesystem_of(s3)).num_rows == 8
