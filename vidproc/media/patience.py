"""Asking storage again: what is worth another try, how long to wait in between, and what it is called when it lasts.

    answer = patiently(url, lambda: filesystem.cat_file(path))

Clients' own retries are off where this is used (`ONE_TRY`): a loop inside a loop multiplies the waiting. `RETRIES`
counts this process's further tries by why they were needed, for metrics.
"""

import errno
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

from vidproc.errors import StorageFull, StorageRefused, StorageUnreachable, VidprocError

TRIES = 12
BUDGET_S = 90.0
"""At most so many tries in so many seconds: 12 quick ones take 40 s, longer than object stores' bursts of 503."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 8.0

ONE_TRY = {"retries": {"total_max_attempts": 1}}
"""botocore's configuration for clients whose retries are ours; s3fs has its own: `filesystem.retries = 1`."""
MANY_TRIES = {"retries": {"mode": "standard", "total_max_attempts": 10}}
"""For clients that others drive (pyarrow reading files of its own choice): as patient, with botocore's own jitter."""

RETRIES: Counter[str] = Counter()
_counting = threading.Lock()

Answer = TypeVar("Answer")

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DROPPED = {
    errno.EAGAIN,
    errno.EBUSY,
    errno.ECONNABORTED,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTUNREACH,
    errno.EIO,
    errno.ENETUNREACH,
    errno.EPIPE,
    errno.EREMOTEIO,
    errno.ETIMEDOUT,
}
_BY_STATUS = {409: "conflict", 429: "slow_down", 500: "error", 502: "error", 503: "slow_down", 504: "error"}
_BY_CODE = {"RequestTimeout": "timeout", "IncompleteBody": "cut_off", "XAmzContentSHA256Mismatch": "cut_off"}
_REFUSALS = {
    "AccountProblem",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSecurity",
    "InvalidToken",
    "NotSignedUp",
    "RequestExpired",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}
"""S3's codes (its "Error responses") that are about who asks, not about what is asked for."""


class CutOff(OSError):
    """Fewer bytes came than were announced."""


def backoff_s(attempt: int) -> float:
    """Seconds to wait after failed attempt 0, 1, 2 …: doubling, capped, and random so that many clients spread out."""
    return min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0**attempt) * random.uniform(0.5, 1.0)


def patiently(place: str, request: Callable[[], Answer]) -> Answer:
    """The answer to a request that no single video is to blame for.

    Raises `StorageUnreachable`, `StorageRefused` or `StorageFull`, naming `place`; all else as it is.
    """
    try:
        return again(request, passing=passing)
    except Exception as error:
        if (known := in_our_words(place, error)) is not None:
            raise known from error
        raise


def again(request: Callable[[], Answer], *, passing: Callable[[Exception], str | None], tries: int = TRIES) -> Answer:
    """Call until it succeeds, for as long as `passing` gives a reason to hope and the budget lasts; raises the last."""
    until = time.monotonic() + BUDGET_S
    for attempt in range(tries - 1):
        try:
            return request()
        except Exception as error:
            why, wait_s = passing(error), backoff_s(attempt)
            if why is None or time.monotonic() + wait_s > until:
                raise
            with _counting:
                RETRIES[why] += 1
            time.sleep(wait_s)
    return request()


def passing(error: BaseException) -> str | None:
    """Why another try may end better: slow_down, error, conflict, timeout, cut_off, connection. None if it will not."""
    status = _status(error)
    if status is not None:
        return _BY_STATUS.get(status) or _BY_CODE.get(code_of(error))
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, CutOff) or type(error).__name__ in ("IncompleteRead", "ClientPayloadError"):
        return "cut_off"
    if isinstance(error, OSError) and error.errno in _DROPPED:
        return "connection"
    return "connection" if isinstance(error, _client_errors()) else None


def in_our_words(place: str, error: BaseException) -> VidprocError | None:
    """What went wrong with `place` for good, if it is storage's fault or the disk's; None if it is neither."""
    if (known := refused(place, error)) is not None:
        return known
    if isinstance(error, PermissionError):
        return StorageRefused(f"{place}: access denied ({error}): allow it, then run the same command again")
    if isinstance(error, OSError) and error.errno in _FULL:
        return full(place, error)
    if passing(error) is not None:
        return unreachable(place, error)
    return None


def refused(place: str, error: BaseException) -> StorageRefused | None:
    """The error that says so if storage does not accept who asks (expired, wrong or no credentials; a wrong clock)."""
    code = code_of(error)
    if not code and "Credential" in type(error).__name__:
        code = type(error).__name__
    return refusal(place, code, error)


def refusal(place: str, code: str, error: object) -> StorageRefused | None:
    """The error for an S3 code, or the name of a client's error, that is about who asks; None for any other."""
    if code == "RequestTimeTooSkewed":
        return StorageRefused(
            f"{place}: storage refuses requests because this machine's clock is wrong ({error}): set it (NTP), then "
            "run the same command again"
        )
    if code in _REFUSALS or "Credential" in code:
        return StorageRefused(
            f"{place}: storage does not accept this process's credentials ({code}: {error}): renew them, then run the "
            "same command again; what is committed is kept"
        )
    return None


def unreachable(place: str, error: BaseException) -> StorageUnreachable:
    """The error that says that storage has not answered for longer than we wait."""
    return StorageUnreachable(
        f"{place}: storage has not answered for as long as we wait ({type(error).__name__}: {error}): run the same "
        "command again when it does; what is committed is kept"
    )


def full(place: str, error: BaseException) -> StorageFull:
    """The error that says that there is no room."""
    return StorageFull(
        f"{place}: no room to write ({error}): free space or raise the quota, then run the same command again; what is "
        "committed is kept"
    )


def code_of(error: BaseException) -> str:
    """The S3 error code in what s3fs raised, or ""; of a HEAD, whose answer has no body, the status."""
    return str(_response(error).get("Error", {}).get("Code", ""))


def _status(error: BaseException) -> int | None:
    status = _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode") or getattr(error, "status", None)
    return status if isinstance(status, int) else None


def _response(error: BaseException) -> dict[str, Any]:
    response = getattr(error.__cause__ or error, "response", None)
    return response if isinstance(response, dict) else {}


def _client_errors() -> tuple[type[Exception], ...]:
    """What the S3 client raises when there is no answer. Only if it is loaded: that takes half a second."""
    if "s3fs" not in sys.modules:
        return ()
    from botocore.exceptions import ConnectionError as BotoConnectionError  # type: ignore[import-untyped]
    from s3fs.core import S3_RETRYABLE_ERRORS

    return (*S3_RETRYABLE_ERRORS, BotoConnectionError)
