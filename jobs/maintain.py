"""Keep the tables small, clean and proven, and the gallery of people. One verb a call, each with its own --help:

    python jobs/maintain.py compact   --tables out/tables
    python jobs/maintain.py vacuum    --tables out/tables --older-than 168
    python jobs/maintain.py forget    --tables out/tables --video 's3://archive/2019/*' --reference TICKET-12
    python jobs/maintain.py forget    --tables out/tables --person 'Ada Lovelace' --gallery staff/ --similarity 0.35
    python jobs/maintain.py check     --tables out/tables
    python jobs/maintain.py gallery   add 'Ada Lovelace' --gallery staff/ --weights faces.json --pictures a.jpg …
    python jobs/maintain.py calibrate --weights faces.json --pictures people/ --far 1e-4
    python jobs/maintain.py thumbnails --tables out/tables --out thumbnails/ --label person

compact    merges small files, sorted by key; safe beside a running label job.
vacuum     removes files that no table needs. Below 24 hours it takes the lease.
forget     takes a video (which is not labelled again) or a person's identity out of every file, and proves it.
           Thumbnails lie outside the tables: run `thumbnails --prune` after it.
check      proves that ledger, tables and files agree.
gallery    add, list, remove: whose faces may be recognised; rematch: decide faces anew by it, without decoding;
           cluster: which unknown faces are one person's.
calibrate  finds the threshold at which two people are taken for one as seldom as asked.
thumbnails cuts each track's best frame out of its video; --prune removes those whose track is gone.

Exit codes: 0 done (and proven); 1 something is wrong or left, as listed; 2 usage; 4 another job holds the tables.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Self

from pydantic import Field, model_validator

from vidproc.command import Options, end_with, log, parse
from vidproc.errors import UsageError
from vidproc.tables.checking import check
from vidproc.tables.compaction import TARGET_BYTES, compact
from vidproc.tables.forgetting import Forgotten, Likeness, allow_video, find_videos, forget_person, forget_videos
from vidproc.tables.lease import LEASE_S
from vidproc.tables.vacuum import RETENTION_H, vacuum

MIB = 2**20
SHOWN = 20
PROGRESS_S = 10.0


class TablesOptions(Options):
    """What every verb needs to know."""

    tables: str = Field(description="where the tables are: a folder or s3://bucket/prefix")


class LeaseOptions(TablesOptions):
    """What a verb needs to know that may take the lease."""

    lease_s: float = Field(LEASE_S, gt=0, description="how long to watch a silent holder before taking over")


class CompactOptions(LeaseOptions):
    """Options of `compact`."""

    target_mib: float = Field(TARGET_BYTES / MIB, gt=0, description="size of a merged file; those below half are small")


class VacuumOptions(LeaseOptions):
    """Options of `vacuum`."""

    older_than: int = Field(RETENTION_H, ge=0, description="hours; 0 leaves only what the newest versions hold")


class ForgetOptions(LeaseOptions):
    """Options of `forget`."""

    video: str | None = Field(None, description="a video id, a URI (shard.tar#member), or a glob of URIs")
    person: str | None = Field(None, description="a name, exactly as in faces.identity")
    gallery: str | None = Field(None, description="with --person: where their pictures are; they leave it, too")
    similarity: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="with --gallery: cosine from which unnamed faces are theirs; at most the recogniser's threshold",
    )
    allow: str | None = Field(None, description="a forgotten URI (shard.tar#member) that may be labelled again")
    reference: str | None = Field(None, description="what to note in the table `forgotten`, such as a ticket's number")
    dry_run: bool = Field(False, description="say which videos would be forgotten; do nothing")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(bool(given) for given in (self.video, self.person, self.allow)) != 1:
            raise ValueError("give one of --video, --person and --allow")
        if bool(self.gallery) != bool(self.similarity) or (self.gallery and not self.person):
            raise ValueError("--gallery and --similarity go together, and with --person")
        if self.dry_run and not self.video:
            raise ValueError("--dry-run goes with --video")
        return self


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns its exit code."""
    verb, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if verb in ("-h", "--help"):
        print(__doc__)
        return 0
    if verb not in VERBS:
        raise UsageError(f"{verb!r} is no verb: the verbs are {', '.join(VERBS)} (see --help)")
    return VERBS[verb](rest)


def _compact(arguments: Sequence[str]) -> int:
    options = parse(CompactOptions, __doc__, arguments)
    for done in compact(options.tables, target_bytes=int(options.target_mib * MIB), lease_s=options.lease_s):
        if done.parts_before or done.given_up:
            log("compacted", **asdict(done))
    return 0


def _vacuum(arguments: Sequence[str]) -> int:
    options = parse(VacuumOptions, __doc__, arguments)
    log("vacuumed", **asdict(vacuum(options.tables, older_than_h=options.older_than, lease_s=options.lease_s)))
    return 0


def _forget(arguments: Sequence[str]) -> int:
    options = parse(ForgetOptions, __doc__, arguments)
    if options.allow:
        allow_video(options.tables, options.allow, reference=options.reference, lease_s=options.lease_s)
        log("allowed", uri=options.allow)
        return 0
    if options.dry_run:
        places = find_videos(options.tables, options.video or "")
        for name, ids in sorted(places.items()):
            log("would be forgotten", video=name, versions=len(ids))
        return 0
    same: dict[str, Any] = {"reference": options.reference, "lease_s": options.lease_s, "progress": _told()}
    if options.video:
        return _proof(forget_videos(options.tables, options.video, **same))
    likeness = Likeness(options.gallery, options.similarity) if options.gallery and options.similarity else None
    return _proof(forget_person(options.tables, options.person or "", likeness=likeness, **same))


def _proof(done: Forgotten) -> int:
    for found in done.found[:SHOWN]:
        log("left", **asdict(found))
    log(
        "not proven" if done.found else "proven",
        videos=done.videos,
        rows=done.rows,
        files_removed=done.erased.parts,
        files_read=done.files,
        left=len(done.found),
    )
    return 1 if done.found else 0


def _told() -> Callable[[int, int], None]:
    """Progress of the proof, now and then."""
    last = time.monotonic()

    def progress(read: int, files: int) -> None:
        nonlocal last
        if time.monotonic() - last > PROGRESS_S:
            last = time.monotonic()
            log("proving", files_read=read, of=files)

    return progress


def _check(arguments: Sequence[str]) -> int:
    options = parse(TablesOptions, __doc__, arguments)
    done = check(options.tables)
    for finding in done.findings:
        log("wrong", **asdict(finding))
    for path in done.orphans[:SHOWN]:
        log("orphan", path=path)
    log(
        "wrong" if done.findings else "proven",
        findings=len(done.findings),
        parts=done.parts,
        rows=dict(done.rows),
        orphans=len(done.orphans),
        orphan_bytes=done.orphan_bytes,
    )
    return 1 if done.findings else 0


def _gallery(arguments: Sequence[str]) -> int:
    from vidproc.pipeline.galleries import keep_gallery

    return keep_gallery(arguments)


def _calibrate(arguments: Sequence[str]) -> int:
    from vidproc.pipeline.galleries import calibrate

    return calibrate(arguments)


def _thumbnails(arguments: Sequence[str]) -> int:
    from vidproc.pipeline.thumbnails import thumbnails

    return thumbnails(arguments)


VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "compact": _compact,
    "vacuum": _vacuum,
    "forget": _forget,
    "check": _check,
    "gallery": _gallery,
    "calibrate": _calibrate,
    "thumbnails": _thumbnails,
}


if __name__ == "__main__":
    end_with(main)
