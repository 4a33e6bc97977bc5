"""What things are where: a detector on single frames fills `detections`; followed over the whole video, `tracks`.

A track ends where a shot does. So shots are looked for here too, as `shots` does it, whether that is run or not: what
tracks there are must not depend on who else looked at the video, and when.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import TypeAdapter

from vidproc.annotators.base import Annotation, Network, OfSegments
from vidproc.annotators.rows import model_id, no_rows, rows_of
from vidproc.annotators.shots import Shots, joined, provisional
from vidproc.annotators.tracking import Following, tracks
from vidproc.errors import UsageError
from vidproc.media.geometry import Place, place
from vidproc.media.samples import Samples
from vidproc.models.detection_spec import DetectionSpec
from vidproc.models.detector import Detector, PublishedDetector, resolve_detector
from vidproc.models.restorer import Restorer
from vidproc.schema import DETECTIONS, LEDGER, TRACKS
from vidproc.views import Frames, View, view_to_json

_LEAST_SIDE = 1.0
"""Pixels of the sample: what is thinner, once cut to the picture, is no box."""

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Detections(OfSegments):
    """A detector, and what is said of what it finds. Holding it costs no torch; it travels to the device's process.

    `fps`: frames looked at in a second; None keeps what the weights' view says.
    `floor`, `most`: at most so many boxes a frame, each with at least this score.
    `batch`: frames per forward pass; None takes 1 on a CPU, where scores then do not depend on who shares a batch, and
    8 on a GPU. `restorer`: takes the noise out of every frame before the network sees it.
    """

    name: ClassVar[str] = "detections"
    default_weights: ClassVar[str] = "FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1"
    version: ClassVar[int] = 2
    tables: ClassVar[tuple[str, ...]] = (DETECTIONS.name,)
    reads: ClassVar[tuple[str, ...]] = (DETECTIONS.name, LEDGER.name)

    weights: Detector | PublishedDetector = field(repr=False)
    fps: float | None = None
    floor: float = 0.3
    most: int = 50
    following: Following = field(default_factory=Following)
    batch: int | None = None
    restorer: Restorer | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.most < 1 or not 0 <= self.floor <= 1 or (self.batch is not None and self.batch < 1):
            raise UsageError(f"{self.name}: most and batch must be at least 1, floor in 0..1")

    @classmethod
    def from_spec(
        cls, weights: str | None = None, *, allow_licences: Sequence[str] = (), restorer: Restorer | None = None
    ) -> Self:
        """The annotator with the detector of that name; "demo" means this package's own. Raises `WeightsError`."""
        detector = resolve_detector(weights or cls.default_weights, allow_licences=allow_licences)
        return cls(weights=detector, restorer=restorer)

    @property
    def view(self) -> Frames:
        return self.weights.view if self.fps is None else replace(self.weights.view, fps=self.fps)

    @property
    def views(self) -> tuple[View, ...]:
        return (self.view, Shots.clips)

    @property
    def model_id(self) -> str:
        found = self.weights
        network: Any = list(found.outputs) if isinstance(found, PublishedDetector) else _as_json(found.detection)
        return model_id(
            found.architecture,
            weights=found.sha256,
            views=[view_to_json(view) for view in self.views],
            version=[self.version, Shots.version],
            network=network,
            settings=[self.floor, self.most, found.mean, found.std, found.categories],
            following=asdict(self.following),
            restorer=None if self.restorer is None else self.restorer.sha256,
        )

    def load(self, device: str, *, compiled: bool = False) -> Network:  # noqa: ARG002  as many boxes as there are
        """The network on `device`. Raises `WeightsError`."""
        from vidproc.annotators.detecting import load_finder

        return DetectionNetwork(
            self, load_finder(self.weights, device=device, batch=self.batch, restorer=self.restorer)
        )

    def over_video(self, rows: Mapping[str, pa.Table], facts: Mapping[str, Any]) -> Mapping[str, pa.Table]:
        """The tracks that the video's detections make: see `tracking.tracks`."""
        start_us, end_us = int(facts["start_us"]), int(facts["end_us"])
        notes = [json.loads(note) for note in rows[LEDGER.name]["notes"].to_pylist() if note is not None]
        marks = joined([mark for marks in notes for mark in marks], start_us=start_us, end_us=end_us)
        found = tracks(
            rows[DETECTIONS.name],
            self.following,
            stride_us=self.view.stride_us,
            end_us=end_us,
            cuts_us=[mark["start_us"] for mark in marks],
        )
        return {TRACKS.name: found}

    def rows(self, found: Array, samples: Samples) -> pa.Table:
        """Rows of `detections`, less the common columns, by time, then the best score first.

        `found`: float32 [samples, boxes, 6]: x1, y1, x2, y2 in 0..1 of the sample, score (below 0: no box), category.
        """
        height, width = samples.data.shape[1:3]
        picture = self.view.picture
        where = place(picture, samples.shown) if samples.shown else Place(0, 0, width, height)
        pixels = found[..., :4].astype(np.float64) * ([width, height] * 2)
        boxes, kept = _in_picture(pixels, where, (width, height))
        scores = np.where(kept & (found[..., 4] >= self.floor), found[..., 4], -np.inf)
        order = np.argsort(-scores, axis=1, kind="stable")[:, : self.most]
        scores = np.take_along_axis(scores, order, axis=1)
        sample, number = np.nonzero(np.isfinite(scores))
        chosen = order[sample, number]
        time_us, label_id = samples.start_us[sample], found[sample, chosen, 5].astype(np.int32)
        columns = {
            "time_us": time_us,
            "detection_id": [f"{time}-{i}" for time, i in zip(time_us.tolist(), number.tolist(), strict=True)],
            "label": pa.array(self.weights.categories, pa.string()).take(pa.array(label_id)),
            "label_id": label_id,
            "score": scores[sample, number].astype(np.float32),
            **{name: boxes[sample, chosen, i] for i, name in enumerate(("x1", "y1", "x2", "y2"))},
        }
        return rows_of(DETECTIONS, columns)


def _in_picture(
    boxes: npt.NDArray[np.float64], where: Place, sample: tuple[int, int]
) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Boxes in pixels of the sample → as shares of the picture, cut to what is seen of it; and whether any is left.

    A detector may see things in a letterbox's grey.
    """
    seen = where.seen(sample)
    cut = np.clip(where.shares(boxes), np.tile(seen[:2], 2), np.tile(seen[2:], 2))
    sides = (cut[..., 2:] - cut[..., :2]) * [where.width, where.height]
    shares = cut.astype(np.float32)
    return shares, np.all((sides >= _LEAST_SIDE) & (shares[..., 2:] > shares[..., :2]), axis=-1)


def _as_json(spec: DetectionSpec) -> Any:
    return TypeAdapter(DetectionSpec).dump_python(spec, mode="json")


class Finder(Protocol):
    """What turns samples into boxes: `detecting.BoxNetwork` on a device, or a fake in a test."""

    def boxes(self, data: Sequence[npt.NDArray[np.uint8]]) -> list[Array]:
        """One array [samples, boxes, 6], as `Detections.rows` takes it, per array of samples."""


class DetectionNetwork:
    """`Detections` with its network on a device."""

    def __init__(self, annotator: Detections, finder: Finder) -> None:
        self.annotator = annotator
        self.finder = finder

    def annotate(self, segments: Sequence[Mapping[View, Samples]]) -> list[Annotation]:
        """One annotation per segment, in order. Raises `NotFinite` rather than leave out boxes that are no numbers."""
        view = self.annotator.view
        present = [i for i, segment in enumerate(segments) if view in segment and len(segment[view])]
        found = self.finder.boxes([segments[i][view].data for i in present])
        annotations = [
            Annotation(rows={DETECTIONS.name: no_rows(DETECTIONS)}, notes=_cuts(segment.get(Shots.clips)))
            for segment in segments
        ]
        for i, boxes in zip(present, found, strict=True):
            samples = segments[i][view]
            rows = {DETECTIONS.name: self.annotator.rows(boxes, samples)}
            annotations[i] = replace(annotations[i], rows=rows, samples=len(samples))
        return annotations


def _cuts(clips: Samples | None) -> list[dict[str, Any]] | None:
    return provisional(clips, between=True) if clips is not None and len(clips) else None
