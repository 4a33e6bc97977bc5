"""How good the signal is: picture and sound measured per stretch of two seconds, without a network, into `quality`.

All picture measures are of luma in 0..1 on frames scaled to 180×320, so they compare across resolutions; fine noise
and blur of a large original are lost in the scaling. `blockiness` is null: the 8×8 grid does not survive the scaling
either, and a number that looks like one would mislead.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vidproc.annotators.base import Annotation, Network, WithoutWeights
from vidproc.annotators.rows import no_rows, rows_of
from vidproc.media.samples import Samples
from vidproc.schema import QUALITY
from vidproc.views import Audio, Frames, Picture, View

if TYPE_CHECKING:
    from vidproc.annotators.signals import FrameMeasures

STRETCH_US = 2_000_000
DARK = 26
"""Luma below a tenth of white, of 0..255."""
BLACK_SHARE = 0.98
"""A frame is black when at least this share of its pixels is darker than a tenth of white: FFmpeg's blackdetect."""
FROZEN_DIFFERENCE = 0.001
"""Two frames are the same when their mean absolute difference is at most this: FFmpeg's freezedetect (-60 dB)."""
SILENT_LUFS = -60.0
"""A stretch that is less loud is silent: the noise of a quiet room, recorded, is some 10 dB above."""
_LEAST_SOUND_S = 0.1
"""Of shorter sound the loudness is not said."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Quality(WithoutWeights):
    """The signal measures: no weights, no labels."""

    name: ClassVar[str] = "quality"
    version: ClassVar[int] = 1
    frames: ClassVar[Frames] = Frames(fps=4, picture=Picture(resize=(180, 320), colour="gray"))
    audio: ClassVar[Audio] = Audio(rate=48_000, channels=2)
    views: ClassVar[tuple[View, ...]] = (frames, audio)
    tables: ClassVar[tuple[str, ...]] = (QUALITY.name,)

    def load(self, device: str, *, compiled: bool = False) -> Network:  # noqa: ARG002  there is nothing to compile
        return QualityNetwork(device)


class QualityNetwork:
    """The measures on a device."""

    def __init__(self, device: str) -> None:
        self.device = device

    def annotate(self, segments: Sequence[Mapping[View, Samples]]) -> list[Annotation]:
        """One row per stretch that has picture or sound; what a stretch lacks is null."""
        return [self._annotate(s.get(Quality.frames), s.get(Quality.audio)) for s in segments]

    def _annotate(self, frames: Samples | None, audio: Samples | None) -> Annotation:
        from vidproc.annotators.signals import frame_measures, k_weighted_power

        frames = frames if frames is not None and len(frames) else None
        audio = audio if audio is not None and audio.data.size else None
        present = [samples for samples in (frames, audio) if samples is not None]
        if not present:
            return Annotation(rows={QUALITY.name: no_rows(QUALITY)})
        origin = int(present[0].start_us[0])
        end = max(int(samples.end_us[-1]) for samples in present)
        starts = np.arange(origin, max(end, origin + 1), STRETCH_US)
        columns: dict[str, Any] = dict.fromkeys(QUALITY.body.names, pa.nulls(len(starts)))
        columns |= {"start_us": starts, "end_us": np.minimum(starts + STRETCH_US, max(end, origin + 1))}
        if frames is not None:
            measures = frame_measures(frames.data[..., 0], device=self.device)
            columns |= picture_columns(measures, (frames.start_us - origin) // STRETCH_US, stretches=len(starts))
        if audio is not None:
            power = k_weighted_power(audio.data, device=self.device)
            columns |= sound_columns(power, offset_us=int(audio.start_us[0]) - origin, stretches=len(starts))
        return Annotation(rows={QUALITY.name: rows_of(QUALITY, columns)}, samples=len(starts))


def picture_columns(
    measures: "FrameMeasures", stretch: npt.NDArray[np.int64], *, stretches: int
) -> dict[str, pa.Array]:
    """Means over each stretch's frames; black if all are; frozen if none differs from the stretch's frame before."""
    count = np.bincount(stretch, minlength=stretches)

    def mean(values: Floats) -> pa.Array:
        known = np.isfinite(values)
        counts = np.bincount(stretch[known], minlength=stretches)
        sums = np.bincount(stretch[known], weights=values[known], minlength=stretches)
        return _nullable(sums / np.maximum(counts, 1), counts > 0, pa.float32())

    follows = np.concatenate([[False], stretch[1:] == stretch[:-1]])
    moves = np.bincount(stretch[follows & (measures.change > FROZEN_DIFFERENCE)], minlength=stretches)
    bright = np.bincount(stretch[measures.dark < BLACK_SHARE], minlength=stretches)
    return {
        "brightness": mean(measures.brightness),
        "contrast": mean(measures.contrast),
        "sharpness": mean(measures.sharpness),
        "noise": mean(measures.noise),
        "motion": mean(measures.change),
        "black": _nullable(bright == 0, count > 0, pa.bool_()),
        "frozen": _nullable(moves == 0, count > 1, pa.bool_()),
    }


def sound_columns(power: Floats, *, offset_us: int, stretches: int) -> dict[str, pa.Array]:
    """Ungated loudness of each stretch. `offset_us`: when the sound starts, after the first stretch's start."""
    from vidproc.annotators.signals import lufs

    rate = Quality.audio.rate
    borders = (np.arange(stretches + 1) * STRETCH_US - offset_us) * rate // 1_000_000
    borders = np.clip(borders, 0, len(power))
    counts = np.diff(borders)
    sums = np.diff(np.concatenate([[0.0], np.cumsum(power)])[borders])
    loudness = lufs(sums / np.maximum(counts, 1))
    known = counts >= _LEAST_SOUND_S * rate
    return {
        "loudness_lufs": _nullable(loudness, known, pa.float32()),
        "silent": _nullable(loudness < SILENT_LUFS, known, pa.bool_()),
    }


def _nullable(values: npt.NDArray[Any], known: npt.NDArray[np.bool_], kind: pa.DataType) -> pa.Array:
    return pa.array(values, kind, mask=~known)
