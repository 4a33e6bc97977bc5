"""Words in the picture through the whole job: one row for what stands across a segment's border."""

from pathlib import Path

import numpy as np
import pytest
from annotators.lettering import lettered
from labelling import check, read

from vidproc.pipeline import label
from vidproc.pipeline.options import LabelConfig
from vidproc.tables.checking import check as check_tables
from vidproc.train.encoded import encode

FPS = 2
TITLE, SUBTITLE = "Evening news", "It rains in Rotterdam"


@pytest.mark.usefixtures("ray_cluster")
def test_words_of_a_run(tmp_path: Path) -> None:
    """The title stands from 24 s to 36 s, the subtitle from 28 s to 32 s; a segment ends at 30 s."""
    pytest.importorskip("rapidocr")
    shown = [(24 <= at < 36, 28 <= at < 32) for at in np.arange(0, 40, 1 / FPS)]
    words = [({60: TITLE} if title else {}) | ({300: SUBTITLE} if subtitle else {}) for title, subtitle in shown]
    (tmp_path / "archive").mkdir()
    frames = np.stack([lettered(each, size=(640, 360)) for each in words])
    (tmp_path / "archive" / "news.mp4").write_bytes(encode(frames, fps=FPS))
    config = LabelConfig(archive=(str(tmp_path / "archive"),), tables=str(tmp_path / "tables"), annotators=("ocr",))
    assert label.run(config) == 0
    found = read(config.tables)
    check(found)
    seconds = [(row["start_us"] / 1e6, row["end_us"] / 1e6, row["source"], row["text"]) for row in found["text"]]
    assert not check_tables(config.tables).findings
    assert seconds == [(24, 36, "picture", TITLE), (28, 32, "picture", SUBTITLE)]
