"""The `evaluations` table: what each model came to on each data set, brought in by the one sequence of commits.

An evaluation is all rows of one (model_id, dataset, protocol). Doing it again replaces it whole, in one step: the
figures are of the newest time, and none is left over from an older one that measured other labels.
"""

import math
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import pyarrow as pa

from vidproc.schema import EVALUATIONS
from vidproc.tables.commit import Commits
from vidproc.tables.lease import LEASE_S
from vidproc.tables.parts import write_part

EVALUATION = ("model_id", "dataset", "protocol")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One figure of one evaluation.

    `dataset`: the data's URL or name, with its split. `protocol`: how examples were drawn and scored, such as
    "center" or "30 views". `slice`: "" for all examples, or what they have in common, such as "label=dog".
    """

    model_id: str
    dataset: str
    protocol: str
    metric: str
    slice: str
    value: float


def write_evaluations(tables_url: str, rows: Sequence[Evaluation], *, lease_s: float = LEASE_S) -> int:
    """Take the lease, commit `rows`, give the lease back. Returns the commit's number.

    Older rows of the same evaluations go in the same commit. Raises LeaseLost while a label job (or another
    evaluation) holds the tables: nothing is written then; do it again after its end. Raises ValueError, before anything
    is written, for no rows, a figure given twice, or a value that is no number.
    """
    table = _table(rows)
    run_id = f"evaluate-{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"
    with Commits.open(tables_url, run_id=run_id, lease_s=lease_s) as commits:
        older = table.select(EVALUATION).group_by(list(EVALUATION)).aggregate([])
        return commits.commit(
            [write_part(commits.tables_url, EVALUATIONS, table)], replace={EVALUATIONS.name: older.select(EVALUATION)}
        )


def _table(rows: Sequence[Evaluation]) -> pa.Table:
    if not rows:
        raise ValueError("an evaluation without one figure says nothing: write none")
    wrong = [row for row in rows if not math.isfinite(row.value)]
    if wrong:
        raise ValueError(f"{len(wrong)} values are no numbers, the first is of {wrong[0]}: leave them out")
    (figure, times), *_ = Counter(tuple(getattr(row, name) for name in EVALUATIONS.key) for row in rows).most_common(1)
    if times > 1:
        raise ValueError(f"{figure} is given {times} times; each figure has one value")
    at = datetime.now(UTC)
    return pa.Table.from_pylist([asdict(row) | {"at": at} for row in rows], schema=EVALUATIONS.schema)
