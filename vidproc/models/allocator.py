"""Networks on the CPU: memory that one step frees is there for the next, and not given back to the kernel between them.

A step's activations are megabytes each. glibc by default maps those anew every time, and the kernel clears each page of
them: 15,000 page faults a second, 5 % of the time of a training of the demo's network. See mallopt(3).
"""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_LARGEST_KEPT = 32 << 20
"""Bytes: the most that glibc takes."""
_HEAP = 64 << 20
"""Bytes of one heap of a thread: one that has become free is unmapped where less room than this is asked for."""
_MOST_KEPT = 1 << 30


def keep_freed_memory() -> bool:
    """For this process, for good: keep up to 1 GiB of freed memory. Returns whether there is such a setting here."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    wanted = {_M_MMAP_THRESHOLD: _LARGEST_KEPT, _M_TRIM_THRESHOLD: _MOST_KEPT, _M_TOP_PAD: _HEAP}
    return all(mallopt(name, value) for name, value in wanted.items())
