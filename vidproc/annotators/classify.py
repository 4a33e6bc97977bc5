"""Classification of samples: what `actions`, `objects`, `scenes` and `sounds` share. `forward.py` has the device's
side."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vidproc.annotators.base import Annotation, Network, OfSegments
from vidproc.annotators.rows import model_id, no_rows, repeated, rows_of
from vidproc.annotators.spans import BEGIN, KEEP, noted, runs, spans
from vidproc.annotators.votes import BEST, Said, Tallies, said_by
from vidproc.errors import UsageError, WeightsError
from vidproc.media.samples import Samples
from vidproc.models.restorer import Restorer
from vidproc.models.taxonomy import Lineage, Taxonomy, lineage
from vidproc.models.weights import Weights, resolve_weights
from vidproc.schema import LABELS, LEDGER
from vidproc.views import Audio, Clips, Frames, View, view_to_json

Scores = npt.NDArray[np.float32]
Times = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Classifier(OfSegments):
    """A network that scores every sample of one view. Holding it costs no torch; it travels to the device's process.

    `top_k`, `floor`: at most so many labels a sample, each with at least this score, or with what the weights'
    thresholds ask of its category. `begin`: the score at which a span of a label without a threshold begins.
    `batch`: samples per forward pass; None takes 8 on a CPU, where more only leaves the caches, and 64 on a GPU.
    `restorer`: takes the noise out of every frame before the network sees it; None leaves frames as they are.
    """

    name: ClassVar[str]
    default_weights: ClassVar[str] = ""
    """ "" where weights have to be named; `suggestion` then says which there are."""
    suggestion: ClassVar[str] = ""
    task: ClassVar[str]
    kind: ClassVar[type[Clips] | type[Frames] | type[Audio]]
    version: ClassVar[int] = 2
    """Counts changes of this code that change scores: a part of `model_id`."""
    reads: ClassVar[tuple[str, ...]] = (LEDGER.name,)

    weights: Weights = field(repr=False)
    top_k: int = 5
    floor: float = 0.05
    begin: float = BEGIN
    batch: int | None = None
    restorer: Restorer | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        shares = 0 <= self.floor <= 1 and 0 < self.begin <= 1
        if self.top_k < 1 or not shares or (self.batch is not None and self.batch < 1):
            raise UsageError(f"{self.name}: top_k and batch must be at least 1, floor in 0..1, begin above 0")

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

    def with_taxonomy(self, taxonomy: Taxonomy) -> Self:
        """The same with another taxonomy in its weights. Raises `WeightsError` where that does not fit them."""
        try:
            lineage(taxonomy, self.weights.categories)
        except ValueError as error:
            raise WeightsError(f"{self.name}: the taxonomy does not fit {self.weights.url}: {error}") from error
        return replace(self, weights=replace(self.weights, taxonomy=taxonomy))

    @cached_property
    def lineage(self) -> Lineage:
        """The labels: the weights' categories, and what the taxonomy puts above them."""
        return lineage(self.weights.taxonomy, self.weights.categories)

    @property
    def floors(self) -> Scores:
        """The least score at which each label is said: float32 [labels]; infinite where it never is."""
        return self._thresholds(self.floor)

    def _thresholds(self, otherwise: float) -> Scores:
        if not self.weights.thresholds:
            return np.full(len(self.lineage.labels), otherwise, np.float32)
        own = np.array([np.inf if one is None else one for one in self.weights.thresholds], np.float32)
        return self.lineage.least(own)

    @property
    def tallies(self) -> Tallies:
        return Tallies(labels=len(self.lineage.labels), several=self.weights.multi_label)

    @property
    def particulars(self) -> Mapping[str, Any]:
        """What else changes the rows of this kind of classifier: a part of `model_id`."""
        return {}

    @property
    def model_id(self) -> str:
        calibrated = self.weights.temperature != 1 or self.weights.thresholds
        calibration = {"calibration": [self.weights.temperature, self.weights.thresholds]} if calibrated else {}
        taxonomy = {} if self.weights.taxonomy is None else {"taxonomy": asdict(self.weights.taxonomy)["parents"]}
        restored = {} if self.restorer is None else {"restorer": self.restorer.sha256}
        return model_id(
            self.weights.architecture,
            weights=self.weights.sha256,
            views=[view_to_json(view) for view in self.views],
            version=self.version,
            settings=[self.top_k, self.floor, self.weights.multi_label, self.weights.mean, self.weights.std],
            whole=[self.begin, KEEP, BEST],
            options=[self.weights.options, self.weights.layout, self.weights.categories],
            **calibration,
            **taxonomy,
            **restored,
            **self.particulars,
        )

    def joined_tally(self, tallies: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return self.tallies.joined(tallies)

    def mean_scores(self, tally: npt.NDArray[np.float64], samples: int) -> Scores:
        return self.tallies.means(tally, samples)

    def label_rows(self, mean_scores: Scores) -> pa.Table:
        """Columns task, label, label_id, score, rank: the best labels of a whole video's mean scores."""
        return pa.table(self.best(mean_scores[None]).labels(self.task, self.lineage.labels))

    def over_video(self, rows: Mapping[str, pa.Table], facts: Mapping[str, Any]) -> Mapping[str, pa.Table]:  # noqa: ARG002
        """From when to when each label holds."""
        return {LABELS.name: spans(rows[LEDGER.name], task=self.task, labels=self.lineage.labels)}

    def load(self, device: str, *, compiled: bool = False) -> Network:
        """The network on `device`. Raises `WeightsError`."""
        from vidproc.annotators.forward import load_scoring_network

        scoring = load_scoring_network(
            self.weights, device=device, batch=self.batch, restorer=self.restorer, compiled=compiled
        )
        return ClassifierNetwork(self, scoring)

    def annotation(self, of_categories: Scores, start_us: Times, end_us: Times, said: Said) -> Annotation:
        """What is said of one segment's scores [samples, categories], at these times [samples]."""
        scores = self.lineage.scores(of_categories, exclusive=not self.weights.multi_label)
        found = runs(
            scores, start_us, end_us, begin=self._thresholds(self.begin), said=said, ranked=self.lineage.categories
        )
        known = said.known
        return Annotation(
            rows={LABELS.name: self.rows(scores[known], start_us[known], end_us[known])},
            samples=int(known.sum()),
            tally=self.tallies.of(scores[known], said.votes[known]),
            notes=noted(found),
        )

    def best(self, scores: Scores) -> "TopLabels":
        """The best labels of each row of scores [samples, labels], and all parents that are no categories, unranked.

        Those are said where they reach the floor of something below them, and so at least where that is said.
        """
        ranked = self.lineage.categories
        own = top_labels(scores[:, :ranked], top_k=self.top_k, floors=self.floors[:ranked], order=self.lineage.order)
        return own.with_parents(scores[:, ranked:], floors=self.floors[ranked:], first_id=ranked)

    def rows(self, scores: Scores, start_us: Times, end_us: Times) -> pa.Table:
        """Rows of the `labels` table (less the common columns) for scores [samples, labels]."""
        columns = self.best(scores)
        times = {"start_us": start_us[columns.sample], "end_us": end_us[columns.sample]}
        scope = {"scope": repeated("sample", len(columns.sample))}
        return rows_of(LABELS, {**times, **scope, **columns.labels(self.task, self.lineage.labels)})


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
    """Columns of equal length, by sample, then by rank from 1; at the end of each sample's those without a rank, 0."""

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

    def with_parents(self, scores: Scores, *, floors: Scores, first_id: int) -> "TopLabels":
        """The same with those of more scores [samples, parents] that reach their floors."""
        sample, parent = np.nonzero(scores >= floors)
        if not len(sample):
            return self
        columns = {
            "sample": np.concatenate([self.sample, sample]),
            "label_id": np.concatenate([self.label_id, (parent + first_id).astype(np.int32)]),
            "score": np.concatenate([self.score, scores[sample, parent]]),
            "rank": np.concatenate([self.rank, np.zeros(len(sample), np.int32)]),
        }
        order = np.argsort(columns["sample"], kind="stable")
        return TopLabels(**{name: column[order] for name, column in columns.items()})


def top_labels(scores: Scores, *, top_k: int, floors: Scores | float, order: Any = None) -> TopLabels:
    """The best labels of each row of scores [samples, labels].

    `floors`: the least score at which a label is said, of each label or of all. `order`: the label_ids in the order in
    which those of equal scores come; None: the lower first.
    """
    said = np.where(scores >= floors, scores, -np.inf)
    order = np.arange(scores.shape[1]) if order is None else order
    order = order[np.argsort(-said[:, order], axis=1, kind="stable")[:, :top_k]]
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
            samples = segments[i][view]
            said = said_by(samples)
            annotations[i] = self.classifier.annotation(scores, samples.start_us, samples.end_us, said)
        return annotations
