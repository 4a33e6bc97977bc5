"""Ending a run before its plan does: at `--stop-at`, on Ctrl-C, on SIGTERM from a cluster that drains.

What is finished by then is published. Ray installs a SIGTERM handler of its own that kills its processes and ends this
one, so `listen` is called again after Ray has started.
"""

import datetime
import signal
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from types import FrameType
from typing import Any, TypeVar

AT_TIME, TERMINATED = 0, 128 + signal.SIGTERM
"""Exit codes of a run that `--stop-at` ended, or SIGTERM; any signal's is 128 + its number, as a shell says it."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
T = TypeVar("T")


class Stopped(KeyboardInterrupt):
    """Raised in the main thread where waiting may be broken off. Ends the job with `exit_code`: 0, 130 or 143."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"stopped with exit code {exit_code}")
        self.exit_code = exit_code


class Stop:
    """Whether and how the run was asked to end: `exit_code` is None until then.

    The first request breaks off listing and planning at once, and labelling between two batches, never a commit. A
    second one breaks off anything: the next run completes what is left half-done.
    """

    def __init__(self, at: datetime.time | None = None) -> None:
        self.exit_code: int | None = None
        self._at = None if at is None else _next(at)
        self._timed = False
        self._breakable = True
        self._heard = False
        self._error: Exception | None = None

    @property
    def due(self) -> bool:
        """Whether `--stop-at` has passed."""
        return self._at is not None and time.time() >= self._at

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGTERM and Ctrl-C. In a thread other than the main one they stay with whoever has them."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        self.listen()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def listen(self) -> None:
        """Install the handlers (again)."""
        if threading.current_thread() is threading.main_thread():
            self._heard = True
            for number in _SIGNALS:
                signal.signal(number, self._requested)

    def fail(self, error: Exception) -> None:
        """End labelling with `error`, between two batches or while one is waited for. For other threads."""
        self._error = error
        if self._heard:
            _signal_main_thread()

    def until(self, batches: Generator[T, None, None]) -> Iterator[T]:
        """Yield the batches until the run is asked to end; from then on only waiting can be broken off."""
        self._breakable = False
        with self._alarm(), closing(batches):
            while not self.due and self.exit_code is None:
                if self._error is not None:
                    raise self._error
                try:
                    self._breakable = True
                    batch = next(batches, None)
                    self._breakable = False
                except KeyboardInterrupt as stopped:  # `Stopped`, or Ray's: its `get` heeds nothing else of a handler
                    if self.exit_code is None:
                        raise (self._error or stopped) from None
                    break
                except Exception:
                    if self.exit_code is None:  # else: who stops all processes at once stops Ray's too
                        raise
                    break
                finally:
                    self._breakable = False
                if batch is None:
                    return
                yield batch
        if self.exit_code is None:
            self.exit_code = AT_TIME

    def _requested(self, number: int, _: FrameType | None) -> None:
        if self._error is not None and self.exit_code is None:
            if self._breakable:
                raise KeyboardInterrupt
            return
        alarm, self._timed = self._timed, False
        again = self.exit_code is not None
        if alarm and again:  # the time came while the run was ending already
            return
        self.exit_code = AT_TIME if alarm else 128 + number
        if again or self._breakable:
            raise Stopped(self.exit_code)

    @contextmanager
    def _alarm(self) -> Iterator[None]:
        """Break the wait for a batch off when `--stop-at` comes, however long the batch takes."""
        if self._at is None or threading.current_thread() is not threading.main_thread():
            yield
            return
        timer = threading.Timer(max(0.0, self._at - time.time()), self._ring)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()  # one that rang already must not be heard later, when handlers have changed

    def _ring(self) -> None:
        self._timed = True
        _signal_main_thread()


def _signal_main_thread() -> None:
    ident: Any = threading.main_thread().ident
    signal.pthread_kill(ident, signal.SIGTERM)


def _next(at: datetime.time) -> float:
    """The next time that the wall clock shows `at`, as seconds since the epoch."""
    now = datetime.datetime.now().astimezone()
    then = now.replace(hour=at.hour, minute=at.minute, second=at.second, microsecond=0)
    return then.timestamp() + (86_400 if then <= now else 0)
