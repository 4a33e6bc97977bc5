"""What is learnt from: labelled spans of videos, pictures and sounds, from folders, tables, COCO files and SQL.

clips/dog/a.mp4, clips/train/dog/a.mp4      one folder per class, perhaps below one folder per split; tar shards too
spans.csv, spans.parquet                    columns uri, label or labels, and perhaps member, start, end, split
instances.json                              COCO: boxes on pictures
SELECT … over the published tables          the same columns: labels that models agree on, or people reviewed
"""

import json
import re
from fnmatch import fnmatch
from hashlib import sha256
from typing import Any

import pyarrow as pa

from vidproc.errors import UsageError
from vidproc.train.labelled import Labelled, from_coco, from_folders, from_spans, from_tables
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


def read_examples(options: DataOptions) -> pa.Table:
    """All labelled examples as `EXAMPLES`, in an order that only the data decides. Raises `UsageError`."""
    found: list[Labelled] = []
    for url in options.data:
        kind = url.rpartition(".")[2].lower()
        read = {"json": from_coco, "csv": from_spans, "parquet": from_spans}.get(kind, from_folders)
        found += read(url)
    if options.sql:
        if options.teach_tables is None:
            raise UsageError("--sql needs --teach-tables: where the published tables are")
        found += from_tables(options.teach_tables, options.sql)
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
