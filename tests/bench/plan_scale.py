"""How long planning takes, and how much memory: a listing and a ledger of as many videos as you say.

    python tests/bench/plan_scale.py                          one million videos: a ledger of two million rows
    python tests/bench/plan_scale.py --videos 100000 --cases idle increment

Every case runs in a process of its own: seconds by the clock, seconds of CPU, the peak of its resident memory, and how
much of that was there before it began (the libraries). The cases:

    first       nothing is in the ledger yet
    idle        everything listed is done
    increment   one in a hundred is new, as many have gone
    model       everything again, with another model
    nine        everything new for nine annotators
    derive      everything is done: what `derive` looks at, twice in every run
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vidproc.media.listing import Listed, ListingWriter
from vidproc.media.sources import Source
from vidproc.schema import LEDGER, VIDEOS, WHOLE_VIDEO, Table
from vidproc.tables.commit import Commits
from vidproc.tables.derive import pending_derivations
from vidproc.tables.parts import write_part
from vidproc.tables.plan import make_plan

ANNOTATOR, MODEL = "quality", "quality-0123abcd"
SIZE_BYTES, END_US = 31_415_926, 20_000_000
PART_ROWS = 100_000
NEW_SHARE = 100


def source(number: int) -> Source:
    """One of a bucket's videos, its name as long as such names are."""
    uri = f"s3://archive/{number % 97:02d}/2026/camera-{number % 977:03d}/clip-{number:09d}.mp4"
    return Source(uri, "", 0, SIZE_BYTES, f"{number:032x}")


def write_listing(folder: Path, numbers: range) -> None:
    """What `list_archive` would write of these videos."""
    writer = ListingWriter(str(folder))
    for number in numbers:
        writer.add(Listed(source(number), {"camera": f"camera {number % 977}", "site": "north"}))
    writer.close()


def write_ledger(tables: Path, videos: int) -> None:
    """Two ledger rows for each of the videos 0 ≤ number < `videos`: its only segment, and the whole video."""
    with Commits.open(str(tables), run_id="made-up") as commits:
        parts = [write_part(str(tables), VIDEOS, rows) for rows in _videos_rows(videos)]
        parts += [write_part(str(tables), LEDGER, rows) for rows in _ledger_rows(videos)]
        commits.commit(parts)


def _videos_rows(videos: int) -> Iterator[pa.Table]:
    same = {"run_id": "made-up", "member": "", "bytes": SIZE_BYTES, "container": "mov,mp4,m4a", "codec": "h264"}
    same |= {"width": 1920, "height": 1080, "fps": 25.0, "duration_us": END_US, "status": "labelled", "coverage": 1.0}
    same |= {"n_segments": 1, "labelled_at": datetime(2026, 1, 1, tzinfo=UTC)}
    for first in range(0, videos, PART_ROWS):
        sources = [source(number) for number in range(first, min(first + PART_ROWS, videos))]
        own = {"video_id": [one.video_id for one in sources], "uri": [one.uri for one in sources]}
        yield _table(VIDEOS, same, own | {"etag": [one.etag for one in sources]})


def _ledger_rows(videos: int) -> Iterator[pa.Table]:
    same = {"annotator": ANNOTATOR, "model_id": MODEL, "run_id": "made-up", "n_segments": 1, "start_us": 0}
    same |= {"end_us": END_US, "status": "labelled", "attempts": 1, "rows": 10, "coverage": 1.0, "decode_s": 0.25}
    same |= {"infer_s": 0.125, "worker": "node-1/cpu", "at": datetime(2026, 1, 1, tzinfo=UTC), "samples": 10}
    for first in range(0, videos, PART_ROWS):
        sources = [source(number) for number in range(first, min(first + PART_ROWS, videos))]
        own = {"video_id": [one.video_id for one in sources], "facts": [_facts(one) for one in sources]}
        for segment in (0, WHOLE_VIDEO):
            rows = _table(LEDGER, same | {"segment": segment}, own)
            yield rows.take(pa.array(np.random.default_rng(first).permutation(len(rows))))  # as runs leave them


def _facts(one: Source) -> str:
    known = {"uri": one.uri, "etag": one.etag, "bytes": SIZE_BYTES, "member": "", "container": "mov,mp4,m4a"}
    known |= {"codec": "h264", "width": 1920, "height": 1080, "rotation": 0, "fps": 25.0, "variable_rate": False}
    known |= {"start_us": 0, "end_us": END_US, "declared_us": END_US, "has_audio": True, "has_subtitles": False}
    return json.dumps(known | {"metadata": {"encoder": "Lavf62.3.100", "site": "north"}})


def _table(table: Table, same: dict[str, Any], own: dict[str, list[Any]]) -> pa.Table:
    """Rows in which the columns `own` differ, those of `same` do not, and the others are null."""
    count = len(own["video_id"])
    columns = [
        pa.array(own[field.name], field.type)
        if field.name in own
        else pa.repeat(pa.scalar(same.get(field.name), field.type), count)
        for field in table.schema
    ]
    return pa.table(columns, schema=table.schema)


def measured(case: str, folder: Path) -> dict[str, Any]:
    """Run one case here and tell what it took."""
    before_mib = _peak_mib()
    started, cpu = time.perf_counter(), time.process_time()
    told = CASES[case](folder)
    return {
        "case": case,
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_s": round(time.process_time() - cpu, 1),
        "peak_mib": round(_peak_mib()),
        "libraries_mib": round(before_mib),
        **told,
    }


def _peak_mib() -> float:
    """Of this program: `ru_maxrss` would tell of whoever started it, too."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def _plan(folder: Path, *, listing: str = "listing", tables: str = "tables", wanted: dict[str, str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=folder) as out:
        summary = make_plan(str(folder / listing), str(folder / tables), wanted=wanted, out_url=out)
        size = sum(path.stat().st_size for path in Path(out).iterdir())
    return {"plan_mib": round(size / 2**20, 1), **asdict(summary)}


class _Anyone:
    """As much of an annotator as `pending_derivations` asks for."""

    name, model_id = ANNOTATOR, MODEL
    reads: tuple[str, ...] = ()
    replaces: tuple[str, ...] = ()

    def label_rows(self, mean_scores: Any) -> None:
        return None

    def over_video(self, rows: Any, facts: Any) -> dict[str, pa.Table]:
        return {}


CASES = {
    "first": lambda folder: _plan(folder, tables="no-tables", wanted={ANNOTATOR: MODEL}),
    "idle": lambda folder: _plan(folder, wanted={ANNOTATOR: MODEL}),
    "increment": lambda folder: _plan(folder, listing="next-night", wanted={ANNOTATOR: MODEL}),
    "model": lambda folder: _plan(folder, wanted={ANNOTATOR: "quality-89abcdef"}),
    "nine": lambda folder: _plan(folder, wanted={f"annotator-{i}": f"network-{i}-01234567" for i in range(9)}),
    "derive": lambda folder: {"pending": pending_derivations(str(folder / "tables"), {ANNOTATOR: _Anyone()})},
}


def in_a_process(case: str, folder: Path) -> dict[str, Any]:
    """`measured`, in a process that has done nothing else."""
    line = [sys.executable, __file__, "--one", case, "--folder", str(folder)]
    told: dict[str, Any] = json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout)
    return told


def prepare(folder: Path, videos: int) -> None:
    """Write listings and ledger, unless they are there."""
    if (folder / "ready").exists():
        return
    write_listing(folder / "listing", range(videos))
    write_listing(folder / "next-night", range(videos // NEW_SHARE, videos + videos // NEW_SHARE))
    write_ledger(folder / "tables", videos)
    (folder / "ready").touch()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=1_000_000)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--folder", type=Path, help="keep listings and ledger there")
    parser.add_argument("--one", choices=CASES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measured(given.one, given.folder)))
        return
    folder = given.folder or Path(tempfile.mkdtemp(prefix="plan-scale-"))
    try:
        prepare(folder, given.videos)
        size = sum(path.stat().st_size for path in (folder / "tables").rglob("*.parquet"))
        print(f"{given.videos:,} videos listed; the ledger has {2 * given.videos:,} rows in {size / 2**20:,.0f} MiB")
        for case in given.cases:
            print(f"load {os.getloadavg()[0]:.1f}  {json.dumps(in_a_process(case, folder))}", flush=True)
    finally:
        if given.folder is None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
