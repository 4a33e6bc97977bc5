"""Chaos: nodes and actors die, cables are pulled, nodes fall silent; the job ends with 0 and the undisturbed tables.

    pytest -m slow tests/nodes/test_chaos.py -s                      seed 0 of each kind
    CHAOS_SEEDS="1 2 3" pytest -m slow tests/nodes/test_chaos.py -s -k cable

The schedule follows from the seed; each test prints it, and the time that was lost.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from blows import KINDS, Chaos, drawn
from mixed import PLACED, mixed, with_cables
from pipeline.labelling import ALL, Driver, Tables, assert_same, check, command, events, read, started, wait_until
from places import Loopback, Places, why_no_namespaces
from ray_nodes import RayNodes
from shorts import draw, upload

pytestmark = [pytest.mark.slow, pytest.mark.s3, pytest.mark.timeout(3000)]
VIDEOS = int(os.environ.get("CHAOS_VIDEOS", "120"))
SEEDS = [int(seed) for seed in os.environ.get("CHAOS_SEEDS", "0").split()]


@dataclass(frozen=True)
class World:
    """An archive on S3, where nodes may be, and what an undisturbed run comes to."""

    base: str
    archive: str
    places: Places
    env: dict[str, str]
    tables: Tables
    seconds: float


@pytest.fixture(scope="module")
def world(s3: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    base, folder = f"{s3}/chaos", tmp_path_factory.mktemp("chaos")
    archive = upload(draw(folder / "archive", VIDEOS), f"{base}/archive")
    with ExitStack() as stack:
        places, env = (Loopback(), {}) if why_no_namespaces() else stack.enter_context(with_cables())
        with mixed(places, env) as cluster:
            line = cluster.line(command(archive, f"{base}/undisturbed", *PLACED, annotators=ALL))
            with started(line, folder / "undisturbed.log") as driver:
                await_plan(driver)
                began = time.monotonic()
                assert driver.wait(1500) == 0, driver.told()
            seconds = time.monotonic() - began
        tables = read(f"{base}/undisturbed")
        check(tables)
        assert len(tables["videos"]) == VIDEOS
        yield World(base, archive, places, env, tables, seconds)


def await_plan(driver: Driver) -> None:
    ended = driver.process.poll
    planned = wait_until(lambda: '"planned"' in driver.told() or ended() is not None, timeout_s=600)
    assert planned and ended() is None, driver.told()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", [*KINDS, "everything"])
def test_chaos_costs_nothing_but_time(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, seed: int
) -> None:
    if kind in ("cable", "everything") and (why := why_no_namespaces()):
        pytest.skip(why)
    tables = f"{world.base}/{kind.replace(' ', '-')}-{seed}"
    blows = drawn(kind, seed=seed, lasting_s=world.seconds)
    with mixed(world.places, world.env) as cluster:
        line = cluster.line(command(world.archive, tables, *PLACED, annotators=ALL))
        chaos, seconds = disturbed(cluster, line, Chaos(cluster, world.places, blows), tmp_path / "log")
    report = {
        "kind": kind,
        "seed": seed,
        "undisturbed_s": round(world.seconds),
        "disturbed_s": round(seconds),
        "lost_s": round(seconds - world.seconds),
        "dealt": chaos.dealt,
    }
    with capsys.disabled():
        print("\n" + json.dumps(report))
    assert len(chaos.dealt) >= len(blows), "the job was over before its blows: draw them earlier, or make it longer"
    found = read(tables)
    check(found)
    assert_same(found, world.tables)
    assert [row["attempts"] for row in found["ledger"]] == [row["attempts"] for row in world.tables["ledger"]]


def disturbed(cluster: RayNodes, line: list[str], chaos: Chaos, log: Path) -> tuple[Chaos, float]:
    """Run the job to its end while blows fall; returns the seconds after its plan."""
    with started(line, log) as driver:
        await_plan(driver)
        began = time.monotonic()
        chaos.begin()
        try:
            code = driver.wait(1500)
            seconds = time.monotonic() - began
        finally:
            chaos.end()
        assert code == 0, f"{chaos.dealt}\n{driver.told()[-6000:]}"
        assert events(driver.told())[-1]["event"] == "finished"
    return chaos, seconds
