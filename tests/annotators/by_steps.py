"""One file through the label job's own steps, without Ray and without tables."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from media.decoding import source_of

from vidproc.annotators.base import Annotator
from vidproc.media.guard import close_guards
from vidproc.pipeline import steps
from vidproc.pipeline.annotating import Annotate
from vidproc.pipeline.rows import annotation_rows, ledger_rows
from vidproc.schema import TABLES
from vidproc.tables.plan import PLAN


def annotated(annotator: Annotator, path: Path) -> tuple[pa.Table, dict[str, Any]]:
    """Its segments' ledger rows with what was said of each, in order; what the probe found."""
    unit = {"annotator": annotator.name, "model_id": annotator.model_id, "done": [], "n_segments": None}
    video = {"video_id": "v", **vars(source_of(path)), "work": [unit]}
    settings = steps.Settings("run", str(path.parent / "tables"), {annotator.name: annotator})
    try:
        segments = steps.probe(pa.Table.from_pylist([video], schema=PLAN), settings=settings)
        decoded = pa.concat_tables(list(steps.decode(segments, settings=settings)))
    finally:
        close_guards()
    facts = json.loads(segments["facts"][0].as_py())
    return Annotate(settings, device="cpu")(decoded).sort_by("segment"), facts


def over_video(annotator: Annotator, found: pa.Table, facts: Mapping[str, Any]) -> Mapping[str, pa.Table]:
    """What `derive` would have of them."""
    given = {
        name: ledger_rows(found) if name == "ledger" else said(found, name).select(TABLES[name].body.names)
        for name in annotator.reads
    }
    return annotator.over_video(given, facts)


def said(found: pa.Table, table: str) -> pa.Table:
    return annotation_rows(found, TABLES[table])
