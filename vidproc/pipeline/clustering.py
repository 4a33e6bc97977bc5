"""Say which unknown faces are one person's: "the same stranger is in these 14 videos", to be asked and then enrolled.

    python jobs/maintain.py gallery cluster --tables out/tables --similarity 0.4 \\
        --purpose "whom to ask for consent" --out unknown.parquet

It needs vectors: label with --annotators faces --keep-face-vectors. Compared are unknown tracks alone, those of the
newest version of each video by the model that labelled it last; of each the mean of its faces. Two clusters are one
where the mean cosine of all their pairs is at least --similarity: take what `calibrate` finds for the recogniser.
One row for each track: its cluster, how many tracks and videos that has, how near it is to the cluster's mean, where it
is (uri, member, times, the box of its best face). Without --out, as JSON on standard output.
The answer is about people who agreed to nothing. It is made only when asked for, is no table, and must lie outside the
tables. `forget` does not find it there: remove it when it has served its purpose, and after any `forget` at the latest.
Each run is told in _audit/ with its purpose before any face is compared. It keeps other jobs from the tables.
Exit codes: 0 done, 2 usage (also where no vectors were kept), 4 another job holds the tables.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from pydantic import Field

from vidproc.annotators.faces import check_purpose
from vidproc.command import Options, log, parse
from vidproc.errors import UsageError
from vidproc.pipeline.audit import append_audit
from vidproc.tables import deltalog
from vidproc.tables.clusters import unknown_clusters
from vidproc.tables.commit import Commits
from vidproc.tables.lease import LEASE_S
from vidproc.tables.parts import parquet_bytes
from vidproc.tables.store import Store
from vidproc.tables.vacuum import run_id_of

_FORMULA = r"^[=+\-@\t\r\n＝＋－＠]"
"""How text begins that spreadsheets run: OWASP, "CSV Injection". Names are whatever somebody put into the archive."""


class ClusterOptions(Options):
    """Options of `gallery cluster`."""

    tables: str = Field(description="where the tables are: a folder or s3://bucket/prefix")
    similarity: float = Field(gt=0, lt=1, description="mean cosine of all pairs from which two clusters are one person")
    purpose: str = Field(description="what the faces are compared for; it goes to the audit trail")
    out: str | None = Field(None, description="FILE.parquet or FILE.csv outside the tables, also s3://…")
    min_tracks: int = Field(2, ge=2, description="how many tracks a cluster must have")
    min_faces: int = Field(1, ge=1, description="how many faces with vectors a track must have to be looked at")
    lease_s: float = Field(LEASE_S, gt=0, description="how long to watch a silent holder of the tables")


def cluster(arguments: Sequence[str]) -> int:
    """`maintain.py gallery cluster …`; returns the exit code. Raises `UsageError`, LeaseLost."""
    options = parse(ClusterOptions, __doc__, arguments)
    check_purpose(options.purpose)
    if options.out is not None:
        _check_out(options.out, options.tables)
    deltalog.existing(Store(options.tables))
    run_id = run_id_of("cluster")
    with (
        Commits.open(options.tables, run_id=run_id, lease_s=options.lease_s),  # so that nobody is forgotten meanwhile
        _audited(options, run_id) as outcome,
    ):
        found = unknown_clusters(
            options.tables,
            at_least=options.similarity,
            min_tracks=options.min_tracks,
            min_faces=options.min_faces,
        )
        counts = {"tracks": found.tracks, "clusters": found.clusters, "left": found.left}
        outcome.update(counts, in_clusters=found.rows.num_rows, models=list(found.models))
        _give(found.rows, options.out)
    log("clustered", **outcome)
    if found.left:
        log("warning", message=f"the vectors of {found.left} unknown tracks were not kept: nothing is said of them")
    return 0


@contextmanager
def _audited(options: ClusterOptions, run_id: str) -> Iterator[dict[str, Any]]:
    """Put on record that faces are about to be compared, then how it ended: `done` and what came of it, or an error."""
    told = options.model_dump(include={"purpose", "similarity", "min_tracks", "min_faces", "out"})
    append_audit(options.tables, run_id, "begun", told)
    outcome: dict[str, Any] = {}
    try:
        yield outcome
    except BaseException as error:
        with suppress(Exception):  # what ended the run is what must be told; that it began is on record
            append_audit(options.tables, run_id, "ended", told | {"status": type(error).__name__})
        raise
    append_audit(options.tables, run_id, "ended", told | {"status": "done"} | outcome)


def _place(out: str) -> tuple[Store, str]:
    folder, name = out.rpartition("/")[0], PurePosixPath(out).name
    return Store(folder or ("/" if out.startswith("/") else ".")), name


def _check_out(out: str, tables_url: str) -> None:
    """Raises `UsageError` unless it is a file of a known kind that lies outside the tables."""
    if not out.endswith((".parquet", ".csv")):
        raise UsageError(f"--out {out!r} must end in .parquet or .csv")
    folder, tables = (store.root.rstrip("/") + "/" for store in (_place(out)[0], Store(tables_url)))
    if folder.startswith(tables):
        raise UsageError(
            f"--out {out!r} lies inside the tables at {tables_url}: whoever reads them must not read it; choose another"
        )


def _give(rows: pa.Table, out: str | None) -> None:
    if out is None:
        for batch in rows.to_batches(max_chunksize=1000):
            sys.stdout.writelines(f"{json.dumps(row, ensure_ascii=False)}\n" for row in batch.to_pylist())
        sys.stdout.flush()
        return
    store, name = _place(out)
    store.put(name, _csv(rows) if name.endswith(".csv") else parquet_bytes(rows))


def _csv(rows: pa.Table) -> bytes:
    for at, field in enumerate(rows.schema):
        if pa.types.is_string(field.type):
            texts = rows[field.name]
            quoted = pc.binary_join_element_wise("'", texts, "")
            rows = rows.set_column(at, field, pc.if_else(pc.match_substring_regex(texts, _FORMULA), quoted, texts))
    sink = pa.BufferOutputStream()
    pyarrow.csv.write_csv(rows, sink)
    data: bytes = sink.getvalue().to_pybytes()
    return data
