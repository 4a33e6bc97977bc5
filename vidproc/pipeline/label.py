"""The label job from its options to its exit code: list, plan, decode and annotate, commit, derive."""

import json
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import fsspec
import pyarrow as pa

from vidproc import __version__
from vidproc.command import log, log_always
from vidproc.errors import BudgetExceeded, LeaseLost
from vidproc.media.archive import list_archive
from vidproc.pipeline import failures
from vidproc.pipeline.audit import audited
from vidproc.pipeline.chosen import chosen_annotators
from vidproc.pipeline.cluster import connected, room_watched
from vidproc.pipeline.counted import CountedCommits
from vidproc.pipeline.lineage import sender_to, traced
from vidproc.pipeline.metrics import count_videos, told_meanwhile
from vidproc.pipeline.options import LabelConfig
from vidproc.pipeline.preview import preview
from vidproc.pipeline.progress import Progress
from vidproc.pipeline.refusals import Refusals
from vidproc.pipeline.steps import Settings
from vidproc.pipeline.stopping import TERMINATED, Stop, Stopped
from vidproc.tables.commit import UNIT, Commits, replace_units
from vidproc.tables.derive import derive
from vidproc.tables.parts import Part
from vidproc.tables.plan import PlanSummary, make_plan
from vidproc.tables.runs import RunStart, recover_runs, start_run, write_run


def run(config: LabelConfig) -> int:
    """Label what the archive lists and the ledger lacks. Returns the exit code; raises the typed errors of `errors`."""
    try:
        return _run(config)
    except Exception as error:
        known = failures.told(error, tables_url=config.tables)
        if known is error:
            raise
        raise known from error


def _run(config: LabelConfig) -> int:
    annotators = chosen_annotators(config)
    send = sender_to(config.lineage)
    started = datetime.now(UTC)
    run_id = f"{started:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"
    log_always(run=run_id)
    settings = Settings(run_id, config.tables, annotators, config.limits())
    if config.dry_run:
        with _scratch(config.tables, run_id, local=True) as scratch:
            return preview(config, settings, _plan(config, settings, scratch), scratch)
    stop = Stop(config.stop_at)
    with (
        stop.listening(),
        CountedCommits.open(config.tables, run_id=run_id, lease_s=config.lease_s) as commits,
        traced(config, commits, started, send) as trace,
        audited(config.tables, run_id, annotators),
        ExitStack() as held,
    ):
        for killed in recover_runs(commits):
            log("recovered", killed_run=killed)
            trace.killed(killed)
            _clear_scratch(config.tables, killed)
        date = config.date or datetime.now().date()
        start = RunStart(
            run_id=run_id,
            date=date,
            started_at=started,
            config=config.model_dump_json(),
            code_version=__version__,
        )
        start_run(config.tables, start)
        try:
            derived = derive(commits, annotators)  # what an earlier run decoded
            with _scratch(config.tables, run_id) as scratch:
                summary = _plan(config, settings, scratch)
                start = replace(start, listed=summary.listed, planned=summary.planned + derived)
                start_run(config.tables, start)
                ended_early = _label(config, settings, commits, summary, scratch, stop=stop, held=held)
            derive(commits, annotators)
            status, code = ("stopped", stop.exit_code or 0) if ended_early else ("done", 0)
            row = write_run(commits, start, status=status, exit_code=code)
        except LeaseLost:
            raise  # the tables are another run's now: its recovery writes this run's row
        except (KeyboardInterrupt, SystemExit) as error:  # SystemExit: Ray's own answer to SIGTERM, while it starts
            code = error.exit_code if isinstance(error, Stopped) else TERMINATED
            with suppress(Exception):
                write_run(commits, start, status="stopped", exit_code=code)
            raise Stopped(code) from error
        except Exception as error:
            _write_failed(commits, start, failures.told(error, tables_url=config.tables))
            raise
        failed = row["quarantined"] + row["missing"] - row["failed_again"]
        if not code and failed > config.failure_budget * (row["planned"] - row["failed_again"]):
            status, code = "budget_exceeded", BudgetExceeded.exit_code
            write_run(commits, start, status=status, exit_code=code)
        _report(row, status, code)
        trace.exit_code = code
        return code


def _write_failed(commits: Commits, start: RunStart, error: Exception) -> None:
    """Write the row of a run that failed. Raises `LeaseLost` if it failed because another run has taken over."""
    try:
        status = "budget_exceeded" if isinstance(error, BudgetExceeded) else "failed"
        write_run(commits, start, status=status, exit_code=getattr(error, "exit_code", 1))
    except LeaseLost as lost:
        raise lost from error
    except Exception as also:  # what ended the run is what must be told
        log("unwritten", run=start.run_id, error=repr(also))


@contextmanager
def _scratch(tables_url: str, run_id: str, *, local: bool = False) -> Iterator[str]:
    """A folder for one run's listing and plan, where all workers can read it; removed at the end."""
    if local:
        import tempfile

        with tempfile.TemporaryDirectory(prefix="vidproc-") as folder:
            yield folder
        return
    try:
        yield _scratch_url(tables_url, run_id)
    finally:
        _clear_scratch(tables_url, run_id)


def _scratch_url(tables_url: str, run_id: str) -> str:
    return f"{tables_url.rstrip('/')}/_scratch/{run_id}"


def _clear_scratch(tables_url: str, run_id: str) -> None:
    """Remove what a run left in its folder, as far as storage lets us: no run fails for that."""
    url = _scratch_url(tables_url, run_id)
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
        if "file" in filesystem.protocol:
            shutil.rmtree(path)
        else:
            filesystem.rm(path, recursive=True)
    except FileNotFoundError:
        pass
    except Exception as error:
        log("left_behind", url=url, error=repr(error))


def _plan(config: LabelConfig, settings: Settings, scratch: str) -> PlanSummary:
    listing = list_archive(
        config.archive,
        f"{scratch}/listing",
        include=config.include,
        exclude=config.exclude,
        progress=lambda rows: log("listing", videos=rows),
    )
    log(
        "listed",
        videos=listing.listed,
        ignored=listing.ignored,
        endings=listing.ignored_by_suffix,
        shards=listing.shards,
    )
    wanted = {name: annotator.model_id for name, annotator in settings.annotators.items()}
    summary = make_plan(
        f"{scratch}/listing",
        config.tables,
        wanted=wanted,
        reprocess=config.reprocess,
        limit=config.limit,
        out_url=f"{scratch}/plan",
    )
    log("planned", videos=summary.planned, done=summary.done, units=summary.units, bytes=summary.size_bytes)
    return summary


def _label(
    config: LabelConfig,
    settings: Settings,
    commits: Commits,
    summary: PlanSummary,
    scratch: str,
    *,
    stop: Stop,
    held: ExitStack,
) -> bool:
    """Run the plan and commit what comes. Returns whether the run was asked to end before that.

    `held` keeps the cluster until the run has ended: its last metrics go there.
    """
    todo = summary.planned - summary.deferred - summary.derive_only
    if not todo and config.canary is None:
        return False
    cluster = held.enter_context(connected())
    from vidproc.pipeline import canary
    from vidproc.pipeline.execution import written

    stop.listen()
    if config.canary is not None:
        canary.check(config.canary, settings, config, cluster, f"{scratch}/canary")
    if not todo:
        return False
    if cluster.here:
        held.enter_context(room_watched(stop.fail))
    progress = Progress(todo)
    pending, refusals = _Pending(commits, progress), Refusals(todo, config.failure_budget)
    held.enter_context(told_meanwhile(lambda: pending.lag_s))
    try:
        for batch in stop.until(written(f"{scratch}/plan", todo, settings, config, cluster)):
            told = json.loads(batch["told"])
            pending.add([Part(**part) for part in json.loads(batch["parts"])], told)
            progress.add(told)
            refusals.add(told)
            if pending.age_s >= config.commit_every_s or commits.lost:  # if lost, this commit ends the run
                pending.commit()
    except LeaseLost:
        raise
    except Exception:
        with suppress(Exception):
            pending.commit()  # whatever ends the run, what is finished is finished
        raise
    pending.commit()
    progress.show(now=True)
    return stop.exit_code is not None


@dataclass
class _Pending:
    """Parts that are written but not committed. Older rows of units done again go with their first new ones."""

    commits: Commits
    progress: Progress
    parts: list[Part] = field(default_factory=list)
    units: dict[tuple[str, str], str] = field(default_factory=dict)
    replaced: set[tuple[str, str]] = field(default_factory=set)
    since: float = field(default_factory=time.monotonic)
    oldest: float = 0.0

    @property
    def age_s(self) -> float:
        return time.monotonic() - self.since

    @property
    def lag_s(self) -> float:
        """Age of the oldest part; 0 while there is none."""
        return time.monotonic() - self.oldest if self.parts else 0.0

    def add(self, parts: list[Part], told: list[Mapping[str, Any]]) -> None:
        self.oldest = self.oldest if self.parts else time.monotonic()
        self.parts += parts
        self.units.update({(row["video_id"], row["annotator"]): row["model_id"] for row in told if row["again"]})

    def commit(self) -> None:
        self.commits.commit(self.parts, replace=self._older())
        self.replaced |= self.units.keys()
        self.parts, self.units, self.since = [], {}, time.monotonic()
        count_videos(self.progress.fresh())

    def _older(self) -> dict[str, pa.Table]:
        fresh = [(*unit, model) for unit, model in self.units.items() if unit not in self.replaced]
        if not fresh:
            return {}
        columns = zip(UNIT, zip(*fresh, strict=True), strict=True)
        return replace_units(pa.table({name: pa.array(column) for name, column in columns}))


def _report(row: Mapping[str, Any], status: str, code: int) -> None:
    names = ("planned", "labelled", "partial", "empty", "quarantined", "missing", "deferred")
    hours = round(row["video_hours"], 4)
    log("finished", run=row["run_id"], status=status, exit_code=code, video_hours=hours, **{n: row[n] for n in names})
