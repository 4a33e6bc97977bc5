"""Labelled spans as they are found: in folders of classes, tables of spans, COCO files and the published tables."""

import csv
import io
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vidproc.command import log
from vidproc.errors import UsageError
from vidproc.media.archive import list_archive
from vidproc.media.sources import Source
from vidproc.media.walk import locate
from vidproc.tables.query import connect, run_query

SPLITS = {
    "train": "train", "training": "train",
    "val": "held_out", "valid": "held_out", "validation": "held_out", "dev": "held_out", "held_out": "held_out",
    "test": "test", "testing": "test",
}  # fmt: skip
"""What others call the splits → what they are here. `held_out` chooses the epoch, `test` is only ever evaluated."""


@dataclass(frozen=True)
class Labelled:
    """One example before its split is settled. `name`: of the file, as globs see it; `split`: None if nobody said."""

    source: Source
    label: Any
    split: str | None
    start_us: int | None = None
    end_us: int | None = None

    @property
    def name(self) -> str:
        return f"{self.source.uri}/{self.source.member}".rstrip("/")


def from_folders(url: str) -> list[Labelled]:
    """A file's class is the folder that it lies in, or its sidecar's `label` or `cls`."""
    root = locate(url).root  # names below it: a folder above may be called "train" too
    found = []
    for source, metadata in _listed([url]):
        outside = source.uri.rpartition(root)[2].strip("/").split("/")
        inside = source.member.strip("/").split("/") if source.member else outside
        label = metadata.get("label") or metadata.get("cls") or (inside[-2] if len(inside) > 1 else "")
        above = [*outside[:-1], *inside[:-2]] if source.member else outside[:-2]
        split = next((SPLITS[part] for part in above if part in SPLITS), None)
        found.append(Labelled(source, label, split))
    return found


def from_spans(url: str) -> list[Labelled]:
    """A CSV or Parquet table, or the `examples.parquet` that a training wrote."""
    data = _bytes_of(url)
    try:
        if url.lower().endswith(".parquet"):
            rows = pq.ParquetFile(io.BytesIO(data)).read().to_pylist()
        else:
            rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")))
    except (pa.ArrowException, csv.Error, UnicodeDecodeError) as error:
        raise UsageError(f"{url} cannot be read as a table: {error}") from error
    if rows and {"offset", "etag", "label"} <= set(rows[0]):  # what a training wrote
        return [_again(row) for row in rows]
    return _rows(rows, what=url, folder=url.rpartition("/")[0])


def _again(row: Mapping[str, Any]) -> Labelled:
    return Labelled(Source.of(row), json.loads(row["label"]), row["split"], row["start_us"], row["end_us"])


def from_tables(tables_url: str, sql: str) -> list[Labelled]:
    """What a query of published tables answers: the same columns as a table of spans."""
    rows = run_query(connect(tables_url), sql).to_pylist()
    return _rows(rows, what="the answer to --sql", folder="")


def _rows(rows: Sequence[Mapping[str, Any]], *, what: str, folder: str) -> list[Labelled]:
    """Examples from rows with the columns uri, label or labels, member, split, and start and end.

    Those are in seconds, as start_s and end_s are; start_us and end_us in microseconds.
    """
    columns = set(rows[0]) if rows else set()
    if "uri" not in columns or not {"label", "labels"} & columns:
        raise UsageError(f"{what} has the columns {sorted(columns)}: it needs uri, and label or labels")
    uris = [_absolute(str(row["uri"]), folder) for row in rows]
    sources = {(uri, source.member): source for source, uri in _looked_up(uris)}
    found = []
    for row, uri in zip(rows, uris, strict=True):
        source = sources.get((uri, row.get("member") or ""))
        if source is None:
            raise UsageError(f"{what} names {uri} {row.get('member') or ''}, which does not exist or is no medium")
        try:
            start_us, end_us = _span(row)
            found.append(Labelled(source, _label(row), _split(row), start_us, end_us))
        except ValueError as error:
            raise UsageError(f"{what}, {uri}: {error}") from error
    return found


def _label(row: Mapping[str, Any]) -> Any:
    labels = row.get("labels")
    if labels is None:
        if row.get("label") in (None, ""):
            raise ValueError("it has no label")
        return str(row["label"])
    return [part for part in labels.split("|") if part] if isinstance(labels, str) else list(labels)


def _split(row: Mapping[str, Any]) -> str | None:
    split = row.get("split") or None
    if split is not None and split not in SPLITS:
        raise ValueError(f"split {split!r} must be one of {sorted(SPLITS)}")
    return split and SPLITS[split]


def _span(row: Mapping[str, Any]) -> tuple[int | None, int | None]:
    start_us, end_us = (_microseconds(row, side) for side in ("start", "end"))
    if end_us is not None and end_us <= (start_us or 0):
        raise ValueError(f"it ends at {end_us} µs and starts at {start_us or 0} µs: the end must come after the start")
    return start_us, end_us


def _microseconds(row: Mapping[str, Any], side: str) -> int | None:
    for name, unit in ((f"{side}_us", 1), (f"{side}_s", 1_000_000), (side, 1_000_000)):
        if row.get(name) not in (None, ""):
            try:
                return round(float(row[name]) * unit)
            except (ValueError, OverflowError):
                raise ValueError(f"{name} {row[name]!r} must be a number") from None
    return None


def from_coco(url: str) -> list[Labelled]:
    """Boxes x1, y1, x2, y2 in 0..1 of the picture. Crowds, which are no single things, are left out.

    Where any annotation has keypoints, each box has them: x and y, likewise, and COCO's visibility, 0 for not known.
    `keypoint_names` are their category's, [] where it has none.
    """
    try:
        told = json.loads(_bytes_of(url))
        names = {one["id"]: one["name"] for one in told["categories"]}
        pictures = {one["id"]: one for one in told["images"]}
        points, point_names = _coco_keypoints(told)
        labels: dict[int, dict[str, list[Any]]] = {key: {"boxes": [], "labels": []} for key in pictures}
        for label in labels.values() if points else ():
            label |= {"keypoints": [], "keypoint_names": point_names}
        for one in told["annotations"]:
            if one.get("iscrowd"):
                continue
            x, y, width, height = one["bbox"]
            across, down = pictures[one["image_id"]]["width"], pictures[one["image_id"]]["height"]
            corners = [x / across, y / down, (x + width) / across, (y + height) / down]
            labels[one["image_id"]]["boxes"].append([min(1.0, max(0.0, value)) for value in corners])
            labels[one["image_id"]]["labels"].append(names[one["category_id"]])
            if points:
                given = np.array(one.get("keypoints") or [0] * 3 * points, np.float64).reshape(points, 3)
                labels[one["image_id"]]["keypoints"].append((given / [across, down, 1]).tolist())
        splits = {key: _split(one) for key, one in pictures.items()}
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise UsageError(f"{url} is no COCO file of boxes: {type(error).__name__}: {error}") from error
    folder = url.rpartition("/")[0]
    uris = {key: _absolute(one["file_name"], folder) for key, one in pictures.items()}
    sources = {uri: source for source, uri in _looked_up(list(uris.values()))}
    if missing := [uri for uri in uris.values() if uri not in sources]:
        raise UsageError(f"{url} names {missing[0]}, which does not exist or is no picture")
    return [Labelled(sources[uris[key]], labels[key], splits[key]) for key in pictures]


def _coco_keypoints(told: Mapping[str, Any]) -> tuple[int, list[str]]:
    """How many keypoints the file's things have, 0 for none, and their names. Raises ValueError where they differ."""
    counts = {len(one["keypoints"]) for one in told["annotations"] if one.get("keypoints") and not one.get("iscrowd")}
    kinds = {tuple(one["keypoints"]) for one in told["categories"] if one.get("keypoints")}
    if not counts:
        return 0, []
    named = next(iter(kinds), ())
    if len(kinds) > 1 or counts != {3 * (len(named) or max(counts) // 3)}:
        raise ValueError(f"keypoints of {sorted(counts)} numbers: all must have x, y and visibility of {sorted(kinds)}")
    return max(counts) // 3, list(named)


# ---- files → sources


def _bytes_of(url: str) -> bytes:
    try:
        with fsspec.open(url, "rb") as file:
            data: bytes = file.read()
    except (OSError, ValueError, ImportError) as error:
        raise UsageError(f"--data {url} cannot be read: {type(error).__name__}: {error}") from error
    return data


def _absolute(uri: str, folder: str) -> str:
    if "://" in uri or uri.startswith("/"):
        return uri
    return f"{folder}/{uri}" if "://" in folder else str((Path(folder) / uri).absolute())


def _looked_up(uris: Iterable[str]) -> list[tuple[Source, str]]:
    """The sources of these files (of a tar shard: of all its members), each with the URI that named it."""
    with tempfile.TemporaryDirectory(prefix="vidproc-") as folder:
        path = Path(folder) / "uris.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["uri", "given"])
            writer.writerows([uri, uri] for uri in dict.fromkeys(uris))
        return [(source, metadata["given"]) for source, metadata in _listed([str(path)])]


def _listed(urls: Sequence[str]) -> list[tuple[Source, dict[str, str]]]:
    """What the archive lister finds there. What cannot be read is told and left out."""
    with tempfile.TemporaryDirectory(prefix="vidproc-") as folder:
        list_archive(urls, folder)
        rows = pq.read_table(folder).to_pylist()
    for row in rows:
        if row["reason"]:
            log("left out", uri=row["uri"], reason=row["reason"], detail=row["detail"])
    return [(Source.of(row), json.loads(row["metadata"] or "{}")) for row in rows if not row["reason"]]
