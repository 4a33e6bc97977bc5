"""Kinds of training by name. A new one is one file and one line here."""

from collections.abc import Callable

from vidproc.train.options import TrainConfig
from vidproc.train.tasks.base import Task
from vidproc.train.tasks.classify import Classification


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


TASKS: dict[str, Callable[[TrainConfig, tuple[str, ...]], Task]] = {
    "single": _classification,
    "multi": _classification,
}
