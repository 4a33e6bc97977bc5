"""Classification of samples: what `actions`, `objects`, `scenes` and `sounds` share. `forward.py` has the device's
side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vidproc.annotators.base import Annotation, Network, OfSegments
from vidproc.annotators.rows import model_id, no_rows, repeated, rows_of
from vidproc.errors import UsageError, WeightsError
from vidproc.media.samples import Samples
from vidproc.models.restorer import Restorer
from vidproc.models.weights import Weights, resolve_weights
from vidproc.schema import LABELS
from vidproc.views import Audio, Clips, Frames, View, view_to_json

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Classifier(OfSegments):
    """A network that scores every sample of one view. Holding it costs no torch; it travels to the device's process.

    `top_k`, `floor`: at most so many labels a sample, each with at least this score, or with what the weights'
    thresholds ask of its category.
    `batch`: samples per forward pass; None takes 8 on a CPU, where more only leaves the caches, and 64 on a GPU.
    `restorer`: takes the noise out of every frame before the network sees it; None leaves frames as they are.
    """

    name: ClassVar[str]
    default_weights: ClassVar[str] = ""
    """ "" where weights have to be named; `suggestion` then says which there are."""
    suggestion: ClassVar[str] = ""
    task: ClassVar[str]
    kind: ClassVar[type[Clips] | type[Frames] | type[Audio]]
    version: ClassVar[int] = 1
    """Counts changes of this code that change scores: a part of `model_id`."""

    weights: Weights = field(repr=False)
    top_k: int = 5
    floor: float = 0.05
    batch: int | None = None
    restorer: Restorer | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.top_k < 1 or not 0 <= self.floor <= 1 or (self.batch is not None and self.batch < 1):
            raise UsageError(f"{self.name}: top_k and batch must be at least 1, floor in 0..1")

        if not isinstance(self.weights.view, self.kind):
            raise WeightsError(
                f"weights {self.weights.url} look at {type(self.weights.view).__name__.lower()}, but {self.name} needs "
                f"{self.kind.__name__.lower()}: choose weights of another architecture"
            )

    @classmethod
    def from_spec(
        cls, weights: str | None = None, *, allow_licences: Sequence[str] = (), restorer: Restorer | None = None
    ) -> Self:
        """The annotator with the weights of that name; "demo" means this package's own.

        Raises `WeightsError`, or `UsageError` where none are named and there is no default.
        """
        spec = weights or cls.default_weights
        if not spec:
            raise UsageError(f"{cls.name} has no weights of its own: give --weights {cls.suggestion}")
        spec = f"demo:{cls.name}" if spec == "demo" else spec
        return cls(weights=resolve_weights(spec, allow_licences=allow_licences), restorer=restorer)

    @property
    def view(self) -> Clips | Frames | Audio:
        raise NotImplementedError  # each kind of classifier may change the pace of its weights' view

    @property
    def views(self) -> tuple[View, ...]:
        return (self.view,)

    @property
    def tables(self) -> tuple[str, ...]:
        return (LABELS.name,)

    @property
    def floors(self) -> Scores:
        """The least score at which each label is said: float32 [labels]; infinite where it never is."""
        if not self.weights.thresholds:
            return np.full(len(self.weights.categories), self.floor, np.float32)
        return np.array([np.inf if one is None else one for one in self.weights.thresholds], np.float32)

    @property
    def particulars(self) -> Mapping[str, Any]:
        """What else changes the rows of this kind of classifier: a part of `model_id`."""
        return {}

    @property
    def model_id(self) -> str:
        calibrated = self.weights.temperature != 1 or self.weights.thresholds
        calibration = {"calibration": [self.weights.temperature, self.weights.thresholds]} if calibrated else {}
        restored = {} if self.restorer is None else {"restorer": self.restorer.sha256}
        return model_id(
            self.weights.architecture,
            weights=self.weights.sha256,
            views=[view_to_json(view) for view in self.views],
            version=self.version,
            settings=[self.top_k, self.floor, self.weights.multi_label, self.weights.mean, self.weights.std],
            options=[self.weights.options, self.weights.layout, self.weights.categories],
            **calibration,
            **restored,
            **self.particulars,
        )

    def label_rows(self, mean_scores: Scores) -> pa.Table:
        """Columns task, label, label_id, score, rank: the best labels of a whole video's mean scores."""
        columns = top_labels(mean_scores[None], top_k=self.top_k, floors=self.floors)
        return pa.table(columns.labels(self.task, self.weights.categories))

    def load(self, device: str, *, compiled: bool = False) -> Network:
        """The network on `device`. Raises `WeightsError`."""
        from vidproc.annotators.forward import load_scoring_network

        scoring = load_scoring_network(
            self.weights, device=device, batch=self.batch, restorer=self.restorer, compiled=compiled
        )
        return ClassifierNetwork(self, scoring)

    def rows(self, scores: Scores, samples: Samples) -> pa.Table:
        """Rows of the `labels` table (less the common columns) for scores [samples, labels]."""
        columns = top_labels(scores, top_k=self.top_k, floors=self.floors)
        spans = {"start_us": samples.start_us[columns.sample], "end_us": samples.end_us[columns.sample]}
        scope = {"scope": repeated("sample", len(columns.sample))}
        return rows_of(LABELS, {**spans, **scope, **columns.labels(self.task, self.weights.categories)})


@dataclass(frozen=True, kw_only=True)
class FrameClassifier(Classifier):
    """Of single frames. `fps`: frames looked at in a second; None keeps what the weights' view says."""

    kind: ClassVar[type[Frames]] = Frames

    fps: float | None = None

    @property
    def view(self) -> Frames:
        view = self.weights.view
        assert isinstance(view, Frames)  # checked when made
        return view if self.fps is None else replace(view, fps=self.fps)


@dataclass(frozen=True, eq=False)
class TopLabels:
    """Columns of equal length, by sample, then by rank from 1."""

    sample: npt.NDArray[np.int64]
    label_id: npt.NDArray[np.int32]
    score: Scores
    rank: npt.NDArray[np.int32]

    def labels(self, task: str, categories: Sequence[str]) -> dict[str, pa.Array]:
        """The columns of the `labels` table that say what, not when."""
        return {
            "task": repeated(task, len(self.label_id)),
            "label": pa.array(categories, pa.string()).take(pa.array(self.label_id)),
            "label_id": pa.array(self.label_id),
            "score": pa.array(self.score),
            "rank": pa.array(self.rank),
        }


def top_labels(scores: Scores, *, top_k: int, floors: Scores | float) -> TopLabels:
    """The best labels of each row of scores [samples, labels]; of equal scores the lower label_id comes first.

    `floors`: the least score at which a label is said, of each label or of all.
    """
    said = np.where(scores >= floors, scores, -np.inf)
    order = np.argsort(-said, axis=1, kind="stable")[:, :top_k]
    best = np.take_along_axis(said, order, axis=1)
    sample, place = np.nonzero(np.isfinite(best))
    return TopLabels(
        sample=sample.astype(np.int64),
        label_id=order[sample, place].astype(np.int32),
        score=best[sample, place].astype(np.float32),
        rank=(place + 1).astype(np.int32),
    )


class Scorer(Protocol):
    """What turns samples into scores: `forward.ScoringNetwork` on a device, or a fake in a test."""

    def scores(self, data: Sequence[npt.NDArray[Any]]) -> list[Scores]:
        """One array [samples, labels] per array of samples, of pixels (uint8) or sound (int16)."""


class ClassifierNetwork:
    """A `Classifier` with its network on a device."""

    def __init__(self, classifier: Classifier, scorer: Scorer) -> None:
        self.classifier = classifier
        self.scorer = scorer

    def annotate(self, segments: Sequence[Mapping[View, Samples]]) -> list[Annotation]:
        """One annotation per segment, in order. Raises `NotFinite` rather than hand on a score that is no number."""
        view = self.classifier.view
        present = [i for i, segment in enumerate(segments) if view in segment and len(segment[view])]
        found = self.scorer.scores([segments[i][view].data for i in present])
        annotations = [Annotation(rows={LABELS.name: no_rows(LABELS)}) for _ in segments]
        for i, scores in zip(present, found, strict=True):
            annotations[i] = Annotation(
                rows={LABELS.name: self.classifier.rows(scores, segments[i][view])},
                samples=len(scores),
                tally=scores.sum(axis=0, dtype=np.float64).astype(np.float32),
            )
        return annotations
