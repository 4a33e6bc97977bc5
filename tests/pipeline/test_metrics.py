"""What a real run counts, read off Ray's metrics endpoint and held against its tables."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from labelling import ALL, DEMO, Tables, read
from planting import FOLDER
from scraping import Samples, scraped_until, settled

from vidproc.annotators import ANNOTATORS
from vidproc.media.archive import list_archive
from vidproc.media.guard import BYTES_READ, close_guards
from vidproc.media.patience import RETRIES
from vidproc.pipeline import label, metrics, steps
from vidproc.pipeline.metrics import EXPORTED, METRICS, Metric
from vidproc.pipeline.options import LabelConfig
from vidproc.pipeline.steps import Settings
from vidproc.schema import STATUSES, TABLES
from vidproc.tables.plan import make_plan
from vidproc.train.archive import make_archive


@dataclass
class Counted:
    """One run over a small archive with broken videos: its tables, and what it added to the metrics."""

    archive: Path
    tables_url: Path
    tables: Tables
    samples: Samples

    def by(self, metric: Metric, *, suffix: str = "") -> dict[tuple[str, ...], float]:
        """Label values in the metric's order → value."""
        return {
            tuple(dict(found)[name] for name in metric.labels): value
            for (name, found), value in self.samples.items()
            if name == metric.exported + suffix
        }

    def decoded_s(self) -> float:
        """Each segment's time once, whichever annotators share it."""
        rows = {(row["video_id"], row["segment"]): row["decode_s"] for row in self.segments()}
        return sum(rows.values())

    def segments(self) -> list[dict[str, Any]]:
        return [row for row in self.tables["ledger"] if row["segment"] >= 0]

    def inferred_s(self) -> dict[tuple[str, ...], float]:
        seconds: Counter[tuple[str, ...]] = Counter()
        for row in self.segments():
            seconds[(row["annotator"],)] += row["infer_s"]
        return dict(seconds)


@pytest.fixture(scope="module")
def counted(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counted]:
    folder = tmp_path_factory.mktemp("counted")
    make_archive(folder / "archive", plain=2, sharded=1, seconds=2)
    before = settled()
    config = LabelConfig(
        archive=(str(folder / "archive"),),
        tables=str(folder / "tables"),
        annotators=ALL,
        weights=DEMO,
        failure_budget=1.0,
    )
    assert label.run(config) == 0
    found = Counted(folder / "archive", folder / "tables", read(str(folder / "tables")), Counter())

    def arrived(fresh: Samples) -> bool:
        """The driver's last commit, and what the ledger knows of the workers' work."""
        found.samples = fresh
        decoded, inferred = found.by(metrics.DECODE_SECONDS), found.by(metrics.INFER_SECONDS)
        return (
            found.by(metrics.ROWS).get(("runs",)) == 1
            and decoded.get((), 0) > 0.999 * found.decoded_s()
            and sum(inferred.values()) > 0.999 * sum(found.inferred_s().values())
        )

    found.samples = scraped_until(arrived, since=before)
    yield found


def test_videos_are_counted_by_what_became_of_them(counted: Counted) -> None:
    rows = Counter((row["status"], row["reason"] or "none") for row in counted.tables["videos"])
    assert counted.by(metrics.VIDEOS) == rows
    assert {status for status, _ in rows} >= {"labelled", "quarantined"}, "the archive has both"


def test_rows_commits_and_hours_are_those_of_the_tables(counted: Counted) -> None:
    rows = {(name,): len(found) for name, found in counted.tables.items() if found}
    assert counted.by(metrics.ROWS) == rows
    commits = [json.loads(path.read_text()) for path in (counted.tables_url / "_commits").glob("*.json")]
    assert counted.by(metrics.COMMITS) == {(): sum(bool(one["parts"] or one["replace"]) for one in commits)}
    (run,) = counted.tables["runs"]
    assert counted.by(metrics.VIDEO_SECONDS)[()] == pytest.approx(run["video_hours"] * 3600)


def test_seconds_are_those_of_the_ledger(counted: Counted) -> None:
    assert counted.by(metrics.DECODE_SECONDS)[()] == pytest.approx(counted.decoded_s())
    inferred = {name: seconds for name, seconds in counted.inferred_s().items() if seconds}
    assert counted.by(metrics.INFER_SECONDS) == pytest.approx(inferred)
    busy, idle = counted.by(metrics.DEVICE_BUSY)[()], counted.by(metrics.DEVICE_IDLE)[()]
    assert busy > sum(inferred.values()) and idle > 0


def test_batches_are_counted_by_how_full_they_are(counted: Counted) -> None:
    batches = counted.by(metrics.BATCH_FILL, suffix="_count")[()]
    assert 1 <= batches <= len(counted.segments())
    assert 0 < counted.by(metrics.BATCH_FILL, suffix="_sum")[()] <= batches


def test_frames_and_bytes_are_those_of_decoding_each_segment_once(
    counted: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(FOLDER)  # as for the cluster's sandboxes: what looks for planted faults reads, too
    frames, bytes_read = decode_here(counted.archive, tmp_path)
    assert counted.by(metrics.FRAMES) == {(): frames}
    assert counted.by(metrics.BYTES) == {(): bytes_read}


def decode_here(archive: Path, folder: Path) -> tuple[int, int]:
    """Frames that all segments report, and bytes that this process read for them, probes included."""
    annotators = {name: ANNOTATORS[name](DEMO.get(name), allow_licences=()) for name in ALL}
    settings = Settings("run", str(folder / "tables"), annotators)
    list_archive([str(archive)], str(folder / "listing"))
    wanted = {name: annotator.model_id for name, annotator in annotators.items()}
    make_plan(str(folder / "listing"), settings.tables_url, wanted=wanted, out_url=str(folder / "plan"))
    plan = pa.concat_tables([pq.read_table(path) for path in sorted((folder / "plan").iterdir())])
    before = Counter(BYTES_READ)
    try:
        segments = list(steps.decode(steps.probe(plan, settings=settings), settings=settings))
    finally:
        close_guards()
    told = sum(one["bytes_read"][0].as_py() or 0 for one in segments)
    assert told == BYTES_READ["decode"] - before["decode"]
    return sum(one["frames"][0].as_py() or 0 for one in segments), BYTES_READ.total() - before.total()


def test_labels_are_codes_and_names_of_ours(counted: Counted) -> None:
    reasons = metrics.REASONS | {"none", "other"}
    allowed = {"status": set(STATUSES), "reason": reasons, "table": set(TABLES), "annotator": set(ANNOTATORS)}
    for name, labels in counted.samples:
        metric = EXPORTED[re.sub(r"_(bucket|sum|count)$", "", name)]
        assert {key for key, _ in labels} - {"le"} == set(metric.labels), name
        for key, value in labels:
            assert key == "le" or value in allowed[key], (name, key, value)


def test_every_name_is_exported_as_it_is_told(counted: Counted) -> None:
    """But for what did not happen: nobody asked storage again, and a gauge is forgotten when it is not set again."""
    exported = {EXPORTED[re.sub(r"_(bucket|sum|count)$", "", name)] for name, _ in counted.samples}
    assert set(METRICS) - exported <= {metrics.STORE_RETRIES, metrics.COMMIT_LAG}
    assert not [name for name, _ in counted.samples if name.endswith("_total_total")]


def test_retries_and_lag_are_told_while_a_commit_hangs(ray_cluster: None) -> None:
    metrics.count_storage()
    before = settled()
    lag = frozenset[tuple[str, str]](), frozenset({("reason", "slow_down")})
    with metrics.told_meanwhile(lambda: 42.5):
        RETRIES["slow_down"] += 3
        fresh = scraped_until(
            lambda fresh: fresh[metrics.STORE_RETRIES.exported, lag[1]] and fresh[metrics.COMMIT_LAG.exported, lag[0]],
            since=before,
        )
    assert fresh[metrics.STORE_RETRIES.exported, lag[1]] == 3
    assert fresh[metrics.COMMIT_LAG.exported, lag[0]] == 42.5


def test_reason_that_is_none_of_ours_is_other() -> None:
    assert [metrics.code_of(reason) for reason in ("too_short", None)] == ["too_short", "none"]
    assert metrics.code_of("s3://bucket/somebody.mp4") == "other"


def test_counters_are_named_as_prometheus_wants_them() -> None:
    assert all(metric.name.endswith("_total") == (metric.kind == "counter") for metric in METRICS)
