"""How good a checkpoint is: scores on labelled data it never saw, calibrated if asked, on damaged data too if asked.

One pass: each example is decoded once, and every damaged version of it is made of the same pixels.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from vidproc.annotators.actions import Actions
from vidproc.annotators.objects import Objects
from vidproc.annotators.sounds import Sounds
from vidproc.command import log
from vidproc.errors import UsageError
from vidproc.models.sidecar import sidecar_text
from vidproc.models.weights import Weights, resolve_weights
from vidproc.pipeline.cluster import connected
from vidproc.tables.evaluations import Evaluation, write_evaluations
from vidproc.tables.store import Store
from vidproc.train import plots
from vidproc.train.calibration import calibrated, precision_reached, temperature, thresholds
from vidproc.train.corruptions import SEVERITIES
from vidproc.train.examples import names_in, read_examples
from vidproc.train.measures import (
    Measure,
    Scores,
    confusion,
    mean_average_precision,
    measured,
    one_hot,
    reliability,
)
from vidproc.train.options import DataOptions
from vidproc.train.scored import Scored
from vidproc.views import Audio, Clips, Frames


class EvaluateOptions(DataOptions):
    """Options of `jobs/evaluate.py`; data as in training."""

    weights: str = Field(description="as --weights of label names them, without NAME=")
    held_out: str = Field("*", description="as in training, but by default all data whose split is not told")
    split: Literal["train", "held_out", "test"] | None = Field(
        None, description="the part of the data that is measured: test where there is one, else held_out"
    )
    samples: int = Field(5, ge=1, le=100, description="of each example, evenly spaced; their scores are averaged")
    crops: Literal["1", "3"] = Field("1", description="of each sample: the centre, or left, centre and right")
    calibrate: float | None = Field(
        None, gt=0, lt=1, description="fit temperature and thresholds on this share of the examples, measure the others"
    )
    precision: float = Field(0.9, gt=0, le=1, description="that --calibrate's thresholds shall reach")
    corruptions: bool = Field(False, description="also measure what noise, blur, lost frames and so on do")


class OutputOptions(EvaluateOptions):
    """Where the figures go, and on what it runs."""

    tables: str | None = Field(None, description="published tables: the figures become rows of `evaluations`")
    out: Path | None = Field(None, description="folder for plots and index.html")
    allow_licences: tuple[str, ...] = Field((), description="licences of the weights that are accepted by name")
    device: Literal["cuda", "cpu"] | None = Field(None, description="CUDA if there is one, else CPU")


def evaluate(config: OutputOptions) -> int:
    """Measure, tell, write. Returns the exit code; raises the typed errors of `errors`."""
    weights = resolve_weights(config.weights, allow_licences=config.allow_licences)
    examples = read_examples(config)
    split = config.split or ("test" if "test" in examples["split"].to_pylist() else "held_out")
    examples = examples.filter(pc.equal(examples["split"], split))
    if not examples.num_rows:
        raise UsageError(f"no example is in the split {split!r}: choose --split, or look at --held-out")
    _check_known(examples, weights)
    if config.calibrate is not None and "://" not in config.weights and not Path(config.weights).exists():
        raise UsageError(f"--calibrate changes a sidecar, and {config.weights} has none of its own: name a checkpoint")
    crops = int(config.crops)
    view = evaluation_view(weights, crops=crops)
    with connected(workers_speak=False, needs="vidproc.train.scoring") as cluster:
        from vidproc.train.scoring import scored

        found = scored(
            examples,
            weights,
            view,
            samples=config.samples,
            crops=crops,
            corruptions=config.corruptions,
            device=config.device,
            cluster=cluster,
        )
    if config.calibrate is not None:
        weights, found = _calibrate(config, weights, found)
    scores = found.scores(weights)
    measures = measured(scores, found.truth, categories=weights.categories, multi_label=weights.multi_label)
    measures += _robustness(weights, found)
    protocol = f"uniform-{config.samples}x{'center' if config.crops == '1' else '3crops'}"
    for one in measures:
        if not one.slice.startswith("label="):
            log("measured", metric=one.metric, slice=one.slice, value=round(one.value, 4))
    if config.tables is not None:
        _write_rows(config, weights, measures, dataset=f"{_named(config)}, {split}", protocol=protocol)
    if config.out is not None:
        _draw(config.out, weights, scores, found, measures, title=f"{config.weights}: {split}, {protocol}")
    return 0


def _check_known(examples: pa.Table, weights: Weights) -> None:
    """Raises `UsageError` where a label is none of the network's."""
    names = {name for label in examples["label"].to_pylist() for name in names_in(json.loads(label))}
    if unknown := sorted(names - set(weights.categories)):
        raise UsageError(f"the data is labelled {unknown[:5]}, and the network knows {list(weights.categories)[:10]}")


def evaluation_view(weights: Weights, *, crops: int) -> Frames | Clips | Audio:
    """What is decoded: of three crops, the whole square that they are cut from. Raises `UsageError`."""
    view = weights.view
    if crops == 1:
        return view
    if isinstance(view, Audio) or not isinstance(view.picture.resize, int) or view.picture.crop is None:
        raise UsageError("--crops 3 needs a view that crops its picture from a larger one: use 1")
    side = view.picture.resize
    return replace(view, picture=replace(view.picture, crop=(side, side)))


def _calibrate(config: OutputOptions, weights: Weights, found: Scored) -> tuple[Weights, Scored]:
    """Fit on a share of the examples, say what it does to the others, and write it into the sidecar."""
    rng = np.random.default_rng(0)
    fitting = rng.permutation(len(found.truth)) < round(float(config.calibrate or 0) * len(found.truth))
    if not 0 < fitting.sum() < len(fitting):
        raise UsageError(f"{len(fitting)} examples are too few to fit on some and measure others")
    fit, rest = found.only(fitting), found.only(~fitting)
    plain = replace(weights, temperature=1.0, thresholds=())
    many = weights.multi_label
    heat = temperature(fit.logits, fit.truth[fit.example], multi_label=many)
    warm = replace(plain, temperature=heat)
    said = thresholds(
        calibrated(fit.logits, heat, multi_label=many), fit.truth[fit.example], precision=config.precision
    )
    if not any(one is not None for one in said):
        raise UsageError(
            f"no label reaches a precision of {config.precision} on the {len(fit.logits)} samples that it was fitted "
            "on: give more examples, or ask for less with --precision; the sidecar is as it was"
        )
    before, after = (_ece(one, rest) for one in (plain, warm))
    reached = precision_reached(calibrated(rest.logits, heat, multi_label=many), rest.truth[rest.example], said)
    told = {"temperature": heat, "ece_before": before, "ece_after": after}
    told |= {"precision_wanted": config.precision, "precision_reached": reached.micro or 0.0}
    told |= {"labels_never_said": float(sum(one is None for one in said))}
    log("calibrated", fitted_on=int(fitting.sum()), **dict[str, Any]({k: round(v, 4) for k, v in told.items()}))
    fresh = replace(warm, thresholds=said, metrics={**weights.metrics, **told})
    folder, _, name = config.weights.rpartition("/")
    Store(folder or ".").put(f"{name}.json", sidecar_text(fresh).encode())
    return fresh, rest


def _ece(weights: Weights, found: Scored) -> float:
    scores = calibrated(found.logits, weights.temperature, multi_label=weights.multi_label)
    return reliability(scores, found.truth[found.example], multi_label=weights.multi_label).error


def _robustness(weights: Weights, found: Scored) -> list[Measure]:
    """What each corruption leaves, and the mean over all of them (mean corrupted accuracy)."""
    if not found.damaged:
        return []
    metric = "mean_average_precision" if weights.multi_label else "top1"
    rows = []
    for (name, severity), logits in found.damaged.items():
        rows.append(
            Measure(f"{metric}_corrupted", f"corruption={name},severity={severity}", _main(weights, found, logits))
        )
    mean = float(np.mean([row.value for row in rows]))
    return [*rows, Measure(f"{metric}_corrupted", "", mean)]


def _main(weights: Weights, found: Scored, logits: Scores) -> float:
    """The first figure: accuracy, or mean average precision."""
    scores = found.scores(weights, logits)
    if weights.multi_label:
        return mean_average_precision(scores, found.truth)
    return float((scores.argmax(axis=1) == found.truth).mean())


def annotator_model_id(weights: Weights) -> str:
    """As the label job names the model, so that its rows and these figures join."""
    if isinstance(weights.view, Clips):
        return Actions(weights=weights).model_id
    if isinstance(weights.view, Frames):
        return Objects(weights=weights).model_id
    return Sounds(weights=weights).model_id


def _named(config: OutputOptions) -> str:
    return " ".join(config.data) or str(config.sql)


def _write_rows(
    config: OutputOptions, weights: Weights, measures: Sequence[Measure], *, dataset: str, protocol: str
) -> None:
    rows = [
        Evaluation(
            model_id=annotator_model_id(weights),
            dataset=dataset,
            protocol=protocol,
            metric=one.metric,
            slice=one.slice,
            value=one.value,
        )
        for one in measures
    ]
    write_evaluations(str(config.tables), rows)


def _draw(
    folder: Path, weights: Weights, scores: Scores, found: Scored, measures: Sequence[Measure], *, title: str
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {"Reliability": "reliability.png", "Precision and recall": "curves.png"}
    parts = reliability(scores, found.truth, multi_label=weights.multi_label)
    plots.draw_reliability(folder / "reliability.png", {"scores": parts})
    hot = one_hot(found.truth, len(weights.categories))
    plots.draw_curves(folder / "curves.png", scores, hot, categories=weights.categories)
    if not weights.multi_label:
        plots.draw_confusion(folder / "confusion.png", confusion(scores, found.truth), categories=weights.categories)
        pictures["Confusion"] = "confusion.png"
    if found.damaged:
        names = dict.fromkeys(name for name, _ in found.damaged)
        clean = _main(weights, found, found.logits)
        lines = {n: [clean, *(_main(weights, found, found.damaged[n, s]) for s in SEVERITIES)] for n in names}
        measure = "mean average precision" if weights.multi_label else "top-1 accuracy"
        plots.draw_robustness(folder / "robustness.png", lines, measure=measure)
        pictures["Damaged data"] = "robustness.png"
    index = plots.write_index(folder, title=title, measures=measures, pictures=pictures)
    log("drawn", index=str(index))
