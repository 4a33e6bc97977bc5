"""OpenLineage: that a run began and how it ended, told to a lineage server or appended to a file (`--lineage`).

    with traced(config, commits, started, sender_to(config.lineage)) as trace:
        trace.exit_code = …

START when the run has the lease, then one of COMPLETE (exit 0), FAIL (exit 1 to 5, or a crash) and ABORT (a signal).
Inputs are the archive's URLs, outputs the tables with the rows that this run committed. A server that is slow or down
costs the run nothing but `WAIT_S` at its end, and a line in the log.
"""

import os
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vidproc import __version__
from vidproc.command import log, redacted
from vidproc.errors import BudgetExceeded, UsageError
from vidproc.media.ranges import local_path
from vidproc.pipeline import failures
from vidproc.pipeline.counted import CountedCommits
from vidproc.pipeline.options import LabelConfig
from vidproc.schema import TABLES, Table

JOB = "label"
NAMESPACE = "vidproc"
"""The job's namespace unless OPENLINEAGE_NAMESPACE names one: give each archive's nightly job its own."""
WAIT_S = 10.0
"""How long the end of a run waits for its events to arrive."""
_REQUEST_S = 4.0
_PRODUCER = f"urn:vidproc:{__version__}"

Send = Callable[[Any], Any]
"""Sends one OpenLineage event."""


class Trace:
    """One run's events. `exit_code`: how the run ends, if no error ends it."""

    def __init__(self, config: LabelConfig, commits: CountedCommits, started: datetime, send: Send | None) -> None:
        self.exit_code = 0
        self._config, self._commits, self._started = config, commits, started
        self._sender = _Sender(send) if send is not None else None

    def killed(self, run_id: str) -> None:
        """An earlier run that was killed before it could tell its end."""
        self._tell("FAIL", run_id, message="the run was killed: the next one found its traces")

    def begun(self) -> None:
        self._tell("START", self._commits.run_id)

    def ended(self, error: BaseException | None) -> None:
        """Tell the end, and wait for it to be heard, but not for long."""
        state, message = _outcome(error, self.exit_code, self._config.tables)
        self._tell(state, self._commits.run_id, message=message, outputs=True)
        if self._sender is not None:
            self._sender.finish(WAIT_S)

    def _tell(self, state: str, run_id: str, *, message: str | None = None, outputs: bool = False) -> None:
        if self._sender is None:
            return
        try:
            self._sender.put(self._event(state, run_id, message=message, outputs=outputs))
        except Exception as error:  # no run fails for what is told of it
            log("lineage_lost", type=state, error=repr(error))

    def _event(self, state: str, run_id: str, *, message: str | None, outputs: bool) -> Any:
        from openlineage.client import event_v2 as ol
        from openlineage.client.facet_v2 import error_message_run, job_type_job, nominal_time_run

        facets: dict[str, Any] = {}
        if run_id == self._commits.run_id:
            facets["nominalTime"] = nominal_time_run.NominalTimeRunFacet(self._started.isoformat())
        if message:
            facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(redacted(message), "python")
        kind = job_type_job.JobTypeJobFacet(processingType="BATCH", integration="VIDPROC", jobType="JOB")
        return ol.RunEvent(
            eventTime=datetime.now(UTC).isoformat(),
            eventType=ol.RunState[state],
            run=ol.Run(str(openlineage_id(run_id)), facets),
            job=ol.Job(os.environ.get("OPENLINEAGE_NAMESPACE", NAMESPACE), JOB, {"jobType": kind}),
            inputs=[ol.InputDataset(*dataset_of(url)) for url in self._config.archive],
            outputs=self._outputs() if outputs else [],
        )

    def _outputs(self) -> list[Any]:
        from openlineage.client import event_v2 as ol
        from openlineage.client.facet_v2 import output_statistics_output_dataset as statistics

        return [
            ol.OutputDataset(
                *dataset_of(f"{self._commits.tables_url}/{name}"),
                facets={"schema": _schema(TABLES[name])},
                outputFacets={"outputStatistics": statistics.OutputStatisticsOutputDatasetFacet(rowCount=rows)},
            )
            for name, rows in sorted(self._commits.rows.items())
        ]


@contextmanager
def traced(config: LabelConfig, commits: CountedCommits, started: datetime, send: Send | None) -> Iterator[Trace]:
    """Tell what goes on inside, if there is somewhere to send it. Failing to never is the run's failure."""
    trace = Trace(config, commits, started, send)
    trace.begun()
    try:
        yield trace
    except BaseException as error:
        trace.ended(error)
        raise
    trace.ended(None)


def sender_to(target: str | None) -> Send | None:
    """What sends one event to an http(s) URL, or appends it to a file; None for None. Raises `UsageError` where the
    package is missing.
    """
    if target is None:
        return None
    try:
        from openlineage.client.event_v2 import set_producer
        from openlineage.client.transport.file import FileConfig, FileTransport
        from openlineage.client.transport.http import HttpConfig, HttpTransport, create_token_provider
    except ImportError:
        raise UsageError(
            "--lineage needs the package openlineage-python: `pip install 'vidproc[lineage]'`, or leave the flag out"
        ) from None
    set_producer(_PRODUCER)
    if not target.startswith(("http://", "https://")):
        return FileTransport(FileConfig(log_file_path=target, append=True)).emit
    key = os.environ.get("OPENLINEAGE_API_KEY")
    auth = create_token_provider({"type": "api_key", "apiKey": key} if key else {})
    retry = {"total": 1, "allowed_methods": ["POST"], "status_forcelist": [500, 502, 503, 504]}
    return HttpTransport(HttpConfig(url=target, timeout=_REQUEST_S, retry=retry, auth=auth)).emit


def openlineage_id(run_id: str) -> uuid.UUID:
    """OpenLineage's name of a run: always the same, so that whoever finds a killed run can tell its end."""
    return uuid.uuid5(uuid.NAMESPACE_URL, f"vidproc:run:{run_id}")


def dataset_of(url: str) -> tuple[str, str]:
    """(namespace, name) as OpenLineage's naming rules want them: `s3://bucket` and a key, `file` and a path."""
    if (path := local_path(url)) is not None:
        return "file", str(Path(path).absolute())
    parts = urlsplit(redacted(url))
    return f"{parts.scheme}://{parts.netloc}", parts.path.strip("/") or "/"


def _schema(table: Table) -> Any:
    from openlineage.client.facet_v2 import schema_dataset

    fields = [schema_dataset.SchemaDatasetFacetFields(field.name, str(field.type)) for field in table.schema]
    return schema_dataset.SchemaDatasetFacet(fields)


def _outcome(error: BaseException | None, exit_code: int, tables_url: str) -> tuple[str, str | None]:
    """The event's type and the message of how a run ended."""
    if isinstance(error, Exception):
        known = failures.told(error, tables_url=tables_url)
        return "FAIL", f"{type(known).__name__}: {known}"
    if error is not None or exit_code > 128:
        return "ABORT", "the run was stopped: what it had finished is committed"
    if exit_code == BudgetExceeded.exit_code:
        return "FAIL", "more videos failed than --failure-budget allows: the others are committed"
    return "COMPLETE", None


class _Sender:
    """Sends events in order from a thread of its own; what cannot be sent is logged and dropped."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="lineage", daemon=True)
        self._thread.start()

    def put(self, event: Any) -> None:
        self._events.put(event)

    def finish(self, wait_s: float) -> None:
        """Wait for all that was put to be sent."""
        self._events.put(None)
        self._thread.join(wait_s)
        if self._thread.is_alive():
            log("lineage_lost", message=f"no answer for {wait_s:g} s: the run ends without it")

    def _run(self) -> None:
        while (event := self._events.get()) is not None:
            started = time.monotonic()
            try:
                self._send(event)
            except Exception as error:
                seconds = round(time.monotonic() - started, 1)
                log("lineage_lost", type=event.eventType.value, error=repr(error), seconds=seconds)
