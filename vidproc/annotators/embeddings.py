"""What a clip or a frame looks like, as a vector: what a classification network makes its scores of, into `embeddings`.

Vectors have length 1, so that the cosine of two is their inner product. One that the network gives as nothing but zeros
stays so, and is like no other: its cosine with any is 0. A network that `actions` or `objects` runs too runs twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vidproc.annotators.base import Annotation, Network, OfSegments
from vidproc.annotators.rows import model_id, no_rows, rows_of
from vidproc.errors import WeightsError
from vidproc.media.samples import Samples
from vidproc.models.restorer import Restorer
from vidproc.models.weights import Weights, resolve_weights
from vidproc.schema import EMBEDDINGS
from vidproc.views import Audio, Clips, Frames, View, view_to_json

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Embeddings(OfSegments):
    """`weights`: of any classification network for clips or frames. `batch`, `restorer`: as of a `Classifier`."""

    name: ClassVar[str] = "embeddings"
    default_weights: ClassVar[str] = "R3D_18_Weights.KINETICS400_V1"
    version: ClassVar[int] = 1

    weights: Weights = field(repr=False)
    batch: int | None = None
    restorer: Restorer | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.weights.view, Audio):
            raise WeightsError(
                f"weights {self.weights.url} listen to sound, but embeddings are of clips or frames: choose weights "
                "that look at pictures"
            )

    @classmethod
    def from_spec(
        cls, weights: str | None = None, *, allow_licences: Sequence[str] = (), restorer: Restorer | None = None
    ) -> Self:
        """The annotator with the weights of that name; "demo" is demo:actions. Raises `WeightsError`."""
        spec = "demo:actions" if weights == "demo" else weights or cls.default_weights
        return cls(weights=resolve_weights(spec, allow_licences=allow_licences), restorer=restorer)

    @property
    def view(self) -> Clips | Frames:
        view = self.weights.view
        assert not isinstance(view, Audio)  # checked when made
        return view

    @property
    def views(self) -> tuple[View, ...]:
        return (self.view,)

    @property
    def tables(self) -> tuple[str, ...]:
        return (EMBEDDINGS.name,)

    @property
    def model_id(self) -> str:
        return model_id(
            self.weights.architecture,
            embeddings=self.version,
            weights=self.weights.sha256,
            views=[view_to_json(view) for view in self.views],
            settings=[self.weights.mean, self.weights.std, self.weights.options, self.weights.layout],
            restorer=None if self.restorer is None else self.restorer.sha256,
        )

    def load(self, device: str, *, compiled: bool = False) -> Network:
        """The network on `device`. Raises `WeightsError`."""
        from vidproc.annotators.forward import load_embedding_network

        network = load_embedding_network(
            self.weights, device=device, batch=self.batch, restorer=self.restorer, compiled=compiled
        )
        return EmbeddingNetwork(self.view, network)


class Embedder(Protocol):
    """What turns samples into vectors: `forward.DeviceNetwork`, or a fake in a test."""

    def outputs(self, data: Sequence[npt.NDArray[Any]]) -> list[Vectors]:
        """One array [samples, numbers] per array of samples."""


class EmbeddingNetwork:
    """The network on a device, and what it looks at."""

    def __init__(self, view: Clips | Frames, embedder: Embedder) -> None:
        self.view = view
        self.embedder = embedder

    def annotate(self, segments: Sequence[Mapping[View, Samples]]) -> list[Annotation]:
        """One annotation per segment, in order. Raises `NotFinite` rather than hand on what is no number."""
        present = [i for i, segment in enumerate(segments) if self.view in segment and len(segment[self.view])]
        found = self.embedder.outputs([segments[i][self.view].data for i in present])
        annotations = [Annotation(rows={EMBEDDINGS.name: no_rows(EMBEDDINGS)}) for _ in segments]
        for i, vectors in zip(present, found, strict=True):
            samples = segments[i][self.view]
            spans = {"start_us": samples.start_us, "end_us": samples.end_us}
            rows = rows_of(EMBEDDINGS, {**spans, "vector": as_lists(unit_length(vectors))})
            annotations[i] = Annotation(rows={EMBEDDINGS.name: rows}, samples=len(vectors))
        return annotations


def unit_length(vectors: Vectors) -> Vectors:
    """Each row of [samples, numbers] divided by its length; zeros stay zeros."""
    length = np.sqrt(np.square(vectors, dtype=np.float64).sum(axis=1, keepdims=True))
    return (vectors / np.where(length > 0, length, 1)).astype(np.float32)


def as_lists(vectors: Vectors) -> pa.Array:
    """[samples, numbers] as a column of lists."""
    count, size = vectors.shape
    offsets = pa.array(np.arange(count + 1) * size, pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(vectors).reshape(-1)))
