"""OpenLineage events of real runs: to a server, to a file, and to a server that is not there."""

import json
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from labelling import BUDGET_EXCEEDED, read

pytest.importorskip("openlineage.client", reason="the extra `lineage` is not installed")
from openlineage.client import event_v2 as ol
from openlineage.client.facet_v2 import (
    error_message_run,
    job_type_job,
    nominal_time_run,
    output_statistics_output_dataset,
    schema_dataset,
)

from vidproc.errors import UsageError
from vidproc.pipeline import label, lineage
from vidproc.pipeline.lineage import dataset_of, openlineage_id
from vidproc.pipeline.options import LabelConfig
from vidproc.pipeline.stopping import Stopped
from vidproc.schema import TABLES
from vidproc.tables.runs import RunStart, start_run
from vidproc.train.archive import make_archive

FACETS = {
    "nominalTime": nominal_time_run.NominalTimeRunFacet,
    "errorMessage": error_message_run.ErrorMessageRunFacet,
    "jobType": job_type_job.JobTypeJobFacet,
    "schema": schema_dataset.SchemaDatasetFacet,
    "outputStatistics": output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet,
}


class LineageServer:
    """Takes events as Marquez does."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == "/api/v1/lineage":
                    outer.events.append(json.loads(body))
                    outer.keys.append(self.headers.get("Authorization"))
                self.send_response(201 if self.path == "/api/v1/lineage" else 404)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


Labelled = tuple[LabelConfig, LineageServer]


@pytest.fixture
def server() -> Iterator[LineageServer]:
    made = LineageServer()
    yield made
    made.close()


@pytest.fixture(scope="module")
def labelled(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Labelled]:
    """A run over a small archive, and the server that was told of it."""
    folder, made = tmp_path_factory.mktemp("lineage"), LineageServer()
    make_archive(folder / "archive", plain=1, sharded=1, seconds=2)
    config = LabelConfig(
        archive=(str(folder / "archive"),),
        tables=str(folder / "tables"),
        annotators=("quality",),
        failure_budget=1.0,
        lineage=made.url,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENLINEAGE_API_KEY", "key")
        patch.setenv("OPENLINEAGE_NAMESPACE", "nightly")
        assert label.run(config) == 0
    yield config, made
    made.close()


def again(config: LabelConfig, **changed: Any) -> LabelConfig:
    return config.model_copy(update=changed)


def checked(event: dict[str, Any]) -> ol.RunEvent:
    """The event as the client's own classes read it, which check what they are given. Nothing may be unknown."""

    def of(facets: dict[str, Any]) -> dict[str, Any]:
        for facet in facets.values():
            assert facet["_producer"].startswith("urn:vidproc:") and facet["_schemaURL"].startswith(
                "https://openlineage.io/"
            )
        return {
            name: FACETS[name](**{key: value for key, value in facet.items() if not key.startswith("_")})
            for name, facet in facets.items()
        }

    known = dict(event)
    assert known.pop("schemaURL").endswith("#/$defs/RunEvent")
    known["eventType"] = ol.RunState[known["eventType"]]
    known["run"] = ol.Run(event["run"]["runId"], of(event["run"]["facets"]))
    known["job"] = ol.Job(event["job"]["namespace"], event["job"]["name"], of(event["job"]["facets"]))
    for kind, made in (("inputs", ol.InputDataset), ("outputs", ol.OutputDataset)):
        known[kind] = [
            made(
                one["namespace"],
                one["name"],
                facets=of(one.get("facets", {})),
                **{f"{kind[:-1]}Facets": of(one.get(f"{kind[:-1]}Facets", {}))},
            )
            for one in event[kind]
        ]
    assert datetime.fromisoformat(event["eventTime"]).tzinfo is not None
    return ol.RunEvent(**known)


def test_start_then_complete_with_what_was_read_and_written(labelled: Labelled) -> None:
    config, server = labelled
    assert [event["eventType"] for event in server.events] == ["START", "COMPLETE"]
    assert server.keys == ["Bearer key"] * 2
    start, complete = map(checked, server.events)
    tables = read(config.tables)
    (run,) = tables["runs"]
    assert start.run.runId == complete.run.runId == str(openlineage_id(run["run_id"]))
    assert (start.job.namespace, start.job.name) == ("nightly", "label")
    for event in (start, complete):
        assert [(one.namespace, one.name) for one in event.inputs or ()] == [("file", config.archive[0])]
    assert not start.outputs
    written = {one.name: one.outputFacets["outputStatistics"].rowCount for one in complete.outputs or ()}  # type: ignore[index,attr-defined]
    assert written == {f"{config.tables}/{name}": len(rows) for name, rows in tables.items() if rows}
    for one in complete.outputs or ():
        schema = TABLES[Path(one.name).name].schema
        found = [(each["name"], each["type"]) for each in one.facets["schema"].fields]  # type: ignore[index,attr-defined]
        assert found == [(each.name, str(each.type)) for each in schema]


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (RuntimeError("at https://u:pw@h/x?sig=1"), ("FAIL", "RuntimeError: at https://h/x")),
        (Stopped(143), ("ABORT", "the run was stopped: what it had finished is committed")),
    ],
)
def test_run_that_ends_otherwise_says_how(
    labelled: Labelled,
    server: LineageServer,
    monkeypatch: pytest.MonkeyPatch,
    raised: BaseException,
    told: tuple[str, str],
) -> None:
    def raising(*_: Any) -> None:
        raise raised

    monkeypatch.setattr(label, "_plan", raising)
    with pytest.raises(type(raised)):
        label.run(again(labelled[0], lineage=server.url))
    start, end = map(checked, server.events)
    assert (start.eventType, end.eventType) == (ol.RunState.START, ol.RunState[told[0]])
    assert start.run.runId == end.run.runId
    assert end.run.facets["errorMessage"].message == told[1]  # type: ignore[index,attr-defined]
    assert [Path(one.name).name for one in end.outputs or ()] == ["runs"], "its row, and nothing else"


def test_too_many_failures_are_a_failure(labelled: Labelled, server: LineageServer) -> None:
    config = again(labelled[0], lineage=server.url, failure_budget=0.0, reprocess="failed")
    assert label.run(config) == BUDGET_EXCEEDED
    assert [checked(event).eventType for event in server.events] == [ol.RunState.START, ol.RunState.FAIL]


def test_run_that_was_killed_is_told_by_the_next(labelled: Labelled, server: LineageServer) -> None:
    killed = RunStart(
        run_id="20260101T000000-killed",
        date=date(2026, 1, 1),
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
        config="{}",
        code_version="0",
    )
    start_run(labelled[0].tables, killed)
    assert label.run(again(labelled[0], lineage=server.url)) == 0
    start, fail, complete = map(checked, server.events)
    assert (fail.eventType, fail.run.runId) == (ol.RunState.FAIL, str(openlineage_id(killed.run_id)))
    assert start.run.runId == complete.run.runId != fail.run.runId


def test_file_gets_a_line_for_each_event(labelled: Labelled, tmp_path: Path) -> None:
    config = again(labelled[0], lineage=str(tmp_path / "events.ndjson"))
    assert label.run(config) == label.run(config) == 0
    lines = (tmp_path / "events.ndjson").read_text().splitlines()
    assert [checked(json.loads(line)).eventType.value for line in lines] == ["START", "COMPLETE"] * 2  # type: ignore[union-attr]


def test_server_that_is_down_costs_a_log_line(labelled: Labelled, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    assert label.run(again(labelled[0], lineage=url)) == 0
    lost = [json.loads(line) for line in capsys.readouterr().err.splitlines() if "lineage_lost" in line]
    assert [one["type"] for one in lost] == ["START", "COMPLETE"] and "refused" in lost[0]["error"]


def test_server_that_never_answers_is_not_waited_for(
    labelled: Labelled, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lineage, "WAIT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        config = again(labelled[0], lineage=url)
        sent: list[float] = []
        finish = lineage._Sender.finish

        def timed(self: Any, wait_s: float) -> None:
            started = time.monotonic()
            finish(self, wait_s)
            sent.append(time.monotonic() - started)

        monkeypatch.setattr(lineage._Sender, "finish", timed)
        assert label.run(config) == 0
    assert sent[0] < 3
    assert "no answer for 0.5 s" in capsys.readouterr().err


def test_missing_package_is_said_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openlineage.client.transport.http", None)
    config = LabelConfig(archive=(str(tmp_path),), tables=str(tmp_path / "tables"), lineage="events.ndjson")
    with pytest.raises(UsageError, match=r"pip install 'vidproc\[lineage\]'"):
        label.run(config)
    assert not (tmp_path / "tables").exists()


@pytest.mark.parametrize("target", ["https://u:p@host", "https://host?token=1", "kafka://host", "s3://b/events"])
def test_target_is_a_server_or_a_file_without_secrets(target: str) -> None:
    with pytest.raises(ValueError, match="http\\(s\\) URL without password or query"):
        LabelConfig(archive=("a",), tables="t", lineage=target)


def test_datasets_are_named_as_openlineage_wants_them() -> None:
    assert dataset_of("s3://bucket/videos/*.mp4") == ("s3://bucket", "videos/*.mp4")
    assert dataset_of("s3://bucket") == ("s3://bucket", "/")
    assert dataset_of("https://u:p@host/list.csv?sig=1") == ("https://host", "list.csv")
    assert dataset_of("/data/what?.mp4") == ("file", "/data/what?.mp4")
    assert dataset_of("file:///data/a%20b") == ("file", "/data/a b")
    assert dataset_of("videos") == ("file", str(Path("videos").absolute()))


def test_id_of_a_run_is_a_uuid_and_always_the_same() -> None:
    assert openlineage_id("run") == uuid.UUID(str(openlineage_id("run"))) != openlineage_id("other")
