"""Thumbnails of tracks: the pixels of what was drawn, of those that are asked for, once."""

import importlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media.drawn_box import turned
from PIL import Image
from thumbnailing import (
    BLUE,
    HEIGHT,
    RED,
    SIDES,
    VIDEO,
    WIDTH,
    Maintain,
    at,
    files,
    is_red,
    labelled,
    picture_of,
    placed,
    red_box,
    track,
    video,
)

from vidproc.errors import UsageError
from vidproc.media import crops
from vidproc.media.glimpse import probed
from vidproc.media.guard import Guard
from vidproc.media.ranges import local_etag
from vidproc.media.sources import Source
from vidproc.pipeline.thumbnails import make_thumbnails, prune


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


def test_it_shows_what_was_drawn_a_little_around_it_and_not_enlarged(tables: str, out: Path, tmp_path: Path) -> None:
    """Two tracks of one frame, one of another: each of the right frame, with 3.2 and 2.4 pixels around."""
    source = placed(tmp_path / "a.mp4")
    rows = [track(10), track(10, box=(0.0, 0.0, 0.1, 0.25), number=1), track(22)]
    labelled(tables, {source: rows})
    done = make_thumbnails(tables, str(out))
    assert (done.videos, done.made, done.there, done.left.total()) == (1, 3, 0, 0)
    assert files(out) == sorted(f"{source.video_id}/tracks/net%2F1/{row['track_id']}.jpg" for row in rows)
    for row in (rows[0], rows[2]):
        found = picture_of(out, source, row)
        assert found.shape == (30, 40, 3)
        assert np.abs(np.subtract(red_box(found), (4, 3, 36, 27))).max() <= 1
        assert np.abs(found[8:22, 8:32].mean(axis=(0, 1)) - RED).max() < 12
    corner = picture_of(out, source, rows[1])
    assert corner.shape == (27, 18, 3) and not is_red(corner).any()
    assert np.abs(corner.mean(axis=(0, 1)) - BLUE).max() < 12


@pytest.mark.parametrize("size", [16, 20])
def test_the_longer_side_has_at_most_so_many_pixels(tables: str, out: Path, tmp_path: Path, size: int) -> None:
    source = placed(tmp_path / "a.mp4")
    labelled(tables, {source: [track(10), track(5, box=(0.1, 0.0, 0.15, 1.0))]})
    make_thumbnails(tables, str(out), size=size)
    assert picture_of(out, source, track(10)).shape == (size * 3 // 4, size, 3)
    assert max(picture_of(out, source, track(5)).shape) == size


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_turned_video_is_cut_as_it_is_shown(tables: str, out: Path, tmp_path: Path, degrees: int) -> None:
    placed(tmp_path / "a.mp4")
    turned(tmp_path / "a.mp4", degrees)
    source = placed(tmp_path / "a.mp4", (tmp_path / "a.mp4").read_bytes())
    x1, y1, x2, y2 = at(10)
    box = {90: (y1, 1 - x2, y2, 1 - x1), 180: (1 - x2, 1 - y2, 1 - x1, 1 - y1), 270: (1 - y2, x1, 1 - y1, x2)}[degrees]
    labelled(tables, {source: [track(10, box=box)]})
    make_thumbnails(tables, str(out))
    found = picture_of(out, source, track(10))
    sides = SIDES if degrees == 180 else SIDES[::-1]
    left, top, right, bottom = red_box(found)
    assert np.abs(np.subtract((right - left, bottom - top), sides)).max() <= 2
    assert np.abs(found[8:-8, 8:-8].mean(axis=(0, 1)) - RED).max() < 12


def test_far_apart_frames_are_fetched_a_stretch_at_a_time(
    tables: str, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[int]] = []

    def noted(*arguments: Any, starts_us: list[int], **more: Any) -> Any:
        asked.append(starts_us)
        return glimpses(*arguments, starts_us=starts_us, **more)

    glimpses = crops.glimpses
    monkeypatch.setattr(crops, "glimpses", noted)
    monkeypatch.setattr(crops, "MOST_BYTES", 2 * HEIGHT * WIDTH * 3)
    source = placed(tmp_path / "a.mp4", video(frames=400))
    rows = [track(385, box=at(25)), track(10), track(10, number=1), track(11), track(12)]
    labelled(tables, {source: rows})
    assert make_thumbnails(tables, str(out)).made == 5
    assert asked == [[1_030_000, 1_130_000], [1_230_000], [38_530_000]]
    for row in rows:
        assert np.abs(np.subtract(red_box(picture_of(out, source, row)), (4, 3, 36, 27))).max() <= 1


def test_boxes_may_come_in_any_order(tmp_path: Path) -> None:
    source = placed(tmp_path / "a.mp4")
    with Guard() as guard:
        found = list(crops.crops(guard, source, probed(guard, source), [(2_000_000, at(20)), (0, at(10))], most=64))
    assert [number for number, _ in found] == [1, 0]
    shown = [is_red(np.asarray(Image.open(io.BytesIO(bytes(data)))).astype(int)).mean() for _, data in found]
    assert shown[1] > 0.6 and shown[0] < 0.1


def test_members_of_shards_are_found_whatever_their_ending(tables: str, out: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "shard.tar", "w") as shard:
        for name, data in {"a.json": b"{}", "A.MP4": VIDEO, "b.weird[x": video(frames=20)}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            shard.addfile(entry, io.BytesIO(data))
    status = (tmp_path / "shard.tar").stat()
    uri, etag = str(tmp_path / "shard.tar"), local_etag(status)
    sources = [Source(uri, "A.MP4", -1, len(VIDEO), etag), Source(uri, "b.weird[x", -1, len(video(frames=20)), etag)]
    other = Source(uri, "c.mp4", -1, 10, etag)
    labelled(tables, {source: [track(10)] for source in (*sources, other)})
    done = make_thumbnails(tables, str(out))
    assert done.made == 2 and dict(done.left) == {"changed": 1}
    for source in sources:
        assert np.abs(np.subtract(red_box(picture_of(out, source, track(10))), (4, 3, 36, 27))).max() <= 1
    Path(uri).write_bytes(b"Dear archivist, this is no tar any more.\n" * 20)
    assert dict(make_thumbnails(tables, str(tmp_path / "other")).left) == {"changed": 3}
    Path(uri).unlink()
    assert dict(make_thumbnails(tables, str(tmp_path / "other")).left) == {"missing": 3}


def test_what_is_there_is_not_made_again_and_what_is_missing_is(
    tables: str, out: Path, tmp_path: Path, maintain: Maintain, capsys: pytest.CaptureFixture[str]
) -> None:
    source = placed(tmp_path / "a.mp4")
    labelled(tables, {source: [track(10), track(15), track(20)]})
    asked = ("thumbnails", "--tables", tables, "--out", out)
    assert maintain(*asked, "--limit", 2) == 0 and len(files(out)) == 2
    assert maintain(*asked, "--limit", 2) == 0 and len(files(out)) == 3
    whole = {path: (out / path).stat().st_mtime_ns for path in files(out)}
    Path(source.uri).unlink()  # nothing is looked into
    capsys.readouterr()
    assert maintain(*asked) == 0
    told = json.loads(capsys.readouterr().err)
    assert (told["made"], told["there"], told["videos"]) == (0, 3, 0)
    assert {path: (out / path).stat().st_mtime_ns for path in files(out)} == whole


def test_values_that_are_no_box_are_told_and_harm_nothing(tables: str, out: Path, tmp_path: Path) -> None:
    source = placed(tmp_path / "a.mp4")
    nan, inf = float("nan"), float("inf")
    boxes = [(nan, 0, 1, 1), (0, 0, inf, 1), (0.5, 0, 0.5, 1), (0.9, 0, 0.1, 1), (1.5, 0, 2, 1), (-3, -3, -2, -2)]
    bad = [track(10, box=box, number=number) for number, box in enumerate(boxes)]
    bad += [track(10, number=10, best_time_us=1 << 62), track(10, number=11, best_time_us=-1)]
    fine = [track(10, number=20, box=(-1e30, -5, 1e30, 5)), track(10, number=21, box=(0.5, 0.5, 0.5000001, 0.5000001))]
    labelled(tables, {source: [*bad, *fine]})
    done = make_thumbnails(tables, str(out))
    assert (done.made, dict(done.left)) == (2, {"damaged": len(bad)})
    assert picture_of(out, source, fine[0]).shape == (HEIGHT, WIDTH, 3)
    assert max(picture_of(out, source, fine[1]).shape[:2]) <= 2


def test_one_may_ask_for_some(tables: str, out: Path, tmp_path: Path) -> None:
    a, b, c = (placed(tmp_path / name / "x.mp4") for name in "abc")
    labelled(tables, {one: [track(10), track(20, label="cat")] for one in (a, b, c)})
    made = {}
    for name, asked in {
        "id": {"video": a.video_id},
        "uri": {"video": b.uri},
        "glob": {"video": f"{tmp_path}/[bc]/*"},
        "label": {"label": "cat"},
        "both": {"video": c.video_id, "label": "dog"},
        "none": {"label": "fish"},
    }.items():
        place = str(out / name)
        make_thumbnails(tables, place, **asked)
        made[name] = {(path.split("/")[0], path.rpartition("/")[2]) for path in files(place)}
    dog, cat = (f"{track(frame)['track_id']}.jpg" for frame in (10, 20))
    ids = {one: one.video_id for one in (a, b, c)}
    assert made == {
        "id": {(ids[a], dog), (ids[a], cat)},
        "uri": {(ids[b], dog), (ids[b], cat)},
        "glob": {(ids[one], name) for one in (b, c) for name in (dog, cat)},
        "label": {(ids[one], cat) for one in (a, b, c)},
        "both": {(ids[c], dog)},
        "none": set(),
    }
    with pytest.raises(UsageError, match="no video of these tables is meant by"):
        make_thumbnails(tables, str(out / "more"), video="nowhere/*")


def test_only_the_newest_version_by_the_newest_model_counts(tables: str, out: Path, tmp_path: Path) -> None:
    old = placed(tmp_path / "a.mp4", video(frames=25))
    labelled(tables, {old: [track(10)]})
    new = placed(tmp_path / "a.mp4")
    labelled(tables, {new: [track(10)]}, model_id="old", at="2026-01-02")
    labelled(tables, {new: [track(20)]}, model_id="..", at="2026-01-03")
    done = make_thumbnails(tables, str(out))
    assert (done.made, done.left.total()) == (1, 0)
    assert files(out) == [f"{new.video_id}/tracks/%2E./{track(20)['track_id']}.jpg"]
    assert prune(tables, str(out)) == 0 and len(files(out)) == 1
