"""What a training leaves: a checkpoint and the sidecar with which `label` and `evaluate` load it."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import safetensors.torch
import torch

from vidproc import __version__
from vidproc.errors import UsageError
from vidproc.models.sidecar import Checkpoint, sidecar_text
from vidproc.tables.store import Store
from vidproc.train.options import TrainConfig
from vidproc.train.tasks.base import Task


def save_result(
    config: TrainConfig, store: Store, task: Task, examples: pa.Table, checkpoint: Any
) -> Mapping[str, float]:
    """Write `network.safetensors` and its sidecar, the sidecar last; returns the best epoch's measures."""
    with checkpoint.as_directory() as folder:
        state = torch.load(Path(folder) / "training.pt", map_location="cpu", weights_only=True)
    best = state["best"]
    data = safetensors.torch.save({name: value.contiguous() for name, value in best["state"].items()})
    described = _described(
        config,
        task,
        url=store.url_of("network.safetensors"),
        sha256=hashlib.sha256(data).hexdigest(),
        provenance=config.provenance or f"jobs/train.py, {config.name}, epoch {best['epoch']} of {config.epochs}",
        protocol=_protocol(config, examples, best["measures"]),
        metrics=dict(best["measures"]),
        origin={
            "data": _data_hash(examples),
            "config": config.identity_hash(),
            "code_version": __version__,
        },
    )
    store.put("network.safetensors", data)
    store.put("network.safetensors.json", sidecar_text(described).encode())
    return dict(best["measures"])


def check_describable(config: TrainConfig, task: Task) -> None:
    """Raises `UsageError`, before any work, where no sidecar could say what this training makes."""
    try:
        _described(config, task, url="", sha256="0" * 64, provenance="nothing yet")
    except ValueError as error:
        raise UsageError(f"network, view and task do not go together: {error}") from error


def _described(config: TrainConfig, task: Task, **known: Any) -> Checkpoint:
    return task.described(view=config.looks_at, mean=config.mean, std=config.std, licence=config.licence, **known)


def _protocol(config: TrainConfig, examples: pa.Table, measures: Mapping[str, float]) -> str:
    """How the figures were measured; "" where nothing was."""
    if not measures:
        return ""
    held = sum(split == "held_out" for split in examples["split"].to_pylist())
    figures = ", ".join(f"{name} {value:.3f}" for name, value in measures.items())
    chose = ", which chose the epoch" if config.keep == "best" and config.epochs > 1 else ""
    return f"uniform-{config.even_samples}xcenter on {held} held-out examples{chose}: {figures}"


def _data_hash(examples: pa.Table) -> str:
    """Of what was learnt from: sources with their versions, spans, labels, splits."""
    digest = hashlib.sha256()
    for row in examples.to_pylist():
        digest.update(json.dumps(row, sort_keys=True).encode())
    return digest.hexdigest()
