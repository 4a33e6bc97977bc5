"""One small archive, labelled by every annotator: the same tables whichever way, as long as nobody changes the code."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import pytest
from pipeline.labelling import JOB, Tables, check, environment, read, started, wait_until
from whole import golden
from whole.golden import ALL, GOLDEN, SHIPPED, TOLERANCE, Settled, differences, furthest, keys
from whole.rules import FILLED, RULES, broken

from vidproc.errors import UsageError
from vidproc.tables.checking import check as check_tables
from vidproc.tables.query import connect

OLD_PROCESSOR = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F AVX512CD AVX512_SKX",
}
"""What makes torch and numpy compute as on a processor of fifteen years ago."""


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Settled:
    return Settled(tmp_path_factory.mktemp("golden"))


@pytest.fixture(scope="module")
def first(settled: Settled) -> Tables:
    """One actor of two threads, one segment at a time."""
    return settled.run("first", actors=1, batch_segments=1)


def assert_same(found: Tables, expected: Tables) -> None:
    check(found)
    assert keys(found) == keys(expected)
    assert furthest(found, expected) <= TOLERANCE


def test_labels_are_those_of_the_golden_file(first: Tables) -> None:
    assert not differences(golden.golden(first), json.loads(GOLDEN.read_text()))


@pytest.mark.slow
def test_batches_workers_and_threads_change_nothing(settled: Settled, first: Tables) -> None:
    """Two actors of one thread each, and all segments in one batch."""
    assert_same(settled.run("second", actors=2, batch_segments=16), first)


def test_every_annotator_fills_its_tables_and_check_proves_them(settled: Settled, first: Tables) -> None:
    check(first)
    done = check_tables(str(settled.folder / "first"))
    assert not done.findings
    assert all(done.rows[name] for name in FILLED)
    assert {row["annotator"] for row in first["ledger"]} == set(ALL)
    assert {row["task"] for row in first["labels"]} == {"action", "object", "scene", "audio", "event"}


@pytest.fixture(scope="module")
def copies(settled: Settled, first: Tables) -> Iterator[Any]:
    """The first run's tables, copied to where they can be changed."""
    tables = connect(str(settled.folder / "first"))
    with duckdb.connect() as connection:
        for name in FILLED:
            connection.register("rows", tables.sql(f"FROM {name}").to_arrow_table())
            connection.execute(f"CREATE TABLE {name} AS FROM rows")
        yield connection


@pytest.mark.parametrize("rule", RULES)
def test_rule_holds_and_would_tell_if_it_did_not(copies: Any, rule: str) -> None:
    assert not broken(copies, rule)
    copies.execute("BEGIN")
    try:
        copies.execute(RULES[rule].broken_by)
        assert broken(copies, rule)
    finally:
        copies.execute("ROLLBACK")


# ---- what takes longer


@pytest.mark.slow
def test_three_segments_at_a_time(settled: Settled, first: Tables) -> None:
    assert_same(settled.run("threes", batch_segments=3), first)


@pytest.mark.slow
def test_a_few_videos_a_run(settled: Settled, first: Tables) -> None:
    found = settled.run("few", limit=2)
    while max(found["runs"], key=lambda row: row["started_at"])["deferred"]:
        found = settled.run("few", limit=2)
    assert len(found["runs"]) == -(-len(found["videos"]) // 2)
    assert_same(found, first)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_in_the_middle_and_run_again(tmp_path: Path, ray_cluster: None) -> None:
    """Four of the archive: what is written in one piece is less than that."""
    settled = Settled(tmp_path)
    for number in range(3):
        shutil.copytree(settled.archive, settled.archive / f"again-{number}", ignore=shutil.ignore_patterns("again-*"))
    expected = settled.run("undisturbed")
    line = [sys.executable, str(JOB), *settled.line("killed"), "--commit-every-s", "0"]

    def committed() -> bool:
        with suppress(UsageError):  # there are no tables yet
            return bool(connect(str(tmp_path / "killed")).execute("SELECT count(*) FROM ledger").fetchall()[0][0])
        return False

    with started(line, tmp_path / "log") as driver:
        assert wait_until(lambda: committed() or driver.process.poll() is not None, timeout_s=300), driver.told()
        driver.process.kill()
        driver.wait()
    half = read(str(tmp_path / "killed"))["ledger"]
    assert 0 < len(half) < len(expected["ledger"]), "the kill came too early or too late"
    ended = subprocess.run(line, env=environment(), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = read(str(tmp_path / "killed"))
    assert [row["status"] for row in sorted(found["runs"], key=lambda row: row["started_at"])] == ["killed", "done"]
    assert_same(found, expected)


@pytest.mark.slow
def test_an_older_processor_says_the_same() -> None:
    """As far as torch and numpy can be told to leave newer instructions alone."""
    line = [sys.executable, golden.__file__]
    done = subprocess.run(line, env=os.environ | OLD_PROCESSOR, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "0 differences", done.stdout + done.stderr[-2000:]


@pytest.mark.slow
def test_no_label_hangs_on_a_rounding(first: Tables, tmp_path: Path, ray_cluster: None) -> None:
    """With every pixel changed at random by up to one of 255 there are the same rows: scores, not labels, move."""
    noisy = golden.golden(Settled(tmp_path, noise=1).run("tables", SHIPPED))
    expected = json.loads(GOLDEN.read_text())
    for name, table in expected.items():
        measured = {  # a track's best moment, too: many are nearly as good
            i for i, one in enumerate(table["columns"]) if golden.is_measured(name, one) or one == "best_time_us"
        }
        for about, rows in table["rows"].items():
            said, before = (
                [[value for i, value in enumerate(row) if i not in measured] for row in given]
                for given in (noisy[name]["rows"].get(about), rows)
            )
            assert said == before, (name, about)
