"""Text from the archive to its table: every span once, metadata once, and states that say why there is none."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from labelling import Tables, by_name, check, read
from media.made_subtitles import Track, cue, make_subtitled

from vidproc.media.samples import MOST_SPANS
from vidproc.pipeline import label
from vidproc.pipeline.options import LabelConfig

LINES = [(500, 1_000, "first"), (29_500, 1_500, "across the border"), (30_000, 1_000, "on it"), (31_000, 9_000, "last")]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text") / "archive"
    folder.mkdir()
    english = Track("subrip", [cue("subrip", *line) for line in LINES], "eng")
    german = Track("ass", [cue("ass", 29_800, 400, "{\\i1}Grenze")], "ger")
    make_subtitled(folder / "two.mkv", [english, german], seconds=32, metadata={"title": "Two streams"})
    make_subtitled(folder / "sound.mkv", [english], seconds=32, picture=None, sound=True)
    make_subtitled(folder / "alone.mkv", [english], seconds=0, picture=None)
    make_subtitled(folder / "titled.mp4", [], seconds=1, metadata={"title": "Only a title", "comment": "and\x07 more"})
    make_subtitled(folder / "nothing.mkv", [], seconds=1)
    flood = [cue("subrip", number // 10, 1, str(number)) for number in range(MOST_SPANS + 100)]
    make_subtitled(folder / "flood.mkv", [Track("subrip", flood)], seconds=1)
    (folder / "broken.mkv").write_bytes(b"\x1a\x45\xdf\xa3" + bytes(500))
    return folder


@pytest.fixture(scope="module")
def nights(ray_cluster: None, archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Tables]]:
    """Text alone; then sound and picture in the same tables; and all of it at once in others."""
    one, other = (str(tmp_path_factory.mktemp(name) / "tables") for name in ("one", "other"))
    found = []
    for url, annotators in ((one, ("text",)), (one, ("text", "quality")), (other, ("quality", "text"))):
        config = LabelConfig(archive=(str(archive),), tables=url, annotators=annotators, failure_budget=1.0)
        assert label.run(config) == 0
        found.append(read(url))
    yield found


def said(tables: Tables, name: str) -> list[tuple[object, ...]]:
    video_id = by_name(tables)[name]["video_id"]
    columns = ("source", "stream", "start_us", "end_us", "number", "name", "language", "text")
    return [tuple(row[column] for column in columns) for row in tables["text"] if row["video_id"] == video_id]


def lines(stream: int, *, end_us: int = 32_000_000) -> list[tuple[object, ...]]:
    spans = [(start * 1000, min((start + length) * 1000, end_us), text) for start, length, text in LINES]
    return [("subtitle", stream, start, end, 0, None, "eng", text) for start, end, text in spans]


def test_rows(nights: list[Tables]) -> None:
    tables = nights[0]
    check(tables)
    assert said(tables, "two.mkv") == [
        ("metadata", -1, 0, 32_000_000, 0, "title", None, "Two streams"),
        *lines(1),
        ("subtitle", 2, 29_800_000, 30_200_000, 0, None, "deu", "Grenze"),
    ]
    assert said(tables, "sound.mkv") == lines(1)
    assert said(tables, "alone.mkv") == lines(0, end_us=40_000_000)
    assert said(tables, "titled.mp4") == [
        ("metadata", -1, 0, 1_000_000, 0, "comment", None, "and more"),
        ("metadata", -1, 0, 1_000_000, 1, "title", None, "Only a title"),
    ]
    assert [row[-1] for row in said(tables, "flood.mkv")] == [str(number) for number in range(MOST_SPANS)]
    assert said(tables, "nothing.mkv") == said(tables, "broken.mkv") == []


def test_states(nights: list[Tables]) -> None:
    states = {name: (row["status"], row["reason"]) for name, row in by_name(nights[0]).items()}
    assert states == {
        **dict.fromkeys(("two.mkv", "sound.mkv", "alone.mkv", "titled.mp4"), ("labelled", None)),
        "nothing.mkv": ("empty", "no_text"),
        "flood.mkv": ("partial", "too_large"),
        "broken.mkv": ("quarantined", "damaged"),
    }


def test_company_and_a_second_night_change_no_row(nights: list[Tables]) -> None:
    first, second, together = nights
    assert first["text"] == second["text"], "one model's rows are written once"
    check(second)
    check(together)
    for name in by_name(first):
        assert said(first, name) == said(together, name)
    assert by_name(together)["nothing.mkv"]["status"] == "labelled"
