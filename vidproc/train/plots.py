"""An evaluation to look at: pictures (PNG) and one page that shows them beside the table of measures.

Pictures are drawn by matplotlib's objects on a canvas without a window: pyplot would keep them in a global state, and
ask for a display. Names of labels are shown as they are, never as formulas or markup.
"""

import html
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vidproc.train.measures import Measure, Reliability, curve

MOST_LABELS = 40
"""Labels that a confusion matrix shows: more could not be read."""

MOST_CURVES = 12
"""Labels that precision and recall are drawn of: more lines could not be told apart."""

LONGEST_NAME = 28
DPI = 100

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:70em;padding:0 1em}"
    "img{max-width:100%}figure{margin:2em 0}table{border-collapse:collapse}"
    "td,th{border:1px solid #ccc;padding:.2em .7em;text-align:left}td:last-child{text-align:right}"
)


def draw_confusion(path: Path, matrix: npt.NDArray[np.int64], *, categories: Sequence[str]) -> None:
    """Rows of truth, columns of what was said, each row as shares of its examples.

    `matrix`: int64 [labels, labels]. Of more than MOST_LABELS labels it shows those that are mistaken, or said by
    mistake, most often.
    """
    wrong = matrix - np.diag(matrix.diagonal())
    chosen, title = np.arange(len(matrix)), f"Confusion of {len(matrix)} labels"
    if len(matrix) > MOST_LABELS:
        order = np.argsort(-(wrong.sum(axis=0) + wrong.sum(axis=1)), kind="stable")
        chosen = np.sort(order[:MOST_LABELS])
        title = f"Confusion: the {MOST_LABELS} most confused of {len(matrix)} labels"
    shown = matrix[np.ix_(chosen, chosen)]
    shares = shown / np.maximum(matrix[chosen].sum(axis=1, keepdims=True), 1)
    side = 5 + 0.22 * len(chosen)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    figure.colorbar(image, ax=axes, label="share of the label's examples", shrink=0.8, fraction=0.05)
    names = [_short(categories[i]) for i in chosen.tolist()]
    axes.set_xticks(range(len(names)), names, rotation=90, parse_math=False)
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set(title=title, xlabel="said", ylabel="truth")
    if len(chosen) <= 12:
        for (row, column), count in np.ndenumerate(shown):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=color, fontsize=8)
    _save(figure, path)


def draw_reliability(path: Path, bins: Mapping[str, Reliability]) -> None:
    """How often scores of a height are right; on the diagonal they mean what they say.

    `bins`: by name, such as "as trained" and "calibrated".
    """
    figure = Figure(figsize=(6, 7), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.plot((0, 1), (0, 1), color="grey", linestyle=":", linewidth=1)
    for name, one in bins.items():
        error = float((one.share * np.abs(one.confidence - one.accuracy)).sum())
        above.plot(one.confidence, one.accuracy, marker="o", label=f"error {error:.3f}: {_short(name)}")
        below.plot(one.confidence, one.share, marker="o")
    above.set(title="Reliability of scores", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1.02))
    below.set(xlabel="score", ylabel="share of scores", ylim=(0, None))
    _legend(above)
    _save(figure, path)


def draw_curves(
    path: Path, scores: npt.NDArray[np.float32], truth: npt.NDArray[np.bool_], *, categories: Sequence[str]
) -> None:
    """Precision by recall of each label: float32 scores and bool truth, both [examples, labels].

    Of more than MOST_CURVES labels it shows those whose curve covers the least.
    """
    found = {int(i): curve(scores[:, i], truth[:, i]) for i in np.flatnonzero(truth.any(axis=0))}
    covered = {i: float(-np.sum(np.diff(recall) * precision[:-1])) for i, (precision, recall) in found.items()}
    worst = sorted(found, key=lambda i: covered[i])[:MOST_CURVES]
    all_shown = len(worst) == len(found)
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    for number, i in enumerate(worst):
        precision, recall = found[i]
        style = "-" if number < 10 else "--"  # matplotlib's colours begin anew after ten
        label = f"{covered[i]:.3f}: {_short(categories[i])}"
        axes.plot(recall, precision, style, drawstyle="steps-post", label=label)
    title = "Precision and recall by label" if all_shown else f"The {len(worst)} weakest of {len(found)} labels"
    axes.set(title=f"{title} (average precision)", xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    _legend(axes, beside=True)
    _save(figure, path)


def draw_robustness(path: Path, accuracy: Mapping[str, Sequence[float]], *, measure: str = "top-1 accuracy") -> None:
    """How a measure falls with the severity of each corruption: its values at severity 0 (as it is), 1, 2 …"""
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    for number, (name, values) in enumerate(accuracy.items()):
        style = "-" if number < 10 else "--"
        axes.plot(range(len(values)), values, style, marker="o", label=f"{values[-1]:.3f}: {_short(name)}")
    longest = max(map(len, accuracy.values()), default=1)
    axes.set(title=f"{measure} by severity of corruption", xlabel="severity (0: as it is)", ylabel=measure)
    axes.set(xticks=range(longest), ylim=(0, 1.02))
    _legend(axes, beside=True)
    _save(figure, path)


def write_index(folder: Path, *, title: str, measures: Sequence[Measure], pictures: Mapping[str, str]) -> Path:
    """One page, `index.html` in `folder`. `pictures`: caption → name of a file in that folder. All text is escaped."""
    shown = "".join(
        f'<figure><img src="{html.escape(name)}" alt="{html.escape(caption)}"><figcaption>{html.escape(caption)}'
        "</figcaption></figure>\n"
        for caption, name in pictures.items()
    )
    rows = "".join(
        f"<tr><td>{html.escape(one.metric)}</td><td>{html.escape(one.slice or 'all')}</td>"
        f"<td>{one.value:.4g}</td></tr>\n"
        for one in measures
    )
    page = (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        f"<style>{_STYLE}</style>\n<h1>{html.escape(title)}</h1>\n{shown}"
        f"<table><tr><th>metric</th><th>slice</th><th>value</th></tr>\n{rows}</table>\n</html>\n"
    )
    path = folder / "index.html"
    path.write_text(page, encoding="utf-8")
    return path


def _short(name: str) -> str:
    """On one line, and no longer than a picture bears."""
    line = " ".join(name.split())
    return line if len(line) <= LONGEST_NAME else line[: LONGEST_NAME - 1] + "…"


def _legend(axes: Any, *, beside: bool = False) -> None:
    place = {"loc": "upper left", "bbox_to_anchor": (1.01, 1)} if beside else {"loc": "upper left"}
    if axes.get_legend_handles_labels()[0]:
        for text in axes.legend(**place).get_texts():
            text.set_parse_math(False)


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the page has the name as it is
        figure.savefig(path, format="png", dpi=DPI)
