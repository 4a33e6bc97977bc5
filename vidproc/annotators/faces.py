"""Whose faces are to be seen: found, judged, aligned, embedded, and compared with the people of one gallery.

Off unless asked, and fenced: without a gallery of people who agreed and a purpose there is no annotator. Vectors are
kept only where asked. It says who somebody is, of those people, and nothing else of anybody: no age, no mood.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vidproc.annotators.base import Network, OfSegments
from vidproc.annotators.face_tracks import voted
from vidproc.annotators.rows import model_id, repeated, rows_of
from vidproc.errors import UsageError, WeightsError
from vidproc.media.samples import Samples
from vidproc.models.gallery import Gallery, match
from vidproc.models.recogniser import FaceRecogniser, resolve_recogniser
from vidproc.models.restorer import Restorer
from vidproc.schema import FACES
from vidproc.views import View, view_to_json

if TYPE_CHECKING:
    from vidproc.annotators.face_network import Found

LEAST_PURPOSE = 10
"""Characters that a purpose must have: a word is none."""


def check_purpose(purpose: str) -> None:
    """Raises `UsageError` when a purpose says too little."""
    if len(purpose.strip()) < LEAST_PURPOSE:
        raise UsageError(
            f"--purpose {purpose!r} says too little: say what the faces are compared for, in at least "
            f"{LEAST_PURPOSE} characters; it goes to the audit trail"
        )


@dataclass(frozen=True, kw_only=True)
class Terms:
    """On what terms faces are compared: with whom, what for, and whether their vectors are kept."""

    gallery: Gallery = field(repr=False)
    purpose: str
    keep_vectors: bool = False

    def __post_init__(self) -> None:
        check_purpose(self.purpose)
        if not self.gallery.people:
            raise UsageError(f"gallery {self.gallery.url} holds nobody: add people who agreed to it first")


@dataclass(frozen=True, kw_only=True)
class Faces(OfSegments):
    """A recogniser and the terms of its use."""

    name: ClassVar[str] = "faces"
    version: ClassVar[int] = 1
    tables: ClassVar[tuple[str, ...]] = (FACES.name,)
    reads: ClassVar[tuple[str, ...]] = (FACES.name,)
    replaces: ClassVar[tuple[str, ...]] = (FACES.name,)

    recogniser: FaceRecogniser = field(repr=False)
    terms: Terms

    def __post_init__(self) -> None:
        gallery, embedder = self.terms.gallery, self.recogniser.embedder
        if gallery.embedder != embedder.sha256:
            raise WeightsError(
                f"gallery {gallery.url} was made by an embedder with the SHA-256 {gallery.embedder[:16]}…, and the "
                f"recogniser's has {embedder.sha256[:16]}…: their vectors do not compare; make a gallery with this one"
            )

    @classmethod
    def from_spec(
        cls,
        weights: str | None = None,
        *,
        allow_licences: Sequence[str] = (),
        restorer: Restorer | None = None,  # noqa: ARG003  who somebody is, is not told from pixels that a network drew
        terms: Terms | None = None,
    ) -> Self:
        """The annotator with the recogniser that the URL describes. Raises `UsageError` without terms."""
        if terms is None:
            raise UsageError("faces are compared only with people who agreed: give --gallery URL and --purpose TEXT")
        if weights is None or weights == "demo":
            raise UsageError("no faces' weights ship: name a recogniser's description by --weights faces=URL.json")
        return cls(recogniser=resolve_recogniser(weights, allow_licences=allow_licences), terms=terms)

    @property
    def views(self) -> tuple[View, ...]:
        return (self.recogniser.view,)

    @property
    def model_id(self) -> str:
        """Without the gallery: people come and go, and each row says by which version it was decided."""
        found = self.recogniser
        return model_id(
            f"{found.detector.architecture}_arcface",
            weights=[*(file.sha256 for file in found.detector.files), found.embedder.sha256],
            views=[view_to_json(view) for view in self.views],
            version=self.version,
            detector=found.detector.settings,
            embedder=[asdict(found.embedder.embedding), found.embedder.mean, found.embedder.std],
            decision=[found.threshold, found.margin, found.least_quality, found.votes, found.vote_share],
        )

    def load(self, device: str, *, compiled: bool = False) -> Network:  # noqa: ARG002  its inputs change their shapes
        """The networks on `device`. Raises `WeightsError`."""
        from vidproc.annotators.face_network import FacesNetwork

        return FacesNetwork(self, device)

    def rows(self, found: "Found", samples: Samples) -> pa.Table:
        """Rows of the `faces` table, less the common columns, each decided by its own frame alone."""
        time_us = samples.start_us[found.sample]
        first = np.searchsorted(found.sample, found.sample)
        number = np.arange(len(found)) - first
        boxes = np.clip(found.boxes, 0, 1)
        columns = {
            "time_us": time_us,
            "face_id": [f"{time}-{i}" for time, i in zip(time_us, number, strict=True)],
            "track_id": pa.nulls(len(found), pa.string()),
            **{name: boxes[:, i] for i, name in enumerate(("x1", "y1", "x2", "y2"))},
            "landmarks": list(np.clip(found.points, 0, 1).reshape(len(found), 10)),
            "score": found.scores,
            "quality": found.quality,
        }
        fit = found.quality >= self.recogniser.least_quality
        return rows_of(FACES, {**columns, **self.decided(found.vectors, fit)})

    def decided(self, vectors: npt.NDArray[np.float32], fit: npt.NDArray[np.bool_]) -> dict[str, Any]:
        """The columns that depend on the gallery, of faces by themselves: identity to vector."""
        people = self.terms.gallery.people
        found = match(vectors, people, threshold=self.recogniser.threshold, margin=self.recogniser.margin)
        known = fit & found.matched
        names = np.array([person.name for person in people], object)[found.person]
        kept = [vector if good else None for vector, good in zip(vectors, fit & self.terms.keep_vectors, strict=True)]
        return {
            "identity": pa.array(names, pa.string(), mask=~known),
            "similarity": pa.array(found.similarity, mask=~fit),
            "runner_up": pa.array(found.runner_up, mask=~fit | np.isnan(found.runner_up)),
            "decision": np.where(fit, np.where(known, "matched", "unknown"), "unfit").tolist(),
            "gallery_version": repeated(self.terms.gallery.version, len(fit)),
            "vector": pa.array(kept, pa.list_(pa.float32())),
        }

    def over_video(self, rows: Mapping[str, pa.Table], facts: Mapping[str, Any]) -> Mapping[str, pa.Table]:
        """The same faces, linked into tracks; good ones take the identity that their track voted for."""
        alone = bool(facts.get("still"))  # of one picture there is one face of each, and nothing to agree with
        return {
            FACES.name: voted(
                rows[FACES.name],
                stride_us=self.recogniser.view.stride_us,
                votes=1 if alone else self.recogniser.votes,
                share=self.recogniser.vote_share,
            )
        }
