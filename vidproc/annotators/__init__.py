"""All annotators by name. A new one is one file and one line here."""

from collections.abc import Sequence
from typing import Protocol

from vidproc.annotators.actions import Actions
from vidproc.annotators.base import Annotator
from vidproc.annotators.objects import Objects
from vidproc.annotators.quality import Quality
from vidproc.models.restorer import Restorer


class Factory(Protocol):
    """Makes an annotator from what a job's flags say; `weights` None takes its default.

    `restorer`: takes the noise out of frames for annotators that say what is to be seen; those that measure the signal
    leave it unused. Raises `UsageError` or `WeightsError` before any work.
    """

    def __call__(
        self, weights: str | None = None, *, allow_licences: Sequence[str] = (), restorer: Restorer | None = None
    ) -> Annotator: ...


ANNOTATORS: dict[str, Factory] = {
    "actions": Actions.from_spec,
    "objects": Objects.from_spec,
    "quality": Quality.from_spec,
}
