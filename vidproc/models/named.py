"""What others published, by name: a checkpoint, and how its authors use it. Needs no torch.

    places365:resnet18, places365:resnet50, places365:densenet161     365 places, of CSAIL
    panns:resnet22, panns:resnet38                                    527 labels of AudioSet
    honk:res8_narrow                                                  12 keywords; the file has to be got by hand

A name is fetched once and kept. Without a network, or to keep files in a store of one's own, `describe.py` writes the
sidecar of such a file, and its URL stands for the name.
"""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vidproc.errors import WeightsError
from vidproc.models.checkpoints import PUBLISHED, Published
from vidproc.models.fetch import first_seen
from vidproc.models.spectrum import HONK, PANNS, Listening
from vidproc.views import Audio, Frames, Picture

Colour = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Use:
    """How the checkpoints of one family are used. `categories`: their names in order, or the URL of the list."""

    view: Frames | Audio
    classes: int
    categories: tuple[str, ...] | str
    source: str
    mean: Colour = (0.0, 0.0, 0.0)
    std: Colour = (1.0, 1.0, 1.0)
    multi_label: bool = False
    listening: Listening | None = None


USES: Mapping[str, Use] = {
    "places365": Use(
        view=Frames(fps=1, picture=Picture(resize=256, crop=(224, 224))),
        classes=365,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        categories="https://raw.githubusercontent.com/CSAILVision/places365/master/categories_places365.txt",
        source="Zhou et al. 2017, Places: A 10 million image database for scene recognition",
    ),
    "panns": Use(
        view=Audio(rate=PANNS.rate),
        classes=527,
        multi_label=True,
        listening=Listening(spectrum=PANNS, seconds=10, stride_s=1),
        categories="https://raw.githubusercontent.com/qiuqiangkong/audioset_tagging_cnn/master/metadata/"
        "class_labels_indices.csv",
        source="Kong et al. 2020, arXiv:1912.10211",
    ),
    "honk": Use(
        view=Audio(rate=HONK.rate),
        classes=12,
        listening=Listening(spectrum=HONK, seconds=1, stride_s=0.25),
        categories=(
            "silence", "unknown", "yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go",
        ),
        source="Tang and Lin 2018, arXiv:1710.10361",
    ),
}  # fmt: skip
"""Family, the part of a name before the colon → its use."""

NAMED: Mapping[str, Published] = {one.spec: one for one in PUBLISHED if one.spec}
"""Name → the checkpoint."""


def is_named(spec: str) -> bool:
    """Whether this can only be a name of this kind: `family:name`."""
    return spec.partition(":")[0] in USES and "/" not in spec


def published_under(spec: str) -> Published:
    """Raises `WeightsError` saying which names there are."""
    if spec not in NAMED:
        raise WeightsError(f"weights {spec!r} do not exist: use one of {sorted(NAMED)}")
    return NAMED[spec]


def named_fields(spec: str) -> dict[str, Any]:
    """The fields of `Weights` for a name, its checkpoint and categories fetched if need be. Raises `WeightsError`."""
    one = published_under(spec)
    if not one.is_file:
        raise WeightsError(
            f"weights {spec} cannot be fetched by name: get the file from {one.url}, then describe it with "
            f"`python -m vidproc.models.describe {spec} FILE`, and name FILE"
        )
    _, sha256 = first_seen(one.url, md5=one.md5)
    return {"url": one.url, "sha256": sha256, **used(spec)}


def used(spec: str, *, categories: tuple[str, ...] | None = None) -> dict[str, Any]:
    """The fields of `Weights` that do not depend on where the checkpoint is. Raises `WeightsError`."""
    one, use = published_under(spec), USES[spec.partition(":")[0]]
    if categories is None:
        listed = use.categories
        categories = listed if isinstance(listed, tuple) else names_listed(first_seen(listed)[0].decode())
    if len(categories) != use.classes:
        raise WeightsError(f"the list of categories for {spec} has {len(categories)} names; it must have {use.classes}")
    return {
        "architecture": one.architecture,
        "layout": one.layout,
        "categories": categories,
        "view": use.view,
        "mean": use.mean,
        "std": use.std,
        "multi_label": use.multi_label,
        "listening": use.listening,
        "licence": one.licence,
        "provenance": f"{one.name}; {use.source}",
        "protocol": f"the authors' figure: {one.accuracy}" if one.accuracy else "",
    }


def names_listed(text: str) -> tuple[str, ...]:
    """The names in a list of categories, in the order of their numbers.

    As AudioSet's (CSV with `index` and `display_name`), as Places' (`/a/attic 12`), or simply one a line.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if lines and "display_name" in lines[0]:
        rows = sorted(csv.DictReader(lines), key=lambda row: int(row["index"]))
        return tuple(row["display_name"] for row in rows)
    places = [re.fullmatch(r"/\w/(\S+)\s+(\d+)", line) for line in lines]
    found = [(int(place[2]), place[1]) for place in places if place]
    return tuple(name for _, name in sorted(found)) if lines and len(found) == len(lines) else tuple(lines)
