"""`--canary DIR`: videos whose labels are known are labelled first; if they come out otherwise, nothing is committed.

DIR holds the videos and `expected.csv` with the columns `file`, `annotator`, `label`: over the whole video, `label`
must be the annotator's best.
"""

import csv
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vidproc.command import log
from vidproc.errors import CanaryWrong, UsageError
from vidproc.media.archive import list_archive
from vidproc.pipeline.cluster import Cluster
from vidproc.pipeline.execution import annotated
from vidproc.pipeline.options import LabelConfig
from vidproc.pipeline.steps import Settings
from vidproc.tables.plan import make_plan


def check(folder: str, settings: Settings, options: LabelConfig, cluster: Cluster, scratch: str) -> None:
    """Label the canary's videos, commit nothing, compare.

    Raises `CanaryWrong`, or `UsageError` if there is nothing to compare.
    """
    expected = _expected(folder, settings)
    names = {file for file, _ in expected}
    list_archive([folder], f"{scratch}/listing")
    wanted = {name: annotator.model_id for name, annotator in settings.annotators.items()}
    plan = make_plan(f"{scratch}/listing", f"{scratch}/tables", wanted=wanted, out_url=f"{scratch}/plan")
    tallies: dict[tuple[str, str], dict[int, Any]] = {}
    rows = annotated(f"{scratch}/plan", plan.planned, settings, options, cluster)
    samples: Counter[tuple[str, str]] = Counter()
    for row in rows.select_columns(["annotator", "facts", "segment", "samples", "tally"]).iter_rows():
        name = Path(json.loads(row["facts"])["uri"]).name
        if name in names and row["tally"] is not None:
            key = (name, row["annotator"])
            tallies.setdefault(key, {})[row["segment"]] = row["tally"]
            samples[key] += row["samples"]
    found = {key: _scores(settings, key, of_segments, samples[key]) for key, of_segments in tallies.items()}
    wrong = {key: got for key, label in expected.items() if (got := _best(settings, key, found)) != label}
    if wrong:
        told = "; ".join(
            f"{file} is {got!r}, not {expected[file, name]!r} ({name})" for (file, name), got in wrong.items()
        )
        raise CanaryWrong(
            f"{len(wrong)} of {len(expected)} labels of the canary came out wrong, nothing was committed: {told}"
        )
    log("canary", videos=len(names), labels=len(expected), wrong=0)


def _expected(folder: str, settings: Settings) -> dict[tuple[str, str], str]:
    path = Path(folder) / "expected.csv"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row.get("annotator") in settings.annotators]
        expected = {(row["file"], row["annotator"]): row["label"] for row in rows}
    except (OSError, KeyError, csv.Error, UnicodeDecodeError) as error:
        raise UsageError(f"{path} must be a CSV file with the columns file, annotator, label: {error!r}") from None
    if not expected:
        raise UsageError(
            f"{path} expects nothing of the annotators {', '.join(settings.annotators)}: a canary must be able to fail"
        )
    return expected


def _scores(settings: Settings, key: tuple[str, str], tallies: Mapping[int, Any], samples: int) -> Any:
    """As derive has them: from the segments in their order."""
    annotator = settings.annotators[key[1]]
    rows = np.asarray([tallies[segment] for segment in sorted(tallies)], np.float64)
    return annotator.mean_scores(annotator.joined_tally(rows), max(samples, 1))


def _best(settings: Settings, key: tuple[str, str], found: Mapping[tuple[str, str], Any]) -> str | None:
    """The best label of one canary video over its whole length; None if it has none."""
    if key not in found:
        return None
    labels = settings.annotators[key[1]].label_rows(found[key])
    return str(labels["label"][0]) if labels is not None and labels.num_rows else None
