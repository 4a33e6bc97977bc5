"""The people who may be recognised, and who of them a face shows. Pure numpy; `tables.gallery` keeps them."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Person:
    """`vectors`: float32 [pictures, size], each of length 1; `pictures`: SHA-256 of each one's file.

    `consent`: where it is on record that this person agreed to be recognised.
    """

    name: str
    consent: str
    added_at: str
    pictures: tuple[str, ...]
    vectors: Vectors = field(repr=False)


@dataclass(frozen=True, kw_only=True, eq=False)
class Gallery:
    """One version of a gallery. `embedder`: SHA-256 of the network that made its vectors: others' do not compare."""

    url: str
    version: str
    embedder: str
    people: tuple[Person, ...]

    def person(self, name: str) -> Person | None:
        return next((person for person in self.people if person.name == name), None)


@dataclass(frozen=True, eq=False)
class Matches:
    """Of each face: the nearest person's number, the cosine to them, that to the next person, and whether it is them.

    Cosines are NaN where there is nobody to compare with.
    """

    person: npt.NDArray[np.int64]
    similarity: Vectors
    runner_up: Vectors
    matched: npt.NDArray[np.bool_]


def match(vectors: Vectors, people: tuple[Person, ...], *, threshold: float, margin: float) -> Matches:
    """Compare faces, float32 [faces, size] of length 1, with every picture of every person: exact, in float64.

    A person is as near as the nearest of their pictures; of two that are as near the first is taken, and then the
    margin is 0.
    """
    best = np.full((len(vectors), max(len(people), 2)), -np.inf)
    for i, person in enumerate(people):
        best[:, i] = (vectors.astype(np.float64) @ person.vectors.astype(np.float64).T).max(axis=1)
    order = np.argsort(-best, axis=1, kind="stable")[:, :2]
    first, second = np.take_along_axis(best, order, axis=1).T
    return Matches(
        person=order[:, 0],
        similarity=_or_nan(first),
        runner_up=_or_nan(second),
        matched=(first >= threshold) & (first - second >= margin),
    )


def _or_nan(values: npt.NDArray[np.float64]) -> Vectors:
    return np.where(np.isfinite(values), values, np.nan).astype(np.float32)
