"""What a run counts, for Ray's metrics: their names, and how each is counted without costing anything.

    count(FRAMES, 120)
    count(VIDEOS, 1, status="labelled", reason="none")

Ray exports them on every node (`ray.nodes()[i]["MetricsExportPort"]`, Prometheus' text format), named as in `EXPORTED`.
The driver counts what is committed, once. The workers count work as it is done, and again when it is done again.
Labels hold codes and names of ours only: never a URI, an id, or a person.
"""

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from vidproc.errors import INPUT_ERRORS, Damaged, Missing
from vidproc.media.guard import BYTES_READ
from vidproc.media.patience import RETRIES
from vidproc.pipeline.progress import Fresh
from vidproc.schema import TABLES
from vidproc.views import MICROSECONDS

EVERY_S = 5.0
"""How often the driver tells its lag: Ray forgets a gauge that was not set for two of its report intervals of 10 s."""
FILL_BOUNDARIES = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
_EMPTY = ("no_text", "too_short", "no_sound", "no_picture")
REASONS = {*INPUT_ERRORS, *_EMPTY}
"""Codes of why a video is not (wholly) labelled: of its error, or of why it is empty."""
STATES = {
    "labelled": ("none",),
    "partial": (Damaged.reason,),
    "empty": _EMPTY,
    "quarantined": tuple(INPUT_ERRORS),
    "missing": (Missing.reason,),
}
"""What may become of a video, as a rule; another reason's series begins when it first comes."""
_ALMOST_NOTHING = 5e-324
"""Ray takes no zero. The smallest float leaves any sum as it is."""


@dataclass(frozen=True)
class Metric:
    """One metric. `once`: counted exactly once, by the driver, after the commit; else again whenever work is redone."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    once: bool
    description: str

    @property
    def exported(self) -> str:
        """Its name in Prometheus; of a histogram, what `_bucket`, `_sum` and `_count` are added to."""
        return f"ray_{self.name}"


VIDEOS = Metric(
    "vidproc_videos_total",
    "counter",
    ("status", "reason"),
    True,
    "videos that a run has finished and committed",
)
VIDEO_SECONDS = Metric("vidproc_video_seconds_total", "counter", (), True, "seconds of video that were committed")
ROWS = Metric("vidproc_rows_total", "counter", ("table",), True, "rows that were committed")
COMMITS = Metric("vidproc_commits_total", "counter", (), True, "commits")
COMMIT_LAG = Metric(
    "vidproc_commit_lag_seconds", "gauge", (), False, "age of the oldest part that is written and not committed"
)
DECODE_SECONDS = Metric(
    "vidproc_decode_seconds_total", "counter", (), False, "seconds of a core spent probing and decoding, waits included"
)
FRAMES = Metric("vidproc_frames_total", "counter", (), False, "frames that were decoded")
BYTES = Metric("vidproc_bytes_read_total", "counter", (), False, "bytes of videos that were read from storage")
STORE_RETRIES = Metric(
    "vidproc_store_retries_total", "counter", ("reason",), False, "requests to storage that were made again"
)
INFER_SECONDS = Metric("vidproc_infer_seconds_total", "counter", ("annotator",), False, "seconds spent in networks")
BATCH_FILL = Metric(
    "vidproc_batch_fill_ratio", "histogram", (), False, "share of a batch's room that segments to be looked at take"
)
DEVICE_BUSY = Metric("vidproc_device_busy_seconds_total", "counter", (), False, "seconds in which an actor annotated")
DEVICE_IDLE = Metric(
    "vidproc_device_idle_seconds_total", "counter", (), False, "seconds in which an actor waited for segments"
)

METRICS = (
    VIDEOS, VIDEO_SECONDS, ROWS, COMMITS, COMMIT_LAG, DECODE_SECONDS, FRAMES, BYTES, STORE_RETRIES, INFER_SECONDS,
    BATCH_FILL, DEVICE_BUSY, DEVICE_IDLE,
)  # fmt: skip
EXPORTED: dict[str, Metric] = {metric.exported: metric for metric in METRICS}
"""The names that dashboards and alerts may use: `ray_vidproc_videos_total` (Ray adds no second `_total`), and so on."""


# ---- telling Ray

_Key = tuple[Metric, tuple[tuple[str, str], ...]]
_waiting: Counter[_Key] = Counter()
_lock = threading.Lock()


def count(metric: Metric, amount: float, **labels: str) -> None:
    """Add to a counter. What is counted before Ray is there waits for it; in a run that needs no Ray it is dropped."""
    with _lock:
        if amount > 0:
            _waiting[metric, tuple(sorted(labels.items()))] += amount  # type: ignore[assignment]
        while _waiting and _ray_is_up():
            (one, tags), sum_ = _waiting.popitem()
            with suppress(Exception):  # nothing is committed twice, or not at all, because it could not be counted
                _in_ray(one).inc(float(sum_), dict(tags))


def observe(metric: Metric, value: float) -> None:
    """Set a gauge, or add an observation to a histogram."""
    if _ray_is_up():
        with suppress(Exception):
            made = _in_ray(metric)
            (made.set if metric.kind == "gauge" else made.observe)(value)


def _ray_is_up() -> bool:
    """Without importing Ray: a run that has nothing to do never does."""
    ray = sys.modules.get("ray")
    return ray is not None and hasattr(ray, "is_initialized") and bool(ray.is_initialized())


@cache
def _in_ray(metric: Metric) -> Any:
    from ray.util import metrics

    if metric.kind == "histogram":
        return metrics.Histogram(metric.name, metric.description, list(FILL_BOUNDARIES), metric.labels)
    made = metrics.Counter if metric.kind == "counter" else metrics.Gauge
    return made(metric.name, metric.description, metric.labels)


# ---- what the driver counts


def count_videos(fresh: Fresh) -> None:
    """What has just been committed."""
    count(VIDEO_SECONDS, fresh.video_us / MICROSECONDS)
    for (status, reason), videos in fresh.videos.items():
        count(VIDEOS, videos, status=status, reason=code_of(reason))


def code_of(reason: str | None) -> str:
    """A reason's code; `none` for none, `other` for what is none of ours."""
    return "none" if reason is None else reason if reason in REASONS else "other"


def begin() -> None:
    """Have the driver's counters exported as zero: PromQL's `increase` does not see what a series begins with."""
    for metric in (VIDEO_SECONDS, COMMITS):
        count(metric, _ALMOST_NOTHING)
    for table in TABLES:
        count(ROWS, _ALMOST_NOTHING, table=table)
    for status, reasons in STATES.items():
        for reason in reasons:
            count(VIDEOS, _ALMOST_NOTHING, status=status, reason=reason)


@contextmanager
def told_meanwhile(lag_s: Callable[[], float]) -> Iterator[None]:
    """Tell the commit lag every `EVERY_S` seconds, even while a commit hangs, and this process's retries with it."""
    begin()
    ended = threading.Event()

    def tell() -> None:
        while not ended.is_set():
            observe(COMMIT_LAG, lag_s())
            count_storage()
            ended.wait(EVERY_S)

    thread = threading.Thread(target=tell, name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        observe(COMMIT_LAG, 0.0)


# ---- what any process counts

_told: Counter[str] = Counter()
_told_bytes: Counter[str] = Counter()


def count_storage() -> None:
    """What this process has read, and asked again for, since it was last told."""
    with _lock:
        retries, read = Counter(RETRIES), Counter(BYTES_READ)
        fresh, fresh_bytes = retries - _told, read - _told_bytes
        _told.update(fresh)
        _told_bytes.update(fresh_bytes)
    for reason, times in fresh.items():
        count(STORE_RETRIES, times, reason=reason)
    count(BYTES, fresh_bytes.total())
