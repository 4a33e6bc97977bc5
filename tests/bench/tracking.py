"""How well `tracks` holds on to things: HOTA and IDF1 by TrackEval (HOTA's own implementation) on drawn scenes.

    python tests/bench/tracking.py [--scenes 20]       needs `pip install trackeval`; a minute of one core

Each scene is a minute of ten boxes that cross each other, hide behind each other, leave and come back, seen five times
a second as a detector would see them: boxes shake by 3 % of their sides, one in ten is missed, what is hidden by more
than half is missed, scores fall with what is hidden, and one frame in two holds a box of nothing. `irregular` leaves
out one frame in four; `second` looks once a second. Means over HOTA's thresholds, of 6 scenes (`--scenes 6`):

                                        HOTA   DetA   AssA   IDF1
    regular                             0.745  0.829  0.669  0.808
    regular, boxes not enlarged         0.737  0.830  0.654  0.793
    regular, each segment by itself     0.560  0.829  0.378  0.479
    irregular                           0.718  0.825  0.625  0.777
    irregular, boxes not enlarged       0.663  0.825  0.532  0.684
    second                              0.363  0.752  0.175  0.285
    second, boxes not enlarged          0.300  0.543  0.165  0.249
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from vidproc.annotators.rows import rows_of
from vidproc.annotators.tracking import Following, tracks
from vidproc.schema import DETECTIONS

SEGMENT_S = 30
KINDS = {"regular": (5.0, 0.0), "irregular": (5.0, 0.25), "second": (1.0, 0.0)}


@dataclass(frozen=True, eq=False)
class Scene:
    """`truth`: of each frame the boxes [k, 4] and whose they are [k]. `rows`: what a detector says of the frames."""

    times_us: np.ndarray
    truth: list[tuple[np.ndarray, np.ndarray]]
    rows: pa.Table
    stride_us: int


def scene(seed: int, *, fps: float = 5.0, left_out: float = 0.0, things: int = 10, seconds: float = 60.0) -> Scene:
    """Things that move on straight lines and bounce off the picture's edges."""
    rng = np.random.default_rng([seed, 11])
    stride_us = round(1e6 / fps)
    times_us = np.arange(0, round(seconds * 1e6), stride_us)
    if left_out:
        times_us = times_us[rng.random(len(times_us)) >= left_out]
    size = rng.uniform(0.05, 0.16, (things, 2))
    start, speed = rng.uniform(0, 1, (things, 2)), rng.uniform(-0.08, 0.08, (things, 2))
    labels = rng.integers(0, 3, things)
    truth, said = [], []
    for time_us in times_us.tolist():
        centre = 1 - np.abs((start + speed * time_us / 1e6) % 2 - 1)  # to and fro between the edges
        boxes = np.concatenate([centre - size / 2, centre + size / 2], axis=1).clip(0, 1)
        shown = 1 - _hidden(boxes)
        truth.append((boxes[shown > 0.5], np.flatnonzero(shown > 0.5)))
        said += _seen(rng, time_us, boxes, shown, labels)
    columns = {name: [row[name] for row in said] for name in DETECTIONS.body.names}
    return Scene(times_us, truth, rows_of(DETECTIONS, columns), stride_us)


def _hidden(boxes: np.ndarray) -> np.ndarray:
    """Of each box the share behind the one in front of it that hides most; the last ones stand in front."""
    low, high = np.maximum(boxes[:, None, :2], boxes[None, :, :2]), np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    both = np.prod(np.clip(high - low, 0, None), axis=2)
    return np.triu(both, 1).max(axis=1) / np.prod(boxes[:, 2:] - boxes[:, :2], axis=1).clip(1e-9)


def _seen(rng: Any, time_us: int, boxes: np.ndarray, shown: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    found = []
    for box, share, label in zip(boxes, shown, labels, strict=True):
        if share > 0.5 and rng.random() >= 0.1:
            sides = np.tile(box[2:] - box[:2], 2)
            called = label if rng.random() < 0.9 else (label + 1) % 3  # now and then something else
            found.append((0.95 * share - rng.uniform(0, 0.2), box + rng.normal(0, 0.03, 4) * sides, called))
    if rng.random() < 0.5:
        corner = rng.uniform(0, 0.9, 2)
        found.append((rng.uniform(0.3, 0.6), np.concatenate([corner, corner + 0.08]), 0))
    kept = []
    for number, (score, box, label) in enumerate(sorted(found, key=lambda one: -one[0])):
        x1, y1, x2, y2 = np.clip(box, 0, 1).tolist()
        if score >= 0.3 and x1 < x2 and y1 < y2:
            told = {"time_us": time_us, "detection_id": f"{time_us}-{number}", "label": f"class-{label}"}
            kept.append(told | {"label_id": int(label), "score": score, "x1": x1, "y1": y1, "x2": x2, "y2": y2})
    return kept


def evaluated(made: Scene, found: pa.Table) -> dict[str, Any]:
    """TrackEval's form of one sequence."""
    at = {time_us: frame for frame, time_us in enumerate(made.times_us.tolist())}
    box_of = {row["detection_id"]: row for row in made.rows.to_pylist()}
    mine: list[list[tuple[int, list[float]]]] = [[] for _ in at]
    for number, track in enumerate(found.to_pylist()):
        for name in track["detection_ids"]:
            row = box_of[name]
            mine[at[row["time_us"]]].append((number, [row[side] for side in ("x1", "y1", "x2", "y2")]))
    ids = [np.array([number for number, _ in frame], int) for frame in mine]
    boxes = [np.array([box for _, box in frame]).reshape(-1, 4) for frame in mine]
    return {
        "num_timesteps": len(at),
        "gt_ids": [whose for _, whose in made.truth],
        "tracker_ids": ids,
        "similarity_scores": [_overlap(real, box) for (real, _), box in zip(made.truth, boxes, strict=True)],
        "num_gt_ids": 1 + max(int(whose.max(initial=0)) for _, whose in made.truth),
        "num_tracker_ids": found.num_rows,
        "num_gt_dets": sum(len(whose) for _, whose in made.truth),
        "num_tracker_dets": sum(map(len, ids)),
    }


def _overlap(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    low, high = np.maximum(one[:, None, :2], other[None, :, :2]), np.minimum(one[:, None, 2:], other[None, :, 2:])
    both = np.prod(np.clip(high - low, 0, None), axis=2)
    area = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (one, other)]
    return both / (area[0][:, None] + area[1][None] - both).clip(1e-9)


def figures(scenes: list[Scene], following: Following, *, cut: bool = False) -> dict[str, float]:
    """HOTA and IDF1 over all scenes. `cut`: each segment's tracks by themselves, as they would be without `derive`."""
    from trackeval.metrics import HOTA, Identity

    hota, identity = HOTA(), Identity({"PRINT_CONFIG": False, "THRESHOLD": 0.5})
    told: dict[str, list[Any]] = {"hota": [], "identity": []}
    for one in scenes:
        found = pa.concat_tables([_tracks(one, piece, following) for piece in _pieces(one.rows, cut)])
        data = evaluated(one, found)
        told["hota"].append(hota.eval_sequence(data))
        told["identity"].append(identity.eval_sequence(data))
    combined = hota.combine_sequences(dict(enumerate(told["hota"])))
    whose = identity.combine_sequences(dict(enumerate(told["identity"])))
    parts = {name: float(np.mean(combined[name])) for name in ("HOTA", "DetA", "AssA")}
    return parts | {"IDF1": float(whose["IDF1"])}


def _pieces(rows: pa.Table, cut: bool) -> Iterator[pa.Table]:
    if not cut:
        yield rows
        return
    segment = rows["time_us"].to_numpy() // (SEGMENT_S * 1_000_000)
    for number in np.unique(segment):
        yield rows.filter(pa.array(segment == number))


def _tracks(one: Scene, rows: pa.Table, following: Following) -> pa.Table:
    return tracks(rows, following, stride_us=one.stride_us, end_us=int(one.times_us[-1]) + one.stride_us)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=20)
    asked = parser.parse_args()
    default = Following()
    ways = {"as it is": default, "boxes not enlarged": replace(default, enlarge=0.0)}
    for kind, (fps, left_out) in KINDS.items():
        scenes = [scene(seed, fps=fps, left_out=left_out) for seed in range(asked.scenes)]
        for way, following in ways.items():
            print(json.dumps({"scenes": kind, "way": way} | _rounded(figures(scenes, following))), flush=True)
        if kind == "regular":
            told = _rounded(figures(scenes, default, cut=True))
            print(json.dumps({"scenes": kind, "way": "each segment by itself"} | told), flush=True)


def _rounded(found: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in found.items()}


if __name__ == "__main__":
    main()
