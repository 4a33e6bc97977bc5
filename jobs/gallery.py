"""Keep a gallery: the people whose faces may be recognised, each with a reference to their consent.

    python jobs/gallery.py add "Ann Example" --gallery galleries/staff --weights faces.json \\
        --pictures ann-1.jpg ann-2.jpg --consent HR-2026-0131
    python jobs/gallery.py list --gallery galleries/staff
    python jobs/gallery.py remove "Ann Example" --gallery galleries/staff
    python jobs/gallery.py calibrate --weights faces.json --pictures people/ --far 1e-4

`add` takes pictures of one face each, close and sharp. `remove` takes the person out of every version of the gallery;
rows of the tables that name them are another matter: `jobs/maintain.py forget`. `calibrate` finds the threshold at
which at most that share of pairs of two people is taken for one; `people/` has one folder for each person.
Exit codes: 0 done, 2 usage.
"""

import json
import sys
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field

from vidproc.command import Options, Positional, end_with, log, parse
from vidproc.errors import UsageError


class GalleryConfig(Options):
    """Options of the gallery job."""

    verb: Annotated[Literal["add", "list", "remove", "calibrate"], Positional()] = Field(
        description="add, list, remove or calibrate"
    )
    name: Annotated[str | None, Positional()] = Field(None, description="of add and remove: whose")
    gallery: str | None = Field(None, description="a folder of its own, or s3://bucket/prefix, apart from the tables")
    weights: str | None = Field(None, description="the face recogniser: the URL of its description, URL.json")
    allow_licences: tuple[str, ...] = Field((), description="licences that are accepted although not for every use")
    pictures: tuple[str, ...] = Field((), description="files, folders or globs of pictures")
    consent: str | None = Field(None, description="of add: where it is on record that the person agreed")
    far: float = Field(1e-4, gt=0, lt=1, description="of calibrate: false accepts for each pair of two people")
    device: Literal["cuda", "cpu"] = Field("cpu", description="where the networks run")

    def given(self, *names: str) -> list[Any]:
        """The values of options that the verb needs. Raises `UsageError` where one is missing."""
        missing = [name for name in names if not getattr(self, name)]
        if missing:
            told = ", ".join(name.upper() if name == "name" else f"--{name}" for name in missing)
            raise UsageError(f"{self.verb} needs {told} (see --help)")
        return [getattr(self, name) for name in names]


def add(config: GalleryConfig) -> None:
    from vidproc.models.recogniser import resolve_recogniser
    from vidproc.pipeline.enrolment import enrol

    url, name, pictures, consent, weights = config.given("gallery", "name", "pictures", "consent", "weights")
    recogniser = resolve_recogniser(weights, allow_licences=config.allow_licences)
    made = enrol(url, name, pictures, consent=consent, recogniser=recogniser, device=config.device)
    log("added", person=name, gallery_version=made.version, people=len(made.people))


def show(config: GalleryConfig) -> None:
    from vidproc.tables.gallery import read_gallery

    [url] = config.given("gallery")
    gallery = read_gallery(url)
    for person in gallery.people:
        told = {"name": person.name, "consent": person.consent, "added_at": person.added_at}
        print(json.dumps({**told, "pictures": len(person.pictures)}, ensure_ascii=False))
    log("listed", gallery_version=gallery.version, people=len(gallery.people), embedder=gallery.embedder)


def remove(config: GalleryConfig) -> None:
    from vidproc.tables.gallery import remove_person

    url, name = config.given("gallery", "name")
    left = remove_person(url, name)
    log("removed", gallery_version=left.version, people=len(left.people))


def calibrate(config: GalleryConfig) -> None:
    from vidproc.models.recogniser import resolve_recogniser
    from vidproc.pipeline import enrolment

    pictures, weights = config.given("pictures", "weights")
    recogniser = resolve_recogniser(weights, allow_licences=config.allow_licences)
    found = enrolment.calibrate(pictures, far=config.far, recogniser=recogniser, device=config.device)
    print(json.dumps({**vars(found), "warning": found.warning}))
    sys.stdout.flush()
    if found.warning:
        log("warning", message=found.warning)


VERBS: dict[str, Callable[[GalleryConfig], None]] = {
    "add": add,
    "list": show,
    "remove": remove,
    "calibrate": calibrate,
}


def main() -> int:
    config = parse(GalleryConfig, __doc__)
    VERBS[config.verb](config)
    return 0


if __name__ == "__main__":
    end_with(main)
