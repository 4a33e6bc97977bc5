"""What a network asks of the decoder: `Clips`, `Frames`, `Audio`. Frozen values that travel as JSON.

A view has a time grid that is global to the video: sample k starts at `start + k * stride`, whatever the segments are.
A segment owns the samples that start inside it. A sample is made of the frames nearest by PTS to exact target times.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

MICROSECONDS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Picture:
    """How a frame becomes pixels: one swscale pass to `resize`, then a centre crop.

    `resize`: the short side in pixels (the long side keeps the aspect), or an exact (height, width).
    `crop`: (height, width) that leaves the decoder; None means exactly `resize`, which then must be a pair.
    """

    resize: int | tuple[int, int]
    crop: tuple[int, int] | None = None
    colour: Literal["rgb", "gray"] = "rgb"
    interpolation: Literal["bilinear", "bicubic", "area"] = "bilinear"

    def __post_init__(self) -> None:
        if self.crop is None and isinstance(self.resize, int):
            raise ValueError("a view needs a fixed shape: give crop=(height, width), or resize=(height, width)")
        height, width = self.shape[:2]
        resize = (self.resize, self.resize) if isinstance(self.resize, int) else self.resize
        if not (0 < height <= resize[0] <= 4096 and 0 < width <= resize[1] <= 4096):
            raise ValueError(
                f"crop {(height, width)} must be positive and inside resize {resize}, at most 4096 pixels a side"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of one frame as it leaves the decoder."""
        height, width = self.crop if self.crop is not None else self.resize  # type: ignore[misc]
        return height, width, 3 if self.colour == "rgb" else 1


def _check_positive(**values: Any) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0.001 <= value <= 1_000_000:
            raise ValueError(f"{name} must be a number from 0.001 to 1,000,000, not {value!r}")


@dataclass(frozen=True, kw_only=True)
class Frames:
    """Single frames at `fps` samples a second: uint8 [samples, height, width, channels]."""

    fps: float
    picture: Picture

    def __post_init__(self) -> None:
        _check_positive(fps=self.fps)

    @property
    def stride_us(self) -> int:
        return round(MICROSECONDS / self.fps)

    @property
    def offsets_us(self) -> tuple[int, ...]:
        """Target times of one sample's frames, after its start."""
        return (0,)

    @property
    def span_us(self) -> int:
        """The time that one sample speaks for."""
        return self.stride_us

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return self.picture.shape


@dataclass(frozen=True, kw_only=True)
class Clips:
    """Clips of `num_frames` at `fps`, one every `stride_s`: uint8 [samples, num_frames, height, width, channels]."""

    num_frames: int
    fps: float
    stride_s: float
    picture: Picture

    def __post_init__(self) -> None:
        _check_positive(num_frames=self.num_frames, fps=self.fps, stride_s=self.stride_s)

    @property
    def stride_us(self) -> int:
        return round(MICROSECONDS * self.stride_s)

    @property
    def offsets_us(self) -> tuple[int, ...]:
        """Target times of one sample's frames, after its start."""
        return tuple(round(i * MICROSECONDS / self.fps) for i in range(self.num_frames))

    @property
    def span_us(self) -> int:
        """The time that one clip covers."""
        return round(self.num_frames * MICROSECONDS / self.fps)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return (self.num_frames, *self.picture.shape)


@dataclass(frozen=True, kw_only=True)
class Audio:
    """Sound resampled to `rate` Hz and mixed to `channels`: int16 [samples, channels], gaps filled with silence."""

    rate: int = 16_000
    channels: int = 1

    def __post_init__(self) -> None:
        _check_positive(rate=self.rate, channels=self.channels)


View = Frames | Clips | Audio

_KINDS: dict[str, type[Frames] | type[Clips] | type[Audio]] = {"frames": Frames, "clips": Clips, "audio": Audio}


def view_to_json(view: View) -> str:
    """A canonical JSON text: equal views give equal texts."""
    kind = next(name for name, cls in _KINDS.items() if isinstance(view, cls))
    return json.dumps({"kind": kind, **asdict(view)}, sort_keys=True)


def view_from_json(value: str | Mapping[str, Any]) -> View:
    """The view that a JSON text (or its parsed form) describes. Raises ValueError saying what is allowed."""
    fields = dict(json.loads(value) if isinstance(value, str) else value)
    kind = fields.pop("kind", None)
    if kind not in _KINDS:
        raise ValueError(f"view kind {kind!r} is unknown: use one of {sorted(_KINDS)}")
    if "picture" in fields:
        picture: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields["picture"].items()}
        fields["picture"] = Picture(**picture)
    try:
        return _KINDS[kind](**fields)
    except TypeError as error:
        raise ValueError(f"{kind} view: {error}") from error
