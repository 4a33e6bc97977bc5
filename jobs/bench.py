"""Measure here: each step's rate, what the pipeline makes of them, and how many CPU cores feed one GPU.

    python jobs/bench.py                     rates of each step, on 40 ten-second videos that it makes
    python jobs/bench.py --archive videos/   the same on your own videos
    python jobs/bench.py --rivals loop,ray,read_videos --rounds 5    beside the same work without us, interleaved

Seconds mean little on a shared machine: compare what one call of this prints. Medians of `--rounds`.
"""

import functools
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, field_validator

from vidproc.command import Options, end_with, parse
from vidproc.errors import UsageError
from vidproc.media.archive import list_archive
from vidproc.pipeline import steps
from vidproc.pipeline.annotating import Annotate
from vidproc.pipeline.chosen import chosen_annotators
from vidproc.pipeline.options import LabelConfig
from vidproc.tables.plan import make_plan
from vidproc.views import MICROSECONDS, Frames, Picture, view_to_json

_BATCH = 4
ROOT = Path(__file__).parents[1]
VIEW = Frames(fps=2, picture=Picture(resize=256, crop=(224, 224)))


class BenchConfig(Options):
    """Options of the benchmark."""

    archive: str | None = Field(None, description="videos to measure on; some are made if none are named")
    videos: int = Field(40, ge=1, description="how many videos to make")
    rivals: tuple[str, ...] = Field((), description="what else to time on the same work: loop, ray, read_videos")
    rounds: int = Field(1, ge=1, description="rounds, interleaved; medians are printed")
    out: Path = Field(Path("out/bench"), description="folder to work in; what is there is replaced")

    @field_validator("rivals", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return tuple(name for item in value for name in item.split(",")) if isinstance(value, list | tuple) else value


def main() -> int:
    return bench(parse(BenchConfig, __doc__))


def bench(config: BenchConfig) -> int:
    for rival in config.rivals:
        check(rival)
    out = config.out.resolve()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    archive = config.archive or str(make_videos(out / "archive", config.videos))
    weights = make_weights(out / "resnet18.safetensors")
    decode_s, model_s = step_seconds(archive, weights, out)
    limit_s = (decode_s + model_s) / _cores()
    tell(
        "limit", seconds=limit_s, meaning="(decode + model processor seconds) / cores: with these steps none is faster"
    )
    commands = {"ours": functools.partial(ours, archive, weights)}
    commands |= {rival: functools.partial(rival_command, rival, archive, weights) for rival in config.rivals}
    walls: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(config.rounds):
        for name, command in commands.items():
            walls[name].append(timed(command(out / f"{name}-{number}")))
            tell("round", name=name, number=number, seconds=walls[name][-1])
    medians = {name: statistics.median(times) for name, times in walls.items()}
    for name, seconds in medians.items():
        tell("wall", name=name, seconds=seconds, ours_is=medians["ours"] / seconds, rounds=config.rounds)
    slowest_s = max(decode_s, model_s) / _cores()
    tell("efficiency", of_slowest_step_alone=slowest_s / medians["ours"], of_limit=limit_s / medians["ours"])
    return 0


def tell(what: str, **figures: Any) -> None:
    """One figure a line, as JSON."""
    print(json.dumps({what: {k: round(v, 3) if isinstance(v, float) else v for k, v in figures.items()}}), flush=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def make_videos(folder: Path, count: int) -> Path:
    """Ten-second 640x360 H.264 videos at 30 fps: eight scenes, each under several names."""
    from vidproc.train.encoded import encode
    from vidproc.train.synthetic import MOTIONS, SHAPES, render

    folder.mkdir(parents=True)
    for number in range(min(count, 8)):
        shape, motion = SHAPES[number % len(SHAPES)], MOTIONS[number % len(MOTIONS)]
        frames = render(shape=shape, motion=motion, seconds=10, fps=30, size=(360, 640), seed=number)
        (folder / f"video-{number:04d}.mp4").write_bytes(encode(frames, fps=30, crf=23))
    for number in range(8, count):
        shutil.copyfile(folder / f"video-{number % 8:04d}.mp4", folder / f"video-{number:04d}.mp4")
    return folder


def make_weights(path: Path) -> Path:
    """A ResNet-18 for 1,000 classes with random weights, and its sidecar: as slow as a trained one."""
    import hashlib

    import torch
    from safetensors.torch import save_file

    from vidproc.models.build import build
    from vidproc.models.zoo import spec_of

    torch.manual_seed(0)
    save_file({k: v.contiguous() for k, v in build(spec_of("resnet18"), classes=1000).state_dict().items()}, path)
    sidecar = {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "architecture": "resnet18",
        "categories": [f"class {i}" for i in range(1000)],
        "view": json.loads(view_to_json(VIEW)),
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "licence": "Apache-2.0",
        "provenance": "random, by jobs/bench.py",
    }
    path.with_name(path.name + ".json").write_text(json.dumps(sidecar))
    return path


def step_seconds(archive: str, weights: Path, out: Path) -> tuple[float, float]:
    """Seconds of one core that decoding and the network take for all the work, each alone, one after the other."""
    import torch

    config = LabelConfig(
        archive=(archive,), tables=str(out / "none"), annotators=("objects",), weights={"objects": str(weights)}
    )
    settings = steps.Settings("bench", config.tables, chosen_annotators(config), config.limits())
    list_archive([archive], str(out / "listing"))
    wanted = {name: annotator.model_id for name, annotator in settings.annotators.items()}
    make_plan(str(out / "listing"), config.tables, wanted=wanted, out_url=str(out / "plan"))
    segments = steps.probe(pq.read_table(out / "plan"), settings=settings)
    annotate = Annotate(settings, threads=1)
    warm = pa.concat_tables(steps.decode(segments.slice(0, 1), settings=settings))
    annotate(warm)
    decode_s = model_s = 0.0
    samples = 0
    for first in range(0, segments.num_rows, _BATCH):
        started = time.perf_counter()
        batch = pa.concat_tables(steps.decode(segments.slice(first, _BATCH), settings=settings))
        decoded = time.perf_counter()
        samples += sum(annotate(batch)["samples"].to_pylist())
        decode_s += decoded - started
        model_s += time.perf_counter() - decoded
    video_us = sum(row["end_us"] - row["start_us"] for row in segments.to_pylist())
    tell("decode", seconds=decode_s, times_real_time_per_core=video_us / MICROSECONDS / decode_s)
    tell("model", seconds=model_s, frames_per_s=samples / model_s, cores_of_decoding_per_device=decode_s / model_s)
    tell(
        "placement",
        cores_that_decode=max(1, math.ceil(decode_s / model_s)),
        for_each="GPU" if torch.cuda.is_available() else "core that runs networks",
        decode_nodes="""ray start --resources '{"decode": CORES}'""",
        network_nodes="""ray start --resources '{"network": GPUS}'""",
        flags="--decode-resources decode=1 --network-resources network=1",
    )
    return decode_s, model_s


def ours(archive: str, weights: Path, tables: Path) -> list[str]:
    """The label job's command line."""
    job = [sys.executable, str(ROOT / "jobs" / "label.py"), "--archive", archive, "--tables", str(tables)]
    return [*job, "--annotators", "objects", "--weights", f"objects={weights}", "--failure-budget", "1"]


def rival_command(rival: str, archive: str, weights: Path, target: Path) -> list[str]:
    """A rival's command line."""
    return [sys.executable, str(ROOT / "tests" / "bench" / "rivals.py"), rival, archive, str(weights), str(target)]


def check(rival: str) -> None:
    """Raises `UsageError` for a rival that there is not, or that lacks what it needs."""
    if rival not in ("loop", "ray", "read_videos"):
        raise UsageError(f"no rival is called {rival!r}: choose from loop, ray, read_videos")
    if rival == "read_videos" and find_spec("decord") is None:
        raise UsageError("read_videos decodes by decord, which is not here: uv pip install --group bench")


def timed(command: list[str]) -> float:
    """Wall seconds of a whole process, its start included. Raises `UsageError` if it fails."""
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise UsageError(f"{' '.join(command[1:3])} ended with {done.returncode}: {done.stderr[-1500:]}")
    return seconds


if __name__ == "__main__":
    end_with(main)
