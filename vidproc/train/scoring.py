"""Labelled examples through decoder and network on Ray Data: every example decoded once, whatever is done to it."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray.data

from vidproc.annotators.forward import load_scoring_network
from vidproc.models.weights import Weights
from vidproc.pipeline.cluster import Cluster
from vidproc.train.augment import Augment
from vidproc.train.corruptions import CORRUPTIONS, SEVERITIES, Kind, corruptions_for
from vidproc.train.feed import Feed, Look, Part
from vidproc.train.scored import Scored, truth_of
from vidproc.train.streams import Steps, prepare
from vidproc.views import Audio, Clips, Frames, SignalView

_BATCH = 16
_LIGHT_CPUS = 0.25


def scored(
    examples: pa.Table,
    weights: Weights,
    view: SignalView,
    *,
    samples: int,
    crops: int,
    corruptions: bool,
    device: str | None,
    cluster: Cluster,
) -> Scored:
    """Logits of all samples of all examples that can be decoded; the others are told and left out."""
    sound_us = None if weights.listening is None else weights.listening.sound_us
    look = Look(view=view, samples=samples, even=True, seed=0, sound_us=sound_us)
    good = prepare(examples, look, decode=False, cpus=0.5).examples
    shape = (
        (int(sound_us or 0) * view.rate // 1_000_000, view.channels) if isinstance(view, Audio) else view.sample_shape
    )
    feed = Feed(examples=good, look=look, augment=Augment((), sample_shape=shape), sample_shape=shape)
    on_gpu = device == "cuda" or (device is None and cluster.gpus >= 1)
    actors = max(1, int(cluster.gpus)) if on_gpu else 1
    steps = [pa.table({"step": pa.array([step])}) for step in range(feed.steps(_BATCH))]
    dataset = (
        ray.data.from_arrow(steps)
        .map_batches(
            Steps,
            fn_constructor_args=(feed, Part(_BATCH, 0, 1)),
            batch_size=None,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=max(1, int(cluster.cpus * 0.6))),
            num_cpus=0.5,
        )
        .map_batches(
            _Score,
            fn_constructor_args=(weights,),
            fn_constructor_kwargs={
                "device": "cuda" if on_gpu else "cpu",
                "crops": crops,
                "corruptions": corruptions,
            },
            batch_size=None,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=actors),
            num_cpus=_LIGHT_CPUS,
            num_gpus=1 if on_gpu else 0,
        )
    )
    blocks = list(dataset.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0))
    item = np.concatenate([block["item"] for block in blocks])
    logits = np.concatenate([block["logits"] for block in blocks])  # [samples, versions, labels]
    order = np.argsort(item, kind="stable")
    item, logits = item[order], logits[order]
    versions = versions_of(weights, corruptions=corruptions)
    damaged = {version: logits[:, i + 1] for i, version in enumerate(versions)}
    return Scored(logits[:, 0], item // look.samples, truth_of(good, weights), damaged)


def versions_of(weights: Weights, *, corruptions: bool) -> list[tuple[str, int]]:
    """(corruption, severity) of every damaged version that is scored."""
    if not corruptions:
        return []
    kinds: dict[type, Kind] = {Audio: "sound", Clips: "clip", Frames: "picture"}
    return [(name, severity) for name in corruptions_for(kinds[type(weights.view)]) for severity in SEVERITIES]


def _damaged(sample: npt.NDArray[Any], name: str, severity: int, seed: int) -> npt.NDArray[Any]:
    """The sample damaged; a picture is a clip of one frame to that end."""
    if sample.ndim == 3:
        return _damaged(sample[None], name, severity, seed).reshape(sample.shape)
    changed: npt.NDArray[Any] = CORRUPTIONS[name](sample, severity=severity, seed=seed)
    return changed


class _Score:
    """An actor with the network: samples in, logits [samples, versions, labels] out, the undamaged version first."""

    def __init__(self, weights: Weights, *, device: str, crops: int, corruptions: bool) -> None:
        self._network = load_scoring_network(weights, device=device, batch=None)
        self._crops = crops
        self._width = None if isinstance(weights.view, Audio) else weights.view.picture.shape[:2]
        self._versions = versions_of(weights, corruptions=corruptions)

    def __call__(self, batch: dict[str, npt.NDArray[Any]]) -> Iterator[dict[str, npt.NDArray[Any]]]:
        samples, items = batch["samples"], batch["item"]
        found = [self._logits(samples)]
        for name, severity in self._versions:
            changed = [_damaged(one, name, severity, int(item)) for one, item in zip(samples, items, strict=True)]
            found.append(self._logits(np.stack(changed)))
        yield {"item": items, "logits": np.stack(found, axis=1)}

    def _logits(self, samples: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Mean over the crops."""
        if self._crops == 1:
            [logits] = self._network.logits([samples])
            return logits
        height, width = self._width  # type: ignore[misc]
        top, spare = (samples.shape[-3] - height) // 2, samples.shape[-2] - width
        cut = [np.ascontiguousarray(samples[..., top : top + height, x : x + width, :]) for x in (0, spare // 2, spare)]
        mean: npt.NDArray[np.float32] = np.mean([self._network.logits([one])[0] for one in cut], axis=0)
        return mean
