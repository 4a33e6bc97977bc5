"""The options of the label job, in six groups, each beside what it is for."""

import datetime
import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from vidproc.command import Options, redacted
from vidproc.media.limits import GIB, Limits


def _split(value: Any) -> Any:
    """Names may come as `a,b` or as `a b`: they hold no commas themselves."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple):
        return value
    return tuple(part for item in value for part in str(item).split(",") if part)


def _named(value: Any, form: str) -> Any:
    """Texts NAME=VALUE as a dict. Raises ValueError with the wanted form."""
    if not isinstance(value, list | tuple):
        return value
    pairs = [str(item).partition("=") for item in value]
    if any(not name or not said for name, _, said in pairs):
        raise ValueError(form)
    return {name: said for name, _, said in pairs}


class ArchiveOptions(Options):
    """What is looked at."""

    archive: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description="folders, globs, tar shards of videos, or a Parquet/CSV list of URIs: any fsspec URL"
    )
    include: tuple[str, ...] = Field((), description="globs of names to list, in place of the known endings")
    exclude: tuple[str, ...] = Field((), description="globs of names to leave out")
    limit: int | None = Field(None, ge=1, description="at most this many videos in this run; the rest is deferred")
    canary: str | None = Field(
        None, description="folder of videos with expected.csv: come out wrong, and nothing is committed"
    )

    @field_validator("archive")
    @classmethod
    def _without_secrets(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """What an archive's URL holds ends up in the tables."""
        for url in value:
            if re.search(r"://[^/@\s]+:[^/@\s]+@|[?&](X-Amz-Signature|X-Goog-Signature|sig|Signature)=", url):
                raise ValueError(
                    "holds a password or a signature, which would be written to the tables: use the environment"
                )
        return value

    @field_validator("archive", "include", "exclude", mode="before")
    @classmethod
    def _as_tuple(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class LabelOptions(Options):
    """What is done with it, and where it goes."""

    tables: str = Field(description="where the tables are: a folder or an object-store URL")
    annotators: tuple[str, ...] = Field(("quality",), description="names, such as quality,actions,objects")
    weights: dict[str, str] = Field(
        default_factory=dict, description="NAME=URL: `demo`, a torchvision enum name, or a checkpoint's URL"
    )
    taxonomies: dict[str, str] = Field(
        default_factory=dict, description="NAME=URL: which labels are kinds of which, JSON; else the weights' own"
    )
    allow_licences: tuple[str, ...] = Field((), description="licences that are accepted although not for every use")
    date: datetime.date | None = Field(None, description="the night this run belongs to, YYYY-MM-DD; today by default")
    dry_run: bool = Field(False, description="say what would be done and how many hours of video that is; do nothing")
    reprocess: Literal["failed", "all"] | None = Field(None, description="also redo what failed, or all that is listed")
    failure_budget: float = Field(
        0.05, ge=0, le=1, description="share of videos that may be quarantined or missing before exit 3"
    )
    stop_at: datetime.time | None = Field(None, description="HH:MM local time: publish what is done then, and exit 0")
    restore: bool = Field(
        False, description="take the noise out of frames before actions and objects see them (weights: restore=URL)"
    )

    @field_validator("annotators", "allow_licences", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return _split(value)

    @field_validator("annotators")
    @classmethod
    def _unique(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError("name at least one annotator, and each once")
        return value

    @field_validator("weights", "taxonomies", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        return _named(value, "weights and taxonomies are given as NAME=URL, such as actions=demo")


class FaceOptions(Options):
    """On what terms faces are compared; without these the annotator `faces` is refused."""

    gallery: str | None = Field(None, description="folder of the people whom faces may be of: see maintain.py gallery")
    purpose: str | None = Field(None, description="what faces are compared for: it goes to the audit trail")
    keep_face_vectors: bool = Field(False, description="keep faces' vectors in the tables, to compare them again later")


class ComputeOptions(Options):
    """What it may take."""

    device: Literal["cuda", "cpu"] | None = Field(None, description="CUDA if there is one, else CPU")
    compile: bool = Field(
        False,
        description="torch.compile the networks, on a GPU with CUDA graphs: slow to start, for long runs",
    )
    actors: int | None = Field(None, ge=1, description="processes that hold the networks; one per GPU by default")
    batch_segments: int | None = Field(None, ge=1, description="segments that the networks see at once")
    segment_seconds_limit: float = Field(120.0, gt=0, description="time that decoding one segment may take")
    memory_limit_gib: float = Field(2.0, gt=0, description="memory that decoding one segment may take")
    pixel_limit: int = Field(8192 * 4608, ge=1, description="pixels that one frame may have")
    commit_every_s: float = Field(60.0, ge=0, description="how often finished parts are committed")
    lease_s: float = Field(60.0, gt=0, description="how long a silent run keeps its right to commit")

    def limits(self) -> Limits:
        return Limits(
            seconds=self.segment_seconds_limit,
            memory_bytes=int(self.memory_limit_gib * GIB),
            pixels=self.pixel_limit,
        )


class PlacementOptions(Options):
    """Which nodes do what: CPUs, GPUs and custom resources that each step books. The defaults suit one machine."""

    probe_cpus: float = Field(1.0, gt=0, description="CPUs that opening videos books; 1 saves a hop between nodes")
    decode_cpus: float = Field(0.9, gt=0, description="CPUs that decoding one segment books")
    decode_resources: dict[str, float] = Field(
        default_factory=dict, description="NAME=AMOUNT: resources of the nodes that may open and decode videos"
    )
    network_cpus: float | None = Field(None, gt=0, description="CPUs that each actor books; up to 1 by default")
    network_gpus: float = Field(1.0, gt=0, description="GPUs that each actor books, where networks run on GPUs")
    network_resources: dict[str, float] = Field(
        default_factory=dict, description="NAME=AMOUNT: resources of the nodes that may run the networks"
    )
    write_cpus: float = Field(0.05, gt=0, description="CPUs that writing parts books: it waits more than it works")
    write_resources: dict[str, float] = Field(
        default_factory=dict, description="NAME=AMOUNT: resources of the nodes that may write to the tables"
    )
    nodes_wait_s: float = Field(
        600.0, ge=0, description="how long a cluster has to bring a node that offers what a step books"
    )

    @field_validator("decode_resources", "network_resources", "write_resources", mode="before")
    @classmethod
    def _amounts(cls, value: Any) -> Any:
        return _named(value, "resources are given as NAME=AMOUNT, such as decode=1")

    @field_validator("decode_resources", "network_resources", "write_resources")
    @classmethod
    def _custom(cls, value: dict[str, float]) -> dict[str, float]:
        """Ray takes whole numbers above one, and books CPUs, GPUs and memory by arguments of their own."""
        for name, amount in value.items():
            if name in ("CPU", "GPU", "memory", "object_store_memory"):
                raise ValueError(f"{name} is no custom resource: CPUs and GPUs have flags of their own")
            if not amount > 0 or (amount > 1 and not amount.is_integer()):
                raise ValueError(f"{name}={amount:g}: an amount is a share up to 1 or a whole number")
        return value


class TellingOptions(Options):
    """Who is told of the run."""

    lineage: str | None = Field(
        None, description="where OpenLineage events go: http(s)://SERVER (key: OPENLINEAGE_API_KEY), or a file"
    )

    @field_validator("lineage")
    @classmethod
    def _reachable(cls, value: str | None) -> str | None:
        if value is not None and (redacted(value) != value or not re.match(r"https?://.|file:|[^:]+$", value)):
            raise ValueError("is an http(s) URL without password or query, or a local file")
        return value


class LabelConfig(ArchiveOptions, LabelOptions, FaceOptions, ComputeOptions, PlacementOptions, TellingOptions):
    """All options of `jobs/label.py`."""
