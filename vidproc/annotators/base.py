"""What an annotator is: a light description for every process, and a network that only the device's process loads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vidproc.annotators.rows import model_id
from vidproc.errors import UsageError
from vidproc.media.samples import Samples
from vidproc.models.restorer import Restorer
from vidproc.views import View, view_to_json


@dataclass(frozen=True, eq=False)
class Annotation:
    """What one annotator says of one segment.

    `rows`: table name → its rows, in the table's schema less the common columns (video_id, annotator, model_id,
    run_id). `samples`, `tally`: how many samples were scored, and their scores' sum (float32 [labels]) or whatever else
    the annotator's `joined_tally` adds up, so that scores of a whole video are exact; None where there is nothing to
    add. `notes`: what `over_video` needs of the segment beside rows, as JSON can hold it. `reason`: code of an
    `InputError` where the annotator had to leave something out: the segment is then `partial`.
    """

    rows: Mapping[str, pa.Table] = field(default_factory=dict)
    samples: int = 0
    tally: npt.NDArray[np.float32] | None = None
    notes: Any = None
    reason: str | None = None


class Network(Protocol):
    """An annotator with its weights on a device."""

    def annotate(self, segments: Sequence[Mapping[View, Samples]]) -> list[Annotation]:
        """One `Annotation` per segment, in order. Device batches are filled across segments."""


class OfSegments:
    """For annotators that have nothing to say of a whole video."""

    reads: ClassVar[tuple[str, ...]] = ()
    replaces: ClassVar[tuple[str, ...]] = ()

    def joined_tally(self, tallies: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        total: npt.NDArray[np.float64] = tallies.sum(axis=0)
        return total

    def mean_scores(self, tally: npt.NDArray[np.float64], samples: int) -> npt.NDArray[np.float32]:
        return np.asarray(tally / samples, np.float32)

    def label_rows(self, mean_scores: npt.NDArray[np.float32]) -> pa.Table | None:  # noqa: ARG002
        return None

    def over_video(self, rows: Mapping[str, pa.Table], facts: Mapping[str, Any]) -> Mapping[str, pa.Table]:  # noqa: ARG002
        return {}


class WithoutWeights(OfSegments):
    """For annotators that measure or read: their views and their code's version are all that there is of a model."""

    name: ClassVar[str]
    version: ClassVar[int]
    views: ClassVar[tuple[View, ...]]
    architecture: ClassVar[str] = "signal"

    @classmethod
    def from_spec(
        cls,
        weights: str | None = None,
        *,
        allow_licences: Sequence[str] = (),  # noqa: ARG003
        restorer: Restorer | None = None,  # noqa: ARG003  what is measured is the picture as it is
    ) -> Self:
        """Raises `UsageError` when weights are named: there are none."""
        if weights is not None:
            raise UsageError(f"{cls.name} works without a network and has no weights: leave out {cls.name}={weights}")
        return cls()

    @property
    def model_id(self) -> str:
        return model_id(self.architecture, views=[view_to_json(view) for view in self.views], version=self.version)


class Annotator(Protocol):
    """The description: importing and holding it costs no torch."""

    @property
    def name(self) -> str: ...

    @property
    def model_id(self) -> str:
        """Architecture and 8 hex digits of a hash over weights, views and the version of the annotator's code."""

    @property
    def tables(self) -> tuple[str, ...]: ...

    @property
    def views(self) -> tuple[View, ...]: ...

    def joined_tally(self, tallies: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The tallies of a video's segments, float64 [segments, numbers] in their order, as one: float64 [numbers]."""

    def mean_scores(self, tally: npt.NDArray[np.float64], samples: int) -> npt.NDArray[np.float32]:
        """A whole video's scores by its joined tally and how many samples, one at least, went into it."""

    def label_rows(self, mean_scores: npt.NDArray[np.float32]) -> pa.Table | None:
        """Columns task, label, label_id, score, rank of a whole video's mean scores; None if it has no labels."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Tables whose rows `over_video` needs: what this annotator itself said of the video's segments.

        Of `ledger` these are the segments' own rows, in order, with `notes` as JSON.
        """

    @property
    def replaces(self) -> tuple[str, ...]:
        """Tables of `reads` whose rows give way to what `over_video` returns."""

    def over_video(self, rows: Mapping[str, pa.Table], facts: Mapping[str, Any]) -> Mapping[str, pa.Table]:
        """What only a whole video tells: tracks, shots, votes. Pure, from rows alone, ordered by the tables' time.

        `rows`: of each table of `reads`, less the common columns, in the table's schema. `facts`: what the probe found.
        Returns rows to add, in the same form. Runs in the driver, without torch.
        """

    def load(self, device: str, *, compiled: bool = False) -> Network:
        """Put the network on "cuda" or "cpu", through torch.compile if asked. Imports torch. Raises `WeightsError`."""
