"""What is forgotten is in no file any more, does not come back, and a byte left behind is found."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_rows import SLOW_ON_S3, FakeAnnotator, part, read, segment_parts, write_listing
from test_compaction import drive

from vidproc.errors import LeaseLost, UsageError
from vidproc.schema import ANNOTATION_TABLES, FACES, LABELS, TABLES
from vidproc.tables.checking import check
from vidproc.tables.commit import Commits, replace_units
from vidproc.tables.compaction import compact
from vidproc.tables.derive import derive
from vidproc.tables.forgetting import allow_video, find_videos, forget_person, forget_videos, place_digest
from vidproc.tables.plan import make_plan
from vidproc.tables.proof import Needles, search
from vidproc.tables.store import Store

NAME, OTHER = "Zoë Ordway", "Ada Mills"


def vid(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def facts(name: str) -> str:
    known = {"uri": f"a/{name}.mp4", "member": "", "etag": "e", "bytes": 10, "metadata": {"title": name}}
    return json.dumps(known | {"start_us": 0, "end_us": 2_000_000, "declared_us": 2_000_000})


def label(url: str, names: str = "abc", *, run_id: str = "run-1") -> None:
    with Commits.open(url, run_id=run_id) as commits:
        for name in names:
            commits.commit(segment_parts(url, vid(name), [0, 1], n_segments=2, facts=facts(name)))
        derive(commits, {"actions": FakeAnnotator()})
        again = pa.table({"video_id": [vid(names[0])], "annotator": ["actions"], "model_id": ["net-1"]})
        commits.commit(
            segment_parts(url, vid(names[0]), [0, 1], n_segments=2, facts=facts(names[0])), replace=replace_units(again)
        )
        derive(commits, {"actions": FakeAnnotator()})


def raw_hits(url: str, needle: bytes) -> list[str]:
    """Independent of the proof: uncompressed bytes of every file, and every decoded value of every Parquet file."""
    hits = []
    for path in Path(url).rglob("*"):
        if path.is_file():
            told = repr(pq.read_table(path).to_pylist()).encode() if path.suffix == ".parquet" else b""
            if needle in path.read_bytes() or needle in told or needle in str(path).encode():
                hits.append(str(path))
    return hits


def test_a_video_goes_out_of_every_file_and_the_others_stay(tmp_path: Path) -> None:
    url = str(tmp_path)
    label(url)
    list(compact(url))
    Store(url).put("_scratch/run-0/listing.json", vid("a").encode())
    (tmp_path / "labels" / ".writing-1").write_bytes(vid("a").encode())
    kept = {name: [row for row in read(url, name) if row.get("video_id") != vid("a")] for name in TABLES}
    assert len(raw_hits(url, vid("a").encode())) > 5
    done = forget_videos(url, vid("a"), reference="TICKET-1")
    assert (done.videos, done.rows, done.found) == (1, 10, ())
    assert raw_hits(url, vid("a").encode()) == []
    assert {name: read(url, name) for name in TABLES if name != "forgotten"} == {
        name: rows for name, rows in kept.items() if name != "forgotten"
    }
    assert check(url).findings == ()
    told = {row["what"]: row for row in read(url, "forgotten")}
    assert told["video"]["place"] == place_digest("a/a.mp4")
    assert (told["video"]["rows"], told["video"]["reference"]) == (10, "TICKET-1")
    assert told["proof"]["rows"] == 0
    assert told["proof"]["files"] == done.files > 0
    assert raw_hits(url, b"a/a.mp4") == []


@SLOW_ON_S3
def test_on_a_store_with_compaction_and_old_versions(place: str) -> None:
    label(place)
    list(compact(place))
    assert forget_videos(place, "a/[ab].mp4").found == ()
    assert [row["video_id"] for row in read(place, "videos")] == [vid("c")]
    store = Store(place)
    assert not any(vid("a").encode() in (store.get(path) or b"") for path in store.list(""))


def planned(url: str, tmp_path: Path, run: str, *, uris: str = "abc") -> list[str]:
    listing, out = str(tmp_path / f"listing-{run}"), str(tmp_path / f"plan-{run}")
    write_listing(listing, uris)
    make_plan(listing, url, wanted={"actions": "net-2"}, out_url=out)
    return [row["uri"] for file in sorted(Path(out).glob("*")) for row in pq.read_table(file).to_pylist()]


def test_a_forgotten_place_is_not_planned_until_it_is_allowed(tmp_path: Path) -> None:
    url = str(tmp_path / "tables")
    label(url)
    forget_videos(url, "a/a.mp4")
    assert planned(url, tmp_path, "1") == ["a/b.mp4", "a/c.mp4"]  # new versions of all three are listed
    with pytest.raises(UsageError, match=r"'a/b\.mp4' is not forgotten here"):
        allow_video(url, "a/b.mp4")
    allow_video(url, "a/a.mp4")
    assert planned(url, tmp_path, "2") == ["a/a.mp4", "a/b.mp4", "a/c.mp4"]
    forget_videos(url, "a/a.mp4")  # in these tables there is nothing of it, but it is not to come
    assert planned(url, tmp_path, "3") == ["a/b.mp4", "a/c.mp4"]


def test_which_videos_are_meant(tmp_path: Path) -> None:
    url = str(tmp_path)
    with Commits.open(url, run_id="run-1") as commits:
        for name, member in (("p", ""), ("q", "x.mp4"), ("r", "y.mp4")):
            told = json.loads(facts(name)) | ({"uri": "s/shard.tar", "member": member} if member else {})
            commits.commit(segment_parts(url, vid(name), [0], n_segments=2, facts=json.dumps(told)))  # not derived yet
    assert find_videos(url, vid("q")) == {"s/shard.tar#x.mp4": {vid("q")}}
    assert find_videos(url, "s/shard.tar#*") == {"s/shard.tar#x.mp4": {vid("q")}, "s/shard.tar#y.mp4": {vid("r")}}
    assert find_videos(url, "a/p.mp4") == {"a/p.mp4": {vid("p")}}
    assert find_videos(url, "s/shard.tar") == {}
    for nobody in (vid("z"), "z/*", "plain"):
        with pytest.raises(UsageError, match="no video of these tables is meant"):
            forget_videos(url, nobody)
    assert len(read(url, "ledger")) == 3


def test_a_running_job_is_not_disturbed(tmp_path: Path) -> None:
    url = str(tmp_path)
    label(url)
    with Commits.open(url, run_id="run-9", lease_s=1.0) as commits:
        for forget in (
            lambda: forget_videos(url, "a/a.mp4", lease_s=1.0),
            lambda: forget_person(url, "x", lease_s=1.0),
        ):
            with pytest.raises(LeaseLost, match="run run-9"):
                forget()
        commits.commit(segment_parts(url, vid("d"), [0], n_segments=1))
    assert len(read(url, "videos")) == 3


# ---- what is left is found


def write_parquet(path: Path, **columns: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, compression="zstd")


LEFT: dict[str, Callable[[Path], None]] = {
    "an old part": lambda root: write_parquet(root / "old" / "p.parquet", video_id=["0" * 32, vid("a")]),
    "inside a text": lambda root: write_parquet(root / "old" / "p.parquet", facts=[f'{{"of": "x{vid("a")}y"}}']),
    "in hexadecimal": lambda root: (
        (root / "x.bin").write_bytes(b"\xff" + f"00{vid('a')}ff".encode() + b"\xff") and None
    ),
    "in a list": lambda root: write_parquet(root / "p.parquet", ids=[["b"], None, [], ["c", vid("a")]]),
    "in a map": lambda root: write_parquet(
        root / "p.parquet", m=pa.array([[("k", vid("a"))]], pa.map_(pa.string(), pa.string()))
    ),
    "in a struct": lambda root: write_parquet(root / "p.parquet", s=[{"x": {"y": vid("a")}}]),
    "as a category": lambda root: write_parquet(root / "p.parquet", d=pa.array([vid("a")]).dictionary_encode()),
    "in JSON": lambda root: (root / "_audit.json").write_text(json.dumps({"video": vid("a")})) and None,
    "in a name": lambda root: (root / f"{vid('a')}.jpg").write_bytes(b"") and None,
    "beyond a chunk": lambda root: (root / "x").write_bytes(b"-" * (8 * 2**20 - 9) + vid("a").encode()) and None,
    "unreadable": lambda root: (root / "labels" / "p.parquet").write_bytes(b"PAR1 torn PAR1") and None,
    "a hidden file": lambda root: (root / ".hidden").write_text(vid("a")) and None,
}


@pytest.mark.parametrize("where", LEFT)
def test_a_video_left_behind_is_found(tmp_path: Path, where: str) -> None:
    (tmp_path / "labels").mkdir()
    write_parquet(tmp_path / "fine.parquet", video_id=[vid("b")], vector=[[1.0]])
    assert search(Store(str(tmp_path)), Needles(ids=frozenset({vid("a")})))[1] == []
    LEFT[where](tmp_path)
    assert len(search(Store(str(tmp_path)), Needles(ids=frozenset({vid("a")})))[1]) > 0


def test_forget_is_not_proven_while_something_is_left(tmp_path: Path) -> None:
    url = str(tmp_path)
    label(url)
    write_parquet(tmp_path / "copies" / "labels.parquet", video_id=[vid("b"), vid("a")])
    done = forget_videos(url, "a/a.mp4")
    assert {(found.path, found.what) for found in done.found} == {("copies/labels.parquet", "video_id")}
    assert {row["what"]: row["rows"] for row in read(url, "forgotten")}["proof"] == len(done.found)


# ---- persons


def vector(seed: int) -> list[float]:
    found = np.random.default_rng(seed).standard_normal(64).astype(np.float32)
    return list((found / np.linalg.norm(found)).tolist())


def face(video_id: str, time_us: int, name: str | None, seed: int | None) -> dict[str, Any]:
    return {
        "video_id": video_id,
        "annotator": "faces",
        "model_id": "net-1",
        "run_id": "run-1",
        "time_us": time_us,
        "face_id": f"{time_us}-0",
        "track_id": "1",
        **dict.fromkeys(("x1", "y1", "x2", "y2"), 0.5),
        "landmarks": [0.5] * 10,
        "score": 0.9,
        "quality": 0.8,
        "identity": name,
        "similarity": 0.7,
        "runner_up": 0.1,
        "decision": "matched" if name else "unknown",
        "gallery_version": "000001",
        "vector": None if seed is None else vector(seed),
    }


def label_faces(url: str) -> None:
    """Two parts; the second replaces a row that had been matched with the same vector, now of nobody."""
    with Commits.open(url, run_id="run-1") as commits:
        label_ledger = segment_parts(url, vid("a"), [0, 1], n_segments=2, annotator="faces", rows=4, facts=facts("a"))
        first = [face(vid("a"), 0, NAME, 1), face(vid("a"), 10, OTHER, 2)]
        commits.commit([part(url, FACES, first), label_ledger[1]])
        commits.commit([part(url, FACES, [face(vid("a"), 20, NAME, 3), face(vid("a"), 30, NAME, None)])])
        changed = pa.table({"video_id": [vid("a")], "face_id": ["20-0"]})
        commits.commit([part(url, FACES, [face(vid("a"), 20, None, 3)])], replace={"faces": changed})


def test_a_person_becomes_unknown_and_their_vectors_go(tmp_path: Path) -> None:
    url = str(tmp_path)
    label_faces(url)
    vectors = [np.array(vector(seed), np.float32).tobytes() for seed in (1, 2, 3)]
    before = read(url, "faces")
    done = forget_person(url, NAME, reference="letter 7")
    assert (done.rows, done.found) == (3, ())
    rows = read(url, "faces")
    other = [row for row in before if row["identity"] == OTHER]
    assert [row for row in rows if row["identity"]] == other
    for row, old in zip(rows, before, strict=True):
        if row not in other:
            cleared = dict.fromkeys(("identity", "similarity", "runner_up", "vector")) | {"decision": "unknown"}
            assert row == old | cleared
    assert raw_hits(url, NAME.encode()) == raw_hits(url, json.dumps(NAME).encode()) == []
    left = [
        np.array(row["vector"], np.float32).tobytes()
        for path in tmp_path.rglob("*.parquet")
        if "faces/part" in str(path)
        for row in pq.read_table(path).to_pylist()
        if row["vector"]
    ]
    assert left == [vectors[1]]
    told = {row["what"]: row for row in read(url, "forgotten")}
    assert (told["person"]["place"], told["person"]["rows"], told["person"]["reference"]) == ("", 3, "letter 7")
    assert forget_person(url, NAME).rows == 0  # again, and nothing to do


FLOATS = np.array(vector(1), np.float32)
LEFT_OF_A_PERSON: dict[str, Callable[[Path], None]] = {
    "a name": lambda root: write_parquet(root / "p.parquet", label=["dog", NAME]),
    "a name in JSON": lambda root: (root / "g.json").write_text(json.dumps({"people": [NAME]})) and None,
    "a name in plain JSON": lambda root: (
        (root / "g.json").write_text(json.dumps([NAME], ensure_ascii=False), encoding="utf-8") and None
    ),
    "a name in a text": lambda root: write_parquet(root / "p.parquet", config=[json.dumps({"who": NAME})]),
    "a vector": lambda root: write_parquet(
        root / "p.parquet", vector=pa.array([None, vector(1)], pa.list_(pa.float32()))
    ),
    "a vector in an array file": lambda root: np.save(root / "v.npy", np.stack([np.zeros(64, np.float32), FLOATS])),
    "a vector at an odd place": lambda root: (root / "v.bin").write_bytes(b"odd" + FLOATS.tobytes()) and None,
}


@pytest.mark.parametrize("where", LEFT_OF_A_PERSON)
def test_a_person_left_behind_is_found(tmp_path: Path, where: str) -> None:
    url = str(tmp_path)
    label_faces(url)
    LEFT_OF_A_PERSON[where](tmp_path)
    found = forget_person(url, NAME).found
    assert {one.path for one in found} <= {"p.parquet", "g.json", "v.npy", "v.bin"}
    assert len(found) == 1
    assert NAME not in repr(found)


def test_a_name_that_is_only_mentioned_is_not_an_identity(tmp_path: Path) -> None:
    """Who speaks of somebody in a subtitle has not recognised them; and short names are in many words."""
    needles = Needles(name="Al")
    write_parquet(tmp_path / "p.parquet", text=["Alas, Al came home", "normAl"])
    assert search(Store(str(tmp_path)), needles)[1] == []


# ---- kills


VERBS = [("forget", "a/a.mp4"), ("forget_person", NAME)]


def killed(tmp_path: Path, verb: str, who: str, *, stride: int) -> None:
    base, work = str(tmp_path / "base"), tmp_path / "work"
    work.mkdir()
    label_faces(base)
    steps = int(drive("kill", verb, base, str(work), str(stride), who))
    assert steps > 20
    forget = forget_videos if verb == "forget" else forget_person
    expected = 0 if verb == "forget" else 4
    for k in range(0, steps, stride):
        url = str(work / str(k))
        assert forget(url, who).found == (), k
        assert raw_hits(url, NAME.encode()) == [], k
        assert len(read(url, "faces")) == expected, k
        assert raw_hits(url, vid("a").encode()) == [] or expected, k


@pytest.mark.parametrize(("verb", "who"), VERBS)
def test_killed_anywhere_the_same_command_goes_on(tmp_path: Path, verb: str, who: str) -> None:
    killed(tmp_path, verb, who, stride=20)


@pytest.mark.slow
@pytest.mark.parametrize(("verb", "who"), VERBS)
def test_killed_at_every_step_the_same_command_goes_on(tmp_path: Path, verb: str, who: str) -> None:
    killed(tmp_path, verb, who, stride=1)


def test_every_table_of_videos_is_emptied(tmp_path: Path) -> None:
    """A table that is added to the schema is forgotten of without anyone remembering."""
    from vidproc.tables.forgetting import VIDEO_TABLES

    named = {table.name for table in TABLES.values() if "video_id" in table.schema.names}
    assert named == {table.name for table in VIDEO_TABLES}
    assert all("video_id" in table.key for table in VIDEO_TABLES)
    assert set(ANNOTATION_TABLES) | {LABELS.name} <= named
