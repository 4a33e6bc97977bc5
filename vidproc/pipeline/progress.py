"""What a run tells while it runs: a line that renews itself on a terminal, one JSON object a line elsewhere."""

import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from vidproc.command import log
from vidproc.views import MICROSECONDS

_TERMINAL_EVERY_S = 0.5
_LOG_EVERY_S = 10.0


class Progress:
    """Counts whole videos, hours of video and failures by reason from what `write` tells."""

    def __init__(self, planned: int, *, stream: TextIO | None = None) -> None:
        self._planned = planned
        self._stream = stream or sys.stderr
        self._started = self._told = time.monotonic()
        self._open: dict[str, tuple[int, set[int]]] = {}  # video → rows still to come, segments seen
        self.videos = 0
        self.video_us = 0
        self.reasons: defaultdict[str, float] = defaultdict(float)

    def add(self, told: Sequence[Mapping[str, Any]]) -> None:
        """Take in ledger rows. A video counts when all rows that this run owes it are there."""
        for row in told:
            left, seen = self._open.pop(row["video_id"], (row["expected"], set()))
            if row["segment"] not in seen:
                seen.add(row["segment"])
                self.video_us += row["end_us"] - row["start_us"]
            if left > 1:
                self._open[row["video_id"]] = (left - 1, seen)
            else:
                self.videos += 1
            if row["status"] in ("quarantined", "missing"):
                self.reasons[row["reason"]] += 1 / row["expected"]
        self.show()

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
