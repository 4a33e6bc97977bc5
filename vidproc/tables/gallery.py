"""Galleries in storage: a folder of their own, a file for each version, numbered from 1; the highest is the current.

    <gallery>/versions/000003.safetensors      a matrix of vectors, and who is in it as JSON in its header

A version is created once and never changed, but for one thing: who is removed is taken out of every version, so that
nothing of their vectors is left. Storage that keeps deleted objects (S3 versioning) must not be used for galleries.
"""

import json
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from vidproc.errors import UsageError
from vidproc.models.gallery import Gallery, Person
from vidproc.tables.store import Store

_FOLDER, _ENDING = "versions", ".safetensors"
_FORMAT = "vidproc-gallery-1"


def check_apart(gallery_url: str, tables_url: str) -> None:
    """Raises `UsageError` when a gallery lies inside the tables or they in it: who reads tables must not read it."""
    gallery, tables = (f"{Store(url).root.rstrip('/')}/" for url in (gallery_url, tables_url))
    if gallery.startswith(tables) or tables.startswith(gallery):
        raise UsageError(
            f"gallery {gallery_url} and tables {tables_url} must lie apart: use a folder of its own for it"
        )


def read_gallery(url: str) -> Gallery:
    """The current version. Raises `UsageError` when there is none, or it is damaged."""
    store = Store(url)
    versions = _versions(store)
    if not versions:
        raise UsageError(f"there is no gallery at {url}: add a person to it first")
    return _read(store, url, versions[-1])


def add_person(url: str, person: Person, *, embedder: str) -> Gallery:
    """Create a version that has this person too, or more pictures of them. Raises `UsageError`.

    `embedder`: SHA-256 of the network that made the vectors.
    """
    if not person.name.strip() or not person.consent.strip():
        raise UsageError("a person needs a name, and --consent REF: where it is on record that they agreed")
    store = Store(url)
    versions = _versions(store)
    people: tuple[Person, ...] = ()
    if versions:
        before = _read(store, url, versions[-1])
        people = before.people
        if people and before.embedder != embedder:
            raise UsageError(
                f"gallery {url} was made by the embedder {before.embedder[:16]}…, not by {embedder[:16]}…: use that "
                "one, or make a new gallery"
            )
    return _create(store, url, _with(people, person), embedder=embedder, after=versions[-1] if versions else None)


def remove_person(url: str, name: str) -> Gallery:
    """Create a version without this person, then take them out of all earlier ones. Returns the new version.

    May be run again after it was cut off. Raises `UsageError` when no version has that person.
    """
    store = Store(url)
    versions = _versions(store)
    holding = [version for version in versions if _read(store, url, version).person(name)]
    if not holding:
        raise UsageError(f"nobody called {name!r} is in any version of gallery {url}")
    current = _read(store, url, versions[-1])
    if current.person(name):
        current = _create(store, url, _without(current.people, name), embedder=current.embedder, after=versions[-1])
    for version in holding:
        kept = _read(store, url, version)
        store.put(version, _bytes(_without(kept.people, name), embedder=kept.embedder))
    for file in store.files():
        if file.is_temporary:  # what a killed writer left may hold anybody's vectors
            store.delete(file.path)
    return current


def pictures_of(url: str, name: str) -> npt.NDArray[np.float32]:
    """The vectors of a person's pictures in all versions, float32 [pictures, size]; none where no version has them.

    Raises `UsageError` when there is no gallery.
    """
    store = Store(url)
    if not (versions := _versions(store)):
        raise UsageError(f"there is no gallery at {url}")
    people = [_read(store, url, version).person(name) for version in versions]
    found = [person.vectors for person in people if person is not None]
    return np.unique(np.concatenate(found), axis=0) if found else np.empty((0, 0), np.float32)


def _with(people: tuple[Person, ...], person: Person) -> tuple[Person, ...]:
    earlier = next((one for one in people if one.name == person.name), None)
    if earlier is None:
        return (*people, person)
    if earlier.consent != person.consent:
        raise UsageError(
            f"{person.name!r} is in the gallery already, with consent {earlier.consent!r}: name the same one to add "
            "pictures, or remove them first"
        )
    new = [i for i, picture in enumerate(person.pictures) if picture not in earlier.pictures]
    if not new:
        raise UsageError(f"these pictures of {person.name!r} are in the gallery already")
    more = replace(
        earlier,
        pictures=(*earlier.pictures, *(person.pictures[i] for i in new)),
        vectors=np.concatenate([earlier.vectors, person.vectors[new]]),
    )
    return tuple(more if one is earlier else one for one in people)


def _without(people: tuple[Person, ...], name: str) -> tuple[Person, ...]:
    return tuple(person for person in people if person.name != name)


def _versions(store: Store) -> list[str]:
    return [path for path in store.list(_FOLDER) if path.endswith(_ENDING)]


def _create(store: Store, url: str, people: tuple[Person, ...], *, embedder: str, after: str | None) -> Gallery:
    number = 1 + (int(_name(after)) if after else 0)
    path = f"{_FOLDER}/{number:06d}{_ENDING}"
    if not store.create(path, _bytes(people, embedder=embedder)):
        raise UsageError(f"gallery {url} was changed by somebody else just now: look at it, and try again")
    return Gallery(url=store.root, version=_name(path), embedder=embedder, people=people)


def _name(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(_ENDING)


def _bytes(people: Sequence[Person], *, embedder: str) -> bytes:
    size = people[0].vectors.shape[1] if people else 0
    vectors = np.concatenate([np.empty((0, size), np.float32), *(person.vectors for person in people)])
    told = [
        {"name": p.name, "consent": p.consent, "added_at": p.added_at, "pictures": list(p.pictures)} for p in people
    ]
    about = {
        "format": _FORMAT,
        "embedder": embedder,
        "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "token": uuid.uuid4().hex,  # of two writers of one version, says whose it is
        "people": json.dumps(told, ensure_ascii=False),
    }
    data: bytes = safetensors.numpy.save({"vectors": np.ascontiguousarray(vectors)}, metadata=about)
    return data


def _read(store: Store, url: str, path: str) -> Gallery:
    data = store.get(path)
    if data is None:
        raise UsageError(f"gallery {url} was changed while it was read: try again")
    try:
        length = int.from_bytes(data[:8], "little")
        about: dict[str, Any] = json.loads(data[8 : 8 + length])["__metadata__"]
        if about["format"] != _FORMAT:
            raise ValueError(f"its format is {about['format']!r}, not {_FORMAT!r}")
        people = _people(json.loads(about["people"]), safetensors.numpy.load(data)["vectors"])
        return Gallery(url=store.root, version=_name(path), embedder=about["embedder"], people=people)
    except Exception as error:  # whatever a damaged file makes of the readers
        raise UsageError(f"{store.url_of(path)} is no gallery: {type(error).__name__}: {error}") from error


def _people(told: Sequence[dict[str, Any]], vectors: Any) -> tuple[Person, ...]:
    """Raises ValueError where the numbers do not add up, or somebody has no consent."""
    counts = [len(one["pictures"]) for one in told]
    if sum(counts) != len(vectors) or not all(counts) or vectors.dtype != np.float32:
        raise ValueError(f"{len(vectors)} vectors cannot be those of {counts} pictures")
    if vectors.size and not np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3):
        raise ValueError("its vectors have not length 1")
    if not all(one["consent"].strip() for one in told):
        raise ValueError("somebody in it has no consent on record")
    pieces = np.split(vectors, np.cumsum(counts)[:-1]) if counts else []
    return tuple(
        Person(
            name=one["name"],
            consent=one["consent"],
            added_at=one["added_at"],
            pictures=tuple(one["pictures"]),
            vectors=piece,
        )
        for one, piece in zip(told, pieces, strict=True)
    )
