"""torchvision's detectors as ours: one of its weight entries becomes a description. torchvision is imported late."""

import hashlib
from typing import Any

from vidproc.errors import WeightsError
from vidproc.models.published import hub_file
from vidproc.views import Frames, Picture

BUILDERS = (
    "fasterrcnn_resnet50_fpn_v2",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "retinanet_resnet50_fpn_v2",
)

VIEW = Frames(fps=5, picture=Picture(resize=(640, 640), letterbox=True))
"""They were trained on pictures with a short side of 800 pixels; of most videos more would only show the coding."""

_NOTHING = ("__background__", "N/A")
"""What COCO's 91 numbers say beside its 80 categories."""


def entry_fields(name: str) -> dict[str, Any]:
    """The fields of `PublishedDetector` for an entry, fetched into torch.hub's cache if need be.

    Raises `WeightsError`.
    """
    from torchvision.models import get_weight

    architecture = name.split("_Weights.", maxsplit=1)[0].lower()
    if architecture not in BUILDERS:
        raise WeightsError(f"weights {name}: {architecture!r} is no detector that is known; use one of {BUILDERS}")
    try:
        entry = get_weight(name)
    except (ValueError, KeyError, AttributeError) as error:
        raise WeightsError(f"weights {name}: {error}; see torchvision's list of weights for {architecture}") from error
    data, meta = hub_file(entry.url).read_bytes(), entry.meta
    measured = ", ".join(f"{data}: {scores}" for data, scores in meta.get("_metrics", {}).items())
    categories, outputs = without_gaps(meta["categories"])
    return {
        "url": entry.url,
        "sha256": hashlib.sha256(data).hexdigest(),
        "architecture": architecture,
        "categories": categories,
        "outputs": outputs,
        "view": VIEW,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "licence": "BSD-3-Clause",
        "provenance": f"torchvision {name}; recipe {meta.get('recipe')}",
        "protocol": f"the authors' figures, on pictures of 800 pixels: {measured}",
    }


def without_gaps(named: list[str]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names by a network's numbers → those that name something, and of each number the place among them, or -1."""
    categories = tuple(name for name in named if name not in _NOTHING)
    return categories, tuple(categories.index(name) if name in categories else -1 for name in named)
