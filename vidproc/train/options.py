"""The options of training, in groups. What decodes examples imports them too: so nothing here imports torch."""

import hashlib
import json
import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from vidproc.command import Options
from vidproc.models.spectrum import Listening
from vidproc.train.schedule import ScheduleOptions
from vidproc.views import Clips, Frames, SignalView, Text, view_from_json

TaskName = Literal["single", "multi", "detection", "embedding", "restoration"]


class DataOptions(Options):
    """What is learnt from."""

    data: tuple[str, ...] = Field((), description="folders of class folders, CSV or Parquet of spans, COCO .json")
    sql: str | None = Field(None, description="SELECT of uri, label, … over --teach-tables: more training data")
    teach_tables: str | None = Field(None, description="published tables that --sql asks")
    categories: tuple[str, ...] = Field((), description="in their order; by default all that the data names, sorted")
    held_out: str = Field(
        "0.2", description="of data without a split: the share that is never trained on, or a glob of file names"
    )
    group: str | None = Field(
        None, description="regular expression: files in which it finds the same text are on one side of a share"
    )

    together: bool = Field(
        False,
        description="files of one group follow each other, at the same times, changed alike: so the rest stands out",
    )

    @field_validator("data", "categories", mode="before")
    @classmethod
    def _as_tuple(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("group")
    @classmethod
    def _expression(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"{value!r} is no regular expression: {error}") from error
        return value


class LookOptions(Options):
    """What of each example the network sees: in training at random, in evaluation evenly."""

    view: dict[str, Any] = Field(
        default_factory=lambda: {
            "kind": "clips",
            "num_frames": 8,
            "fps": 8,
            "stride_s": 1.0,
            "picture": {"resize": [112, 112]},
        },
        description="as in a sidecar; `picture` may be [height, width]",
    )
    listening: dict[str, Any] | None = Field(None, description="of sound: seconds, stride_s and spectrum")
    samples: int = Field(1, ge=1, le=1000, description="of each example in an epoch, at random times")
    even_samples: int = Field(1, ge=1, le=1000, description="of each held-out example, evenly spaced, averaged")
    decode: Literal["auto", "once", "stream"] = Field(
        "auto", description="keep decoded samples in memory for all epochs, or decode each epoch at new times"
    )
    augment: tuple[str, ...] = Field((), description="changes at random: see train/augment.py")
    mean: tuple[float, float, float] = Field((0.45, 0.45, 0.45), description="of pixels in 0..1, each channel")
    std: tuple[float, float, float] = Field((0.225, 0.225, 0.225), description="likewise")

    @field_validator("view")
    @classmethod
    def _known(cls, value: dict[str, Any]) -> dict[str, Any]:
        picture = value.get("picture")
        if isinstance(picture, list | tuple):
            value = {**value, "picture": {"resize": list(picture)}}
        if isinstance(view_from_json(value), Text):
            raise ValueError("networks are trained on frames, clips or audio, not on text")
        return value

    @property
    def looks_at(self) -> SignalView:
        view = view_from_json(self.view)
        assert not isinstance(view, Text)  # checked when made
        return view

    @property
    def hears(self) -> Listening | None:
        return None if self.listening is None else Listening(**self.listening)


class NetworkOptions(Options):
    """What is trained, and for what."""

    task: TaskName = Field("single", description="what kind of training")
    architecture: str = Field("r3d_18", description="a name of the zoo: python -m vidproc.models")
    options: dict[str, Any] = Field(default_factory=dict, description="what to change in it, as in a sidecar")
    detector: dict[str, Any] = Field(default_factory=dict, description="of task detection: see models/detection.py")
    init: str | None = Field(None, description="weights to begin with, as --weights names them; heads may differ")
    zero_init: bool = Field(True, description="residual blocks begin as their shortcuts")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="(Szegedy et al. 2016)")
    mixup: float = Field(0.0, ge=0, description="alpha of the Beta distribution; 0 mixes nothing")
    margin: dict[str, Any] = Field(default_factory=dict, description="of task embedding: kind, scale, margin, size")


class OptimiserOptions(Options):
    """How gradients become weights. Norms and biases neither decay nor become sparse."""

    optimiser: Literal["sgd", "nesterov", "adam", "adamw"] = Field(
        "adamw", description="sgd and nesterov use --momentum; adam and adamw are one, as --l2 never enters gradients"
    )
    learning_rate: float = Field(1e-3, gt=0, description="the highest of the run; SGD wants about 100 times Adam's")
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd and nesterov")
    l2: float = Field(0.02, ge=0, description="weight decay: each step takes this x learning rate of every weight away")
    l1: float = Field(0.0, ge=0, description="each step takes this x learning rate off every weight's size, down to 0")
    gradient_clip: float | None = Field(None, gt=0, description="longest gradient, over all parameters together")
    ema: float = Field(0.0, ge=0, lt=1, description="decay of the weights' moving average, such as 0.999; 0 is off")

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Self:
        if self.optimiser == "nesterov" and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0: use sgd without momentum")
        return self


class RunOptions(Options):
    """How long, on what, and where the result goes."""

    name: str = Field(description="of this training: its folder below --out; the same command goes on with it")
    out: str = Field("out/train", description="folder or object-store URL")
    seed: int = Field(0, ge=0)
    epochs: int = Field(10, ge=1)
    batch: int = Field(32, ge=1, description="examples of one step, over all workers")
    accumulate: int = Field(1, ge=1, description="pieces that a worker's share of a step is computed in")
    patience: int = Field(0, ge=0, description="epochs without improvement after which training ends; 0: never")
    checkpoint_steps: int = Field(0, ge=0, description="also keep a checkpoint every so many steps; 0: each epoch")


class ResultOptions(Options):
    """What is said of the result, and which it is."""

    keep: Literal["best", "last"] = Field("best", description="of which epoch the result is, by the held-out examples")
    licence: str = Field("private", description="of the result, for its sidecar")
    provenance: str | None = Field(None, description="who made the result and how, for its sidecar")
    allow_licences: tuple[str, ...] = Field((), description="licences of --init that are accepted by name")


class WorkerOptions(Options):
    """Where it runs: nothing here changes what comes out."""

    workers: Annotated[tuple[int, ...], Field(min_length=1, max_length=2)] = Field(
        (1,), description="processes that train: N, or MIN MAX to grow and shrink with the cluster"
    )
    shard: bool = Field(
        False, description="FSDP: each worker holds a part of the weights and of the optimiser's state, not all of them"
    )
    device: Literal["cuda", "cpu"] | None = Field(None, description="CUDA if there is one, else CPU")
    cpus_per_worker: float = Field(0.5, gt=0, description="booked by a worker; decoding needs the rest")
    cpus_per_decode: float = Field(0.5, gt=0, description="booked by a task that decodes")
    threads: int = Field(1, ge=1, description="of a worker on a CPU")
    max_failures: int = Field(100, ge=0, description="workers' deaths that are survived")

    @field_validator("workers", mode="before")
    @classmethod
    def _counts(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int | str) else value

    @field_validator("workers")
    @classmethod
    def _ordered(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not 1 <= value[0] <= value[-1]:
            raise ValueError(f"{value} must be N, or MIN MAX with 1 <= MIN <= MAX")
        return value


class TrainConfig(
    RunOptions,
    DataOptions,
    LookOptions,
    NetworkOptions,
    OptimiserOptions,
    ScheduleOptions,
    ResultOptions,
    WorkerOptions,
):
    """All options of `jobs/train.py`."""

    @model_validator(mode="after")
    def _fits(self) -> "TrainConfig":
        view, hears = self.looks_at, self.hears
        if isinstance(view, Frames | Clips):
            if hears is not None:
                raise ValueError("listening belongs to an audio view")
        elif hears is None or hears.spectrum.rate != view.rate:
            raise ValueError(f"an audio view needs listening with a spectrum of its rate, {view.rate}")
        if self.shard and self.batch // self.workers[-1] < self.accumulate:
            raise ValueError("shard needs accumulate x workers to be at most batch: workers take all steps together")
        return self

    @property
    def folder(self) -> str:
        return f"{self.out.rstrip('/')}/{self.name}"

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Of one decoded sample."""
        view = self.looks_at
        if isinstance(view, Frames | Clips):
            return view.sample_shape
        assert self.hears is not None  # checked when made
        return (self.hears.sound_us * view.rate // 1_000_000, view.channels)

    def identity(self) -> dict[str, Any]:
        """What decides the result: all but where it runs and where it goes."""
        left_out = {*WorkerOptions.model_fields, "out", "allow_licences"}
        return self.model_dump(mode="json", exclude=left_out)

    def identity_hash(self) -> str:
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()
