"""`--dry-run`: what would be done, and the hours of video that is."""

import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.dataset

from vidproc.errors import InputError
from vidproc.media.guard import close_guards
from vidproc.pipeline import steps
from vidproc.pipeline.options import LabelConfig
from vidproc.pipeline.steps import Settings
from vidproc.tables.plan import PLAN, PlanSummary
from vidproc.views import MICROSECONDS

_PROBED = 100


@dataclass(frozen=True)
class _Hours:
    hours: float
    probed: int
    exact: bool


def preview(config: LabelConfig, settings: Settings, summary: PlanSummary, scratch: str) -> int:
    """Print the plan as a small table. Returns exit code 0."""
    todo = summary.planned - summary.deferred - summary.derive_only
    print(f"archive        {', '.join(config.archive)}")
    print(f"listed         {summary.listed:,} videos, {summary.done:,} of them need nothing")
    print(f"would label    {todo:,} videos, {summary.size_bytes / 1e6:,.1f} MB, for {', '.join(config.annotators)}")
    if summary.deferred:
        print(f"deferred       {summary.deferred:,} videos beyond --limit {config.limit}")
    if summary.derive_only:
        print(f"would derive   {summary.derive_only:,} videos that are decoded already")
    if todo:
        try:
            found = _hours(settings, f"{scratch}/plan", todo)
        finally:
            close_guards()
        how = "" if found.exact else f" (estimated by size from {found.probed} videos that were opened)"
        print(f"video          {found.hours:,.2f} hours{how}")
    return 0


def _hours(settings: Settings, plan_url: str, todo: int) -> _Hours:
    """Hours of video in the plan: every video opened if there are few, else extrapolated by bytes from some."""
    dataset = pa.dataset.dataset(plan_url, schema=PLAN, format="parquet")
    step = max(1, todo // _PROBED)
    seen, size, probed_size, probed_us, probed = 0, 0, 0, 0, 0
    for batch in dataset.to_batches():
        for row in batch.to_pylist():
            size += row["bytes"] or 0
            seen += 1
            if seen % step:
                continue
            probed += 1
            probed_size += row["bytes"] or 0
            probed_us += _duration_us(row, settings)
    exact = probed == seen
    scale = 1.0 if exact or not probed_size else size / probed_size
    return _Hours(probed_us * scale / MICROSECONDS / 3600, probed, exact)


def _duration_us(row: dict[str, Any], settings: Settings) -> int:
    try:
        found = steps.probe(pa.Table.from_pylist([row], schema=PLAN), settings=settings).to_pylist()
    except InputError:
        return 0
    facts = json.loads(found[0]["facts"]) if found else {}
    return int(facts.get("end_us", 0) - facts.get("start_us", 0))
