"""How many actors and threads the networks get on the nodes there are, and whether each step finds a node at all.

Without any flag, decoding may use the CPUs of every node, those of GPU nodes too: Ray Data starts the pool of actors
before the first decoding task, so an actor has booked its CPUs by the time that decoding asks for the rest.
`--decode-resources` keeps decoding away from GPU nodes where that is not enough.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vidproc.errors import UsageError
from vidproc.pipeline.cluster import Cluster
from vidproc.pipeline.options import PlacementOptions

_LIGHT_CPUS = 0.05
"""Booked by an actor where cores are few, so that on two of them decoding still gets both."""


@dataclass(frozen=True)
class Networks:
    """How the actors are made: `booked` are Ray's remote arguments, `threads` each one's (None leaves it to torch)."""

    actors: int
    threads: int | None
    booked: Mapping[str, Any]


def await_nodes(options: PlacementOptions, cluster: Cluster, *, device: str) -> Cluster:
    """The cluster once it has a node for each step. Raises `UsageError` if one lacks after `--nodes-wait-s`."""
    if device == "cuda" and cluster.here and cluster.gpus < 1:
        raise UsageError("--device cuda: this machine has no CUDA device; leave the flag out to run on the CPU")
    for flag, booked in (
        ("--probe-cpus --decode-resources", {"CPU": options.probe_cpus, **options.decode_resources}),
        ("--decode-cpus --decode-resources", {"CPU": options.decode_cpus, **options.decode_resources}),
        ("--network-cpus --network-gpus --network-resources", _actor(options, device)),
        ("--write-cpus --write-resources", {"CPU": options.write_cpus, **options.write_resources}),
    ):
        cluster = cluster.offering(booked, flag, wait_s=options.nodes_wait_s)
    return cluster


def networks(options: PlacementOptions, cluster: Cluster, *, device: str, actors: int | None) -> Networks:
    """One actor for each GPU, or each `--network-resources` that a node offers; else one for eight cores."""
    nodes = cluster.nodes_with(_actor(options, device))
    cpus = sum(node["CPU"] for node in nodes)
    scarce = {name: amount for name, amount in _actor(options, device).items() if name != "CPU"}
    if actors is None and scarce:
        actors = sum(min(int(node[name] / amount) for name, amount in scarce.items()) for node in nodes)
    actors = actors or max(1, int(cpus) // 8)
    cores = int(min(node["CPU"] for node in nodes)) // math.ceil(actors / len(nodes))
    return Networks(
        actors=actors,
        threads=None if device == "cuda" else max(1, min(8, cores)),
        booked={
            "num_cpus": options.network_cpus or (_LIGHT_CPUS if cpus < 8 else min(1.0, cpus / (4 * actors))),
            "num_gpus": options.network_gpus if device == "cuda" else 0,
            "resources": options.network_resources,
        },
    )


def _actor(options: PlacementOptions, device: str) -> dict[str, float]:
    """What an actor books at least."""
    gpus = {"GPU": options.network_gpus} if device == "cuda" else {}
    return {"CPU": options.network_cpus or _LIGHT_CPUS, **gpus, **options.network_resources}
