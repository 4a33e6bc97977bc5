"""The README's example of an annotator, run as it stands there."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from labelling import check, read

from vidproc.annotators import ANNOTATORS
from vidproc.pipeline import label
from vidproc.pipeline.options import LabelConfig
from vidproc.train.archive import make_archive

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture
def colour(tmp_path: Path) -> Iterator[Any]:
    """The module that the README shows."""
    code = README.read_text().split("## Add an annotator")[1].split("```python\n")[1].split("```")[0]
    (tmp_path / "readme_colour.py").write_text(code)
    sys.path.insert(0, str(tmp_path))
    module = importlib.import_module("readme_colour")
    ray.cloudpickle.register_pickle_by_value(module)  # the workers have no such file
    yield module
    ray.cloudpickle.unregister_pickle_by_value(module)
    sys.path.remove(str(tmp_path))


def test_the_example_labels_an_archive(
    ray_cluster: None, colour: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ANNOTATORS, "colour", colour.Colour.from_spec)
    make_archive(tmp_path / "archive", plain=1, sharded=0, seconds=2)
    tables = str(tmp_path / "tables")
    config = LabelConfig(archive=(str(tmp_path / "archive"),), tables=tables, annotators=("colour",), failure_budget=1)
    assert label.run(config) == 0
    found = read(tables)
    check(found)
    rows = [row for row in found["labels"] if row["annotator"] == "colour"]
    assert rows and {row["label"] for row in rows} <= set(colour.NAMES)
    assert {row["video_id"] for row in rows} == {
        row["video_id"] for row in found["videos"] if row["status"] in ("labelled", "partial")
    }
