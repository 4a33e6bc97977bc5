"""What every annotator promises, whichever it is: a new one is tested by being in `ANNOTATORS`."""

import pickle
import subprocess
import sys

import numpy as np
import pyarrow.compute as pc
import pytest
from lettering import lettered
from random_weights import MADE, shared_by_tests

from vidproc.annotators import ANNOTATORS
from vidproc.annotators.base import Annotator
from vidproc.annotators.ocr import PictureText
from vidproc.errors import UsageError
from vidproc.media.samples import SPAN, Samples
from vidproc.media.sampling import target_times
from vidproc.schema import COMMON, TABLES
from vidproc.views import Audio, Text, View

WITHOUT_WEIGHTS = {"ocr", "quality", "shots", "text"}


NAMES = [name for name in ANNOTATORS if name != "faces"]
"""Faces are not made from a name alone, but on terms: `test_faces.py` holds them to the same promises."""


def spec_of(name: str) -> str | None:
    """Weights that are on this machine: the demo's, or random ones where none are shipped."""
    if name in WITHOUT_WEIGHTS:
        return None
    return shared_by_tests(name) if name in MADE else "demo"


def offline(name: str) -> Annotator:
    return ANNOTATORS[name](spec_of(name))


def noise_samples(view: View, *, count: int, seed: int = 0) -> Samples:
    """`count` samples of noise from time 0 (of sound: `count` seconds), in memory that must not be written.

    With a word on it where words are looked for.
    """
    rng = np.random.default_rng(seed)
    if isinstance(view, Audio):
        data = rng.integers(-3000, 3000, (count * view.rate, view.channels)).astype(np.int16)
        starts, spans = np.zeros(min(count, 1), np.int64), count * 1_000_000
    elif isinstance(view, Text):
        data = np.array([(2, "eng", f"word {rng.integers(1000)}") for _ in range(count)], SPAN)
        starts, spans = np.arange(count) * 1_000_000, 1_500_000
    elif view == PictureText.view:
        pictures = [lettered({300: f"word {seed}"}, seed=number) for number in range(count)]
        data = np.array(pictures, np.uint8).reshape(count, *view.sample_shape)
        starts, spans = np.arange(count) * view.stride_us, view.span_us
    else:
        data = rng.integers(0, 256, (count, *view.sample_shape), dtype=np.uint8)
        starts, spans = np.arange(count) * view.stride_us, view.span_us
    data.flags.writeable = False
    frame_us = starts if isinstance(view, Audio | Text) else target_times(view, starts)
    return Samples(starts, starts + spans, frame_us, data)


def segment(annotator: Annotator, *, count: int, seed: int = 0) -> dict[View, Samples]:
    return {view: noise_samples(view, count=count, seed=seed) for view in annotator.views}


@pytest.mark.parametrize("name", NAMES)
def test_describes_itself_without_torch(name: str) -> None:
    code = (
        "import sys, pickle; from vidproc.annotators import ANNOTATORS;"
        f"a = pickle.loads(pickle.dumps(ANNOTATORS[{name!r}]({spec_of(name)!r})));"
        "assert (a.name, a.model_id, a.tables, a.views); print(a.model_id); assert 'torch' not in sys.modules"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    annotator = offline(name)
    assert annotator.name == name
    assert found.stdout.strip() == annotator.model_id  # the same in every process
    architecture, _, digest = annotator.model_id.rpartition("-")
    assert architecture and len(digest) == 8 and int(digest, 16) >= 0
    assert set(annotator.tables) <= set(TABLES)


@pytest.mark.parametrize("name", NAMES)
def test_rows_fit_the_tables(name: str) -> None:
    annotator = offline(name)
    network = pickle.loads(pickle.dumps(annotator)).load("cpu")
    counts = [2, 0, 5]
    annotations = network.annotate([segment(annotator, count=count, seed=count) for count in counts])
    assert len(annotations) == len(counts)
    for count, annotation in zip(counts, annotations, strict=True):
        assert set(annotation.rows) == set(annotator.tables)
        for table_name, rows in annotation.rows.items():
            expected = [column for column in TABLES[table_name].schema if column.name not in COMMON]
            assert list(rows.schema) == expected
            rows.validate(full=True)
            for column in expected:
                assert column.nullable or rows[column.name].null_count == 0
            assert (rows.num_rows > 0) == (count > 0)
            if count:
                key = [k for k in TABLES[table_name].key if k in rows.schema.names]
                assert rows.group_by(key).aggregate([]).num_rows == rows.num_rows
                if "end_us" in rows.schema.names:
                    assert pc.all(pc.less(rows["start_us"], rows["end_us"])).as_py()


@pytest.mark.parametrize("name", NAMES)
def test_nothing_to_look_at_is_no_rows(name: str) -> None:
    annotator = offline(name)
    network = annotator.load("cpu")
    assert network.annotate([]) == []
    [annotation] = network.annotate([{}])
    assert annotation.samples == 0 and annotation.tally is None
    assert all(rows.num_rows == 0 for rows in annotation.rows.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_segment_s_rows_do_not_depend_on_its_company(name: str) -> None:
    """Bit for bit: a run that is killed and resumed puts segments into other batches."""
    annotator = offline(name)
    network = annotator.load("cpu")
    segments = [segment(annotator, count=count, seed=count) for count in (3, 1, 11, 2)]
    together = network.annotate(segments)
    for alone, joint in zip([network.annotate([one])[0] for one in segments], together, strict=True):
        assert all(alone.rows[table].equals(joint.rows[table]) for table in annotator.tables)
        assert alone.samples == joint.samples
        assert (alone.tally is None and joint.tally is None) or np.array_equal(alone.tally, joint.tally)


def test_quality_takes_no_weights() -> None:
    with pytest.raises(UsageError, match="leave out quality=demo"):
        ANNOTATORS["quality"]("demo")
