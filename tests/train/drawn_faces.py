"""Pictures with one drawn face each and its five points, and how far off a network says them to be."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from bench.small_tasks import Examples

from vidproc.train import drawn_boxes, drawn_identities
from vidproc.train.tasks.base import Batch
from vidproc.train.tasks.detection import Detection

SIDE = 64


@dataclass(frozen=True, eq=False)
class DrawnFace:
    """`pixels`: uint8 [SIDE, SIDE, 3]. `box` [4], `points` [5, 2]: shares of the picture, in the order of the names."""

    pixels: np.ndarray
    box: np.ndarray
    points: np.ndarray

    @property
    def label(self) -> dict[str, Any]:
        seen = np.column_stack([self.points, np.full(5, 2)])
        return {"boxes": [self.box.tolist()], "labels": ["face"], "keypoints": [seen.tolist()]}


def drawn_face(seed: int) -> DrawnFace:
    """One of `drawn_identities`' faces, 24 to 48 pixels high and leaning, on a texture."""
    rng, face = np.random.default_rng([seed, 3]), drawn_identities.face(seed)
    half, angle = rng.uniform(12, 24), rng.uniform(-0.35, 0.35)
    middle = rng.uniform(1.25 * half, SIDE - 1.25 * half, 2)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])  # picture to face
    canvas = drawn_boxes._texture(rng, SIDE) * rng.uniform(0, 0.06, 3) + rng.uniform(0.1, 0.9, 3)
    places = (np.stack(np.meshgrid(*[np.arange(SIDE) + 0.5] * 2), axis=-1) - middle) / half @ turn.T
    drawn_identities._draw(canvas, face, places[..., 0], places[..., 1], 1 / half)
    canvas += rng.normal(0, 0.02, canvas.shape)
    (ex, ey, *_), (tip, _), (my, mw, _, bend) = face.eyes, face.nose, face.mouth
    corner = my - bend * mw**2
    own = np.array([[-ex, ey], [ex, ey], [0, tip], [-mw, corner], [mw, corner]])
    reach = np.array([np.hypot(face.width * turn[0, 0], turn[1, 0]), np.hypot(face.width * turn[0, 1], turn[1, 1])])
    box = np.concatenate([middle - half * reach, middle + half * reach]) / SIDE
    pixels = (np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8)
    return DrawnFace(pixels, box.clip(0, 1), (own @ turn * half + middle) / SIDE)


def faces(*, first: int, count: int) -> Examples:
    made = [drawn_face(seed) for seed in range(first, first + count)]
    return Examples(np.stack([one.pixels for one in made]), [one.label for one in made])


def distance_px(task: Detection, network: torch.nn.Module, held: Examples) -> float:
    """Mean over all points of all faces, each held against the picture's surest box; without any it is a side off."""
    outputs = task.outputs(network, Batch(held.inputs(np.arange(len(held.labels))), None))
    true = [np.array(label["keypoints"][0])[:, :2] for label in held.labels]
    off = [np.linalg.norm(rows[0, 6:].reshape(5, 2) - points, axis=1) if len(rows) else np.ones(5)
           for rows, points in zip(outputs, true, strict=True)]  # fmt: skip
    return float(np.mean(off) * SIDE)
