"""What a network made of labelled examples, before anything is concluded from it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vidproc.models.weights import Weights
from vidproc.train.calibration import calibrated
from vidproc.train.examples import names_in
from vidproc.train.measures import Scores


@dataclass(frozen=True, eq=False)
class Scored:
    """Logits of all samples: float32 [samples, labels]; whose they are: int64 [samples]; the truth of each example.

    `damaged`: the same logits of damaged samples, by (corruption, severity).
    """

    logits: Scores
    example: npt.NDArray[np.int64]
    truth: npt.NDArray[Any]
    damaged: Mapping[tuple[str, int], Scores]

    def scores(self, weights: Weights, logits: Scores | None = None) -> Scores:
        """Of each example the mean over its samples."""
        of = calibrated(self.logits if logits is None else logits, weights.temperature, multi_label=weights.multi_label)
        sums = np.zeros((len(self.truth), of.shape[1]))
        np.add.at(sums, self.example, of)
        means: Scores = (sums / np.bincount(self.example, minlength=len(self.truth))[:, None]).astype(np.float32)
        return means

    def only(self, chosen: npt.NDArray[np.bool_]) -> "Scored":
        """The part of some examples: bool [examples]."""
        number = np.cumsum(chosen) - 1
        samples = chosen[self.example]
        damaged = {key: one[samples] for key, one in self.damaged.items()}
        return Scored(self.logits[samples], number[self.example[samples]], self.truth[chosen], damaged)


def truth_of(examples: pa.Table, weights: Weights) -> npt.NDArray[Any]:
    """int64 [examples], or bool [examples, labels] of a multi-label network."""
    places = {name: i for i, name in enumerate(weights.categories)}
    labels = [[places[name] for name in names_in(json.loads(label))] for label in examples["label"].to_pylist()]
    if not weights.multi_label:
        return np.array([one[0] for one in labels], np.int64)
    truth = np.zeros((len(labels), len(places)), np.bool_)
    for row, chosen in enumerate(labels):
        truth[row, chosen] = True
    return truth
