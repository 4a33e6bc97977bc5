"""Joining a Ray cluster, or starting Ray on this machine, while the rest of what the job needs is being imported.

Ray takes seconds to start, in processes of its own, and importing Ray Data takes seconds in this one: they overlap. So
nothing at the top of the driver's modules imports Ray, and a run that finds nothing to do never waits for it.
"""

import importlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psutil

from vidproc.command import log
from vidproc.errors import StorageFull, UsageError

KEEP_WORKERS = {"num_workers_soft_limit": 8, "idle_worker_killing_time_threshold_ms": 30_000}
"""Light steps run beside decoding, in more processes than cores: keep them, a new one costs a second of a core."""
_END_WORKERS = {"num_workers_soft_limit": 0}
"""Each process that Ray keeps wakes 100 times a second, 0.9 % of a core, whether it does something or not."""
_BEFORE_AGAIN_S, _DIES_S, _LOOKS_S = 5.0, 10.0, 1.0

_ROOM_BYTES = 64 << 20


@dataclass(frozen=True)
class Cluster:
    """What there is to run on. `here`: just this machine, for this job; else a cluster, which may yet grow."""

    cpus: float
    gpus: float
    here: bool
    nodes: tuple[Mapping[str, float], ...] = ()
    """What each living node has, by resource."""

    def nodes_with(self, booked: Mapping[str, float]) -> list[Mapping[str, float]]:
        """The nodes that are large enough for this, were they idle."""
        return [node for node in self.nodes if offers(node, booked)]

    def offering(self, booked: Mapping[str, float], flag: str, *, wait_s: float) -> "Cluster":
        """The cluster as it is once a node has room for this; where there is none, one is asked for and waited for.

        A cluster of other machines may grow: a pending placement group is what Ray's autoscaler starts nodes for, and
        it goes with this job. Raises `UsageError` when `wait_s` have passed; at once if this is just this machine.
        """
        if self.nodes_with(booked):
            return self
        asked = ", ".join(f"{name}={amount:g}" for name, amount in booked.items())
        if not self.here and wait_s:
            log("waiting", asked=asked, at_most_s=wait_s, nodes=self._told())
            if _appears(booked, wait_s) and (grown := _found(here=False)).nodes_with(booked):
                return grown
        raise UsageError(
            f"no node offers {asked} ({flag}); nodes offer {self._told()}: correct the flags, or start such a node "
            "(`ray start --resources`, rayStartParams of a KubeRay group)"
        )

    def _told(self) -> str:
        """The distinct kinds of nodes, for a message."""
        kinds = {
            " ".join(f"{name}={node[name]:g}" for name in sorted(node) if ":" not in name and "memory" not in name)
            for node in self.nodes
        }
        return "; ".join(sorted(kinds)) or "nothing"


def offers(node: Mapping[str, float], booked: Mapping[str, float]) -> bool:
    """Whether a node with these resources is large enough for this, were it idle."""
    return all(node.get(name, 0.0) >= amount for name, amount in booked.items())


def living_nodes() -> dict[str, Mapping[str, float]]:
    """The resources of each living node of the cluster that this process has joined, by the node's id."""
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return {node["NodeID"]: node["Resources"] for node in nodes if node["Alive"]}


def _found(*, here: bool) -> Cluster:
    """What the cluster that this process has joined consists of now."""
    nodes = tuple(living_nodes().values())
    cpus, gpus = (sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU"))
    return Cluster(cpus or 1.0, gpus, here=here, nodes=nodes)


def _appears(booked: Mapping[str, float], wait_s: float) -> bool:
    """Whether a node that can take this comes within so many seconds."""
    from ray.util.placement_group import placement_group, remove_placement_group

    group = placement_group([dict(booked)])
    try:
        return bool(group.wait(wait_s))
    finally:
        remove_placement_group(group)


@contextmanager
def connected(
    *, workers_speak: bool = True, keep_workers: bool = True, needs: str = "vidproc.pipeline.execution"
) -> Iterator[Cluster]:
    """Join the cluster that this process was submitted to (RAY_ADDRESS), or start Ray on this machine for this job.

    `workers_speak`: what workers print is printed here too. `keep_workers`: idle ones too, if Ray is started here.
    `needs`: the module that is imported while Ray starts.
    """
    import ray

    importing = threading.Thread(target=importlib.import_module, args=(needs,), daemon=True)
    importing.start()
    joined = ray.is_initialized()
    settings: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": workers_speak}
    if not joined and not os.environ.get("RAY_ADDRESS"):
        check_room()
        kept = KEEP_WORKERS if keep_workers else _END_WORKERS
        settings |= {"include_dashboard": False, "num_cpus": _cores(), "_system_config": kept}
    if not joined:
        _start(settings)
    importing.join()
    try:
        yield _found(here=not joined and "RAY_ADDRESS" not in os.environ)
    finally:
        if not joined:
            ray.shutdown()


def _start(settings: Mapping[str, Any]) -> None:
    """`ray.init`, again if it fails: Ray gives its processes 15 and 30 s to come up, which a busy machine exceeds."""
    import ray

    for last in (False, False, True):
        there = set(psutil.Process().children())
        try:
            ray.init(**settings)
            return
        except ValueError:
            raise  # what was asked is wrong
        except Exception as error:  # Ray raises plain ones
            if last:
                raise
            log("ray did not start", error=str(error)[:300], next="is tried again")
            ray.shutdown()
            for left in set(psutil.Process().children()) - there:
                with suppress(psutil.NoSuchProcess):
                    left.kill()
                    left.wait(_DIES_S)
            time.sleep(_BEFORE_AGAIN_S)


def check_room() -> None:
    """Raise `StorageFull` if there is no room for what Ray keeps in its folder: without it Ray waits in silence."""
    folder = os.environ.get("RAY_TMPDIR", "/tmp")
    free = shutil.disk_usage(folder).free
    if free < _ROOM_BYTES:
        raise StorageFull(
            f"{folder} has {free >> 20} MiB free, and Ray keeps its logs there, and what does not fit into memory: "
            f"free {_ROOM_BYTES >> 20} MiB or more, or name another (RAY_TMPDIR), then run the same command again"
        )


@contextmanager
def room_watched(fail: Callable[[Exception], None]) -> Iterator[None]:
    """While this holds, `fail` is called, from another thread, once there is no more room."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_LOOKS_S):
            try:
                check_room()
            except StorageFull as error:
                fail(error)
                return

    watching = threading.Thread(target=watch, name="room", daemon=True)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()


def _cores() -> int:
    return max(len(os.sched_getaffinity(0)), 2)
