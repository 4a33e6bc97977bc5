"""The steps of the label job, as plain callables over Arrow batches: probe, decode, write; `annotating` has the other.

Bad input becomes a row with a status and a reason; only faults of the machine, the storage or this code raise. They end
the run, and the same command goes on where it was.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vidproc.annotators.base import Annotator
from vidproc.errors import INPUT_ERRORS, InputError, KilledWorker, Missing, TimedOut
from vidproc.media.answers import checked_answer, checked_corrupt, checked_frames, checked_text, clean_text
from vidproc.media.decode import MOST_PASSES, layout, request_of
from vidproc.media.glimpse import probed
from vidproc.media.guard import process_guard, run_verified
from vidproc.media.limits import Limits
from vidproc.media.samples import text_bytes
from vidproc.media.sampling import Span, segments
from vidproc.media.sources import Source, open_source
from vidproc.pipeline.rows import (
    annotation_rows,
    decoded_schema,
    ledger_rows,
    segment_table,
    work_of,
)
from vidproc.schema import ANNOTATION_TABLES, FAILED, LEDGER
from vidproc.tables.parts import write_part
from vidproc.views import Audio, Text, View


@dataclass(frozen=True)
class Settings:
    """What every step of one run knows: its name, its annotators and its limits. Travels to all workers."""

    run_id: str
    tables_url: str
    annotators: Mapping[str, Annotator]
    limits: Limits = field(default_factory=Limits)

    @property
    def views(self) -> tuple[View, ...]:
        """Each view once, whichever annotators share it."""
        return tuple(dict.fromkeys(view for annotator in self.annotators.values() for view in annotator.views))


def _source(row: Mapping[str, Any]) -> Source:
    return Source(**json.loads(row["source"]))


def failed_with(error: InputError) -> dict[str, Any]:
    """What a row says of what has failed."""
    status = "missing" if isinstance(error, Missing) else "quarantined"
    return {"status": status, "reason": error.reason, "detail": clean_text(str(error), most=1000)}


# ---- probe: a planned video → its segments


def probe(batch: pa.Table, *, settings: Settings) -> pa.Table:
    """Open each planned video once and cut it into segments: `SEGMENT` rows, those already in the ledger left out."""
    return segment_table([segment for video in batch.to_pylist() for segment in _probe_video(video, settings)])


def probe_chunks(batch: pa.Table, *, settings: Settings) -> pa.Table:
    """Probe the planned videos that each row (path, row_group, first, rows) points at."""
    chunks = [_read_chunk(**chunk) for chunk in batch.to_pylist()]
    return probe(pa.concat_tables(chunks), settings=settings)


def _read_chunk(*, path: str, row_group: int, first: int, rows: int) -> pa.Table:
    with fsspec.open(path) as file:
        return pq.ParquetFile(file).read_row_group(row_group).slice(first, rows)


def _probe_video(video: Mapping[str, Any], settings: Settings) -> list[dict[str, Any]]:
    """One video's segments, each for the annotators that have not seen it; all failed if the video does not open."""
    source = Source.of(video)
    sidecar = json.loads(video["metadata"]) if video["metadata"] else {}
    facts: dict[str, Any] = {name: video[name] for name in ("uri", "member", "etag", "bytes")} | {"metadata": sidecar}
    failed: dict[str, Any] = {}
    items = video["work"]
    started = time.perf_counter()
    try:
        if video["reason"]:  # the listing already knows that it cannot be read
            raise INPUT_ERRORS[video["reason"]](video["detail"])
        found = _retried(lambda: probed(process_guard(settings.limits), source))
        facts |= {**found, "metadata": {**found["metadata"], **sidecar}}
        spans = list(segments(Span(facts["start_us"], facts["end_us"])))
    except InputError as error:
        # As many as an earlier run knew of: its segments keep their rows, and only what is left has failed.
        known = max((item["n_segments"] or 1 for item in items), default=1)
        spans = [Span(0, 0)] * known
        if error.passes:  # what is known in part stays, and is tried another night
            items = [item for item in items if item["again"] != "partial"]
        failed = {**failed_with(error), "coverage": 0.0, "attempts": 2 if _passing(error) else 1}
    common = {"video_id": video["video_id"], "source": json.dumps(asdict(source)), "facts": json.dumps(facts)}
    common |= {"n_segments": len(spans), "attempts": 1, "infer_s": 0.0, **failed}
    common["tries"] = max((item["tries"] or 0 for item in items), default=0)
    common["again"] = json.dumps([item["annotator"] for item in items if item["again"]])
    rows = []
    for number, span in enumerate(spans):
        work = [item["annotator"] for item in items if number not in (item["done"] or ())]
        place = {"segment": number, "start_us": span.start_us, "end_us": span.end_us, "decode_s": 0.0}
        if work:
            rows.append({**common, **place, "work": json.dumps(work)})
    if rows:
        rows[0]["decode_s"] = time.perf_counter() - started  # the probe's time is told once
    expected = sum(len(work_of(row)) for row in rows)
    return [{**row, "expected": expected} for row in rows]


def _passing(error: InputError) -> bool:
    """Whether another try may end better: the machine's fault, possibly."""
    return isinstance(error, KilledWorker | TimedOut)


def _retried(attempt: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run an attempt, once more if the decoder was killed or too slow."""
    try:
        return attempt()
    except InputError as error:
        if not _passing(error):
            raise
        return attempt()


# ---- decode: a segment → its pixels

Elsewhere = Callable[[pa.Table], pa.Table]
"""Decodes one segment in another worker, on another node if there is one."""


def decode(batch: pa.Table, *, settings: Settings, elsewhere: Elsewhere | None = None) -> Iterator[pa.Table]:
    """Decode each segment's views; one table per segment, so that pixels leave as soon as they are there.

    A segment whose decoder was killed or too slow is tried once more, `elsewhere` if that is given.
    """
    for i in range(batch.num_rows):
        row = batch.slice(i, 1)
        if row["status"][0].is_valid:
            yield _with_pixels(row.to_pylist()[0], {}, settings)
            continue
        segment = row.to_pylist()[0]
        started = time.perf_counter()
        try:
            yield _decode_segment(segment, settings)
        except InputError as error:
            if _passing(error) and segment["attempts"] < 2 and elsewhere is not None:
                again = row.set_column(row.column_names.index("attempts"), "attempts", pa.array([2], pa.int32()))
                yield elsewhere(again)
            else:
                spent = (segment["decode_s"] or 0.0) + time.perf_counter() - started
                yield _with_pixels({**segment, **failed_with(error), "coverage": 0.0, "decode_s": spent}, {}, settings)


def usable_views(views: Sequence[View], facts: Mapping[str, Any]) -> list[View]:
    """The views that a video's streams can fill."""
    needs = {Audio: "has_audio", Text: "has_text"}
    return [view for view in views if facts[needs.get(type(view), "has_picture")]]


def _decode_segment(segment: dict[str, Any], settings: Settings) -> pa.Table:
    facts = json.loads(segment["facts"])
    wanted = dict.fromkeys(view for name in work_of(segment) for view in settings.annotators[name].views)
    views = usable_views(list(wanted), facts)
    if not views:
        return _with_pixels({**segment, "coverage": 1.0}, {}, settings)
    video, span = Span(facts["start_us"], facts["end_us"]), Span(segment["start_us"], segment["end_us"])
    places, size = layout(views, video=video, segment=span, still=facts["still"])
    request = request_of(views, facts, segment=span)
    started = time.perf_counter()
    with open_source(_source(segment)) as opened:
        answer, output = run_verified(process_guard(settings.limits), "decode", request, opened, output_bytes=size)
    frame_us, coverage = checked_answer(answer, views, [shape for _, shape in places])
    corrupt_us = checked_corrupt(answer, most=settings.limits.frames)
    memory = pa.py_buffer(output) if output is not None else pa.py_buffer(b"")
    pixels: dict[View, tuple[pa.Buffer, bytes]] = {}
    for view, (offset, shape), times in zip(views, places, frame_us, strict=True):
        if isinstance(view, Text):
            spans, whole = checked_text(answer, video=video, segment=span)
            pixels[view] = (pa.py_buffer(text_bytes(spans, whole=whole)), b"")
            continue
        length = int(np.prod(shape, dtype=np.int64)) * (2 if isinstance(view, Audio) else 1)
        pixels[view] = (memory.slice(offset, length), times.tobytes() + np.isin(times, corrupt_us).tobytes())
    spent = segment["decode_s"] or 0.0
    segment |= {"coverage": coverage, "decode_s": spent + time.perf_counter() - started}
    most = MOST_PASSES * settings.limits.frames
    segment |= {"frames": checked_frames(answer, most=most), "bytes_read": answer["bytes_read"]}
    return _with_pixels(segment, pixels, settings)


def _with_pixels(
    segment: dict[str, Any], pixels: Mapping[View, tuple[pa.Buffer, bytes]], settings: Settings
) -> pa.Table:
    columns = list(segment_table([segment]).columns)
    for view in settings.views:
        data, times = pixels.get(view, (None, None))
        columns.append(_one_binary(data))
        columns.append(pa.array([times], pa.large_binary()))
    return pa.Table.from_arrays(columns, schema=decoded_schema(len(settings.views)))


def _one_binary(data: pa.Buffer | None) -> pa.Array:
    """A one-row column over memory that is not copied."""
    if data is None:
        return pa.nulls(1, pa.large_binary())
    offsets = pa.py_buffer(np.asarray([0, data.size], np.int64))
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, offsets, data])


# ---- write: rows → parts


def write(batch: pa.Table, *, settings: Settings) -> pa.Table:
    """Write one part per table and return one row that describes them: nothing of it counts until it is committed.

    `parts`: JSON of the parts, the ledger's last. `told`: JSON of what the driver shows of progress and failures.
    """
    ledger = ledger_rows(batch)
    parts = []
    for table in ANNOTATION_TABLES.values():
        rows = annotation_rows(batch, table)
        if rows.num_rows:
            parts.append(asdict(write_part(settings.tables_url, table, rows)))
    parts.append(asdict(write_part(settings.tables_url, LEDGER, ledger)))
    names = ("video_id", "annotator", "model_id", "segment", "start_us", "end_us", "status", "reason", "coverage")
    told = batch.select([*names, "expected", "again"]).to_pylist()
    for row, text, detail in zip(told, batch["facts"].to_pylist(), batch["detail"].to_pylist(), strict=True):
        facts = json.loads(text)
        row["declared_us"] = facts.get("declared_us")
        if row["status"] in FAILED:
            row |= {"uri": facts["uri"], "member": facts["member"], "detail": detail}
    return pa.table({"parts": [json.dumps(parts)], "told": [json.dumps(told)]})
