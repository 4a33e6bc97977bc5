"""Pictures and the page of an evaluation: they are there, of a bearable size, and say names as they are."""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from vidproc.train import plots
from vidproc.train.measures import Measure, Reliability, confusion, one_hot, reliability
from vidproc.train.plots import draw_confusion, draw_curves, draw_reliability, draw_robustness, write_index

ODD = ["$x^{2", "_hidden", "<script>alert(1)</script>", "犬", "two\nlines", "a very long name " * 9]


def scores_of(labels: int, examples: int) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    rng = np.random.default_rng(0)
    truth = rng.integers(0, labels, examples)
    scores = rng.random((examples, labels), np.float32) * 0.5
    scores[np.arange(examples), truth] += 0.3
    return scores, truth


def names(labels: int) -> list[str]:
    return [*ODD, *(f"label {i}" for i in range(labels))][:labels]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """What is drawn from here on."""
    figures: list[Figure] = []
    save = plots._save
    monkeypatch.setattr(plots, "_save", lambda figure, path: (figures.append(figure), save(figure, path)))
    return figures


@pytest.mark.parametrize(("labels", "title"), [(6, "6 labels"), (1000, "the 40 most confused of 1000 labels")])
def test_a_confusion_matrix_stays_readable(tmp_path: Path, drawn: list[Figure], labels: int, title: str) -> None:
    scores, truth = scores_of(labels, 3000)
    draw_confusion(tmp_path / "c.png", confusion(scores, truth), categories=names(labels))
    size = picture(tmp_path / "c.png")
    assert 400 < min(size) <= max(size) < 2000
    assert title in drawn[0].axes[0].get_title()


def picture(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        assert image.format == "PNG"
        shades = np.asarray(image.convert("L"))
        assert shades.std() > 5  # something is drawn
        return image.size


def test_the_most_confused_labels_are_shown(
    tmp_path: Path, drawn: list[Figure], monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = np.diag(np.full(100, 50))
    matrix[7, 93] = matrix[93, 7] = 30
    monkeypatch.setattr(plots, "MOST_LABELS", 2)
    draw_confusion(tmp_path / "c.png", matrix, categories=[f"label {i}" for i in range(100)])
    axes = drawn[0].axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["label 7", "label 93"]
    np.testing.assert_allclose(axes.images[0].get_array(), np.array([[50, 30], [30, 50]]) / 80)


def test_the_other_pictures_are_drawn(tmp_path: Path, drawn: list[Figure]) -> None:
    scores, truth = scores_of(50, 500)
    truth[truth == 3] = 4  # a label that never occurs
    draw_curves(tmp_path / "curves.png", scores, one_hot(truth, 50), categories=names(50))
    draw_curves(tmp_path / "few.png", scores[:, :6], one_hot(truth, 50)[:, :6], categories=names(6))
    bins = {name: reliability(scores, truth, multi_label=False) for name in ("as trained", "_cold", "$hot")}
    draw_reliability(tmp_path / "bins.png", bins)
    draw_robustness(tmp_path / "robust.png", {name: [0.9, 0.8, 0.5] for name in ("jpeg", "_noise", "$blur")})
    titles = [figure.axes[0].get_title() for figure in drawn]
    assert titles[0] == "The 12 weakest of 49 labels (average precision)"
    assert titles[1] == "Precision and recall by label (average precision)"
    for name in ("curves", "few", "bins", "robust"):
        size = picture(tmp_path / f"{name}.png")
        assert 400 < min(size) <= max(size) < 2000


def test_nothing_to_draw_is_an_empty_picture(tmp_path: Path) -> None:
    scores, _ = scores_of(2, 4)
    draw_curves(tmp_path / "curves.png", scores, np.zeros((4, 2), bool), categories=["a", "b"])
    draw_robustness(tmp_path / "robust.png", {})
    draw_reliability(tmp_path / "bins.png", {"one": Reliability(*[np.array([0.5])] * 3)})
    draw_confusion(tmp_path / "one.png", np.array([[4]]), categories=["a"])
    assert len(list(tmp_path.glob("*.png"))) == 4


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name == "src"]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_shows_pictures_and_measures_and_runs_nothing(tmp_path: Path) -> None:
    evil = '"><script>alert(1)</script>&'
    measures = [Measure("top1", "", 0.123456), Measure("recall", f"label={evil}", 1.0)]
    path = write_index(tmp_path, title=evil, measures=measures, pictures={evil: 'a"b.png', "犬": "c.png"})
    assert path == tmp_path / "index.html"
    page = Page(path.read_text(encoding="utf-8"))
    assert "script" not in page.tags
    assert page.sources == ['a"b.png', "c.png"]
    assert page.words.count(evil) == 3  # title, heading and caption
    assert {"top1", "all", "0.1235", f"label={evil}", "犬"} <= set(page.words)
    assert page.tags.count("tr") == 3


def test_no_global_state_of_pyplot_is_touched() -> None:
    source = Path(sys.modules[plots.__name__].__file__ or "").read_text()
    assert not re.search(r"^\s*(import|from).*pyplot", source, re.MULTILINE)
