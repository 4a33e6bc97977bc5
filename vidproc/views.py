"""What a network asks of the decoder: `Clips`, `Frames`, `Audio`, `Text`. Frozen values that travel as JSON.

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
    `letterbox`: the picture keeps its aspect inside the pair, from the upper left corner; grey fills what is left over.
    `media.geometry` says where exactly the picture lies.
    """

    resize: int | tuple[int, int]
    crop: tuple[int, int] | None = None
    colour: Literal["rgb", "gray"] = "rgb"
    interpolation: Literal["bilinear", "bicubic", "area"] = "bilinear"
    letterbox: bool = False

    def __post_init__(self) -> None:
        if self.letterbox and (self.crop is not None or isinstance(self.resize, int)):
            raise ValueError("a letterboxed picture needs resize=(height, width), and no crop")
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


@dataclass(frozen=True, kw_only=True)
class Text:
    """The subtitles of all the video's text streams, its captions, and the titles of its chapters, each with its span.

    A segment owns those that start inside it. No grid, and no pixels: see `media.samples.SPAN` for what comes.
    """


SignalView = Frames | Clips | Audio
"""Views of picture and sound: what a trained network can look at."""

View = SignalView | Text

_KINDS: dict[str, type[Frames] | type[Clips] | type[Audio] | type[Text]] = {
    "frames": Frames,
    "clips": Clips,
    "audio": Audio,
    "text": Text,
}


def view_to_json(view: View) -> str:
    """A canonical JSON text: equal views give equal texts."""
    kind = next(name for name, cls in _KINDS.items() if isinstance(view, cls))
    fields = asdict(view)
    if not fields.get("picture", {}).get("letterbox", True):
        del fields["picture"]["letterbox"]  # views that need no letterbox keep the text, and the hash, that they had
    return json.dumps({"kind": kind, **fields}, sort_keys=True)


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
