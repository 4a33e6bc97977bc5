"""What a training tells while it runs, and whether it failed for good: an actor between the workers and the driver."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from vidproc.command import log

_PASSING = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe")
"""Words of errors that a worker has because another one died."""
_ASK_S = 1.0


@ray.remote(num_cpus=0)
class Progress:
    """One run's. What is raised twice at the same step, or for the input's fault, would be raised for ever."""

    def __init__(self) -> None:
        self._told: list[dict[str, Any]] = []
        self._raised: set[tuple[int, str]] = set()
        self._verdict: tuple[str, str] | None = None

    def tell(self, figures: dict[str, Any]) -> None:
        self._told.append(figures)

    def take(self) -> list[dict[str, Any]]:
        """What was told since the last call."""
        told, self._told = self._told, []
        return told

    def raised(self, step: int, kind: str, text: str, *, final: bool) -> None:
        if any(word in text.lower() for word in _PASSING):
            return
        if final or (step, kind) in self._raised:
            self._verdict = self._verdict or (kind, text)
        self._raised.add((step, kind))

    def verdict(self) -> tuple[str, str] | None:
        """(type, message) of the error that ends the run."""
        return self._verdict


@contextmanager
def shown(progress: Any) -> Iterator[None]:
    """Log what the actor is told, from a thread, until the block ends."""
    ended = threading.Event()

    def show() -> None:
        while not ended.wait(_ASK_S):
            for figures in ray.get(progress.take.remote()):
                log("training", **figures)

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
