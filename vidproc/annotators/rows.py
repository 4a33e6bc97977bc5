"""What annotators' rows look like before the pipeline adds whose they are, and the name of who made them."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from vidproc.schema import Table


def rows_of(table: Table, columns: Mapping[str, Any]) -> pa.Table:
    """Rows from columns of equal length, in exactly the table's types. Raises on a missing or unknown column."""
    return pa.table(dict(columns), schema=table.body)


def no_rows(table: Table) -> pa.Table:
    return table.body.empty_table()


def repeated(value: str, length: int) -> pa.Array:
    return pa.repeat(pa.scalar(value, pa.string()), length)


def model_id(architecture: str, **parts: object) -> str:
    """Architecture and 8 hex digits of a hash over `parts`, the same in every process and release."""
    text = json.dumps(parts, sort_keys=True)
    return f"{architecture}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
