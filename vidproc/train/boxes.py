"""Boxes as shares of a picture → of what a network sees of it: through a view, and through changes at random.

What is cut off a box is gone; a box of which too little is left is left out. Keypoints go with their box, and through
the same changes; those that are no longer seen are no longer known.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vidproc.media.geometry import Size, place
from vidproc.views import Picture

LEAST_SEEN = 0.25
"""Share of a box's area: a thing of which less is seen is not to be called by its name."""
_LEAST_WINDOW, _MOST_STRETCH = 0.5, 1.18
"""Of a random window: share of the picture's area; by how much its sides are changed against each other."""


def seen_in(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes [k, 4] as shares of a window, which they may leave → cut to it; and which are kept, bool [k]."""
    cut = boxes.clamp(0, 1)
    (sides, left) = (one[:, 2:] - one[:, :2] for one in (boxes, cut))
    return cut, (left > 0).all(dim=1) & (left.prod(dim=1) >= LEAST_SEEN * sides.prod(dim=1))


def known(points: Tensor) -> Tensor:
    """Keypoints [k, points, 3]: x, y as shares of a window and COCO's visibility → all zeros where one is not known.

    It is not where its visibility is 0, or where it lies outside of the window.
    """
    inside = ((points[..., :2] >= 0) & (points[..., :2] <= 1)).all(dim=-1) & (points[..., 2] > 0)
    return torch.where(inside[..., None], points, 0)


def in_view(label: Mapping[str, Any], picture: Picture, shown: Size | None) -> dict[str, Any]:
    """A label's boxes of a displayed picture of that size → of a sample of the view, shares of it.

    `label`: {"boxes": [k, 4], "labels": [k]}, and perhaps "keypoints": [k, points, 3], as `known` takes them. `shown`
    None: the picture fills the sample.
    """
    height, width = picture.shape[:2]
    boxes = np.asarray(label["boxes"], np.float64).reshape(-1, 4)
    if shown is not None:
        boxes = place(picture, shown).pixels(boxes) / ([width, height] * 2)
    cut, kept = seen_in(torch.from_numpy(boxes))
    names = [name for name, is_seen in zip(label["labels"], kept.tolist(), strict=True) if is_seen]
    seen = {**label, "boxes": cut[kept].tolist(), "labels": names}
    if len(boxes) and "keypoints" in label:
        points = np.asarray(label["keypoints"], np.float64).reshape(len(boxes), -1, 3)
        if shown is not None:
            pairs = np.tile(points[..., :2], 2)  # each is the box of no size at its place
            points[..., :2] = place(picture, shown).pixels(pairs)[..., :2] / (width, height)
        seen["keypoints"] = known(torch.from_numpy(points))[kept].tolist()
    return seen


def changed(
    images: Tensor,
    truth: Sequence[Mapping[str, Tensor]],
    *,
    flip: bool,
    crop: bool,
    mirrored: Sequence[int] = (),
) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Pictures [batch, 3, height, width] and their boxes, changed alike, drawn from torch's current seed.

    `flip`: mirrored, one in two. `crop`: a window of half of the picture's area at least, drawn to its size (as
    `augment.PICTURES` has it). `truth`: `boxes` and `labels` of each picture, and perhaps `keypoints`, as
    `models.detection.Boxes`. `mirrored`: of each keypoint the index of the one that takes its place in a mirror,
    wanted where there are any.
    """
    count = len(images)
    area, stretch, left, top, mirror = torch.rand(5, count)
    area = 1 - area * (1 - _LEAST_WINDOW) * crop
    stretch = torch.exp((2 * stretch - 1) * math.log(_MOST_STRETCH) * 0.5 * crop)
    size = torch.stack([area.sqrt() * stretch, area.sqrt() / stretch], dim=1).clamp(max=1)
    corner = torch.stack([left, top], dim=1) * (1 - size)
    flipped = (mirror < 0.5) & flip
    way = torch.stack([torch.where(flipped, -1.0, 1.0), torch.ones(count)], dim=1)
    matrices = torch.cat([torch.diag_embed(size * way), (2 * corner + size - 1)[..., None]], dim=2)
    grid = F.affine_grid(matrices.to(images.device), list(images.shape), align_corners=False)
    pixels = F.grid_sample(images, grid.to(images.dtype), padding_mode="border", align_corners=False)
    windows = torch.cat([corner, size], dim=1).to(images.device)
    ways = zip(truth, windows, [list(mirrored) if one else None for one in flipped.tolist()], strict=True)
    return pixels, [_in_window(*way) for way in ways]


def _in_window(one: Mapping[str, Tensor], window: Tensor, mirrored: list[int] | None) -> dict[str, Tensor]:
    """`mirrored`: None where the picture is not."""
    boxes = (one["boxes"] - window[:2].repeat(2)) / window[2:].repeat(2)
    if mirrored is not None:
        x1, y1, x2, y2 = boxes.unbind(dim=1)
        boxes = torch.stack([1 - x2, y1, 1 - x1, y2], dim=1)
    cut, kept = seen_in(boxes)
    seen = {**one, "boxes": cut[kept], "labels": one["labels"][kept]}
    if "keypoints" in one:
        places, sight = (one["keypoints"][..., :2] - window[:2]) / window[2:], one["keypoints"][..., 2:]
        if mirrored is not None:
            places = torch.stack([1 - places[..., 0], places[..., 1]], dim=-1)[:, mirrored]
            sight = sight[:, mirrored]
        seen["keypoints"] = known(torch.cat([places, sight], dim=-1))[kept]
    return seen
