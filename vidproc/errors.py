"""One tree of typed errors, each with the reason code that tables and exit codes show.

VidprocError
├── UsageError               exit 2   flags, configuration or archive URL are wrong
│   └── WeightsError         exit 2   a checkpoint is missing, altered or does not fit
├── BudgetExceeded           exit 3   too many videos were quarantined
├── LeaseLost                exit 4   another run holds the tables
├── CanaryWrong              exit 5   known videos came out with other labels
├── TablesDamaged            exit 1   the commit log or a table contradicts itself
├── StorageError             exit 1   storage fails the run, whatever the video: none is quarantined for it
│   ├── StorageUnreachable            it does not answer for longer than we wait
│   ├── StorageRefused                it does not accept who we are: expired or wrong credentials, a wrong clock
│   └── StorageFull                   no room to write: a disk, a quota, Ray's object store
└── InputError                        one video cannot be (fully) used: a row, never the end of a run
    ├── Missing *            missing          listed, but no longer there
    ├── Changed              changed          replaced while (or before) it was read
    ├── Denied *             denied           storage gives others, but not this one
    ├── Unreadable *         unreadable       storage fails to give its bytes
    ├── NotMedia             not_media        no whitelisted container format fits its bytes
    ├── NoStreams            no_streams       a container without picture, sound or text
    ├── Unsupported          unsupported      a form we do not read (codec, encryption, compressed tar)
    ├── Damaged              damaged          opened, but nothing of it decodes
    ├── TooLarge             too_large        pixels, streams, memory or size beyond the limits
    ├── TimedOut             timeout          took longer than the limit
    ├── NotFinite            not_finite       a network's scores for it are no numbers
    └── KilledWorker         killed_worker    the decoder crashed, or the kernel killed it

* passing reasons: storage's, not the video's. They are planned again by themselves, at growing intervals.
"""

from typing import ClassVar


class VidprocError(Exception):
    """Root of the tree. `exit_code` is what a job ends with when this error ends it."""

    exit_code: ClassVar[int] = 1


class UsageError(VidprocError):
    """The command was asked something it cannot do; nothing was started."""

    exit_code = 2


class WeightsError(UsageError):
    """A checkpoint is missing, its SHA-256 differs, or its sidecar does not fit it."""


class BudgetExceeded(VidprocError):
    """More videos were quarantined than `--failure-budget` allows; good rows are committed."""

    exit_code = 3


class LeaseLost(VidprocError):
    """Another run holds, or has taken, the lease on these tables."""

    exit_code = 4


class CanaryWrong(VidprocError):
    """The canary's videos did not come out with their expected labels; nothing was committed."""

    exit_code = 5


class TablesDamaged(VidprocError):
    """The commit log and the tables contradict each other; a person must look."""


class StorageError(VidprocError):
    """Storage fails the run as a whole; what is committed is kept, and the same command goes on."""


class StorageUnreachable(StorageError):
    """Storage does not answer, or only with errors, for longer than we wait."""


class StorageRefused(StorageError):
    """Storage does not accept who asks, or does not let them write or list."""


class StorageFull(StorageError):
    """There is no room to write: a disk, a quota, Ray's object store."""


class InputError(VidprocError):
    """One input cannot be used. `reason` goes to the tables as a code, the message as `detail`.

    `passes`: whether it may be otherwise another night, with the same bytes.
    """

    reason: ClassVar[str] = "input"
    passes: ClassVar[bool] = False


class Missing(InputError):
    reason = "missing"
    passes = True


class Changed(InputError):
    reason = "changed"


class Denied(InputError):
    reason = "denied"
    passes = True


class Unreadable(InputError):
    reason = "unreadable"
    passes = True


class NotMedia(InputError):
    reason = "not_media"


class NoStreams(InputError):
    reason = "no_streams"


class Unsupported(InputError):
    reason = "unsupported"


class Damaged(InputError):
    reason = "damaged"


class TooLarge(InputError):
    reason = "too_large"


class TimedOut(InputError):
    reason = "timeout"


class NotFinite(InputError):
    reason = "not_finite"


class KilledWorker(InputError):
    reason = "killed_worker"


INPUT_ERRORS: dict[str, type[InputError]] = {
    error.reason: error
    for error in (
        Missing,
        Changed,
        Denied,
        Unreadable,
        NotMedia,
        NoStreams,
        Unsupported,
        Damaged,
        TooLarge,
        TimedOut,
        NotFinite,
        KilledWorker,
    )
}
"""Reason code → error type: errors cross process borders as (reason, message)."""

PASSING_REASONS = tuple(reason for reason, error in INPUT_ERRORS.items() if error.passes)
