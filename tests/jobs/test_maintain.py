"""The maintenance job as a command: verbs, options, exit codes, and what it says."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_faces import person

from vidproc.errors import UsageError
from vidproc.schema import LABELS
from vidproc.tables.commit import Commits
from vidproc.tables.gallery import add_person, read_gallery
from vidproc.tables.parts import write_part

JOBS = Path(__file__).parents[2] / "jobs"


def maintain(*arguments: str) -> tuple[int, list[dict[str, object]]]:
    command = [sys.executable, str(JOBS / "maintain.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, [json.loads(line) for line in done.stderr.splitlines()]


def label(url: str) -> None:
    row = {"video_id": "0" * 32, "annotator": "actions", "model_id": "net-1", "run_id": "run-1", "start_us": 0}
    row |= {"end_us": 1, "scope": "sample", "task": "action", "label": "walk", "label_id": 0, "score": 0.5, "rank": 1}
    with Commits.open(url, run_id="run-1") as commits:
        for i in range(3):
            rows = pa.Table.from_pylist([row | {"start_us": i}], schema=LABELS.schema)
            commits.commit([write_part(url, LABELS, rows)])


def test_verbs_and_their_exit_codes(tmp_path: Path) -> None:
    url = str(tmp_path / "tables")
    label(url)
    code, told = maintain("compact", "--tables", url)
    assert code == 0
    assert [(line["event"], line["table"], line["parts_after"]) for line in told] == [("compacted", "labels", 1)]
    code, told = maintain("vacuum", "--tables", url, "--older-than", "0")
    assert (code, told[-1]["event"], told[-1]["parts"]) == (0, "vacuumed", 3)
    code, told = maintain("check", "--tables", url)  # labels of a unit that the ledger does not know
    assert (code, told[-1]["event"], told[0]["table"], told[0]["times"]) == (1, "wrong", "labels", 1)
    code, told = maintain("forget", "--tables", url, "--person", "Zoë Ordway")
    assert (code, told[-1]["event"], told[-1]["rows"]) == (0, "proven", 0)
    pq.write_table(pa.table({"who": ["Zoë Ordway"]}), tmp_path / "tables" / "copy.parquet")
    code, told = maintain("forget", "--tables", url, "--person", "Zoë Ordway")
    assert (code, told[0]["event"], told[0]["path"], told[-1]["event"]) == (1, "left", "copy.parquet", "not proven")
    assert "Ordway" not in json.dumps(told)
    with Commits.open(url, run_id="run-2", lease_s=60.0):
        code, told = maintain("vacuum", "--tables", url, "--older-than", "1", "--lease-s", "60")
    assert (code, told[-1]["error"]) == (4, "LeaseLost")
    code, told = maintain("forget", "--tables", url, "--video", "a/*")
    assert (code, told[-1]["error"]) == (2, "UsageError")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tidy"], "'tidy' is no verb: the verbs are compact, vacuum, forget, check"),
        (["compact"], "--tables is required"),
        (["forget", "--tables", "t"], "give one of --video, --person and --allow"),
        (["forget", "--tables", "t", "--video", "a", "--person", "b"], "give one of"),
        (["forget", "--tables", "t", "--person", "b", "--dry-run"], "--dry-run goes with --video"),
        (["forget", "--tables", "t", "--person", "b", "--gallery", "g"], "--gallery and --similarity go together"),
        (["forget", "--tables", "t", "--video", "b", "--gallery", "g", "--similarity", "0.4"], "go together, and with"),
        (["gallery", "--gallery", "g"], "required: verb"),
        (["gallery", "show", "--gallery", "g"], "Input should be 'add', 'list', 'remove', 'rematch' or 'cluster'"),
        (["gallery", "list"], "--gallery is required"),
        (["gallery", "list", "--gallery", "/nowhere/at/all"], "there is no gallery at /nowhere"),
        (["gallery", "add", "b", "--gallery", "g"], "gallery add needs --pictures, --consent, --weights"),
        (["gallery", "remove", "--gallery", "g"], "gallery remove needs NAME"),
        (["gallery", "rematch", "--gallery", "g", "--tables", "t"], "gallery rematch needs --weights, --purpose"),
        (
            ["gallery", "rematch", "--gallery", "t/g", "--tables", "t", "--weights", "w.json", "--purpose", "p"],
            "must lie apart",
        ),
        (["calibrate", "--pictures", "people/"], "--weights is required"),
        (["calibrate", "--weights", "w.json", "--pictures", "people/", "--far", "0"], "--far: Input should be greater"),
        (["vacuum", "--tables", "t", "--older-than", "-1"], "--older-than"),
        (["check", "--tables", "/nowhere/at/all"], "holds no tables"),
        (["compact", "--tables", "/nowhere/at/all"], "holds no tables"),
        (["vacuum", "--tables", "/nowhere/at/all"], "holds no tables"),
        (["forget", "--tables", "/nowhere/at/all", "--video", "a/*"], "holds no tables"),
    ],
)
def test_wrong_use_is_said(monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str) -> None:
    monkeypatch.syspath_prepend(str(JOBS))
    import maintain as job

    with pytest.raises(UsageError, match=message):
        job.main(arguments)
    assert not Path("/nowhere").exists()


def test_a_gallery_is_listed_and_somebody_leaves_it_and_the_tables(tmp_path: Path) -> None:
    """The person's pictures are told nowhere; `forget` takes them out of both places and says that it is proven."""
    tables, gallery = str(tmp_path / "tables"), str(tmp_path / "gallery")
    label(tables)
    for name in ("Ann Ordway", "Bob Mills"):
        add_person(gallery, person(name, [[0.6, 0.8]]), embedder="e" * 64)
    command = [sys.executable, str(JOBS / "maintain.py"), "gallery", "list", "--gallery", gallery]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    listed = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(one["name"], one["consent"], one["pictures"]) for one in listed] == [
        ("Ann Ordway", "consent of Ann Ordway", 1), ("Bob Mills", "consent of Bob Mills", 1)]  # fmt: skip
    code, told = maintain("gallery", "remove", "Bob Mills", "--gallery", gallery)
    assert (code, told[-1]["event"], told[-1]["gallery_version"], told[-1]["people"]) == (0, "removed", "000003", 1)
    forget = ("forget", "--tables", tables, "--person", "Ann Ordway", "--gallery", gallery, "--similarity", "0.4")
    code, told = maintain(*forget)
    assert (code, told[-1]["event"], told[-1]["left"]) == (0, "proven", 0)
    assert read_gallery(gallery).people == ()


def test_help_names_every_verb(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(str(JOBS))
    import maintain as job

    assert job.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"\n{verb} " in said for verb in job.VERBS)
