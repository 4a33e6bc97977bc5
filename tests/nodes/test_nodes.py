"""Several nodes: decoding lands on CPU nodes, networks on "GPU" nodes, and the tables are those of one machine."""

import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from mixed import PLACED, mixed, with_cables
from pipeline.labelling import ALL, Row, Tables, assert_same, check, command, event, read, run, started, wait_until
from places import Loopback, why_no_namespaces
from ray_nodes import RayNodes
from shorts import draw, upload

pytestmark = pytest.mark.slow
MANY, FEW = 500, 12


def assert_placed(cluster: RayNodes, *, actors: str = "network-1") -> None:
    """By Ray's own record of where tasks ran."""
    where = cluster.where()
    named = {node.place.address: name for name, node in cluster.nodes.items()}
    ran = {task: {named[address] for address in addresses} for task, addresses in where.items()}
    decoding = {name for task, names in ran.items() if "_decode" in task or "probe" in task for name in names}
    labelling = {name for task, names in ran.items() if "Annotate" in task for name in names}
    assert decoding == {"decode-1", "decode-2"}, ran
    assert labelling == {actors}, ran


def attempts(tables: Tables) -> list[Row]:
    return [{name: row[name] for name in ("video_id", "segment", "annotator", "attempts")} for row in tables["ledger"]]


def label(line: list[str], videos: int) -> float:
    """Run the job, expect all to be labelled; returns its wall seconds."""
    begun = time.monotonic()
    ended = run(line, timeout_s=2400)
    assert ended.returncode == 0, ended.stderr[-3000:]
    told = event(ended.stderr, "finished")
    assert told["planned"] == told["labelled"] == videos, told
    return time.monotonic() - begun


def assert_equal(found: str, expected: str) -> None:
    """Row for row, attempts included."""
    ours, theirs = read(found), read(expected)
    check(ours)
    assert_same(ours, theirs)
    assert attempts(ours) == attempts(theirs)


def test_decoding_lands_on_cpu_nodes_and_networks_on_gpu_nodes(tmp_path: Path) -> None:
    archive = draw(tmp_path / "archive", FEW)
    with mixed(Loopback()) as cluster:
        label(cluster.line(command(archive, tmp_path / "tables", *PLACED, annotators=ALL)), FEW)
        assert_placed(cluster)
    label(command(archive, tmp_path / "alone", annotators=ALL), FEW)
    assert_equal(str(tmp_path / "tables"), str(tmp_path / "alone"))


@pytest.mark.s3
@pytest.mark.timeout(6000)
@pytest.mark.parametrize("cables", [False, True], ids=["loopback", "namespaces"])
def test_five_hundred_videos_on_s3(
    s3: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], *, cables: bool
) -> None:
    if cables and (why := why_no_namespaces()):
        pytest.skip(why)
    base = f"{s3}/nodes-{cables}"
    archive = upload(draw(tmp_path / "archive", MANY), f"{base}/archive")
    with ExitStack() as stack:
        places, env = stack.enter_context(with_cables()) if cables else (Loopback(), {})
        cluster = stack.enter_context(mixed(places, env))
        seconds = label(cluster.line(command(archive, f"{base}/tables", *PLACED, annotators=ALL)), MANY)
        assert_placed(cluster)
    alone = label(command(archive, f"{base}/alone", annotators=ALL), MANY)
    assert_equal(f"{base}/tables", f"{base}/alone")
    workers = {row["worker"] for row in read(f"{base}/tables")["ledger"] if row["segment"] >= 0}
    assert not cables or workers == {"network-1/cpu"}, workers
    with capsys.disabled():
        print(f"\n{MANY} videos, {base}: {seconds:.0f} s on three nodes, {alone:.0f} s on one")


def test_a_resource_that_no_node_offers_is_told(tmp_path: Path) -> None:
    archive = draw(tmp_path / "archive", 1)
    with mixed(Loopback()) as cluster:
        asked = ("--decode-resources", "decoding=1", "--nodes-wait-s", "2")
        ended = run(cluster.line(command(archive, tmp_path / "tables", *asked)))
        assert ended.returncode == 2, ended.stderr[-3000:]
        said = event(ended.stderr, "failed")["message"]
        assert "no node offers CPU=1, decoding=1" in said
        assert "decode=1" in said.partition("nodes offer")[2], said
        assert event(ended.stderr, "waiting")["asked"] == "CPU=1, decoding=1"


def test_a_node_that_comes_late_is_waited_for(tmp_path: Path) -> None:
    """As an autoscaler would bring it."""
    archive = draw(tmp_path / "archive", 1)
    with mixed(Loopback()) as cluster:
        line = cluster.line(command(archive, tmp_path / "tables", "--decode-resources", "late=1"))
        with started(line, tmp_path / "log") as driver:
            assert wait_until(lambda: '"waiting"' in driver.told(), timeout_s=120), driver.told()
            cluster.add("late", cpus=1, late=1)
            assert driver.wait() == 0, driver.told()
