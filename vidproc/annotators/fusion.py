"""What happens, by picture and sound together: embeddings of both through a small residual network into `labels` with
task "event". A row speaks for a clip (or frame), judged with the sound around its middle.

Where a video has no sound, or none but digital silence around a clip, the picture alone is judged, and where it has no
picture, what is heard, on a grid of its own: no row is lost, and scores are as sure as half the evidence allows.

Weights that were trained with it also take how much text is shown, of subtitles and never of chapters. In a video that
has a stream of them, no text now is a fact; in one that has none, nothing is known. Text alone makes no row. A segment
owns the lines that start in it: what is still on from the segment before is not seen, nor, by a clip that reaches over
the segment's end, what starts behind that. Training reads text by the same segments.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vidproc.annotators.base import Annotation, Network, OfSegments
from vidproc.annotators.classify import top_labels
from vidproc.annotators.rows import model_id, no_rows, repeated, rows_of
from vidproc.annotators.spans import BEGIN, KEEP, noted, runs, spans
from vidproc.annotators.votes import Said
from vidproc.errors import TooLarge, UsageError
from vidproc.media.samples import CHAPTER, Samples
from vidproc.media.windows import pieces, windows
from vidproc.models.fuser import TEXT_MEASURES, FusionWeights, resolve_fusion
from vidproc.models.restorer import Restorer
from vidproc.models.spectrum import Listening
from vidproc.models.weights import Weights
from vidproc.schema import LABELS, LEDGER
from vidproc.views import MICROSECONDS, Audio, Text, View, view_to_json

Scores = npt.NDArray[np.float32]
Times = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Fusion(OfSegments):
    """`picture`, `sound`: the networks whose embeddings are fused. `top_k`, `floor`, `batch`: as of a `Classifier`."""

    name: ClassVar[str] = "fusion"
    task: ClassVar[str] = "event"
    version: ClassVar[int] = 2
    reads: ClassVar[tuple[str, ...]] = (LEDGER.name,)

    weights: FusionWeights = field(repr=False)
    picture: Weights = field(repr=False)
    sound: Weights = field(repr=False)
    top_k: int = 5
    floor: float = 0.05
    batch: int | None = None
    restorer: Restorer | None = field(default=None, repr=False)

    @classmethod
    def from_spec(
        cls, weights: str | None = None, *, allow_licences: Sequence[str] = (), restorer: Restorer | None = None
    ) -> Self:
        """The annotator with the weights at that URL. Raises `UsageError` where none are named, or `WeightsError`."""
        if weights is None:
            raise UsageError(
                "fusion has no weights of its own: train some with python -m vidproc.train.fusion, and give "
                "--weights fusion=URL of what it left"
            )
        fused, picture, sound = resolve_fusion(weights, allow_licences=allow_licences)
        return cls(weights=fused, picture=picture, sound=sound, restorer=restorer)

    @property
    def views(self) -> tuple[View, ...]:
        signals = (self.picture.view, self.sound.view)
        return (*signals, Text()) if self.weights.fusion.text else signals

    @property
    def tables(self) -> tuple[str, ...]:
        return (LABELS.name,)

    @property
    def model_id(self) -> str:
        return model_id(
            "fusion",
            weights=[self.weights.sha256, self.picture.sha256, self.sound.sha256],
            views=[view_to_json(view) for view in self.views],
            version=self.version,
            settings=[self.top_k, self.floor, self.weights.categories, sorted(self.weights.temperatures.items())],
            whole=[BEGIN, KEEP],
            restorer=None if self.restorer is None else self.restorer.sha256,
        )

    def label_rows(self, mean_scores: Scores) -> pa.Table:
        """Columns task, label, label_id, score, rank: the best labels of a whole video's mean scores."""
        best = top_labels(mean_scores[None], top_k=self.top_k, floors=self.floor)
        return pa.table(best.labels(self.task, self.weights.categories))

    def over_video(self, rows: Mapping[str, pa.Table], facts: Mapping[str, Any]) -> Mapping[str, pa.Table]:  # noqa: ARG002
        """From when to when each label holds."""
        return {LABELS.name: spans(rows[LEDGER.name], task=self.task, labels=self.weights.categories)}

    def rows(self, scores: Scores, start_us: Times, end_us: Times) -> pa.Table:
        """Rows of the `labels` table (less the common columns) for scores [moments, labels]."""
        best = top_labels(scores, top_k=self.top_k, floors=self.floor)
        times = {"start_us": start_us[best.sample], "end_us": end_us[best.sample]}
        scope = {"scope": repeated("sample", len(best.sample))}
        return rows_of(LABELS, {**times, **scope, **best.labels(self.task, self.weights.categories)})

    def load(self, device: str, *, compiled: bool = False) -> Network:
        """The three networks on `device`. Raises `WeightsError`."""
        from vidproc.annotators.fused import load_fused

        return FusionAnnotator(self, load_fused(self, device, compiled=compiled))


@dataclass(frozen=True, eq=False)
class Moments:
    """What is judged of one segment, or of one example. `start_us`, `end_us`: int64 [moments].

    `pictures`: one sample a moment, None where there is no picture. `sounds`: int16 [time, channels] of each moment;
    () where there is no sound. `text`: see `text_of`; None where the video has no stream of it.
    """

    start_us: Times
    end_us: Times
    pictures: npt.NDArray[np.uint8] | None
    sounds: Sequence[npt.NDArray[np.int16]]
    text: Scores | None = None

    @property
    def heard(self) -> npt.NDArray[np.bool_]:
        """Which moments have sound: more than digital silence, which is what gaps are filled with."""
        if not self.sounds:
            return np.zeros(len(self.start_us), bool)
        return np.array([piece.any() for piece in self.sounds], bool)


def sound_starts(start_us: Times, end_us: Times, *, first_us: int, last_us: int, length_us: int) -> Times:
    """When the sound around each moment's middle starts, moved just so far that it lies in first_us..last_us."""
    return ((start_us + end_us - length_us) // 2).clip(first_us, max(first_us, last_us - length_us))


def moments(picture: Samples | None, sound: Samples | None, view: Audio, listening: Listening) -> Moments | None:
    """The moments of one segment: its clips, else the steps of its sound that are heard; None if there is neither."""
    heard = sound is not None and len(sound) > 0 and sound.data.size > 0
    length_us = listening.sound_us
    if picture is not None and len(picture):
        if not heard:
            return Moments(picture.start_us, picture.end_us, picture.data, ())
        assert sound is not None
        first_us, last_us = int(sound.start_us[0]), int(sound.end_us[0])
        at = sound_starts(picture.start_us, picture.end_us, first_us=first_us, last_us=last_us, length_us=length_us)
        around = pieces(sound.data, view, offsets_us=(at - first_us).tolist(), length_us=length_us)
        return Moments(picture.start_us, picture.end_us, picture.data, around)
    if not heard:
        return None
    assert sound is not None
    found = windows(sound, view, length_us=length_us, stride_us=round(listening.stride_s * MICROSECONDS))
    around = pieces(sound.data, view, offsets_us=found.offsets_us[found.window].tolist(), length_us=length_us)
    some = [i for i, piece in enumerate(around) if piece.any()]
    if not some:
        return None
    return Moments(found.start_us[some], found.end_us[some], None, [around[i] for i in some])


def text_of(text: Samples | None, start_us: Times, end_us: Times) -> Scores | None:
    """How much is written around each moment, by the text of the segment that these start in: float32 [moments, 4].

    `TEXT_MEASURES`: 1 if text is shown in the moment's middle; share of the moment in which it is; ln(1 + characters a
    second over the moment), each line's spread evenly over its time; ln(1 + lines in the middle). All are 0 where none
    is shown. Of several streams, in several languages, the most. None if the video has no stream of text.
    """
    if text is None or not (text.subtitled or (text.data["stream"] != CHAPTER).any()):
        return None
    found = np.zeros((len(start_us), len(TEXT_MEASURES)))
    of = text.data["stream"]
    for stream in np.unique(of[of != CHAPTER]).tolist():
        mine = of == stream
        on = _Shown(text.start_us[mine], text.end_us[mine], text.data["text"][mine].tolist())
        found = np.maximum(found, on.measures(start_us, end_us))
    return found.astype(np.float32)


class _Shown:
    """One stream's text as steps over time: what holds from each of `borders` to the next."""

    def __init__(self, start_us: Times, end_us: Times, texts: Sequence[str]) -> None:
        self.borders, place = np.unique(np.concatenate([start_us, end_us]), return_inverse=True)
        self._first, self._last = np.split(place, 2)
        self.lines = self._steps(np.array([text.count("\n") + 1 for text in texts], np.float64))
        characters = np.array([len(text) for text in texts], np.float64)
        self.pace = self._steps(characters * MICROSECONDS / (end_us - start_us))

    def measures(self, start_us: Times, end_us: Times) -> npt.NDArray[np.float64]:
        middle = np.searchsorted(self.borders, (start_us + end_us) // 2, side="right") - 1
        lines = np.where(middle < 0, 0, self.lines[middle])
        covered = self._mean(self.lines > 0, start_us, end_us)
        pace = self._mean(self.pace, start_us, end_us)
        return np.stack([lines > 0, covered, np.log1p(pace), np.log1p(lines)], axis=1)

    def _steps(self, amount: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        changes = np.zeros(len(self.borders))
        np.add.at(changes, self._first, amount)
        np.add.at(changes, self._last, -amount)
        return np.cumsum(changes)

    def _mean(self, steps: npt.NDArray[Any], start_us: Times, end_us: Times) -> npt.NDArray[np.float64]:
        """Over each moment; before and after all borders there is nothing."""
        so_far = np.concatenate([[0.0], np.cumsum(steps[:-1] * np.diff(self.borders))])
        until_end, until_start = (np.interp(times, self.borders, so_far) for times in (end_us, start_us))
        mean: npt.NDArray[np.float64] = ((until_end - until_start) / np.maximum(end_us - start_us, 1)).clip(0)
        return mean


class Judge(Protocol):
    """What turns moments into scores: `fused.Fused` on a device, or a fake in a test."""

    def scores(self, given: Sequence[Moments]) -> list[Scores]:
        """One array [moments, labels] for each."""


class FusionAnnotator:
    """`Fusion` with its networks on a device."""

    def __init__(self, fusion: Fusion, judge: Judge) -> None:
        self.fusion = fusion
        self.judge = judge

    def annotate(self, segments: Sequence[Mapping[View, Samples]]) -> list[Annotation]:
        """One annotation per segment, in order. Raises `NotFinite` rather than hand on a score that is no number."""
        found = [self._moments(segment) for segment in segments]
        scores: Iterator[Scores] = iter(self.judge.scores([one for one in found if one is not None]))
        made = [self._annotation(one, None if one is None else next(scores)) for one in found]
        return [
            one if text is None or text.whole else replace(one, reason=TooLarge.reason)
            for one, text in zip(made, map(self._text, segments), strict=True)
        ]

    def _text(self, segment: Mapping[View, Samples]) -> Samples | None:
        return segment.get(Text()) if self.fusion.weights.fusion.text else None

    def _moments(self, segment: Mapping[View, Samples]) -> Moments | None:
        sound = self.fusion.sound
        assert isinstance(sound.view, Audio) and sound.listening is not None  # checked when resolved
        given = moments(segment.get(self.fusion.picture.view), segment.get(sound.view), sound.view, sound.listening)
        if given is None:
            return None
        return replace(given, text=text_of(self._text(segment), given.start_us, given.end_us))

    def _annotation(self, given: Moments | None, scores: Any) -> Annotation:
        if given is None:
            return Annotation(rows={LABELS.name: no_rows(LABELS)})
        labels = len(self.fusion.weights.categories)
        found = runs(
            scores, given.start_us, given.end_us,
            begin=np.full(labels, BEGIN, np.float32), said=Said.where(np.ones(len(scores), bool)), ranked=labels,
        )  # fmt: skip
        return Annotation(
            rows={LABELS.name: self.fusion.rows(scores, given.start_us, given.end_us)},
            notes=noted(found),
            samples=len(scores),
            tally=scores.sum(axis=0, dtype=np.float64).astype(np.float32),
        )
