"""What ended a run, in our own words: the typed error inside what Ray, DuckDB or delta-rs made of it."""

import re
from collections.abc import Iterator

from vidproc.errors import VidprocError
from vidproc.media.patience import full, in_our_words

_NO_ROOM = re.compile(r"No space left on device|Disk quota exceeded|OutOfDisk|ObjectStoreFull|File too large", re.I)


def told(error: Exception, *, tables_url: str) -> Exception:
    """The error itself, or the typed one that tells a person what to do."""
    for cause in _causes(error):
        if isinstance(cause, VidprocError):
            return cause
    for cause in _causes(error):
        if (known := in_our_words(f"tables at {tables_url}", cause)) is not None:
            return known
    for cause in _causes(error):
        if _NO_ROOM.search(f"{type(cause).__name__}: {cause}"):
            return full("a disk of this cluster (Ray's temporary folder, /tmp or the tables)", cause)
    return error


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came from, innermost last. Ray keeps in `cause` what a worker raised."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        inner = getattr(error, "cause", None)
        if isinstance(inner, BaseException):
            yield inner  # before what wears its class, and a traceback for a message
        yield error
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
