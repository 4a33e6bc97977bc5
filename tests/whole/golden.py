"""The golden run: what every annotator says of a small drawn archive, so that a change of behaviour is seen.

    python tests/whole/golden.py            labels the archive, and says what differs from golden.json
    python tests/whole/golden.py --write    and writes golden.json anew, after a change that is meant

`golden.json` has what annotators with shipped weights, or none, say: the others' random weights are made anew each time
and prove no more than that two runs agree. Labels, boxes, spans and words must be the same to the byte; scores, boxes'
sides and measures within 1e-4, so that another processor passes. The archive is chosen for margins: that no label hangs
on a rounding, `test_golden.py` shows with noise on its pictures, and with instructions of older processors.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.append(str(Path(__file__).parents[1]))

from annotators.random_weights import fusion_written, written
from made_faces import PURPOSE, person, random_recogniser
from pipeline.labelling import PASSING, Row, Tables, read
from whole.golden_archive import draw

from vidproc.annotators import ANNOTATORS
from vidproc.models.recogniser import resolve_recogniser
from vidproc.pipeline import label
from vidproc.pipeline.options import LabelConfig
from vidproc.schema import TABLES, WHOLE_VIDEO
from vidproc.tables.gallery import add_person

GOLDEN = Path(__file__).with_name("golden.json")
SHIPPED = ("actions", "detections", "embeddings", "objects", "quality", "shots", "text")
ALL = tuple(name for name in ANNOTATORS if name != "ocr")
"""Half a second a frame for nothing: no words are drawn."""
TOLERANCE = 1e-4
NOT_OF_THE_LABELS = {"runs", "evaluations", "forgotten"}
FLEETING = {
    "video_id",
    "annotator",
    "uri",
    "member",
    "etag",
    "bytes",
    "metadata",
    "model_id",
    "facts",
    "detail",
    "notes",
}
"""What tells of the archive's files, or is told elsewhere."""
SHOWN_NUMBERS = 6
"""Of a vector or a tally that the golden file has."""


class Settled:
    """The archive, and the weights of all annotators, in one folder: what several runs have in common."""

    def __init__(self, folder: Path, *, noise: int = 0) -> None:
        self.folder, self.archive = folder, draw(folder / "archive", noise=noise)
        made = folder / "weights"
        made.mkdir()
        self.weights = {
            **dict.fromkeys(("actions", "detections", "embeddings", "objects"), "demo"),
            "scenes": written(made, "scenes"),
            "sounds": written(made, "sounds"),
            "fusion": fusion_written(made),
            "faces": random_recogniser(),
        }
        self.gallery = str(folder / "gallery")
        embedder = resolve_recogniser(self.weights["faces"]).embedder.sha256
        for name, vector in zip(("ann", "bob"), np.eye(8, dtype=np.float32), strict=False):
            add_person(self.gallery, person(name, [vector]), embedder=embedder)

    def options(self, tables: str, annotators: tuple[str, ...] = ALL) -> dict[str, Any]:
        """Of the label job, by name."""
        faces = {"gallery": self.gallery, "purpose": PURPOSE} if "faces" in annotators else {}
        return {
            "archive": (str(self.archive),),
            "tables": str(self.folder / tables),
            "annotators": annotators,
            "weights": {name: url for name, url in self.weights.items() if name in annotators},
            "failure_budget": 0.5,
            **faces,
        }

    def line(self, tables: str) -> list[str]:
        """The same as a command's flags."""
        flags = []
        for name, value in self.options(tables).items():
            pairs = [f"{key}={url}" for key, url in value.items()] if isinstance(value, dict) else value
            flags += [f"--{name.replace('_', '-')}", *map(str, pairs if isinstance(pairs, list | tuple) else [pairs])]
        return flags

    def run(self, tables: str, annotators: tuple[str, ...] = ALL, **more: Any) -> Tables:
        """Label the archive; returns all tables."""
        given = self.options(tables, annotators)
        code = label.run(LabelConfig(**given | more))
        assert code == 0, f"the run ended with {code}"
        return read(given["tables"])


def keys(tables: Tables) -> bytes:
    """All that is no measured number, of all rows in order: the same to the byte in any two runs."""
    return json.dumps(_split(tables, PASSING)[0], sort_keys=True, default=str).encode()


def numbers(tables: Tables) -> npt.NDArray[np.float64]:
    """All measured numbers, in the order of their rows; what is null is NaN."""
    return np.array(_split(tables, PASSING)[1], np.float64)


def furthest(one: Tables, other: Tables) -> float:
    """The largest difference of two numbers at the same place. Keys must be the same."""
    ours, theirs = numbers(one), numbers(other)
    assert np.array_equal(np.isnan(ours), np.isnan(theirs))
    return float(np.nanmax(np.abs(ours - theirs)))


def _split(tables: Tables, without: set[str]) -> tuple[dict[str, list[Row]], list[float]]:
    kept: dict[str, list[Row]] = {}
    measured: list[float] = []
    for name, rows in tables.items():
        if name in NOT_OF_THE_LABELS:
            continue
        kept[name] = []
        for row in rows:
            said = {}
            for column, value in row.items():
                if column in without:
                    continue
                if is_measured(name, column):
                    found = value if isinstance(value, list) else [value]
                    measured.extend(np.nan if one is None else one for one in found)
                elif column == "notes" and value is not None:
                    said[column] = json.loads(value, parse_float=lambda text: measured.append(float(text)))
                else:
                    said[column] = value
            kept[name].append(said)
    return kept, measured


def is_measured(table: str, column: str) -> bool:
    """Whether a column holds numbers that a processor rounds; False of columns that the schema lacks."""
    if table not in TABLES or column not in TABLES[table].schema.names:
        return False
    kind = str(TABLES[table].schema.field(column).type)
    return "float" in kind or "double" in kind


# ---- the golden file


def golden(tables: Tables) -> dict[str, Any]:
    """What `golden.json` holds of the tables: rows of annotators whose weights ship, by the names of their files."""
    places = {row["video_id"]: row["member"] or Path(row["uri"]).name for row in tables["videos"]}
    models = {row["annotator"]: [[row["model_id"]]] for row in tables["ledger"]}
    found: dict[str, Any] = {"models": {"columns": ["model_id"], "rows": {name: models[name] for name in SHIPPED}}}
    for name, rows in tables.items():
        if name in NOT_OF_THE_LABELS:
            continue
        columns = [column for column in TABLES[name].schema.names if column not in PASSING | FLEETING]
        kept: dict[str, list[Any]] = {}
        for row in rows:
            if row.get("annotator", "quality") in SHIPPED and row.get("segment") != WHOLE_VIDEO:
                about = f"{places[row['video_id']]} {row.get('annotator', '')}".strip()
                kept.setdefault(about, []).append([_shown(row[column]) for column in columns])
        if kept:
            found[name] = {"columns": columns, "rows": dict(sorted(kept.items()))}
    return found


def _shown(value: Any) -> Any:
    if isinstance(value, list):
        return [_shown(one) for one in value[:SHOWN_NUMBERS]]
    if isinstance(value, float):
        return round(value, 5)
    return value if value is None or isinstance(value, int | str) else str(value)


def differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """What is not as it was: numbers by more than the tolerance, anything else at all."""
    told = []
    for name in sorted(found.keys() | expected.keys()):
        ours, theirs = ({"columns": [], "rows": {}} | golden.get(name, {}) for golden in (found, expected))
        if ours["columns"] != theirs["columns"]:
            told.append(f"{name}: columns are {ours['columns']}, not {theirs['columns']}")
            continue
        for about in sorted(ours["rows"].keys() | theirs["rows"].keys()):
            one, other = (golden["rows"].get(about, []) for golden in (ours, theirs))
            if len(one) != len(other):
                told.append(f"{name} of {about}: {len(one)} rows, not {len(other)}")
            told += [
                f"{name} of {about}: {column} is {a}, not {b}, in {row}"
                for row, before in zip(one, other, strict=False)
                for column, a, b in zip(ours["columns"], row, before, strict=True)
                if not _near(a, b)
            ]
    return told


def _near(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_near, one, other))
    if isinstance(one, float) or isinstance(other, float):
        return one is not None and other is not None and abs(one - other) <= TOLERANCE
    return bool(one == other)


def as_text(found: Mapping[str, Any]) -> str:
    """JSON with a line for each row, so that a change is seen in a diff."""
    compact = json.dumps(found, separators=(",", ":"), ensure_ascii=False)
    return compact.replace("]],", "]],\n").replace("],[", "],\n[").replace("]}},", "]}},\n") + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="golden-") as folder:
        found = golden(Settled(Path(folder)).run("tables", SHIPPED))
    told = differences(found, json.loads(GOLDEN.read_text())) if GOLDEN.exists() else []
    print(*told, f"{len(told)} differences", sep="\n")
    if asked.write:
        GOLDEN.write_text(as_text(found))
    return bool(told) and not asked.write


if __name__ == "__main__":
    sys.exit(main())
