"""Joining a Ray cluster, or starting Ray on this machine, while the rest of what the job needs is being imported.

Ray takes seconds to start, in processes of its own, and importing Ray Data takes seconds in this one: they overlap. So
nothing at the top of the driver's modules imports Ray, and a run that finds nothing to do never waits for it.
"""

import importlib
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_KEEP_WORKERS = {"num_workers_soft_limit": 8, "idle_worker_killing_time_threshold_ms": 30_000}
"""Light steps run beside decoding, in more processes than cores: keep them, a new one costs a second of a core."""


@dataclass(frozen=True)
class Cluster:
    """What there is to run on. `here`: just this machine, for this job; else a cluster, which may yet grow."""

    cpus: float
    gpus: float
    here: bool


@contextmanager
def connected(*, workers_speak: bool = True) -> Iterator[Cluster]:
    """Join the cluster that this process was submitted to (RAY_ADDRESS), or start Ray on this machine for this job.

    `workers_speak`: what workers print is printed here too.
    """
    import ray

    importing = threading.Thread(target=importlib.import_module, args=("vidproc.pipeline.execution",), daemon=True)
    importing.start()
    joined = ray.is_initialized()
    if not joined and os.environ.get("RAY_ADDRESS"):
        ray.init(logging_level=logging.ERROR, log_to_driver=workers_speak)
    elif not joined:
        ray.init(
            include_dashboard=False,
            num_cpus=_cores(),
            logging_level=logging.ERROR,
            log_to_driver=workers_speak,
            _system_config=_KEEP_WORKERS,
        )
    importing.join()
    try:
        found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        yield Cluster(found.get("CPU", 1.0), found.get("GPU", 0.0), here=not joined and "RAY_ADDRESS" not in os.environ)
    finally:
        if not joined:
            ray.shutdown()


def _cores() -> int:
    return max(len(os.sched_getaffinity(0)), 2)
