"""From pictures to a gallery, and from pictures of many people to the threshold that a false accept rate asks for."""

import hashlib
import json
import math
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from vidproc.annotators.face_network import FaceFinder, Found
from vidproc.command import log
from vidproc.errors import InputError, UsageError
from vidproc.media.archive import list_archive
from vidproc.media.geometry import displayed_of
from vidproc.media.glimpse import glimpses, probed
from vidproc.media.guard import Guard
from vidproc.media.sources import Source, open_source
from vidproc.models.gallery import Gallery, Person, Vectors, match
from vidproc.models.recogniser import FaceRecogniser
from vidproc.tables.gallery import add_person

_BLOCK_BYTES = 1 << 20
_PAIRS_AT_ONCE = 1 << 22
ENOUGH_ERRORS = 30
"""False accepts that a rate should be measured on, to be within a third of the truth in nine of ten measurements."""


@dataclass(frozen=True, eq=False)
class Sighting:
    """One picture of one face that is fit to be compared. `sha256`: of the picture's bytes."""

    uri: str
    sha256: str
    vector: Vectors


def enrol(
    gallery_url: str,
    name: str,
    pictures: Sequence[str],
    *,
    consent: str,
    recogniser: FaceRecogniser,
    device: str = "cpu",
) -> Gallery:
    """Add a person, or more pictures of them, to the gallery: each picture must show one face, and theirs.

    `pictures`: files, folders or globs, any fsspec URL. Raises `UsageError` when a picture has no fit face or several,
    when the pictures do not resemble each other, or when they resemble somebody else of the gallery.
    """
    sightings = []
    for source, outcome in _sightings(pictures, FaceFinder(recogniser, device)):
        if isinstance(outcome, str):
            raise UsageError(f"{source.uri}: {outcome}; a gallery needs pictures of one person each, close and sharp")
        sightings.append(outcome)
    vectors = np.stack([one.vector for one in sightings])
    unlike = np.flatnonzero((vectors @ vectors[0]) < recogniser.threshold)
    if len(unlike):
        raise UsageError(
            f"{sightings[unlike[0]].uri} and {sightings[0].uri} do not show the same face, as far as this network can "
            f"tell (cosine below {recogniser.threshold}): leave one out"
        )
    person = Person(
        name=name,
        consent=consent,
        added_at=datetime.now(UTC).isoformat(timespec="seconds"),
        pictures=tuple(one.sha256 for one in sightings),
        vectors=vectors,
    )
    gallery = add_person(gallery_url, person, embedder=recogniser.embedder.sha256)
    for other in lookalikes(gallery, person, threshold=recogniser.threshold):
        log("lookalike", person=name, other=other, message="who looks like both will be unknown: add better pictures")
    return gallery


def lookalikes(gallery: Gallery, person: Person, *, threshold: float) -> list[str]:
    """The names of the others in the gallery that a picture of this person would be taken for, but for the margin."""
    others = tuple(other for other in gallery.people if other.name != person.name)
    near = [match(person.vectors, (other,), threshold=threshold, margin=0).matched.any() for other in others]
    return [other.name for other, is_near in zip(others, near, strict=True) if is_near]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """`threshold`: the least cosine that at most `far` of the `impostor_pairs` reach.

    `accepted`: share of the `genuine_pairs` that reach it; None where no two pictures show one person.
    `supported`: whether there are impostor pairs enough to measure such a rate. Pairs share pictures, so that they tell
    less than as many independent ones would.
    """

    threshold: float
    far: float
    impostor_pairs: int
    genuine_pairs: int
    accepted: float | None
    supported: bool
    left_out: int

    @property
    def warning(self) -> str:
        if self.supported:
            return ""
        return (
            f"{self.impostor_pairs} pairs of two people are too few to support a false accept rate of {self.far:g}: "
            f"that takes {math.ceil(ENOUGH_ERRORS / self.far):,}; with these the true rate may be up to "
            f"{min(1.0, 3 / self.impostor_pairs + self.far):.1e} (at 95 %)"
        )


def calibrate(pictures: Sequence[str], *, far: float, recogniser: FaceRecogniser, device: str = "cpu") -> Calibration:
    """Find the threshold on pictures of people who are in folders, one folder a person.

    Pictures without exactly one fit face are told and left out. Raises `UsageError` when fewer than two people remain.
    """
    if not 0 < far < 1:
        raise UsageError(f"--far {far} must be a share between 0 and 1, such as 1e-4")
    vectors, people, left_out = [], [], 0
    for source, outcome in _sightings(pictures, FaceFinder(recogniser, device)):
        if isinstance(outcome, str):
            log("left out", uri=source.uri, reason=outcome)
            left_out += 1
        else:
            vectors.append(outcome.vector)
            people.append(source.uri.rpartition("/")[0])
    if len(Counter(people)) < 2:
        raise UsageError(f"pictures of two people at least are needed, one folder a person: these have {set(people)}")
    return calibrated(np.stack(vectors), people, far=far, left_out=left_out)


def calibrated(vectors: Vectors, people: Sequence[str], *, far: float, left_out: int = 0) -> Calibration:
    """The threshold for embeddings, float32 [pictures, size] of length 1, of these people (at least two)."""
    person = np.unique(people, return_inverse=True)[1]
    pairs = len(vectors) * (len(vectors) - 1) // 2
    genuine = sum(count * (count - 1) // 2 for count in np.bincount(person).tolist())
    allowed = math.floor(far * (pairs - genuine))
    nearest = np.empty(0)  # the impostors' cosines, as many as it takes
    for cosines, same in _pairs(vectors, person):
        nearest = -np.sort(-np.concatenate([nearest, cosines[~same]]))[: allowed + 1]
    threshold = max(math.floor(float(nearest[allowed]) * 10_000 + 1) / 10_000, 0.0001)
    accepted = sum(int((cosines[same] >= threshold).sum()) for cosines, same in _pairs(vectors, person))
    return Calibration(
        threshold=threshold,
        far=far,
        impostor_pairs=pairs - genuine,
        genuine_pairs=genuine,
        accepted=accepted / genuine if genuine else None,
        supported=far * (pairs - genuine) >= ENOUGH_ERRORS,
        left_out=left_out,
    )


def _pairs(
    vectors: Vectors, person: npt.NDArray[np.int64]
) -> Iterator[tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]]:
    """Each pair once, a piece at a time: cosines, and whether both are of one person."""
    exact = vectors.astype(np.float64)
    rows = max(1, _PAIRS_AT_ONCE // len(exact))
    for first in range(0, len(exact), rows):
        some = np.arange(first, min(first + rows, len(exact)))
        later = np.arange(len(exact)) > some[:, None]
        yield (exact[some] @ exact.T)[later], (person[some, None] == person)[later]


def _sightings(pictures: Sequence[str], finder: FaceFinder) -> Iterator[tuple[Source, Sighting | str]]:
    """Each picture with what can be compared, or why nothing can. Decoded as videos are, behind the same wall."""
    view = finder.recogniser.view
    with Guard() as guard:
        for source in listed_pictures(pictures):
            try:
                facts = probed(guard, source)
                frames = glimpses(guard, source, facts, view, starts_us=[facts["start_us"]])
                yield source, _only_face(source, finder.find(frames, shown=displayed_of(facts)), finder.recogniser)
            except InputError as error:
                yield source, f"{error.reason}: {error}"


def _only_face(source: Source, found: Found, recogniser: FaceRecogniser) -> Sighting | str:
    fit: npt.NDArray[np.int64] = np.flatnonzero(found.quality >= recogniser.least_quality)
    if len(fit) == 1:
        return Sighting(uri=source.uri, sha256=_sha256(source), vector=found.vectors[fit[0]])
    if len(fit):
        return f"{len(fit)} faces: which is meant? Cut one out"
    return f"no face is fit to be compared (of {len(found)} found): too small, blurred or turned away"


def _sha256(source: Source) -> str:
    digest = hashlib.sha256()
    with open_source(source) as opened:
        for offset in range(0, opened.size, _BLOCK_BYTES):
            digest.update(opened.read(offset, _BLOCK_BYTES))
    return digest.hexdigest()


def listed_pictures(pictures: Sequence[str]) -> list[Source]:
    """The sources of files, folders or globs, by URI. Raises `UsageError` when one cannot be read."""
    with tempfile.TemporaryDirectory(prefix="vidproc-") as folder:
        list_archive(pictures, folder)
        rows = pq.read_table(folder).to_pylist()
    for row in rows:
        if row["reason"]:
            raise UsageError(f"{row['uri']} cannot be read: {row['detail']}")
    return sorted((Source.of(row) for row in rows), key=lambda source: json.dumps([source.uri, source.member]))
