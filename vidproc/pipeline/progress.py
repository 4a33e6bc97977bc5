"""What a run tells while it runs: a line that renews itself on a terminal, one JSON object a line elsewhere."""

import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from vidproc.command import log
from vidproc.schema import FAILED
from vidproc.tables.merge import lower_to_partial, merge_coverage, merge_status
from vidproc.views import MICROSECONDS

_TERMINAL_EVERY_S = 0.5
_LOG_EVERY_S = 10.0


_STATE = ("status", "reason", "coverage", "start_us", "end_us")


@dataclass
class Fresh:
    """`videos`: (status, reason) → whole videos; `video_us`: time of segments, each once."""

    videos: Counter[tuple[str, str | None]] = field(default_factory=Counter)
    video_us: int = 0


@dataclass
class _OpenVideo:
    """A video of which rows are still to come. `failures`: segment → why it failed."""

    rows: int = 0
    failures: dict[int, set[str]] = field(default_factory=dict)
    units: defaultdict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))

    def state(self, declared_us: int | None) -> tuple[str, str | None]:
        """(status, reason) as `derive` merges them, from what this run has seen."""
        units, covered = [], []
        for _, rows in sorted(self.units.items()):
            coverage = merge_coverage(rows, declared_us)
            status, reason = lower_to_partial(*merge_status(rows), coverage)
            units.append({"status": status, "reason": reason})
            covered += [coverage] if coverage is not None else []
        return lower_to_partial(*merge_status(units), max(covered, default=None))


class Progress:
    """Counts whole videos, hours of video and failures by reason from what `write` tells."""

    def __init__(self, planned: int, *, stream: TextIO | None = None) -> None:
        self._planned = planned
        self._stream = stream or sys.stderr
        self._started = self._told = time.monotonic()
        self._open: dict[str, _OpenVideo] = {}
        self._fresh = Fresh()
        self.videos = 0
        self.video_us = 0
        self.reasons: defaultdict[str, float] = defaultdict(float)

    def add(self, told: Sequence[Mapping[str, Any]]) -> None:
        """Take in ledger rows. A video counts when all rows that this run owes it are there."""
        for row in told:
            video = self._open.setdefault(row["video_id"], _OpenVideo())
            if row["segment"] not in video.failures:
                video.failures[row["segment"]] = set()
                self.video_us += row["end_us"] - row["start_us"]
                self._fresh.video_us += row["end_us"] - row["start_us"]
            if row["status"] in FAILED:
                self.reasons[row["reason"]] += 1 / row["expected"]
                if row["reason"] not in video.failures[row["segment"]]:  # once for all annotators
                    video.failures[row["segment"]].add(row["reason"])
                    self._log_failure(row)
            video.units[row["annotator"]].append({name: row[name] for name in _STATE})
            video.rows += 1
            if video.rows == row["expected"]:
                self.videos += 1
                self._fresh.videos[self._open.pop(row["video_id"]).state(row["declared_us"])] += 1
        self.show()

    def fresh(self) -> Fresh:
        """What has come since this was last asked."""
        fresh, self._fresh = self._fresh, Fresh()
        return fresh

    def _log_failure(self, row: Mapping[str, Any]) -> None:
        if not self._stream.isatty():  # there they are counted
            names = ("segment", "reason", "uri", "member", "detail")
            log(row["status"], stream=self._stream, video=row["video_id"], **{name: row[name] for name in names})

    def show(self, *, now: bool = False) -> None:
        """Say where the run stands, not too often."""
        every = _TERMINAL_EVERY_S if self._stream.isatty() else _LOG_EVERY_S
        if not now and time.monotonic() - self._told < every:
            return
        self._told = time.monotonic()
        seconds = max(self._told - self._started, 1e-9)
        rate = self.videos / seconds
        left = (self._planned - self.videos) / rate if rate else None
        reasons = {reason: round(count) for reason, count in self.reasons.items()}
        hours = self.video_us / MICROSECONDS / 3600
        if self._stream.isatty():
            eta = f"{left / 60:.0f} min left" if left is not None else "…"
            failed = "  ".join(f"{reason} {count}" for reason, count in reasons.items())
            speed = f"{hours * 3600 / seconds:.0f}x real time"
            text = f"{self.videos}/{self._planned} videos  {hours:.2f} h of video  {speed}  {eta}  {failed}"
            print(f"\r\033[K{text}", end="", file=self._stream, flush=True)
        else:
            log(
                "progress",
                stream=self._stream,
                videos=self.videos,
                planned=self._planned,
                video_hours=round(hours, 4),
                times_real_time=round(hours * 3600 / seconds, 2),
                eta_s=round(left) if left is not None else None,
                failures=reasons,
            )
