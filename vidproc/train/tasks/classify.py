"""Labels for clips, pictures and sounds: one label an example, or several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidproc.models.build import build
from vidproc.models.listener import Listener
from vidproc.models.spectrum import Listening
from vidproc.models.weights import Weights
from vidproc.models.zoo import spec_of
from vidproc.train.mixup import mixup
from vidproc.train.tasks.base import Batch


@dataclass(frozen=True, kw_only=True)
class Classification:
    """One label an example by softmax, or (`multi_label`) several by sigmoids.

    `architecture`, `options`: of the zoo. `label_smoothing`: Szegedy et al. 2016, arXiv:1512.00567, section 7.
    `mixup`: alpha. `hide`: stretches of spectrograms.
    """

    categories: tuple[str, ...]
    architecture: str
    options: dict[str, Any] = field(default_factory=dict)
    zero_init: bool = True
    multi_label: bool = False
    label_smoothing: float = 0.0
    mixup: float = 0.0
    listening: Listening | None = None
    hide: bool = False

    def network(self) -> nn.Module:
        """A network of the zoo; of sound, with its spectrogram before it."""
        spec = spec_of(self.architecture, self.options)
        network: nn.Module = build(spec, classes=len(self.categories), zero_init=self.zero_init)
        return network if self.listening is None else Listener(self.listening, network, hide=self.hide)

    def truth(self, labels: Sequence[Any], device: str) -> Tensor:
        """Shares of each category: float32 [batch, categories]."""
        return torch.from_numpy(self._known(labels)).to(device)

    def _known(self, labels: Sequence[Any]) -> npt.NDArray[np.float32]:
        places = {name: i for i, name in enumerate(self.categories)}
        known = np.zeros((len(labels), len(self.categories)), np.float32)
        for row, label in enumerate(labels):
            for name in [label] if isinstance(label, str) else label:
                known[row, places[name]] = 1
        return known

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy, of softmax or of each label's sigmoid, mean over the examples."""
        inputs, truth = batch.inputs, batch.truth
        if self.mixup:
            generator = np.random.default_rng(int(torch.randint(1 << 31, ())))  # torch's seed is the step's
            inputs, truth = mixup(inputs, truth, alpha=self.mixup, generator=generator)
        scores = network(inputs).float()
        if self.multi_label:
            smooth = truth * (1 - self.label_smoothing) + 0.5 * self.label_smoothing
            return F.binary_cross_entropy_with_logits(scores, smooth)
        return F.cross_entropy(scores, truth, label_smoothing=self.label_smoothing)

    def outputs(self, network: nn.Module, batch: Batch) -> list[npt.NDArray[np.float32]]:
        """Scores before softmax or sigmoid."""
        return list(network(batch.inputs).float().cpu().numpy())

    def measures(self, outputs: Sequence[npt.NDArray[np.float32]], labels: Sequence[Any]) -> Mapping[str, float]:
        """Accuracy of the best label, or the mean average precision; and the loss."""
        scores, truth = np.stack(outputs), self._known(labels)
        given = torch.from_numpy(scores)
        if self.multi_label:
            from vidproc.train.measures import mean_average_precision

            loss = float(F.binary_cross_entropy_with_logits(given, torch.from_numpy(truth)))
            return {"mean_average_precision": mean_average_precision(scores, truth.astype(bool)), "held_out_loss": loss}
        right = scores.argmax(axis=1) == truth.argmax(axis=1)
        loss = float(F.cross_entropy(given, torch.from_numpy(truth)))
        return {"accuracy": float(right.mean()), "held_out_loss": loss}

    def state(self, network: nn.Module) -> dict[str, Tensor]:
        """The network's parameters, without the spectrogram, which has none."""
        inner = network.network if isinstance(network, Listener) else network
        assert isinstance(inner, nn.Module)
        return inner.state_dict()

    def described(self, **common: Any) -> Weights:
        return Weights(
            architecture=self.architecture,
            options=self.options,
            categories=self.categories,
            multi_label=self.multi_label,
            listening=self.listening,
            **common,
        )
