"""The text annotator: rows of spans, languages as containers write them, metadata once per video."""

from typing import Any

import numpy as np
import pytest

from vidproc.annotators.text import WrittenText, iso_639_2
from vidproc.errors import UsageError
from vidproc.media.samples import CHAPTER, TextSpan, text_bytes, text_samples
from vidproc.schema import TEXT
from vidproc.train.options import TrainConfig

FACTS = {"start_us": 1_000_000, "end_us": 5_000_000}


def rows(*spans: TextSpan, whole: bool = True) -> tuple[list[dict[str, Any]], Any]:
    samples = text_samples(text_bytes(spans, whole=whole))
    [annotation] = WrittenText().load("cpu").annotate([{WrittenText.view: samples}])
    return annotation.rows["text"].to_pylist(), annotation


def metadata(tags: dict[str, Any], **facts: Any) -> list[dict[str, Any]]:
    found = WrittenText().over_video({"text": TEXT.body.empty_table()}, FACTS | {"metadata": tags} | facts)
    return found["text"].to_pylist() if found else []


def test_a_row_per_span() -> None:
    found, annotation = rows(
        TextSpan(CHAPTER, 0, 9_000_000, "", "One"),
        TextSpan(2, 100, 200, "ger", "Hallo"),
        TextSpan(2, 100, 300, "ger", "Welt"),
        TextSpan(2, 400, 500, "ger", "!"),
        TextSpan(3, 400, 500, "", "?"),
        TextSpan(-2, 400, 500, "", "first channel"),
        TextSpan(-5, 400, 500, "", "fourth"),
    )
    assert annotation.samples == 7 and annotation.tally is None and annotation.reason is None
    assert [tuple(row.values()) for row in found] == [
        (0, 9_000_000, "chapter", -1, 0, None, None, "One"),
        (100, 200, "subtitle", 2, 0, None, "deu", "Hallo"),
        (100, 300, "subtitle", 2, 1, None, "deu", "Welt"),
        (400, 500, "subtitle", 2, 0, None, "deu", "!"),
        (400, 500, "subtitle", 3, 0, None, None, "?"),
        (400, 500, "caption", 1, 0, None, None, "first channel"),
        (400, 500, "caption", 4, 0, None, None, "fourth"),
    ]


def test_text_that_was_left_out_is_told() -> None:
    assert rows(TextSpan(2, 0, 1, "", "x"), whole=False)[1].reason == "too_large"


@pytest.mark.parametrize(
    ("tag", "code"),
    [("ger", "deu"), ("deu", "deu"), ("de", "deu"), ("de-AT", "deu"), ("pt_BR", "por"), ("EN", "eng"), ("chi", "zho")]
    + [(tag, None) for tag in ("", "und", "mul", "zxx", "xx", "qqqq", "English (US)", "<b>", "\x00", "a" * 35)],
)
def test_languages(tag: str, code: str | None) -> None:
    assert iso_639_2(tag) == code


def test_metadata_spans_the_video_once_in_a_fixed_order() -> None:
    found = metadata({"title": "A  film\n", "comment": "<b>", "encoder": "Lavf", "MAJOR_BRAND": "qt", "empty": " "})
    assert [tuple(row.values()) for row in found] == [
        (1_000_000, 5_000_000, "metadata", -1, 0, "comment", None, "<b>"),
        (1_000_000, 5_000_000, "metadata", -1, 1, "title", None, "A film"),
    ]


def test_odd_metadata() -> None:
    """A shard's sidecar may hold any JSON; the container's is bounded by the probe, this is bounded here."""
    found = metadata({"n": 1, "list": ["ü"], "none": None, "big": "x" * 9_000, "half": "\ud800a"})
    said = {row["name"]: row["text"] for row in found}
    assert said == {"n": "1", "list": '["ü"]', "big": "x" * 2_000, "half": "a"}
    assert len(metadata({f"{i:04d}": "x" for i in range(5_000)})) == 256
    assert metadata({}) == [] and WrittenText().over_video({}, {"metadata": {"title": "never opened"}}) == {}


def test_what_was_said_of_segments_stays() -> None:
    assert WrittenText.reads == ("text",) and WrittenText.replaces == ()
    assert set(WrittenText().over_video({}, FACTS)) == {"text"}


def test_text_takes_no_weights() -> None:
    with pytest.raises(UsageError, match="leave out text=demo"):
        WrittenText.from_spec("demo")


def test_no_network_is_trained_on_text() -> None:
    with pytest.raises(ValueError, match="frames, clips or audio"):
        TrainConfig(view={"kind": "text"})


def test_numbers_are_those_of_one_stream_and_start() -> None:
    spans = [TextSpan(stream, start, 99, "", "x") for stream in (1, 2) for start in (5, 5, 5, 6, 7, 7)]
    assert [row["number"] for row in rows(*spans)[0]] == [0, 1, 2, 0, 0, 1] * 2
    assert np.unique([[r["stream"], r["start_us"], r["number"]] for r in rows(*spans)[0]], axis=0).shape == (12, 3)
