"""How states merge: segments into the state of a unit (video, annotator, model), units into the state of a video."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vidproc.errors import Damaged, TablesDamaged
from vidproc.schema import FAILED, WHOLE_COVERAGE

Row = dict[str, Any]


def merge_status(rows: Iterable[Mapping[str, Any]]) -> tuple[str, str | None]:
    """(status, reason) of the whole, from the `status` and `reason` of its parts.

    The first reason stands for all: that of a part which failed, if one did, before that of one with nothing to say.
    """
    rows = sorted(rows, key=lambda row: row["status"] == "empty")
    states = {row["status"] for row in rows}
    reason = next((row["reason"] for row in rows if row["reason"]), None)
    if states <= {"labelled", "empty"}:
        return ("labelled", None) if "labelled" in states else ("empty", reason)
    if len(states) == 1:
        return states.pop(), reason
    return "partial", reason


def lower_to_partial(status: str, reason: str | None, coverage: float | None) -> tuple[str, str | None]:
    """A labelled video of which a known part did not decode is `partial`, however smoothly the decoder ended."""
    if status == "labelled" and coverage is not None and coverage < WHOLE_COVERAGE:
        return "partial", Damaged.reason
    return status, reason


def merge_coverage(segments: Sequence[Mapping[str, Any]], declared_us: int | None) -> float | None:
    """Share of the declared (or, if longer, of the found) time that was decoded; None where a segment does not say."""
    shares = [_coverage(segment) for segment in segments]
    lengths = [segment["end_us"] - segment["start_us"] for segment in segments]
    if any(share is None for share in shares):
        return None
    whole_us = max(declared_us or 0, sum(lengths))
    known = [share for share in shares if share is not None]
    if not whole_us:  # a single picture has no length
        return sum(known) / len(known)
    decoded_us = sum(share * length for share, length in zip(known, lengths, strict=True))
    return float(decoded_us / whole_us)


def _coverage(segment: Mapping[str, Any]) -> float | None:
    coverage: float | None = segment["coverage"]
    return 0.0 if coverage is None and segment["status"] in FAILED else coverage


def best_facts(texts: Iterable[str | None]) -> str | None:
    """The JSON that knows most: a segment whose file no longer opened says less than one before it."""
    return max((text for text in texts if text), key=len, default=None)


def parse_facts(text: str | None, video_id: str) -> Row:
    """The probe's facts. Raises TablesDamaged if no row of the video holds any."""
    if not text:
        raise TablesDamaged(f"the ledger holds no facts of video {video_id}: delete its ledger rows to label it again")
    facts: Row = json.loads(text)
    return facts


def video_row(video_id: str, units: Sequence[Mapping[str, Any]], *, run_id: str, at: Any) -> Row:
    """The `videos` row from the video's whole-video ledger rows, one per annotator."""
    facts = parse_facts(best_facts(unit["facts"] for unit in units), video_id)
    known = [unit["coverage"] for unit in units if unit["coverage"] is not None]
    coverage = max(known, default=None)
    status, reason = lower_to_partial(*merge_status(units), coverage)
    start_us, end_us = facts.get("start_us"), facts.get("end_us")
    found_us = end_us - start_us if start_us is not None and end_us is not None else None
    same = ("uri", "member", "etag", "bytes", "container", "codec", "width", "height", "rotation", "fps")
    row = {name: facts.get(name) for name in (*same, "variable_rate", "has_audio", "has_subtitles")}
    declared_us = facts.get("declared_us")
    return row | {
        "video_id": video_id,
        "run_id": run_id,
        "duration_us": declared_us if declared_us is not None else found_us,
        "metadata": [(key, _text(value)) for key, value in (facts.get("metadata") or {}).items()],
        "status": status,
        "reason": reason,
        "coverage": coverage,
        "n_segments": max(unit["n_segments"] for unit in units),
        "labelled_at": at,
    }


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)
