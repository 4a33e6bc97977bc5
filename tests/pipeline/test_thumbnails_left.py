"""Thumbnails: what cannot be made is told, what is gone goes, faces are fenced; and all of it on S3."""

import importlib
import io
import json
import tarfile
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import s3fs
from made_faces import PURPOSE
from thumbnailing import (
    HEIGHT,
    VIDEO,
    WIDTH,
    Maintain,
    at,
    face,
    files,
    labelled,
    picture_of,
    placed,
    red_box,
    track,
    video,
)

from vidproc.errors import Damaged, UsageError
from vidproc.media import crops
from vidproc.media.sources import Source
from vidproc.media.walk import look_up
from vidproc.pipeline.audit import read_audit
from vidproc.pipeline.thumbnails import make_thumbnails, prune
from vidproc.tables.forgetting import forget_person, forget_videos
from vidproc.tables.store import Store


@pytest.fixture
def maintain(monkeypatch: pytest.MonkeyPatch) -> Maintain:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "jobs"))
    job = importlib.import_module("maintain")
    return lambda *arguments: job.main([str(one) for one in arguments])


@pytest.fixture
def tables(tmp_path: Path) -> str:
    return str(tmp_path / "tables")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "thumbs"


def test_a_stretch_that_does_not_decode_is_told_and_a_changed_video_is_left_there_and_then(
    tables: str, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def failing(*arguments: Any, starts_us: list[int], **more: Any) -> Any:
        asked.append(starts_us[0])
        if len(asked) == 2:
            raise Damaged("nothing of this stretch decodes")
        if len(asked) == 4:
            placed(Path(source.uri), VIDEO)
        return glimpses(*arguments, starts_us=starts_us, **more)

    glimpses = crops.glimpses
    monkeypatch.setattr(crops, "glimpses", failing)
    monkeypatch.setattr(crops, "MOST_BYTES", HEIGHT * WIDTH * 3)
    source = placed(tmp_path / "a.mp4")
    labelled(tables, {source: [track(frame) for frame in (10, 11, 12, 13, 14, 15)]})
    done = make_thumbnails(tables, str(out))
    assert (done.made, dict(done.left)) == (2, {"damaged": 1, "changed": 3})
    assert asked == [1_030_000, 1_130_000, 1_230_000, 1_330_000]


def test_what_changed_is_gone_or_broken_is_told_and_the_others_go_on(
    tables: str, out: Path, tmp_path: Path, maintain: Maintain, capsys: pytest.CaptureFixture[str]
) -> None:
    good, changed, gone = (placed(tmp_path / "archive" / name) for name in ("z.mp4", "changed.mp4", "gone.mp4"))
    letter = placed(tmp_path / "archive" / "letter.mp4", b"Dear archivist, this was never a video.\n" * 20)
    labelled(tables, {source: [track(10), track(20)] for source in (good, changed, gone, letter)})
    placed(tmp_path / "archive" / "changed.mp4", video(frames=29))
    Path(gone.uri).unlink()
    asked = ("thumbnails", "--tables", tables, "--out", out)
    assert maintain(*asked, "--limit", 1) == 1 and len(files(out)) == 1, "what cannot be made uses up no limit"
    capsys.readouterr()
    assert maintain(*asked) == 1
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    left = {(line["video"], line["reason"], line["tracks"]) for line in told if line["event"] == "left"}
    assert left == {(changed.uri, "changed", 2), (gone.uri, "missing", 2), (letter.uri, "not_media", 2)}
    assert (told[-1]["event"], told[-1]["made"], told[-1]["left"]) == ("made", 1, 6)
    assert len(files(out)) == 2 and all(path.startswith(good.video_id) for path in files(out))


def test_prune_takes_those_of_forgotten_videos_and_nothing_of_others(
    tables: str, out: Path, tmp_path: Path, maintain: Maintain
) -> None:
    a, b = (placed(tmp_path / name) for name in ("a.mp4", "b.mp4"))
    labelled(tables, {one: [track(10), track(20)] for one in (a, b)})
    asked = ("thumbnails", "--tables", tables, "--out", out)
    assert maintain(*asked) == 0 and len(files(out)) == 4
    half = out / a.video_id / "tracks" / "net%2F1" / ".writing-0123"
    foreign = [out / "mine.jpg", out / "holiday" / "tracks" / "x" / "1-0.jpg", out / a.video_id / "note.txt"]
    for path in (half, *foreign):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    forget_videos(tables, a.video_id)
    assert maintain(*asked, "--prune") == 0
    assert not half.exists() and all(path.exists() for path in foreign)
    names = {name for name in files(out) if name.endswith("-0.jpg")} - {"holiday/tracks/x/1-0.jpg"}
    assert {name.split("/")[0] for name in names} == {b.video_id} and len(names) == 2
    assert prune(tables, str(out)) == 0
    assert prune(tables, str(tmp_path / "nowhere")) == 0


def test_faces_only_when_asked_on_record_and_never_of_who_was_forgotten(
    tables: str, out: Path, tmp_path: Path, maintain: Maintain
) -> None:
    """The best face of a track is cut out; once Ann is forgotten hers goes, and that of somebody unknown stays."""
    source = placed(tmp_path / "a.mp4")
    ann = [
        face(500_000, (0, 0, 0.1, 0.1), quality=0.5),
        face(1_000_000, at(10)),
        face(1_500_000, (0, 0, 0.1, 0.1), quality=0.5),
    ]
    other = {"track_id": "9-9", "identity": None, "decision": "unknown"}
    unfit = {"track_id": "9-9", "identity": None, "decision": "unfit", "similarity": None, "quality": 0.1}
    unknown = [face(2_000_000, at(20), **other), face(2_100_000, at(21), **unfit)]
    loose = face(2_500_000, at(25), track_id=None)
    labelled(tables, {source: [*ann, *unknown, loose]}, faces=True)
    asked = ("thumbnails", "--tables", tables, "--out", out)
    assert maintain(*asked) == 0 and files(out) == [] and read_audit(tables) == []
    assert maintain(*asked, "--faces", "--purpose", PURPOSE) == 0
    for track_id in ("0-0", "9-9"):
        found = picture_of(out, source, {"track_id": track_id}, annotator="faces")
        assert np.abs(np.subtract(red_box(found), (4, 3, 36, 27))).max() <= 1
    assert len(files(out)) == 2
    assert [(one["event"], one["purpose"], one["thumbnails"]) for one in read_audit(tables)] == [
        ("begun", PURPOSE, "faces")
    ]
    forget_person(tables, "ann")
    assert maintain(*asked, "--prune") == 0
    kept = [f"{source.video_id}/faces/net%2F1/9-9.jpg"]
    assert files(out) == kept
    assert maintain(*asked, "--faces", "--purpose", PURPOSE) == 0 and files(out) == kept


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--faces",), "--faces and --purpose go together"),
        (("--purpose", PURPOSE), "--faces and --purpose go together"),
        (("--faces", "--purpose", "why not"), "says too little"),
        (("--prune", "--label", "dog"), "--prune goes with --tables and --out alone"),
        (("--out", "tables/thumbs"), "must lie apart"),
        (("--out", "."), "must lie apart"),
        (("--size", "4"), "--size: Input should be greater"),
        (("--limit", "0"), "--limit: Input should be greater"),
        (("--tables", "elsewhere"), "holds no tables"),
        (("--tables", "elsewhere", "--prune"), "holds no tables"),
    ],
)
def test_wrong_use_is_said(
    tmp_path: Path, maintain: Maintain, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        maintain("thumbnails", "--tables", "tables", "--out", "thumbs", *more)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.s3
def test_on_s3(s3: str, tables: str, tmp_path: Path) -> None:
    """The shard and the thumbnails are there; replaced, it is left alone."""
    place = f"{s3}/thumbnails-{uuid.uuid4().hex[:8]}"
    with tarfile.open(tmp_path / "shard.tar", "w") as shard:
        entry = tarfile.TarInfo("a.mp4")
        entry.size = len(VIDEO)
        shard.addfile(entry, io.BytesIO(VIDEO))
    Store(place).put("archive/shard.tar", (tmp_path / "shard.tar").read_bytes())
    uri = f"{place}/archive/shard.tar"
    source = Source(uri, "a.mp4", -1, len(VIDEO), look_up(uri, name=uri).source.etag)
    labelled(tables, {source: [track(10), track(20)]})
    out = f"{place}/thumbs"
    assert make_thumbnails(tables, out).made == 2
    assert np.abs(np.subtract(red_box(picture_of(out, source, track(20))), (4, 3, 36, 27))).max() <= 1
    assert make_thumbnails(tables, out).there == 2
    Store(place).put("archive/shard.tar", (tmp_path / "shard.tar").read_bytes() + b"\0" * 512)
    assert dict(make_thumbnails(tables, f"{place}/more").left) == {"changed": 2}
    forget_videos(tables, source.video_id)
    assert prune(tables, out) == 2 and files(out) == []


@pytest.mark.s3
def test_a_bucket_that_keeps_what_was_pruned_is_told(s3: str, tables: str, tmp_path: Path, maintain: Maintain) -> None:
    bucket = f"vidproc-kept-{uuid.uuid4().hex[:8]}"
    storage = s3fs.S3FileSystem()
    storage.mkdir(bucket)
    storage.call_s3("put_bucket_versioning", Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    source = placed(tmp_path / "a.mp4")
    labelled(tables, {source: [track(10)]})
    asked = ("thumbnails", "--tables", tables, "--out", f"s3://{bucket}/thumbs")
    assert maintain(*asked) == 0 and maintain(*asked, "--prune") == 0
    forget_videos(tables, source.video_id)
    assert maintain(*asked, "--prune") == 1 and files(f"s3://{bucket}/thumbs") == []
