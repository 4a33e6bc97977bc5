"""The label job, archive and tables on a store that fails: the undisturbed tables in the end, or a row's own reason."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import s3fs
from labelling import BUDGET_EXCEEDED, Tables, assert_same, by_name, check, command, event, events, read, run
from proxy import Fault, FaultyProxy, answer, cut_off, delay, lose_answer, replaced, reset

from vidproc.schema import TABLES
from vidproc.train.archive import make_archive

pytestmark = [pytest.mark.s3, pytest.mark.slow]
MAINTAIN = Path(__file__).parents[2] / "jobs" / "maintain.py"
FAST = ("--commit-every-s", "0", "--lease-s", "5")
VIDEOS = 6


@pytest.fixture(scope="module")
def archive(s3: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Videos as files and in a shard, on S3."""
    folder = tmp_path_factory.mktemp("faults") / "archive"
    make_archive(folder, plain=4, sharded=2, seconds=2)
    shutil.rmtree(folder / "broken")
    s3fs.S3FileSystem().put(f"{folder}/", f"{s3}/job/archive/", recursive=True)
    return f"{s3}/job/archive"


@pytest.fixture(scope="module")
def undisturbed(archive: str, s3: str) -> Tables:
    ended = run(command(archive, f"{s3}/job/undisturbed", *FAST))
    assert ended.returncode == 0, ended.stderr[-3000:]
    return read(f"{s3}/job/undisturbed")


def finish(proxy: FaultyProxy, archive: str, tables: str, expected: Tables) -> None:
    """Without faults, the same command; then everything is as if nothing had happened, and proven."""
    proxy.faults = []
    ended = run(command(archive, tables, *FAST))
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = read(tables)
    check(found)
    assert_same(found, expected)
    proven = subprocess.run([sys.executable, MAINTAIN, "check", "--tables", tables], capture_output=True, check=False)
    assert proven.returncode == 0, (proven.stdout, proven.stderr[-2000:])


def shares(share: float) -> list[Fault]:
    acts = (answer(503, "SlowDown"), answer(500, "InternalError"), reset, lose_answer, cut_off, delay(2))
    return [Fault(act, keys="*/job/*", count=None, share=share) for act in acts]


PASSING: dict[str, Callable[[], list[Fault]]] = {
    "bursts of 503": lambda: [
        Fault(answer(503, "SlowDown"), keys="*/job/*", skip=skip, count=6) for skip in range(0, 600, 40)
    ],
    "everything, one request in eight": lambda: shares(0.02),
    "bodies cut off": lambda: [Fault(cut_off, methods="GET", keys="*/job/*", count=None, share=0.15)],
    "lost answers of all that is written": lambda: [
        Fault(lose_answer, methods="PUT", keys=keys, count=6)
        for keys in ("*/_commits/*", "*/_delta_log/*", "*/_leases/*", "*/_runs/*", "*/_scratch/*", "*.parquet")
    ],
    "slow answers": lambda: [Fault(delay(3), keys="*/job/*", count=None, share=0.05)],
}


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_leaves_no_trace(archive: str, undisturbed: Tables, proxy: FaultyProxy, s3: str, name: str) -> None:
    tables = f"{s3}/job/passing-{list(PASSING).index(name)}"
    proxy.faults = PASSING[name]()
    ended = run(command(archive, tables, *FAST), timeout_s=600)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert sum(fault.done for fault in proxy.faults) >= 6
    proxy.faults = []
    found = read(tables)
    check(found)
    assert_same(found, undisturbed)
    assert event(ended.stderr, "finished")["labelled"] == VIDEOS
    finish(proxy, archive, tables, undisturbed)


LASTING: dict[str, tuple[Callable[[], list[Fault]], str, str]] = {
    "the tables' store is down": (
        lambda: [Fault(answer(503, "SlowDown"), methods="PUT", keys="*/_commits/*", skip=1, count=None)],
        "StorageUnreachable",
        "run the same command again",
    ),
    "the archive's store is down": (
        lambda: [
            Fault(reset, methods="GET", keys="*/job/archive/*", skip=8, count=None),
            Fault(reset, methods="GET", query="max-keys=1", skip=1, count=None),
        ],
        "StorageUnreachable",
        "run the same command again",
    ),
    "credentials expire": (
        lambda: [
            Fault(answer(403, "ExpiredToken"), methods="GET", keys="*/job/archive/*.mp4", skip=2, count=None),
        ],
        "StorageRefused",
        "renew",
    ),
    "credentials expire, tables first": (
        lambda: [
            Fault(answer(400, "ExpiredToken"), methods="PUT", keys="*/_delta_log/*", skip=len(TABLES) + 1, count=None)
        ],
        "StorageRefused",
        "allow it",
    ),
    "the second page of the listing": (
        lambda: [Fault(answer(503, "SlowDown"), methods="GET", query="job%2Farchive", skip=1, count=None)],
        "StorageUnreachable",
        "run the same command again",
    ),
}


@pytest.mark.parametrize("name", LASTING)
def test_what_lasts_ends_the_run_and_sets_nothing_aside(
    archive: str, undisturbed: Tables, proxy: FaultyProxy, s3: str, name: str
) -> None:
    faults, error, advice = LASTING[name]
    tables = f"{s3}/job/lasting-{list(LASTING).index(name)}"
    proxy.faults = faults()
    ended = run(command(archive, tables, *FAST), timeout_s=900)
    assert ended.returncode == 1, ended.stderr[-3000:]
    failed = events(ended.stderr)[-1]
    assert (failed["event"], failed["error"]) == ("failed", error), failed
    assert advice in failed["message"]
    proxy.faults = []
    if any(s3fs.S3FileSystem(use_listings_cache=False).find(f"{tables}/ledger")):
        assert not [row for row in read(tables)["ledger"] if row["status"] in ("quarantined", "missing")]
    finish(proxy, archive, tables, undisturbed)


def test_each_object_gets_its_own_reason(archive: str, undisturbed: Tables, proxy: FaultyProxy, s3: str) -> None:
    """One is denied, one never comes whole, one is replaced and one deleted while they are read; others are fine."""
    tables, copy = f"{s3}/job/reasons", f"{s3}/job/copy"
    storage = s3fs.S3FileSystem(use_listings_cache=False)
    for path in storage.find(archive):
        storage.copy(path, path.replace("job/archive", "job/copy"))
    denied, cut, changed, deleted = sorted(path for path in storage.find(copy) if path.endswith(".mp4"))
    content = storage.cat_file(deleted)
    proxy.faults = [
        Fault(answer(403, "AccessDenied"), keys=denied, count=None),
        Fault(cut_off, methods="GET", keys=cut, count=None),
        Fault(replaced(content), methods="GET", keys=changed, skip=1),
        Fault(replaced(None), methods="GET", keys=deleted, skip=1),
    ]
    ended = run(command(copy, tables, *FAST), timeout_s=600)
    assert ended.returncode == 0, ended.stderr[-3000:]
    rows = by_name(read(tables))
    found = {path.rpartition("/")[2]: (rows[path.rpartition("/")[2]]["status"], rows[path.rpartition("/")[2]]["reason"])
             for path in (denied, cut, changed, deleted)}  # fmt: skip
    assert list(found.values()) == [
        ("quarantined", "denied"), ("quarantined", "unreadable"), ("quarantined", "changed"), ("missing", "missing"),
    ]  # fmt: skip
    assert sum(row["status"] == "labelled" for row in rows.values()) == VIDEOS - 4
    check(read(tables))

    proxy.faults = []
    storage.pipe_file(deleted, content)
    again = run(command(copy, tables, *FAST))
    assert again.returncode == 0, again.stderr[-3000:]
    told = event(again.stderr, "finished")
    assert (told["planned"], told["labelled"]) == (4, 4), told  # the passing ones, and the replaced one's new version
    tables_now = read(tables)
    check(tables_now)
    assert {row["status"] for row in by_name(tables_now).values()} == {"labelled"}
    third = run(command(copy, tables, *FAST))
    assert event(third.stderr, "finished")["planned"] == 0


def test_a_policy_that_closes_the_archive_sets_few_videos_aside(s3: str, proxy: FaultyProxy, tmp_path: Path) -> None:
    """403 for every object: the run ends early with exit 3; once reading is allowed, the same command labels all."""
    make_archive(tmp_path / "archive", plain=2, sharded=0, seconds=1)
    storage = s3fs.S3FileSystem()
    video = (tmp_path / "archive" / "camera-1" / "clip-000.mp4").read_bytes()
    for number in range(60):
        storage.pipe_file(f"{s3}/job/closed/{number:03d}.mp4", video + bytes([number]))
    tables = f"{s3}/job/closed-tables"
    proxy.faults = [Fault(answer(403, "AccessDenied"), methods="GET", keys="*/job/closed/*", skip=10, count=None)]
    line = command(f"{s3}/job/closed", tables, *FAST)
    budget = line.index("--failure-budget")
    line[budget + 1] = "0.05"
    ended = run(line)
    assert ended.returncode == BUDGET_EXCEEDED, ended.stderr[-3000:]
    failed = events(ended.stderr)[-1]
    assert failed["error"] == "BudgetExceeded" and "denied" in failed["message"], failed
    proxy.faults = []
    (row,) = read(tables)["runs"]
    assert (row["status"], row["exit_code"]) == ("budget_exceeded", 3)
    assert row["quarantined"] < 60
    again = run(line)
    assert again.returncode == 0, again.stderr[-3000:]
    found = read(tables)
    check(found)
    assert len(found["videos"]) == 60 and {row["status"] for row in found["videos"]} == {"labelled"}
