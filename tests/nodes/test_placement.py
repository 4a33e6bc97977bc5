"""What each step books, and how many actors and threads that makes: no cluster needed."""

from types import SimpleNamespace

import pytest

from vidproc.command import parse
from vidproc.errors import UsageError
from vidproc.pipeline.cluster import Cluster
from vidproc.pipeline.options import LabelConfig, PlacementOptions
from vidproc.pipeline.placement import await_nodes, networks
from vidproc.pipeline.steps import Settings
from vidproc.views import Frames, Picture

DEFAULT = PlacementOptions()
CPU_NODE = {"CPU": 16.0, "memory": 1e9, "node:10.0.0.1": 1.0, "decode": 16.0}
GPU_NODE = {"CPU": 8.0, "GPU": 2.0, "network": 2.0}


def cluster(*nodes: dict[str, float], here: bool = False) -> Cluster:
    return Cluster(sum(n.get("CPU", 0) for n in nodes), sum(n.get("GPU", 0) for n in nodes), here, nodes)


def options(*words: str) -> LabelConfig:
    return parse(LabelConfig, None, ["--archive", "a", "--tables", "t", *words])


@pytest.mark.parametrize(
    ("nodes", "device", "flags", "expected"),
    [
        ([{"CPU": 2.0}], "cpu", {}, (1, 2, 0.05)),  # a laptop
        ([{"CPU": 16.0}], "cpu", {}, (2, 8, 1.0)),
        ([{"CPU": 8.0, "GPU": 1.0}], "cuda", {}, (1, None, 1.0)),  # one GPU box
        ([CPU_NODE] * 80 + [GPU_NODE] * 20, "cuda", {}, (40, None, 1.0)),  # a hundred mixed nodes
        ([CPU_NODE] * 3 + [GPU_NODE], "cuda", {"network_gpus": 0.5}, (4, None, 0.5)),
        ([CPU_NODE, {"CPU": 4.0, "network": 1.0}], "cpu", {"network_resources": {"network": 1.0}}, (1, 4, 0.05)),
        ([CPU_NODE, GPU_NODE], "cuda", {"network_resources": {"network": 2.0}}, (1, None, 1.0)),
        ([CPU_NODE], "cpu", {"network_cpus": 3.0}, (2, 8, 3.0)),
    ],
)
def test_actors_and_threads_follow_the_nodes_that_networks_may_use(
    nodes: list[dict[str, float]],
    device: str,
    flags: dict[str, object],
    expected: tuple[int, int | None, float],
) -> None:
    made = networks(PlacementOptions.model_validate(flags), cluster(*nodes), device=device, actors=None)
    assert (made.actors, made.threads, made.booked["num_cpus"]) == expected
    assert made.booked["num_gpus"] == (flags.get("network_gpus", 1.0) if device == "cuda" else 0)
    assert made.booked["resources"] == flags.get("network_resources", {})


def test_resources_are_given_as_names_with_amounts() -> None:
    chosen = options("--decode-resources", "decode=1", "ssd=0.25", "--network-resources", "network=2")
    assert chosen.decode_resources == {"decode": 1.0, "ssd": 0.25}
    assert chosen.network_resources == {"network": 2.0}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("decode", "NAME=AMOUNT"),
        ("decode=lots", "valid number"),
        ("decode=0", "an amount is"),
        ("decode=-1", "an amount is"),
        ("decode=1.5", "whole number"),
        ("decode=nan", "an amount is"),
        ("decode=inf", "an amount is"),
        ("CPU=1", "flags of their own"),
    ],
)
def test_wrong_resources_are_told(words: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        options("--decode-resources", words)


def test_a_machine_that_lacks_a_resource_is_told_at_once() -> None:
    asked = PlacementOptions(network_resources={"network": 1.0})
    with pytest.raises(UsageError, match=r"no node offers CPU=0\.05, network=1 .*nodes offer CPU=2: correct"):
        await_nodes(asked, cluster({"CPU": 2.0}, here=True), device="cpu")


def test_a_machine_without_a_gpu_is_told() -> None:
    with pytest.raises(UsageError, match="no CUDA device"):
        await_nodes(DEFAULT, cluster({"CPU": 2.0}, here=True), device="cuda")


def test_nodes_that_offer_all_are_taken_as_they_are() -> None:
    asked = PlacementOptions(decode_resources={"decode": 1.0}, network_resources={"network": 1.0})
    there = cluster(CPU_NODE, GPU_NODE)
    assert await_nodes(asked, there, device="cuda") is there


def test_one_node_must_offer_all_that_a_step_books() -> None:
    asked = PlacementOptions(network_resources={"decode": 1.0}, nodes_wait_s=0)
    with pytest.raises(UsageError, match=r"no node offers CPU=0\.05, GPU=1, decode=1"):
        await_nodes(asked, cluster(CPU_NODE, GPU_NODE), device="cuda")


@pytest.mark.parametrize(("side", "expected"), [(32, 8), (224, 1), (2048, 1)])
def test_what_one_task_decodes_is_one_block(side: int, expected: int) -> None:
    from vidproc.pipeline.execution import segments_per_task

    annotator = SimpleNamespace(views=(Frames(fps=25, picture=Picture(resize=(side, side))),))
    settings = Settings("run", "tables", {"one": annotator})  # type: ignore[dict-item]
    assert segments_per_task(settings, 100.0) == expected
    assert segments_per_task(settings, 0.3) == 1
