"""What delta-rs raises when storage fails. It has no types or codes for it: its text is what there is to go by.

delta-rs itself tries again after 5xx answers, but not after a connection that breaks or a body that ends early.
"""

import errno
import re
from collections.abc import Callable
from typing import TypeVar

from vidproc.errors import StorageRefused
from vidproc.media.patience import CutOff, patiently, refusal

_CODE = re.compile(r"<Code>\s*(\w+)")
_STATUS = re.compile(r"\b([45]\d\d) [A-Z][a-z]+")
_ERRNO = re.compile(r"\(os error (\d+)\)")
_COLOUR = re.compile(r"\x1b\[\d+m")

Answer = TypeVar("Answer")


def asked(url: str, request: Callable[[], Answer]) -> Answer:
    """The answer of a request through delta-rs, which is made again while storage has a passing trouble.

    So it must be one that may be made again: a commit must look first whether the table has it already. Raises a
    `StorageError`; what is not about storage as it is.
    """

    def once() -> Answer:
        try:
            return request()
        except OSError as error:
            raise _typed(url, error) from error

    return patiently(url, once)


def _typed(url: str, error: OSError) -> Exception:
    """What Python would have raised."""
    text = re.sub(r"\s*↳\s*", ": ", _COLOUR.sub("", str(error))).strip()
    if (code := _CODE.search(text)) and code[1] not in ("SlowDown", "InternalError", "ServiceUnavailable"):
        said = f"{url}: storage refuses ({code[1]}): {text}: allow it, then run the same command again"
        return refusal(url, code[1], text) or StorageRefused(said)
    if "privileges" in text:
        return PermissionError(text)
    if number := _ERRNO.search(text):
        return OSError(int(number[1]), text)
    if "timed out" in text:
        return TimeoutError(text)
    if "reading a body" in text or "end of file" in text:
        return CutOff(text)
    status = _STATUS.search(text)
    if "HTTP error" in text or (status and status[1] in ("408", "429", "500", "502", "503", "504")):
        return OSError(errno.ECONNABORTED, text)
    return error
