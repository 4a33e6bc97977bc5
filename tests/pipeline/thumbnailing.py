"""What tests of thumbnails share: a red box that moves over blue, tables that say where it is, and what was cut out."""

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tables.made_rows import ledger_rows, part

from vidproc.media.ranges import local_etag
from vidproc.media.sources import Source
from vidproc.pipeline.thumbnails import path_of
from vidproc.schema import FACES, LEDGER, TRACKS, VIDEOS, WHOLE_VIDEO
from vidproc.tables.commit import Commits
from vidproc.tables.store import Store
from vidproc.train.encoded import encode

FPS = 10
HEIGHT, WIDTH = 96, 160
RED, BLUE = (220, 30, 30), (20, 40, 120)
STEP = 4
"""Pixels that the red box goes to the right in each frame: a neighbour's frame shows."""
SIDES = (32, 24)
TOP = 40

Box = tuple[float, float, float, float]
Row = dict[str, Any]
Maintain = Callable[..., int]


def at(frame: int) -> Box:
    """Where the red box is, as shares of the picture."""
    left = STEP * frame
    return left / WIDTH, TOP / HEIGHT, (left + SIDES[0]) / WIDTH, (TOP + SIDES[1]) / HEIGHT


def video(*, frames: int = 30) -> bytes:
    pictures = np.full((frames, HEIGHT, WIDTH, 3), BLUE, np.uint8)
    for number, picture in enumerate(pictures):
        left = STEP * (number % 30)
        picture[TOP : TOP + SIDES[1], left : left + SIDES[0]] = RED
    return encode(pictures, fps=FPS, crf=8)


VIDEO = video()


def placed(path: Path, data: bytes = VIDEO) -> Source:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    status = path.stat()
    return Source(str(path), "", 0, status.st_size, local_etag(status))


def track(frame: int = 10, *, box: Sequence[float] | None = None, number: int = 0, **changed: Any) -> Row:
    """A row of `tracks`, less whose; its best frame is the nearest to its time, not at it."""
    time_us = round(frame * 1_000_000 / FPS) + 30_000
    box = at(frame) if box is None else box
    return {
        "track_id": f"{time_us}-{number}",
        "start_us": 0,
        "end_us": 3_000_000,
        "label": "dog",
        "label_id": 1,
        "n_detections": 2,
        "mean_score": 0.75,
        "detection_ids": ["0-0", "1-0"],
        "best_time_us": time_us,
        **dict(zip(("x1", "y1", "x2", "y2"), box, strict=True)),
    } | changed


def face(time_us: int, box: Box, **changed: Any) -> Row:
    return {
        "time_us": time_us,
        "face_id": f"{time_us}-0",
        "track_id": "0-0",
        **dict(zip(("x1", "y1", "x2", "y2"), box, strict=True)),
        "landmarks": [0.0] * 10,
        "score": 0.9,
        "quality": 0.9,
        "identity": "ann",
        "similarity": 0.8,
        "runner_up": 0.1,
        "decision": "matched",
        "gallery_version": "1",
    } | changed


def labelled(
    url: str,
    tracks: dict[Source, Sequence[Row]],
    *,
    faces: bool = False,
    model_id: str = "net/1",
    at: str = "2026-01-01",
) -> None:
    """Tables that hold these tracks, as `label` leaves them."""
    table = FACES if faces else TRACKS
    rows: dict[Any, list[Row]] = {table: [], VIDEOS: [], LEDGER: []}
    for source, found in tracks.items():
        unit = {"annotator": table.name, "model_id": model_id, "run_id": "run-1"}
        rows[table] += [{"video_id": source.video_id, **unit, **row} for row in found]
        place = {name: getattr(source, name) for name in ("video_id", "uri", "member", "etag", "bytes")}
        now = np.datetime64(at, "us").item()
        rows[VIDEOS].append({**place, "run_id": "run-1", "status": "labelled", "n_segments": 1, "labelled_at": now})
        about = json.dumps(place | {"start_us": 0, "end_us": 3_000_000})
        rows[LEDGER] += ledger_rows(source.video_id, [WHOLE_VIDEO], n_segments=1, facts=about, at=now, **unit)
    with Commits.open(url, run_id="run-1") as commits:
        commits.commit([part(url, table, found) for table, found in rows.items()])


def picture_of(out: str | Path, source: Source, row: Row, *, model_id: str = "net/1", annotator: str = "tracks") -> Any:
    path = path_of({"video_id": source.video_id, "annotator": annotator, "model_id": model_id, **row})
    data = Store(str(out)).get(path)
    assert data is not None, path
    image = Image.open(io.BytesIO(data))
    assert image.format == "JPEG"
    return np.asarray(image).astype(int)


def is_red(picture: Any) -> Any:
    return picture[..., 0] - picture[..., 2] > 60


def red_box(picture: Any) -> list[int]:
    rows, columns = (np.flatnonzero(is_red(picture).any(axis=axis)) for axis in (1, 0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


def files(out: str | Path) -> list[str]:
    return Store(str(out)).list("")
