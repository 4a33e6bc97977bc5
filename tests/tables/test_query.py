"""SQL for analysts: friendly views, nothing but reading, and the job that answers on the command line."""

import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from evaluations_driver import evaluation_rows
from made_rows import FakeAnnotator, label_rows, ledger_rows, part, segment_parts

from vidproc.errors import UsageError
from vidproc.schema import ANNOTATION_TABLES, LABELS, LEDGER, QUALITY, TABLES
from vidproc.tables.commit import Commits
from vidproc.tables.derive import derive
from vidproc.tables.evaluations import write_evaluations
from vidproc.tables.query import VIEWS, connect, run_query
from vidproc.tables.store import Store

JOB = Path(__file__).parents[2] / "jobs" / "query.py"


def fill(url: str) -> None:
    """Video a: three adjacent segments and one apart, labelled by two models in turn. Video b: quarantined."""
    with Commits.open(url, run_id="run-1") as commits:
        commits.commit(segment_parts(url, "a", [0, 1, 2, 5], n_segments=4))
        broken = {"status": "quarantined", "reason": "damaged", "detail": "no frame decodes", "coverage": None}
        stretch = {"video_id": "a", "annotator": "quality", "model_id": "q", "run_id": "run-1", "brightness": 0.5}
        stretch |= {"start_us": 0, "end_us": 500_000, "black": False, "silent": True}
        commits.commit(
            [
                part(url, LEDGER, ledger_rows("b", [0], n_segments=1, samples=0, tally=None, **broken)),
                part(url, LEDGER, ledger_rows("a", [0], n_segments=1, annotator="quality", model_id="q", tally=None)),
                part(url, QUALITY, [stretch]),
            ]
        )
        derive(commits, {"actions": FakeAnnotator(), "quality": FakeAnnotator("quality", "q")})
        old = label_rows("a", [0], model_id="net-0")
        for row in old:
            row["label"] = "by an older model"
        commits.commit([part(url, LABELS, old)])
    write_evaluations(url, evaluation_rows())


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = str(tmp_path_factory.mktemp("query") / "tables")
    fill(url)
    return url


@pytest.fixture(scope="module")
def connection(url: str) -> Iterator[Any]:
    connection = connect(url)
    yield connection
    connection.close()


def ask(connection: Any, query: str) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in run_query(connection, query).to_pylist()]


NOT_FILLED = {"runs", "forgotten", "sound_kinds", *ANNOTATION_TABLES} - {"labels", "quality"}
"""By `url`."""


@pytest.mark.parametrize("name", [*TABLES, *VIEWS])
def test_every_table_and_view_answers(connection: Any, name: str) -> None:
    rows = run_query(connection, f"FROM {name}")
    assert rows.num_columns > 2
    if name in TABLES:
        assert rows.column_names == TABLES[name].schema.names
    assert rows.num_rows > 0 or name in NOT_FILLED


README = Path(__file__).parents[2] / "README.md"


@pytest.mark.parametrize("number", range(5))
def test_the_readmes_questions_can_be_asked(connection: Any, number: int) -> None:
    asked = README.read_text().split("```sql\n")[1].split("```")[0].split(";\n")
    assert len(asked) == 6 and run_query(connection, asked[number]).num_columns >= 3


def test_label_spans_merge_adjacent_samples_of_the_latest_model(connection: Any) -> None:
    query = "SELECT uri, label, start_s, end_s, samples, best_score FROM label_spans ORDER BY label, start_s"
    assert ask(connection, query) == [
        ("a/a.mp4", "run", 0.0, 3.0, 3, 0.25),
        ("a/a.mp4", "run", 5.0, 6.0, 1, 0.25),
        ("a/a.mp4", "walk", 0.0, 3.0, 3, 0.75),
        ("a/a.mp4", "walk", 5.0, 6.0, 1, 0.75),
    ]


def test_speech_music_and_silence_have_a_view(tmp_path: Path) -> None:
    url = str(tmp_path)
    labels = ["Speech", "Music", "Dog"]
    rows = [
        row | {"task": "audio", "label": label, "label_id": labels.index(label)}
        for second, heard in enumerate((["Speech"], ["Speech", "Music"], ["Dog", "Music"]))
        for label in heard
        for row in label_rows("a", [second])[:1]
    ]
    with Commits.open(url, run_id="run-1") as commits:
        commits.commit([part(url, LABELS, rows), part(url, LEDGER, ledger_rows("a", [0, 1, 2], n_segments=3))])
        derive(commits, {"actions": FakeAnnotator()})
    found = ask(connect(url), "SELECT kind, start_s, end_s FROM sound_kinds ORDER BY kind")
    assert found == [("music", 1.0, 3.0), ("speech", 0.0, 2.0)]


def test_overlapping_samples_merge_even_inside_one_another(tmp_path: Path) -> None:
    url = str(tmp_path)
    spans = [(0, 10), (2, 4), (6, 8), (9, 12), (13, 14)]
    rows = [row | {"start_us": a * 10**6, "end_us": b * 10**6} for a, b in spans for row in label_rows("a", [0])[:1]]
    with Commits.open(url, run_id="run-1") as commits:
        commits.commit([part(url, LABELS, rows), part(url, LEDGER, ledger_rows("a", [0], n_segments=1))])
        derive(commits, {"actions": FakeAnnotator()})
    found = ask(connect(url), "SELECT start_s, end_s, samples FROM label_spans ORDER BY start_s")
    assert found == [(0.0, 12.0, 4), (13.0, 14.0, 1)]


def test_video_labels_failures_and_quality_are_in_seconds_with_uris(connection: Any) -> None:
    labels = ask(connection, "SELECT uri, label, rank, start_s, end_s FROM video_labels ORDER BY rank")
    assert labels == [("a/a.mp4", "walk", 0, 0.0, 6.0), ("a/a.mp4", "run", 1, 0.0, 6.0)]
    assert ask(connection, "SELECT uri, status, reason, detail FROM failures") == [
        ("a/b.mp4", "quarantined", "damaged", "no frame decodes")
    ]
    assert ask(connection, "SELECT uri, start_s, end_s, brightness, black FROM quality_spans") == [
        ("a/a.mp4", 0.0, 0.5, 0.5, False)
    ]


def test_only_the_newest_version_of_a_file_is_latest(tmp_path: Path) -> None:
    url = str(tmp_path)
    same = {"start_us": 0, "uri": "a/same.mp4", "member": "", "etag": "e", "bytes": 1}
    for run, video_id in enumerate(["z-old", "a-new"]):
        with Commits.open(url, run_id=f"run-{run}") as commits:
            rows = ledger_rows(video_id, [0], n_segments=1, facts=json.dumps(same))
            commits.commit([part(url, LEDGER, rows), part(url, LABELS, label_rows(video_id, [0]))])
            derive(commits, {"actions": FakeAnnotator()})
    latest = connect(url)
    assert ask(latest, "SELECT video_id FROM latest_videos") == [("a-new",)]
    assert ask(latest, "SELECT DISTINCT video_id FROM label_spans") == [("a-new",)]
    assert ask(latest, "SELECT count(*) FROM videos") == [(2,)]


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT content FROM read_text('/etc/passwd')",
        "FROM '/etc/passwd'",
        "FROM glob('/etc/*')",
        "FROM url",  # a Python variable of the caller
        "COPY videos TO '/tmp/never-written.csv'",
        "ATTACH '/tmp/never-written.db'",
        "INSTALL httpfs",
        "SET enable_external_access = true",
        "CREATE TABLE x AS FROM videos",
        "DROP VIEW failures",
        "SELECT 1; SELECT 2",
        "",
        "SELEC 1",
    ],
)
def test_nothing_but_reading_tables_is_allowed(connection: Any, url: str, query: str) -> None:
    with pytest.raises(UsageError, match=r"only one statement that reads is allowed|the SQL does not work"):
        run_query(connection, query)
    assert not Path("/tmp/never-written.csv").exists()
    assert not Path("/tmp/never-written.db").exists()


def test_no_tables_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no tables"):
        connect(str(tmp_path))


def test_dates_work_without_extensions(connection: Any) -> None:
    today = datetime.now(UTC).date()
    (row,) = ask(connection, "SELECT DISTINCT CAST(labelled_at AS DATE), date_trunc('year', labelled_at) FROM videos")
    assert abs((row[0] - today).days) <= 1
    assert row[1].year == row[0].year


def job(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(JOB), *arguments], capture_output=True, text=True, check=False)


def test_the_job_answers_in_every_format(url: str, tmp_path: Path) -> None:
    query = "SELECT uri, member, coverage, metadata, labelled_at FROM videos ORDER BY uri"
    table = job("--tables", url, query)
    assert (table.returncode, table.stderr) == (0, "")
    assert table.stdout.splitlines()[0].split() == ["uri", "member", "coverage", "metadata", "labelled_at"]
    assert table.stdout.splitlines()[-1] == "(2 rows)"
    found = job("--tables", url, query, "--format", "csv").stdout
    rows = list(csv.DictReader(io.StringIO(found)))
    assert [row["uri"] for row in rows] == ["a/a.mp4", "a/b.mp4"]
    assert json.loads(rows[0]["metadata"]) == {"title": "a"}
    lines = job("--tables", url, query, "--format", "json").stdout.splitlines()
    assert [json.loads(line)["metadata"] for line in lines] == [{"title": "a"}, {"title": "b"}]
    out = tmp_path / "deep" / "rows.parquet"
    assert job("--tables", url, query, "--format", "parquet", "--out", str(out)).returncode == 0
    assert pq.read_table(out).column("uri").to_pylist() == ["a/a.mp4", "a/b.mp4"]


def test_the_job_lists_tables_and_views(url: str) -> None:
    listed = job("--tables", url)
    assert listed.returncode == 0
    assert {line.split()[0] for line in listed.stdout.splitlines()[2:-1]} == {*TABLES, *VIEWS}


def test_the_job_ends_with_2_for_wrong_use(url: str, tmp_path: Path) -> None:
    for arguments, message in [
        (["--tables", str(tmp_path / "none"), "SELECT 1"], "holds no tables"),
        (["--tables", url, "SELECT nothing FROM nowhere"], "the SQL does not work"),
        (["--tables", url, "SELECT 1", "--format", "parquet"], "--out"),
        (["SELECT 1"], "--tables"),
        (["--tables", url, "--unknown", "SELECT 1"], "unrecognized arguments"),
    ]:
        done = job(*arguments)
        assert done.returncode == 2, arguments
        assert message in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.s3
def test_query_on_s3(s3: str) -> None:
    url = f"{s3}/query-test"
    fill(url)
    assert ask(connect(url), "SELECT count(*) FROM label_spans") == [(4,)]
    done = job("--tables", url, "SELECT uri FROM failures", "--format", "csv", "--out", f"{s3}/answers/failures.csv")
    assert done.returncode == 0, done.stderr
    assert Store(f"{s3}/answers").get("failures.csv") == b"uri\na/b.mp4\n"
