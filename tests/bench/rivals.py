"""The same work without us, for `jobs/bench.py`.

    python tests/bench/rivals.py loop|ray|read_videos FOLDER WEIGHTS OUT

Work: 2 frames a second of every video, short side 256, centre crop 224, ResNet-18, top 5, Parquet. None of them
survives a kill, isolates a decoder, or knows what was done yesterday.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FPS = 2
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def sampled(path: str) -> Iterator[tuple[float, Any]]:
    """(time, uint8 [224, 224, 3]) of the frames at 2 fps: every frame decoded, the wanted ones scaled."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        following = 0.0
        for frame in container.decode(stream):
            if frame.time is None or frame.time < following:
                continue
            following += 1 / FPS
            scale = 256 / min(frame.width, frame.height)
            width, height = round(frame.width * scale), round(frame.height * scale)
            pixels = frame.reformat(width, height, "rgb24").to_ndarray()
            top, left = (height - 224) // 2, (width - 224) // 2
            yield frame.time, pixels[top : top + 224, left : left + 224]


def network(weights: str) -> Any:
    import torch
    import torchvision
    from safetensors.torch import load_file

    model = torchvision.models.resnet18()
    model.load_state_dict(load_file(weights))
    return model.eval().to(memory_format=torch.channels_last)


def top5(model: Any, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    import torch

    with torch.inference_mode():
        batch = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(255)
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
        scores, labels = model(batch.sub_(mean).div_(std)).softmax(1).topk(5)
    return scores.numpy(), labels.numpy()


def rows(path: str, times: list[float], scores: np.ndarray, labels: np.ndarray) -> pa.Table:
    at = np.repeat(np.asarray(times), 5)
    return pa.table({"path": [path] * len(at), "time": at, "score": scores.ravel(), "label": labels.ravel()})


def loop(videos: list[str], weights: str, out: Path) -> None:
    """One process: decode, label, write."""
    model = network(weights)
    with pq.ParquetWriter(out / "labels.parquet", _SCHEMA) as writer:
        for path in videos:
            times, pictures = zip(*sampled(path), strict=True)
            writer.write_table(rows(path, list(times), *top5(model, np.stack(pictures))))


_SCHEMA = pa.schema([("path", pa.string()), ("time", pa.float64()), ("score", pa.float32()), ("label", pa.int64())])


def ray_pipeline(videos: list[str], weights: str, out: Path) -> None:
    """Ray Data by hand, with care: decode in tasks, the network in an actor, fixed shapes, no pandas."""
    import ray

    def decode(batch: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        for path in batch["item"]:
            times, pictures = zip(*sampled(path), strict=True)
            yield {"path": np.array([path] * len(times)), "time": np.array(times), "pixels": np.stack(pictures)}

    class Label:
        def __init__(self) -> None:
            self.model = network(weights)

        def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            scores, labels = top5(self.model, batch["pixels"])
            return {"path": batch["path"], "time": batch["time"], "score": scores, "label": labels}

    ray.init(include_dashboard=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    (
        ray.data.from_items(videos, override_num_blocks=len(videos) // 2)
        .map_batches(decode, batch_size=1, num_cpus=0.8)
        .map_batches(Label, batch_size=40, compute=ray.data.ActorPoolStrategy(size=1), num_cpus=0.1)
        .write_parquet(str(out))
    )


def read_videos(videos: list[str], weights: str, out: Path) -> None:
    """Ray Data's own reader, which decodes and scales; the network in an actor."""
    import ray

    class Label:
        def __init__(self) -> None:
            self.model = network(weights)

        def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            scores, labels = top5(self.model, np.stack(list(batch["frame"])))
            return {"score": scores, "label": labels}

    ray.init(include_dashboard=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    frames = ray.data.read_videos(videos, fps=FPS, resize=(224, 224))
    labels = frames.map_batches(
        Label, batch_size=40, compute=ray.data.ActorPoolStrategy(size=1), num_cpus=0.1, batch_format="numpy"
    )
    labels.write_parquet(str(out))


RIVALS = {"loop": loop, "ray": ray_pipeline, "read_videos": read_videos}

if __name__ == "__main__":
    name, folder, weights_file, target = sys.argv[1:]
    Path(target).mkdir(parents=True)
    RIVALS[name](sorted(map(str, Path(folder).rglob("*.mp4"))), weights_file, Path(target))
    print(json.dumps({"rival": name, "done": True}))
