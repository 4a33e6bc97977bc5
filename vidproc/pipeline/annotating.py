"""The step of the label job that runs the networks: decoded segments → rows of what is to be seen, heard and read."""

import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from vidproc.annotators.base import Annotation, Annotator, Network
from vidproc.errors import Damaged, NotFinite
from vidproc.media.geometry import displayed_of
from vidproc.media.samples import Samples, text_samples
from vidproc.media.sampling import Span, owned_starts
from vidproc.models.allocator import keep_freed_memory
from vidproc.pipeline.rows import annotated_table, work_of
from vidproc.pipeline.steps import Settings, failed_with
from vidproc.schema import WHOLE_COVERAGE
from vidproc.views import Audio, Text, View


class Annotate:
    """Holds all networks on one device and labels batches of decoded segments: `ANNOTATED` rows."""

    def __init__(
        self, settings: Settings, *, device: str | None = None, threads: int | None = None, compiled: bool = False
    ) -> None:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a spinning thread takes the core that decoding could use
        import torch

        if threads:
            torch.set_num_threads(threads)
        self._settings = settings
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if self._device == "cpu":
            keep_freed_memory()
        self._networks: dict[str, Network] = {
            name: annotator.load(self._device, compiled=compiled) for name, annotator in settings.annotators.items()
        }
        self._worker = f"{socket.gethostname()}/{self._device}"

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = batch.select([name for name in batch.column_names if not name.startswith("view")]).to_pylist()
        samples = [_samples(batch, i, row, self._settings) for i, row in enumerate(rows)]
        ledger: list[dict[str, Any]] = []
        tables: list[Mapping[str, pa.Table]] = []
        for name, network in self._networks.items():
            mine = [i for i, row in enumerate(rows) if name in work_of(row)]
            views = self._settings.annotators[name].views
            judged = _judged(views)
            seen = [i for i in mine if rows[i]["status"] is None and any(len(samples[i].get(v, ())) for v in judged)]
            started = time.perf_counter()
            given = [{view: samples[i][view] for view in views if view in samples[i]} for i in seen]
            found = dict(zip(seen, _annotations(network, given), strict=True))
            seconds = (time.perf_counter() - started) / max(len(seen), 1)
            for i in mine:
                annotation = found.get(i)
                row = {**rows[i], "infer_s": seconds if i in found else 0.0}
                if isinstance(annotation, NotFinite):
                    row, annotation = row | failed_with(annotation), None
                ledger.append(self._ledger_row(row, name, annotation, samples[i]))
                tables.append(annotation.rows if annotation else {})
        return annotated_table(ledger, tables)

    def _ledger_row(
        self, row: Mapping[str, Any], name: str, annotation: Annotation | None, samples: Mapping[View, Samples]
    ) -> dict[str, Any]:
        annotator = self._settings.annotators[name]
        kept = ("video_id", "segment", "n_segments", "start_us", "end_us", "detail", "coverage", "facts")
        status, reason = row["status"], row["reason"]
        if status is None:
            if annotation is None:
                status, reason = "empty", _why_empty(annotator, samples)
            else:
                partial = row["coverage"] is not None and row["coverage"] < WHOLE_COVERAGE
                reason = Damaged.reason if partial else annotation.reason
                status = "labelled" if reason is None else "partial"
        return {
            **{key: row[key] for key in kept},
            "attempts": row["attempts"] + (row["tries"] or 0),
            "expected": row["expected"],
            "again": name in json.loads(row["again"] or "[]"),
            "annotator": name,
            "model_id": annotator.model_id,
            "run_id": self._settings.run_id,
            "status": status,
            "reason": reason,
            "rows": sum(table.num_rows for table in annotation.rows.values()) if annotation else 0,
            "decode_s": row["decode_s"] or 0.0,
            "infer_s": row["infer_s"],
            "worker": self._worker,
            "at": datetime.now(UTC),
            "samples": annotation.samples if annotation else 0,
            "tally": annotation.tally if annotation and annotation.tally is not None else None,
            "notes": json.dumps(annotation.notes) if annotation and annotation.notes is not None else None,
        }


def _annotations(network: Network, given: list[dict[View, Samples]]) -> list[Annotation | NotFinite]:
    """One result per segment: scores that are no numbers cost the segment that has them, not its neighbours."""
    try:
        return list(network.annotate(given)) if given else []
    except NotFinite as error:
        if len(given) == 1:
            return [error]
        return [result for one in given for result in _annotations(network, [one])]


def _judged(views: Sequence[View]) -> Sequence[View]:
    """The views of which there must be something: beside pictures or sound, text alone makes no row."""
    return [view for view in views if not isinstance(view, Text)] or views


def _why_empty(annotator: Annotator, samples: Mapping[View, Samples]) -> str:
    views = _judged(annotator.views)
    if all(isinstance(view, Text) for view in views):
        return "no_text"
    if any(view in samples for view in views):
        return "too_short"
    return "no_sound" if all(isinstance(view, Audio) for view in views) else "no_picture"


def _samples(batch: pa.Table, i: int, row: Mapping[str, Any], settings: Settings) -> dict[View, Samples]:
    """One decoded segment's samples by view, as read-only views of the batch's own memory."""
    if row["status"] is not None:
        return {}
    facts = json.loads(row["facts"])
    video, span = Span(facts["start_us"], facts["end_us"]), Span(row["start_us"], row["end_us"])
    found: dict[View, Samples] = {}
    for number, view in enumerate(settings.views):
        value = batch[f"view{number}"][i]
        if not value.is_valid:
            continue
        if isinstance(view, Text):
            told = text_samples(value.as_buffer().to_pybytes())
            found[view] = replace(told, subtitled=facts["has_text_stream"])
            continue
        raw = np.frombuffer(value.as_buffer(), np.int16 if isinstance(view, Audio) else np.uint8)
        if isinstance(view, Audio):
            starts, ends = (np.asarray([time_us], np.int64) for time_us in (span.start_us, span.end_us))
            found[view] = Samples(starts, ends, np.empty(0, np.int64), raw.reshape(-1, view.channels))
            continue
        starts = owned_starts(view, video=video, segment=span, still=facts["still"])
        ends = np.minimum(starts + view.span_us, max(video.end_us, video.start_us + 1))
        data = raw.reshape(len(starts), *view.sample_shape)
        shape, told = (len(starts), len(view.offsets_us)), batch[f"view{number}_us"][i].as_buffer()
        count = shape[0] * shape[1]
        frame_us = np.frombuffer(told, np.int64, count).reshape(shape)
        corrupt = np.frombuffer(told, np.bool_, count, offset=8 * count).reshape(shape)
        found[view] = Samples(starts, ends, frame_us, data, shown=displayed_of(facts), corrupt=corrupt)
    return found
