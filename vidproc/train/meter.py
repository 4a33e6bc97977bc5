"""How fast a training goes, and which share of its time it waits for data."""

import time
from collections.abc import Iterator
from typing import TypeVar

_TELL_S = 2.0
T = TypeVar("T")


class Meter:
    """From the first batch on: the start of Ray Data is no part of any rate. `first`, `stop`: steps of this attempt."""

    def __init__(self, *, batch: int, first: int, stop: int) -> None:
        self._batch, self._first, self._stop = batch, first, stop
        self._began = self._told = time.monotonic()
        self._waited = 0.0

    def waiting_for(self, batches: Iterator[T]) -> Iterator[T]:
        """The batches, with the waiting for them counted."""
        before = None
        for batch in batches:
            if before is None:
                self._began = time.monotonic()
            else:
                self._waited += time.monotonic() - before
            yield batch
            before = time.monotonic()

    def due(self) -> bool:
        """Whether it is time to tell somebody."""
        if time.monotonic() - self._told < _TELL_S:
            return False
        self._told = time.monotonic()
        return True

    def rates(self, step: int) -> dict[str, float]:
        """After so many steps: samples a second over all workers, the share of waiting, seconds that are left."""
        spent = max(1e-9, time.monotonic() - self._began)
        per_step = spent / max(1, step - self._first)
        return {
            "samples_per_s": round(self._batch / per_step, 1),
            "data_wait": round(self._waited / spent, 3),
            "eta_s": round((self._stop - step) * per_step),
        }
