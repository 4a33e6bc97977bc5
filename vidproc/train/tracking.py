"""Where the curves go: TensorBoard's event files always; MLflow and W&B when they are installed and set up."""

import importlib.util
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import fsspec

from vidproc.train.options import TrainConfig


class Tracker:
    """Of the first worker. Event files lie in the training's folder, in an object store since the last epoch's end."""

    def __init__(self, config: TrainConfig) -> None:
        from torch.utils.tensorboard import SummaryWriter  # a second and a half, of one process

        self._config = config
        self._filesystem, path = fsspec.core.url_to_fs(f"{config.folder}/tensorboard")
        self._remote = None if "file" in self._filesystem.protocol else path
        self._folder = Path(tempfile.mkdtemp(prefix="vidproc-")) if self._remote else Path(path)
        self._writer = SummaryWriter(str(self._folder))
        self._mlflow = self._begin_mlflow()
        self._wandb = self._begin_wandb()

    def epoch(self, told: Mapping[str, Any], losses: Sequence[float]) -> None:
        """Figures of one epoch, and the loss of each of its steps."""
        step = told["step"]
        for i, loss in enumerate(losses):
            self._writer.add_scalar("step/loss", loss, step - len(losses) + i + 1)
        figures = {name: float(value) for name, value in told.items() if name not in ("step", "epoch")}
        for name, value in figures.items():
            self._writer.add_scalar(f"epoch/{name}", value, told["epoch"])
        self._writer.flush()
        if self._remote is not None:
            for file in self._folder.iterdir():
                self._filesystem.pipe_file(f"{self._remote}/{file.name}", file.read_bytes())
        if self._mlflow is not None:
            self._mlflow.log_metrics(figures, step=step)
        if self._wandb is not None:
            self._wandb.log(figures, step=step)

    def close(self) -> None:
        self._writer.close()
        if self._mlflow is not None:
            self._mlflow.end_run()
        if self._wandb is not None:
            self._wandb.finish()

    def _begin_mlflow(self) -> Any:
        if not (os.environ.get("MLFLOW_TRACKING_URI") and importlib.util.find_spec("mlflow")):
            return None
        mlflow = importlib.import_module("mlflow")
        mlflow.start_run(run_name=self._config.name)
        mlflow.log_params({name: str(value)[:500] for name, value in self._config.identity().items()})
        return mlflow

    def _begin_wandb(self) -> Any:
        if not (os.environ.get("WANDB_API_KEY") and importlib.util.find_spec("wandb")):
            return None
        wandb = importlib.import_module("wandb")
        # the same id, so that a run that was killed goes on in the same curves
        run_id = f"{self._config.name}-{self._config.identity_hash()[:8]}"
        return wandb.init(name=self._config.name, id=run_id, resume="allow", config=self._config.identity())
