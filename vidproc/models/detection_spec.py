"""Every detector as a few words and numbers: `DetectionSpec`. Needs no torch; `detection.py` builds it."""

import re
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer
from pydantic.dataclasses import dataclass

from vidproc.models.specs import Norm, ResidualSpec

_Positive = Annotated[int, Field(ge=1, le=8192)]

FACE_KEYPOINTS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
"""A face's five points in the order of `alignment.py`. Left and right are the picture's, not the person's."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class SecondLook:
    """Faster R-CNN's: `proposals` of each picture are looked at again in training, twice as many but at most 1000
    afterwards; `width`: numbers between its two layers."""

    proposals: int = Field(default=512, ge=1, le=512)
    width: int = Field(default=1024, ge=1, le=8192)


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class KeypointHead:
    """Keypoint R-CNN's third look, at the boxes it keeps: a heat map of 56×56 places for each of the points `names`.

    `widths`: of its 3×3 convolutions. Names that a mirror swaps differ in the words "left" and "right" alone.
    """

    names: tuple[Annotated[str, Field(min_length=1)], ...] = Field(default=FACE_KEYPOINTS, min_length=1, max_length=64)
    widths: tuple[_Positive, ...] = Field(default=(512,) * 8, min_length=1, max_length=16)

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"names {self.names} must be different")
        if alone := [name for name in self.names if _in_a_mirror(name) not in self.names]:
            raise ValueError(f"names {alone} need their other side, {[_in_a_mirror(name) for name in alone]}")

    @property
    def mirrored(self) -> tuple[int, ...]:
        """Of each point the index of the one that stands in its place in a mirror image."""
        return tuple(self.names.index(_in_a_mirror(name)) for name in self.names)


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class DetectionSpec:
    """A detector on a residual network's maps, joined to a pyramid (Lin et al. 2017, arXiv:1612.03144).

    `kind`: boxes at once from every place of every map (RetinaNet: Lin et al. 2017, arXiv:1708.02002), proposals first
    and a second look at each (Faster R-CNN: Ren et al. 2015, arXiv:1506.01497), or that and points in each box
    (Keypoint R-CNN: He et al. 2017, arXiv:1703.06870, section 5).
    `stages`: of the backbone, from 1 on, those whose maps the pyramid joins; () is all.
    `fpn_channels`: of each of the pyramid's levels.
    `anchor_sizes`: in pixels, one tuple a level, the finest first. One level more than stages is the last one at half
    its size; two more are made of it by convolutions of stride 2 (as P6 and P7 of arXiv:1708.02002).
    `anchor_ratios`: height over width.
    `norm`: of the pyramid, and of RetinaNet's heads; None leaves it out, as the first papers do.
    `second`: of Faster and Keypoint R-CNN. `keypoints`: of Keypoint R-CNN, which must have them, and of no other.
    `min_score`, `max_boxes`: what a picture's result keeps, after suppression at IoU 0.5 within each class.
    """

    kind: Literal["retinanet", "fasterrcnn", "keypoint_rcnn"] = "retinanet"
    backbone: ResidualSpec
    stages: tuple[_Positive, ...] = ()
    fpn_channels: int = Field(default=256, ge=1, le=8192)
    anchor_sizes: Annotated[tuple[tuple[_Positive, ...], ...], Field(min_length=1)]
    anchor_ratios: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (0.5, 1.0, 2.0)
    norm: Norm | None = None
    second: SecondLook = SecondLook()
    keypoints: KeypointHead | None = None
    min_score: float = Field(default=0.05, ge=0, lt=1)
    max_boxes: int = Field(default=100, ge=1, le=1000)

    def __post_init__(self) -> None:
        depth, stages = len(self.backbone.depths), self.pyramid_stages
        if self.backbone.dims != 2:
            raise ValueError(f"boxes are found in pictures: the backbone needs dims=2, not {self.backbone.dims}")
        if self.backbone.block.order not in ("post", "ir"):
            raise ValueError(f"block order {self.backbone.block.order!r} leaves maps without a norm: use post or ir")
        if list(stages) != sorted(set(stages)) or stages[-1] > depth:
            raise ValueError(f"stages {stages} must rise and be among the backbone's 1..{depth}")
        if not 0 <= self.extra_levels <= 2:
            allowed = f"{len(stages)} to {len(stages) + 2}"
            raise ValueError(
                f"anchor_sizes has {len(self.anchor_sizes)} levels, and {len(stages)} stages need {allowed}"
            )
        if len({len(sizes) for sizes in self.anchor_sizes}) != 1 or not self.anchor_sizes[0]:
            raise ValueError(f"anchor_sizes {self.anchor_sizes} must give every level as many sizes, and at least one")
        if (self.kind == "keypoint_rcnn") != (self.keypoints is not None):
            raise ValueError(
                f"keypoint_rcnn, and no other kind, has keypoints; {self.kind} has {self.keypoints}. Wanted are their "
                f'names in order, {{"names": ["nose", …]}}; {{}} is a face\'s {FACE_KEYPOINTS}'
            )

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, as_fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Detectors without keypoints keep the text, and the hash, that they had before there were any."""
        fields: dict[str, Any] = as_fields(self)
        if self.keypoints is None:
            del fields["keypoints"]
        return fields

    @property
    def pyramid_stages(self) -> tuple[int, ...]:
        return self.stages or tuple(range(1, len(self.backbone.depths) + 1))

    @property
    def extra_levels(self) -> int:
        """Levels of the pyramid beyond the backbone's maps."""
        return len(self.anchor_sizes) - len(self.pyramid_stages)


def _in_a_mirror(name: str) -> str:
    """The name with left for right: "bright_spot" has neither."""
    sides = {"left": "right", "right": "left"}
    return re.sub(r"(?<![a-z])(left|right)(?![a-z])", lambda found: sides[found.group()], name)
