"""What an annotator is: a light description for every process, and a network that only the device's process loads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vidproc.media.samples import Samples
from vidproc.views import View


@dataclass(frozen=True, eq=False)
class Annotation:
    """What one annotator says of one segment.

    `rows`: table name → its rows, in the table's schema less the common columns (video_id, annotator, model_id,
    run_id). `samples`, `tally`: how many samples were scored and their scores' sum (float32 [labels]), so that means
    over a whole video are exact; None where there is nothing to average.
    """

    rows: Mapping[str, pa.Table] = field(default_factory=dict)
    samples: int = 0
    tally: npt.NDArray[np.float32] | None = None


class Network(Protocol):
    """An annotator with its weights on a device."""

    def annotate(self, segments: Sequence[Mapping[View, Samples]]) -> list[Annotation]:
        """One `Annotation` per segment, in order. Device batches are filled across segments."""


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

    def label_rows(self, mean_scores: npt.NDArray[np.float32]) -> pa.Table | None:
        """Columns task, label, label_id, score, rank of a whole video's mean scores; None if it has no labels."""

    def load(self, device: str, *, compiled: bool = False) -> Network:
        """Put the network on "cuda" or "cpu", through torch.compile if asked. Imports torch. Raises `WeightsError`."""
