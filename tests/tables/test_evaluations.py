"""Evaluations: committed like everything else, replaced whole, found by SQL, and never half there."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable
from evaluations_driver import evaluation_rows
from made_rows import read, segment_parts, unit_keys

from vidproc.errors import LeaseLost
from vidproc.schema import EVALUATIONS
from vidproc.tables import deltalog
from vidproc.tables.commit import Commits, intent_path, replace_units
from vidproc.tables.evaluations import write_evaluations
from vidproc.tables.query import connect
from vidproc.tables.store import Store

DRIVER = Path(__file__).with_name("evaluations_driver.py")


def figures(url: str) -> list[tuple[str, str, float]]:
    return [(row["model_id"], row["slice"], row["value"]) for row in read(url, "evaluations")]


def of(value: float, *, model_id: str = "net-1", labels: str = "ab") -> list[tuple[str, str, float]]:
    return [(model_id, where, value) for where in ("", *(f"label={name}" for name in labels))]


def test_an_evaluation_is_a_commit_and_analysts_find_it(place: str) -> None:
    assert write_evaluations(place, evaluation_rows(0.5)) == 2  # 1 is the takeover
    assert figures(place) == of(0.5)
    assert list(Store(place).list("_commits")) == [intent_path(1), intent_path(2)]
    assert DeltaTable(f"{place}/evaluations").transaction_version("vidproc") == 2
    sql = "SELECT metric, slice, value FROM evaluations WHERE slice LIKE 'label=%' ORDER BY slice"
    assert connect(place).sql(sql).fetchall() == [("recall", "label=a", 0.5), ("recall", "label=b", 0.5)]


def test_an_evaluation_done_again_replaces_the_older_one_whole(tmp_path: Path) -> None:
    url = str(tmp_path)
    write_evaluations(url, evaluation_rows(0.5, labels="abc"))
    write_evaluations(url, evaluation_rows(0.25, model_id="net-2"))
    write_evaluations(url, [replace(row, protocol="30 views") for row in evaluation_rows(0.9, labels="")])
    write_evaluations(url, evaluation_rows(0.75))
    found = [(row["protocol"], *figure) for row, figure in zip(read(url, "evaluations"), figures(url), strict=True)]
    assert found == [
        ("30 views", "net-1", "", 0.9),
        *(("center", *figure) for figure in of(0.75)),  # its label c is gone
        *(("center", *figure) for figure in of(0.25, model_id="net-2")),
    ]


def test_several_evaluations_go_in_one_commit(tmp_path: Path) -> None:
    url = str(tmp_path)
    write_evaluations(url, [*evaluation_rows(0.1), *evaluation_rows(0.2, model_id="net-2")])
    assert write_evaluations(url, [*evaluation_rows(0.3), *evaluation_rows(0.4, model_id="net-2")]) == 4
    assert figures(url) == of(0.3) + of(0.4, model_id="net-2")


def test_while_a_label_job_holds_the_tables_nothing_is_written(tmp_path: Path) -> None:
    url = str(tmp_path)
    with Commits.open(url, run_id="run-1", lease_s=3.0) as labelling:
        with pytest.raises(LeaseLost, match=r"run run-1 .* has held these tables") as caught:
            write_evaluations(url, evaluation_rows(), lease_s=3.0)
        assert caught.value.exit_code == 4
        assert Store(url).list("evaluations") == [path for path in Store(url).list("evaluations") if "_delta" in path]
        labelling.commit(segment_parts(url, "a", [0], n_segments=1))
    write_evaluations(url, evaluation_rows())
    assert (len(read(url, "ledger")), figures(url)) == (1, of(1.0))


def test_labelling_goes_on_after_an_evaluation_and_leaves_it(tmp_path: Path) -> None:
    url = str(tmp_path)
    write_evaluations(url, evaluation_rows())
    for run in ("run-1", "run-2"):
        with Commits.open(url, run_id=run) as commits:
            commits.commit(segment_parts(url, "a", [0], n_segments=1), replace=replace_units(unit_keys("a")))
    assert (len(read(url, "ledger")), len(read(url, "labels")), figures(url)) == (1, 2, of(1.0))


def test_a_commit_of_evaluations_alone_is_replayed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not touch the ledger, which tells how far everything is applied."""
    url, append_once = str(tmp_path), deltalog.append_once
    write_evaluations(url, evaluation_rows(0.5))

    def fail_at_4(*args: Any, n: int, **more: Any) -> None:
        if n == 4:
            raise OSError("made up")
        append_once(*args, n=n, **more)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="made up"):
        patch.setattr(deltalog, "append_once", fail_at_4)
        write_evaluations(url, evaluation_rows(0.75))
    assert figures(url) == of(0.5)
    for run in range(3):
        Commits.open(url, run_id=f"run-{run}").close()
        assert figures(url) == of(0.75)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Tables after a kill before each step of a second evaluation, and at last after none."""
    base, work = tmp_path_factory.mktemp("evaluations") / "base", tmp_path_factory.mktemp("killed")
    write_evaluations(str(base), evaluation_rows(1.0, labels="abc"))
    write_evaluations(str(base), evaluation_rows(1.0, model_id="net-2"))
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(base), str(work)], capture_output=True, text=True, timeout=300, check=True
    )
    return [str(work / str(k)) for k in range(int(done.stdout) + 1)]


def test_a_kill_at_any_step_leaves_the_old_or_the_new(killed: list[str]) -> None:
    other = of(1.0, model_id="net-2")
    old, new = of(1.0, labels="abc") + other, of(2.0) + other
    before, after = [], []
    for url in killed:
        before.append(figures(url))
        Commits.open(url, run_id="recovery").close()
        after.append(figures(url))
        write_evaluations(url, evaluation_rows(2.0))
        assert figures(url) == new, url
    assert len(killed) >= 7
    assert all(found in (old, new) for found in before + after)
    first_new = after.index(new)
    assert after == [old] * first_new + [new] * (len(killed) - first_new)
    assert before[first_new] == old  # recovery brought in what the killed one had only announced


def test_wrong_figures_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    url, rows = str(tmp_path / "tables"), evaluation_rows()
    wrong: list[tuple[list[Any], str]] = [([], "says nothing"), ([*rows, rows[1]], "is given 2 times")]
    wrong += [([*rows[1:], replace(rows[0], value=value)], "1 values are no numbers") for value in (math.nan, math.inf)]
    for given, message in wrong:
        with pytest.raises(ValueError, match=message):
            write_evaluations(url, given)
    assert not Path(url).exists()


def test_the_columns_are_those_of_the_contract() -> None:
    assert EVALUATIONS.schema.names == ["model_id", "dataset", "protocol", "metric", "slice", "value", "at"]
    assert not any(field.nullable for field in EVALUATIONS.schema)
