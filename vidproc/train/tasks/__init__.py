"""Kinds of training by name. A new one is one file, and one function and one line here."""

from collections.abc import Callable

from vidproc.errors import UsageError
from vidproc.models.detection_spec import DetectionSpec
from vidproc.models.specs import ResidualSpec, RestorationSpec
from vidproc.models.zoo import spec_of
from vidproc.train.augment import BY_THE_TASK, GEOMETRIC, check_mirror
from vidproc.train.options import TrainConfig
from vidproc.train.tasks.base import Task
from vidproc.train.tasks.classify import Classification
from vidproc.train.tasks.detection import Detection
from vidproc.train.tasks.embedding import Embedding
from vidproc.train.tasks.restoration import Restoration


def _classification(config: TrainConfig, categories: tuple[str, ...]) -> Task:
    return Classification(
        categories=categories,
        architecture=config.architecture,
        options=config.options,
        zero_init=config.zero_init,
        multi_label=config.task == "multi",
        label_smoothing=config.label_smoothing,
        mixup=config.mixup,
        listening=config.hears,
        hide="hide" in config.augment,
    )


def _chain(config: TrainConfig) -> ResidualSpec:
    spec = spec_of(config.architecture, config.options)
    if not isinstance(spec, ResidualSpec):
        raise UsageError(f"--task {config.task} needs a chain of residual blocks, and {config.architecture} is none")
    return spec


def _detection(config: TrainConfig, categories: tuple[str, ...]) -> Task:
    asked = set(config.augment)
    if moving := sorted((GEOMETRIC & asked) - BY_THE_TASK["detection"]):
        raise UsageError(f"--augment {' '.join(moving)} would move pictures but not their boxes: leave it out")
    check_mirror(asked, categories)
    spec = DetectionSpec(backbone=_chain(config), **config.detector)
    return Detection(categories=categories, spec=spec, flip="flip" in asked, crop="crop" in asked)


def _embedding(config: TrainConfig, categories: tuple[str, ...]) -> Task:
    return Embedding(categories=categories, spec=_chain(config), **config.margin)


def _restoration(config: TrainConfig, _: tuple[str, ...]) -> Task:
    if config.mean != (0, 0, 0) or config.std != (1, 1, 1):
        raise UsageError("--task restoration works on pixels in 0..1: set --mean 0 0 0 --std 1 1 1")
    return Restoration(spec=RestorationSpec(**config.options))


TASKS: dict[str, Callable[[TrainConfig, tuple[str, ...]], Task]] = {
    "single": _classification,
    "multi": _classification,
    "detection": _detection,
    "embedding": _embedding,
    "restoration": _restoration,
}
