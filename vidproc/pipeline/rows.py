"""The rows that travel between the steps of the label job: Arrow schemas, and how they are built and taken apart."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vidproc.schema import ANNOTATION_TABLES, COMMON, LEDGER, Table

SEGMENT = pa.schema(
    [
        ("video_id", pa.string()),
        ("source", pa.string()),  # JSON of media.sources.Source
        ("facts", pa.string()),  # JSON: identity and what the probe found
        ("work", pa.string()),  # JSON: annotators that this segment is for
        ("expected", pa.int32()),  # ledger rows that this run owes the video, over all its segments
        ("again", pa.string()),  # JSON: annotators of which the ledger holds older rows, which give way
        ("tries", pa.int32()),  # earlier runs that could not read the video
        ("segment", pa.int32()),
        ("n_segments", pa.int32()),
        ("start_us", pa.int64()),
        ("end_us", pa.int64()),
        ("status", pa.string()),  # null: to be decoded; else it goes straight to the ledger
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("attempts", pa.int32()),
        ("coverage", pa.float64()),
        ("decode_s", pa.float64()),
        ("infer_s", pa.float64()),
        ("frames", pa.int64()),  # decoded for this segment, over all its views and all tries within one decode
        ("bytes_read", pa.int64()),  # of the source, by the demuxer, for the same
    ]
)


def pixel_columns(n_views: int) -> list[pa.Field]:
    """Of each view its data (raw bytes; null where it was not asked for); the times of its frames (int64 bytes), then
    whether each is corrupt (a byte each)."""
    return [pa.field(f"view{i}{kind}", pa.large_binary()) for i in range(n_views) for kind in ("", "_us")]


def decoded_schema(n_views: int) -> pa.Schema:
    """A segment together with its pixels."""
    return pa.schema([*SEGMENT, *pixel_columns(n_views)])


def _list_field(table: Table) -> pa.Field:
    return pa.field(table.name, pa.list_(pa.struct(list(table.body))))


_TOLD = [pa.field("expected", pa.int32()), pa.field("again", pa.bool_())]
ANNOTATED = pa.schema([*LEDGER.schema, *_TOLD, *map(_list_field, ANNOTATION_TABLES.values())])
"""A ledger row with the annotation rows that it accounts for, a list a table: written and committed together."""


def segment_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows of `SEGMENT`; what a row does not name is null."""
    return pa.Table.from_pylist([{name: row.get(name) for name in SEGMENT.names} for row in rows], schema=SEGMENT)


def annotated_table(rows: Sequence[Mapping[str, Any]], tables: Sequence[Mapping[str, pa.Table]]) -> pa.Table:
    """Ledger rows, each with its annotation rows by table name."""
    ledger = pa.Table.from_pylist(list(rows), schema=pa.schema([*LEDGER.schema, *_TOLD]))
    lists = [_as_lists(table, [given.get(name) for given in tables]) for name, table in ANNOTATION_TABLES.items()]
    return pa.Table.from_arrays([*ledger.columns, *lists], schema=ANNOTATED)


def _as_lists(table: Table, groups: Sequence[pa.Table | None]) -> pa.Array:
    schema = table.body
    offsets = [0]
    for group in groups:
        offsets.append(offsets[-1] + (group.num_rows if group is not None else 0))
    filled = [group.select(schema.names).cast(schema) for group in groups if group is not None and group.num_rows]
    flat = pa.concat_tables(filled) if filled else schema.empty_table()
    columns = [
        pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type) for column in flat.columns
    ]
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), pa.StructArray.from_arrays(columns, fields=list(schema))
    )


def ledger_rows(annotated: pa.Table) -> pa.Table:
    """The ledger's part of annotated rows."""
    return annotated.select(LEDGER.schema.names).cast(LEDGER.schema)


def annotation_rows(annotated: pa.Table, table: Table) -> pa.Table:
    """One annotation table's rows, with the common columns of the ledger rows that they belong to."""
    lists = annotated[table.name].combine_chunks()
    lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
    parents = pc.list_parent_indices(lists)
    flat = pc.list_flatten(lists)
    columns = {name: annotated[name].take(parents) for name in COMMON}
    columns.update({field.name: flat.field(i) for i, field in enumerate(flat.type)})
    return pa.Table.from_arrays([columns[name] for name in table.schema.names], schema=table.schema)


def work_of(row: Mapping[str, Any]) -> list[str]:
    """The annotators that a segment row is for."""
    work: list[str] = json.loads(row["work"])
    return work
