"""What is learnt from: labelled spans of videos, pictures and sounds, from folders, tables, COCO files and SQL.

clips/dog/a.mp4, clips/train/dog/a.mp4      one folder per class, perhaps below one folder per split; tar shards too
spans.csv, spans.parquet                    columns uri, label or labels, and perhaps member, start, end, split
instances.json                              COCO: boxes on pictures
SELECT … over the published tables          the same columns: labels that models agree on, or people reviewed
"""

import csv
import json
import re
import tempfile
from collections import Counter
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
from vidproc.tables.query import connect
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
    found.sort(key=lambda one: (one.source.uri, one.source.member, one.start_us or 0, one.end_us or 0))
    rows = [
        {
            "uri": one.source.uri, "member": one.source.member, "offset": one.source.offset,
            "bytes": one.source.bytes, "etag": one.source.etag, "start_us": one.start_us, "end_us": one.end_us,
            "label": json.dumps(one.label), "split": one.split or _side(one, options), "group": _group(one, options),
        }
        for one in found
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=EXAMPLES)


def names_in(label: Any) -> list[str]:
    """The names of categories in an example's label."""
    if isinstance(label, str):
        return [label]
    return list(label["labels"]) if isinstance(label, dict) else list(label)


def found_categories(examples: pa.Table, options: DataOptions) -> tuple[str, ...]:
    """The categories in order: those given, else all that the training examples name, sorted.

    Raises `UsageError` when there are fewer than two, or examples name others than those given.
    """
    counts: Counter[str] = Counter()
    for label, split in zip(examples["label"].to_pylist(), examples["split"].to_pylist(), strict=True):
        if split == "train" or options.categories:
            counts.update(names_in(json.loads(label)))
    categories = options.categories or tuple(sorted(counts))
    if unknown := sorted(set(counts) - set(categories)):
        raise UsageError(f"the examples are labelled {unknown[:5]}, which --categories {list(categories)} leaves out")
    if not counts or "" in counts:
        raise UsageError("examples have no label: expected FOLDER/CLASS/FILE, and some that are not held out")
    return categories


def source_of(example: Mapping[str, Any]) -> Source:
    return Source(**{name: example[name] for name in ("uri", "member", "offset", "bytes", "etag")})


# ---- the kinds of data


def _folders(url: str) -> list[Labelled]:
    """A file's class is the folder that it lies in, or its sidecar's `label` or `cls`."""
    found = []
    for source, metadata in _listed([url]):
        path = source.member or source.uri.removeprefix(url)
        parts = [part for part in path.split("/") if part]
        label = metadata.get("label") or metadata.get("cls") or (parts[-2] if len(parts) > 1 else "")
        split = next((SPLITS[part] for part in parts[:-2] if part in SPLITS), None)
        found.append(Labelled(source, label, split))
    return found


def _spans(url: str) -> list[Labelled]:
    with fsspec.open(url, "rb") as file:
        if url.lower().endswith(".parquet"):
            rows = pq.ParquetFile(file).read().to_pylist()
        else:
            rows = list(csv.DictReader(file.read().decode("utf-8-sig").splitlines()))
    if rows and set(EXAMPLES.names) <= set(rows[0]):  # what a training wrote
        return [_again(row) for row in rows]
    return _rows(rows, what=url, folder=url.rpartition("/")[0])


def _again(row: Mapping[str, Any]) -> Labelled:
    return Labelled(source_of(row), json.loads(row["label"]), row["split"], row["start_us"], row["end_us"])


def _taught(options: DataOptions) -> list[Labelled]:
    if options.teach_tables is None:
        raise UsageError("--sql needs --teach-tables: where the published tables are")
    rows = connect(options.teach_tables).sql(str(options.sql)).to_arrow_table().to_pylist()
    return _rows(rows, what="the answer to --sql", folder="")


def _rows(rows: Sequence[Mapping[str, Any]], *, what: str, folder: str) -> list[Labelled]:
    """Examples from rows with the columns uri, label or labels, member, start(_us), end(_us), split."""
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
        split = row.get("split") or None
        if split is not None and split not in SPLITS:
            raise UsageError(f"{what}: split {split!r} must be one of {sorted(set(SPLITS))}")
        span = [_microseconds(row, side) for side in ("start", "end")]
        found.append(Labelled(source, _label(row), SPLITS[split] if split else None, *span))
    return found


def _label(row: Mapping[str, Any]) -> Any:
    labels = row.get("labels")
    if labels is None:
        return str(row["label"])
    return [part for part in labels.split("|") if part] if isinstance(labels, str) else list(labels)


def _microseconds(row: Mapping[str, Any], side: str) -> int | None:
    if row.get(f"{side}_us") not in (None, ""):
        return int(row[f"{side}_us"])
    return None if row.get(side) in (None, "") else round(float(row[side]) * 1_000_000)


def _coco(url: str) -> list[Labelled]:
    """Boxes x1, y1, x2, y2 in 0..1 of the picture. Crowds, which are no single things, are left out."""
    with fsspec.open(url, "rb") as file:
        told = json.load(file)
    try:
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
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{url} is no COCO file of boxes: {type(error).__name__}: {error}") from error
    folder = url.rpartition("/")[0]
    uris = {key: _absolute(one["file_name"], folder) for key, one in pictures.items()}
    sources = {uri: source for source, uri in _looked_up(list(uris.values()))}
    if missing := [uri for uri in uris.values() if uri not in sources]:
        raise UsageError(f"{url} names {missing[0]}, which does not exist or is no picture")
    splits = {key: SPLITS.get(str(one.get("split", ""))) for key, one in pictures.items()}
    return [Labelled(sources[uris[key]], labels[key], splits[key]) for key in pictures]


# ---- files → sources


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
    return [(source_of(row), json.loads(row["metadata"] or "{}")) for row in rows if not row["reason"]]


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
