"""What is to be heard: a residual audio network on windows of sound fills `labels` with task "audio".

A row speaks for one step of the grid, the window around it is what the network heard: `media/windows.py` has the
geometry. Steps that are silent are never labelled as something: they get no row, or "silence" from a network that knows
that label, and take no part in the means over the whole video otherwise.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from vidproc.annotators.base import Annotation, Network
from vidproc.annotators.classify import Classifier, Scorer, Scores
from vidproc.annotators.rows import no_rows
from vidproc.annotators.votes import Said
from vidproc.errors import NotFinite, UsageError, WeightsError
from vidproc.media.samples import Samples
from vidproc.media.windows import LEAST_STRIDE_US, Windows, piece_length, pieces, windows
from vidproc.models.restorer import Restorer
from vidproc.models.spectrum import Listening
from vidproc.schema import LABELS
from vidproc.views import MICROSECONDS, Audio, View

SILENCE = "silence"


@dataclass(frozen=True, kw_only=True)
class Sounds(Classifier):
    """`stride_s`: seconds from one step of the grid to the next; None keeps what the weights' `listening` says.

    `silent_db`: steps that are less loud are not heard, in decibels below full scale.
    """

    name: ClassVar[str] = "sounds"
    suggestion: ClassVar[str] = (
        "sounds=panns:resnet38 (527 labels of AudioSet, licence CC-BY-4.0, fetched from Zenodo) or sounds=URL of a "
        "checkpoint with a sidecar beside it, as jobs/train.py leaves them"
    )
    task: ClassVar[str] = "audio"
    kind: ClassVar[type[Audio]] = Audio

    stride_s: float | None = None
    silent_db: float = -60.0

    def __post_init__(self) -> None:
        super().__post_init__()
        listening = self.weights.listening
        if listening is None:
            raise WeightsError(
                f"weights {self.weights.url} do not say what they hear at once: their sidecar needs `listening` with "
                "seconds, stride_s and spectrum"
            )
        if self.stride_us < LEAST_STRIDE_US:
            raise UsageError(f"{self.name}: stride_s must be at least {LEAST_STRIDE_US / MICROSECONDS}")

    @classmethod
    def from_spec(
        cls,
        weights: str | None = None,
        *,
        allow_licences: Sequence[str] = (),
        restorer: Restorer | None = None,  # noqa: ARG003  it takes noise out of frames
    ) -> Self:
        """As every classifier, but for the restorer."""
        return super().from_spec(weights, allow_licences=allow_licences)

    @property
    def view(self) -> Audio:
        view = self.weights.view
        assert isinstance(view, Audio)  # checked when made
        return view

    @property
    def listening(self) -> Listening:
        assert self.weights.listening is not None  # checked when made
        return self.weights.listening

    @property
    def stride_us(self) -> int:
        return round(MICROSECONDS * (self.listening.stride_s if self.stride_s is None else self.stride_s))

    @property
    def particulars(self) -> Mapping[str, Any]:
        return {"listening": asdict(self.listening), "grid": [self.stride_us, self.silent_db]}

    @property
    def silence(self) -> int | None:
        """The label_id of silence, where the network knows it."""
        names = [name.casefold() for name in self.weights.categories]
        return names.index(SILENCE) if SILENCE in names else None

    def load(self, device: str, *, compiled: bool = False) -> Network:
        """The network on `device`, tried on a window of silence. Raises `WeightsError`."""
        import torch

        from vidproc.annotators.forward import load_scoring_network

        scorer = load_scoring_network(self.weights, device=device, batch=self.batch, compiled=compiled)
        length = piece_length(self.view, self.listening.sound_us)
        try:
            with suppress(NotFinite):  # that costs the segments that it happens to
                scorer.scores([np.zeros((1, length, self.view.channels), np.int16)])
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise WeightsError(
                f"weights {self.weights.url} do not fit their `listening`: {self.weights.architecture} cannot score "
                f"{self.listening.seconds:g} s as {self.listening.spectrum}: {error}"
            ) from error
        return SoundsNetwork(self, scorer)


class SoundsNetwork:
    """`Sounds` with its network on a device."""

    def __init__(self, sounds: Sounds, scorer: Scorer) -> None:
        self.sounds = sounds
        self.scorer = scorer

    def annotate(self, segments: Sequence[Mapping[View, Samples]]) -> list[Annotation]:
        """One annotation per segment, in order. Raises `NotFinite` rather than hand on a score that is no number."""
        view = self.sounds.view
        cut = [self._cut(segment[view]) if view in segment and len(segment[view]) else None for segment in segments]
        scores = self.scorer.scores([piece[None] for one in cut if one is not None for piece in one.pieces])
        annotations, at = [], 0
        for one in cut:
            count = 0 if one is None else len(one.pieces)
            annotations.append(self._annotation(one, scores[at : at + count]))
            at += count
        return annotations

    def _cut(self, sound: Samples) -> "_Cut":
        """The windows around the steps that are heard."""
        sounds, view = self.sounds, self.sounds.view
        length_us = sounds.listening.sound_us
        found = windows(sound, view, length_us=length_us, stride_us=sounds.stride_us)
        heard = found.level_db >= sounds.silent_db
        needed, window = np.unique(found.window[heard], return_inverse=True)
        offsets_us = found.offsets_us[needed].tolist()
        return _Cut(found, heard, window, pieces(sound.data, view, offsets_us=offsets_us, length_us=length_us))

    def _annotation(self, cut: "_Cut | None", scores: Sequence[Scores]) -> Annotation:
        """Scores of the steps that are heard, and silence where that can be said."""
        silence = self.sounds.silence
        if cut is None or not (cut.heard.any() or (silence is not None and len(cut.heard))):
            return Annotation(rows={LABELS.name: no_rows(LABELS)})
        of_steps = np.zeros((len(cut.heard), len(self.sounds.weights.categories)), np.float32)
        if scores:
            of_steps[cut.heard] = np.concatenate(scores)[cut.window]
        said = cut.heard.copy()
        if silence is not None:
            of_steps[~cut.heard, silence] = 1
            said[:] = True
        return self.sounds.annotation(of_steps, cut.found.start_us, cut.found.end_us, Said.where(said))


@dataclass(frozen=True, eq=False)
class _Cut:
    """One segment's windows. `heard`: bool [steps]; `pieces`: sound [time, channels] of each window that is needed;
    `window`: int64 [steps that are heard], which of these is each one's."""

    found: Windows
    heard: npt.NDArray[np.bool_]
    window: npt.NDArray[np.int64]
    pieces: Sequence[npt.NDArray[np.int16]]
