"""Keep a gallery: the people whose faces may be recognised, each with a reference to their consent.

    python jobs/maintain.py gallery add "Ann Example" --gallery galleries/staff --weights faces.json \\
        --pictures ann-1.jpg ann-2.jpg --consent HR-2026-0131
    python jobs/maintain.py gallery list --gallery galleries/staff
    python jobs/maintain.py gallery remove "Ann Example" --gallery galleries/staff
    python jobs/maintain.py gallery rematch --gallery galleries/staff --weights faces.json --tables out/tables \\
        --purpose "who speaks in our own press conferences"
    python jobs/maintain.py gallery cluster --tables out/tables --similarity 0.4 \\
        --purpose "whom to ask for consent" --out unknown.csv
    python jobs/maintain.py calibrate --weights faces.json --pictures people/ --far 1e-4

`add` takes pictures of one face each, close and sharp. `remove` takes the person out of every version of the gallery;
rows of the tables that name them are another matter: `forget`. `rematch` decides the faces of the tables anew where
their vectors were kept, as labelling with the gallery as it is now would. `cluster` says which unknown faces are one
person's; it needs no gallery, and has a --help of its own. `calibrate` finds the threshold at which at most that share
of pairs of two people is taken for one; `people/` has one folder for each person.
Exit codes: 0 done, 2 usage; of rematch and cluster also 4, another job holds the tables.
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import Field

from vidproc.command import Options, Positional, log, parse
from vidproc.errors import UsageError
from vidproc.tables.lease import LEASE_S


class RecogniserOptions(Options):
    """What finds faces, and tells them apart."""

    weights: str | None = Field(None, description="the face recogniser: the URL of its description, URL.json")
    allow_licences: tuple[str, ...] = Field((), description="licences that are accepted although not for every use")
    device: Literal["cuda", "cpu"] = Field("cpu", description="where the networks run")


class GalleryOptions(RecogniserOptions):
    """Options of `gallery`."""

    verb: Annotated[Literal["add", "list", "remove", "rematch", "cluster"], Positional()] = Field(
        description="add, list, remove, rematch or cluster"
    )
    name: Annotated[str | None, Positional()] = Field(None, description="of add and remove: whose")
    gallery: str = Field(description="a folder of its own, or s3://bucket/prefix, apart from the tables")
    pictures: tuple[str, ...] = Field((), description="of add: files, folders or globs of pictures")
    consent: str | None = Field(None, description="of add: where it is on record that the person agreed")
    tables: str | None = Field(None, description="of rematch: where the tables are")
    purpose: str | None = Field(None, description="of rematch: what the faces are compared for")
    lease_s: float = Field(LEASE_S, gt=0, description="of rematch: how long to watch a silent holder of the tables")

    def given(self, *names: str) -> list[Any]:
        """The values of options that the verb needs. Raises `UsageError` where one is missing."""
        missing = [name for name in names if not getattr(self, name)]
        if missing:
            told = ", ".join(name.upper() if name == "name" else f"--{name}" for name in missing)
            raise UsageError(f"gallery {self.verb} needs {told} (see --help)")
        return [getattr(self, name) for name in names]


class CalibrateOptions(RecogniserOptions):
    """Options of `calibrate`."""

    weights: str = Field(description="the face recogniser: the URL of its description, URL.json")
    pictures: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description="files, folders or globs of pictures, in one folder for each person"
    )
    far: float = Field(1e-4, gt=0, lt=1, description="false accepts for each pair of two people")


def keep_gallery(arguments: Sequence[str]) -> int:
    """`maintain.py gallery VERB …`; returns the exit code."""
    if list(arguments[:1]) == ["cluster"]:
        from vidproc.pipeline.clustering import cluster

        return cluster(arguments[1:])
    options = parse(GalleryOptions, __doc__, arguments)
    _VERBS[options.verb](options)
    return 0


def calibrate(arguments: Sequence[str]) -> int:
    """`maintain.py calibrate …`; returns the exit code."""
    from vidproc.models.recogniser import resolve_recogniser
    from vidproc.pipeline import enrolment

    options = parse(CalibrateOptions, __doc__, arguments)
    recogniser = resolve_recogniser(options.weights, allow_licences=options.allow_licences)
    found = enrolment.calibrate(options.pictures, far=options.far, recogniser=recogniser, device=options.device)
    print(json.dumps({**vars(found), "warning": found.warning}))
    sys.stdout.flush()
    if found.warning:
        log("warning", message=found.warning)
    return 0


def _add(options: GalleryOptions) -> None:
    name, pictures, consent, weights = options.given("name", "pictures", "consent", "weights")
    from vidproc.models.recogniser import resolve_recogniser
    from vidproc.pipeline.enrolment import enrol  # imports torch

    recogniser = resolve_recogniser(weights, allow_licences=options.allow_licences)
    made = enrol(options.gallery, name, pictures, consent=consent, recogniser=recogniser, device=options.device)
    log("added", person=name, gallery_version=made.version, people=len(made.people))


def _list(options: GalleryOptions) -> None:
    from vidproc.tables.gallery import read_gallery

    gallery = read_gallery(options.gallery)
    for person in gallery.people:
        told = {"name": person.name, "consent": person.consent, "added_at": person.added_at}
        print(json.dumps({**told, "pictures": len(person.pictures)}, ensure_ascii=False))
    log("listed", gallery_version=gallery.version, people=len(gallery.people), embedder=gallery.embedder)


def _remove(options: GalleryOptions) -> None:
    from vidproc.tables.gallery import remove_person

    [name] = options.given("name")
    left = remove_person(options.gallery, name)
    log("removed", gallery_version=left.version, people=len(left.people))


def _rematch(options: GalleryOptions) -> None:
    from vidproc.annotators.faces import Faces, Terms
    from vidproc.pipeline.rematching import rematch
    from vidproc.tables.gallery import check_apart, read_gallery

    tables, weights, purpose = options.given("tables", "weights", "purpose")
    check_apart(options.gallery, tables)
    terms = Terms(gallery=read_gallery(options.gallery), purpose=purpose, keep_vectors=True)
    faces = Faces.from_spec(weights, allow_licences=options.allow_licences, terms=terms)
    done = rematch(tables, faces, lease_s=options.lease_s)
    log("rematched", gallery_version=terms.gallery.version, **asdict(done))


def _misplaced(options: GalleryOptions) -> None:
    raise UsageError(
        f"{options.verb} has options of its own, so name it first: maintain.py gallery {options.verb} --help"
    )


_VERBS: dict[str, Callable[[GalleryOptions], None]] = {
    "add": _add,
    "list": _list,
    "remove": _remove,
    "rematch": _rematch,
    "cluster": _misplaced,
}
