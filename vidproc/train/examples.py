"""What is learnt from: labelled spans of videos, pictures and sounds, from folders, tables, COCO files and SQL.

clips/dog/a.mp4, clips/train/dog/a.mp4      one folder per class, perhaps below one folder per split; tar shards too
spans.csv, spans.parquet                    columns uri, label or labels, and perhaps member, start, end, split
instances.json                              COCO: boxes on pictures
SELECT … over the published tables          the same columns: labels that models agree on, or people reviewed
"""

import csv
import io
import json
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from hashlib import sha256
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from vidproc.command import log
from vidproc.errors import UsageError
from vidproc.media.archive import list_archive
from vidproc.media.sources import Source
from vidproc.media.walk import locate
from vidproc.tables.query import connect, run_query
from vidproc.train.options import DataOptions

EXAMPLES = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("member", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("etag", pa.string(), nullable=False),
        pa.field("start_us", pa.int64()),  # of the span that the label speaks of; null is the whole video
        pa.field("end_us", pa.int64()),
        pa.field("label", pa.string(), nullable=False),  # JSON: a name, a list of names, or boxes
        pa.field("split", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),  # what may not be split: by --group, else the file's own name
    ]
)

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


def read_examples(options: DataOptions) -> pa.Table:
    """All labelled examples as `EXAMPLES`, in an order that only the data decides. Raises `UsageError`."""
    found: list[Labelled] = []
    for url in options.data:
        kind = url.rpartition(".")[2].lower()
        read = {"json": _coco, "csv": _spans, "parquet": _spans}.get(kind, _folders)
        found += read(url)
    if options.sql:
        found += _taught(options)
    if not found:
        raise UsageError("no example was found: name --data, or --sql with --teach-tables")
    found.sort(key=_place)
    rows = [
        {
            "uri": one.source.uri, "member": one.source.member, "offset": one.source.offset,
            "bytes": one.source.bytes, "etag": one.source.etag, "start_us": one.start_us, "end_us": one.end_us,
            "label": json.dumps(one.label), "split": one.split or _side(one, options), "group": _group(one, options),
        }
        for one in found
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=EXAMPLES)


def _place(one: Labelled) -> tuple[Any, ...]:
    """Where an example comes in the order: a query gives its rows in any."""
    span = [-1 if time_us is None else time_us for time_us in (one.start_us, one.end_us)]
    return (one.source.uri, one.source.member, *span, json.dumps(one.label), one.split or "")


def names_in(label: Any) -> list[str]:
    """The names of categories in an example's label."""
    if isinstance(label, str):
        return [label]
    return list(label["labels"]) if isinstance(label, dict) else list(label)


def found_categories(examples: pa.Table, options: DataOptions, *, strangers: bool = False) -> tuple[str, ...]:
    """The categories in order: those given, else all that the training examples name, sorted.

    `strangers`: examples that are not trained on may name others, as identities do. Raises `UsageError` when there is
    none, when an example has no label, or when it names another one.
    """
    named: dict[str, set[str]] = {}
    for label, split in zip(examples["label"].to_pylist(), examples["split"].to_pylist(), strict=True):
        named.setdefault(split, set()).update(names_in(json.loads(label)))
    trained = named.pop("train", set())
    others = set().union(*named.values())
    categories = options.categories or tuple(sorted(trained))
    if not categories or "" in trained | others:
        raise UsageError("examples have no label: expected FOLDER/CLASS/FILE, and some that are not held out")
    if unknown := sorted((trained if strangers else trained | others) - set(categories)):
        raise UsageError(f"examples are labelled {unknown[:5]}, which the categories {list(categories)} leave out")
    return categories


# ---- the kinds of data


def _folders(url: str) -> list[Labelled]:
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


def _spans(url: str) -> list[Labelled]:
    data = _bytes_of(url)
    try:
        if url.lower().endswith(".parquet"):
            rows = pq.ParquetFile(io.BytesIO(data)).read().to_pylist()
        else:
            rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")))
    except (pa.ArrowException, csv.Error, UnicodeDecodeError) as error:
        raise UsageError(f"{url} cannot be read as a table: {error}") from error
    if rows and set(EXAMPLES.names) <= set(rows[0]):  # what a training wrote
        return [_again(row) for row in rows]
    return _rows(rows, what=url, folder=url.rpartition("/")[0])


def _again(row: Mapping[str, Any]) -> Labelled:
    return Labelled(Source.of(row), json.loads(row["label"]), row["split"], row["start_us"], row["end_us"])


def _taught(options: DataOptions) -> list[Labelled]:
    if options.teach_tables is None:
        raise UsageError("--sql needs --teach-tables: where the published tables are")
    rows = run_query(connect(options.teach_tables), str(options.sql)).to_pylist()
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


def _coco(url: str) -> list[Labelled]:
    """Boxes x1, y1, x2, y2 in 0..1 of the picture. Crowds, which are no single things, are left out."""
    try:
        told = json.loads(_bytes_of(url))
        names = {one["id"]: one["name"] for one in told["categories"]}
        pictures = {one["id"]: one for one in told["images"]}
        labels: dict[int, dict[str, list[Any]]] = {key: {"boxes": [], "labels": []} for key in pictures}
        for one in told["annotations"]:
            if one.get("iscrowd"):
                continue
            x, y, width, height = one["bbox"]
            across, down = pictures[one["image_id"]]["width"], pictures[one["image_id"]]["height"]
            corners = [x / across, y / down, (x + width) / across, (y + height) / down]
            labels[one["image_id"]]["boxes"].append([min(1.0, max(0.0, value)) for value in corners])
            labels[one["image_id"]]["labels"].append(names[one["category_id"]])
        splits = {key: _split(one) for key, one in pictures.items()}
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise UsageError(f"{url} is no COCO file of boxes: {type(error).__name__}: {error}") from error
    folder = url.rpartition("/")[0]
    uris = {key: _absolute(one["file_name"], folder) for key, one in pictures.items()}
    sources = {uri: source for source, uri in _looked_up(list(uris.values()))}
    if missing := [uri for uri in uris.values() if uri not in sources]:
        raise UsageError(f"{url} names {missing[0]}, which does not exist or is no picture")
    return [Labelled(sources[uris[key]], labels[key], splits[key]) for key in pictures]


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


# ---- splits


def _group(one: Labelled, options: DataOptions) -> str:
    """What the regular expression `--group` finds in the name; else the name's last three parts, so that the same data
    elsewhere is split alike."""
    match = re.search(options.group, one.name) if options.group else None
    return match.group() if match else "/".join(one.name.split("/")[-3:])


def _side(one: Labelled, options: DataOptions) -> str:
    """Who is held out, where nobody said: files that a glob names, or a share, by a hash of the group."""
    share = _share(options.held_out)
    if share is None:
        hit = any(fnmatch(name, options.held_out) for name in (one.name, one.name.rpartition("/")[2]))
        return "held_out" if hit else "train"
    place = int(sha256(_group(one, options).encode()).hexdigest()[:8], 16) / 2**32
    return "held_out" if place < share else "train"


def _share(held_out: str) -> float | None:
    try:
        share = float(held_out)
    except ValueError:
        return None
    if not 0 <= share < 1:
        raise UsageError(f"--held-out {held_out} must be a share in 0..1, or a glob of names such as '*/4-*'")
    return share
