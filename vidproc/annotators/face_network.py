"""The device's side of `faces`: find, gate, align, embed. Imports torch."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vidproc.annotators.base import Annotation
from vidproc.annotators.rows import no_rows
from vidproc.annotators.upload import as_tensor
from vidproc.errors import NotFinite
from vidproc.media.geometry import Place, place
from vidproc.media.samples import Samples
from vidproc.models.alignment import similarity, template
from vidproc.models.embedding import Embeddings, sharpness
from vidproc.models.keypoints import KeypointFaces
from vidproc.models.mtcnn import FrameFaces, Mtcnn
from vidproc.models.recogniser import FaceDetector, FaceRecogniser, KeypointFaceDetector
from vidproc.schema import FACES
from vidproc.views import View

if TYPE_CHECKING:
    from vidproc.annotators.faces import Faces

_FRAMES_AT_ONCE = 8
_LEAST_AREA = 1e-9
"""Of a frame's pixel in the aligned face: points all at one place are brought nowhere."""
_GOOD_EYES_PX, _GOOD_SHARPNESS, _WORST_POSE = 24.0, 8.0, 0.3

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Found:
    """The faces of some frames, by frame, then the surest first.

    `sample`: number of the frame; `boxes` [faces, 4] and `points` [faces, 5, 2], shares of the displayed picture, which
    they may leave by a little; `scores`, `quality` [faces].
    `vectors`: [faces, size] of length 1; zeros where the quality is too low to say anything.
    """

    sample: npt.NDArray[np.int64]
    boxes: Floats
    points: Floats
    scores: Floats
    quality: Floats
    vectors: Floats

    def __len__(self) -> int:
        return len(self.sample)


class Detector(Protocol):
    """What finds faces and their five points on a device."""

    def find(self, frames: Tensor) -> list[FrameFaces]:
        """uint8 [frames, height, width, 3] → the faces of each, in its pixels. Raises `NotFinite`."""


DETECTORS: Mapping[type, Callable[[Any, str], Detector]] = {FaceDetector: Mtcnn, KeypointFaceDetector: KeypointFaces}
"""Kind of a recogniser's detector → what makes its networks on a device."""


class FaceFinder:
    """A recogniser's networks on a device: from frames to faces with embeddings, whoever they are."""

    def __init__(self, recogniser: FaceRecogniser, device: str) -> None:
        self.recogniser = recogniser
        self.detector = DETECTORS[type(recogniser.detector)](recogniser.detector, device)
        self.embeddings = Embeddings(recogniser.embedder, device)
        self._target = template(*self.embeddings.shape)

    def find(self, frames: npt.NDArray[np.uint8], *, shown: tuple[int, int] | None) -> Found:
        """Samples of the recogniser's view, at least one, uint8 [frames, height, width, 3] → their faces.

        `shown`: the displayed picture's size; None: it fills the samples. Raises `NotFinite`.
        """
        height, width = frames.shape[1:3]
        where = place(self.recogniser.view.picture, shown) if shown else Place(0, 0, width, height)
        pixels = as_tensor(frames[:, : where.top + where.height, : where.left + where.width])
        starts = range(0, len(pixels), _FRAMES_AT_ONCE)
        found = [self._find(pixels[start : start + _FRAMES_AT_ONCE], start) for start in starts]
        columns = {name: np.concatenate([getattr(one, name) for one in found]) for name in Found.__dataclass_fields__}
        corners = where.shares(np.tile(columns["points"].reshape(-1, 2), 2))[:, :2]
        boxes = where.shares(columns["boxes"]).astype(np.float32)
        return Found(**columns | {"boxes": boxes, "points": corners.reshape(-1, 5, 2).astype(np.float32)})

    def _find(self, pixels: Tensor, start: int) -> Found:
        per_frame = self.detector.find(pixels)
        cut, quality = zip(
            *(self._gated(frame, faces) for frame, faces in zip(pixels, per_frame, strict=True)), strict=True
        )
        qualities = np.concatenate(quality)
        fit = qualities >= self.recogniser.least_quality
        vectors = np.zeros((len(qualities), self.embeddings.size), np.float32)
        vectors[fit] = self.embeddings.vectors(torch.cat(cut)[torch.from_numpy(fit).to(self.embeddings.device)])
        if not np.isfinite(vectors).all():
            raise NotFinite("a face's embedding is no number: the embedder's weights are damaged, or do not fit")
        counts = [len(faces) for faces in per_frame]
        return Found(
            sample=start + np.repeat(np.arange(len(counts)), counts),
            boxes=np.concatenate([faces.boxes for faces in per_frame]),
            points=np.concatenate([faces.points for faces in per_frame]),
            scores=np.concatenate([faces.scores for faces in per_frame]),
            quality=qualities,
            vectors=vectors,
        )

    def _gated(self, frame: Tensor, faces: FrameFaces) -> tuple[Tensor, Floats]:
        """The aligned faces, and how much can be said of each: 0..1.

        The product of how large (distance of the eyes), how sharp (Laplacian) and how much from the front (how well
        the five points fit the template) a face is.
        """
        points = faces.points.astype(np.float64)
        matrices, residual = similarity(points, self._target)
        nowhere = np.abs(np.linalg.det(matrices[:, :, :2])) < _LEAST_AREA  # and of quality 0, by its residual
        matrices[nowhere] = np.eye(2, 3)
        aligned = self.embeddings.aligned(frame, matrices)
        eyes = np.linalg.norm(points[:, 1] - points[:, 0], axis=1)
        good = np.minimum(eyes / _GOOD_EYES_PX, 1) * np.minimum(np.asarray(sharpness(aligned)) / _GOOD_SHARPNESS, 1)
        return aligned, (good * np.maximum(1 - residual / _WORST_POSE, 0)).astype(np.float32)


class FacesNetwork:
    """`Faces` with its networks on a device."""

    def __init__(self, faces: "Faces", device: str) -> None:
        self.faces = faces
        self.finder = FaceFinder(faces.recogniser, device)

    def annotate(self, segments: Sequence[Mapping[View, Samples]]) -> list[Annotation]:
        """One annotation per segment, in order; each from that segment's own frames. Raises `NotFinite`."""
        return list(self._annotations(segments))

    def _annotations(self, segments: Sequence[Mapping[View, Samples]]) -> Iterator[Annotation]:
        for segment in segments:
            samples = segment.get(self.faces.recogniser.view)
            if samples is None or not len(samples):
                yield Annotation(rows={FACES.name: no_rows(FACES)})
                continue
            found = self.finder.find(samples.data, shown=samples.shown)
            yield Annotation(rows={FACES.name: self.faces.rows(found, samples)}, samples=len(samples))
