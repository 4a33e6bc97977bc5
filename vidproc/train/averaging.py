"""The moving average of a network over its training: often better than where the last steps happen to leave it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vidproc.train.sharding import own, shared_as


class Average:
    """Exponential moving average of a network's parameters and buffers (Tarvainen and Valpola 2017, arXiv:1703.01780).

    Running means and variances of batch norms are averaged too: those of the moving network do not fit the average.
    Counters (whole numbers) are copied.
    """

    def __init__(self, network: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.values = {name: value.clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, *, step: int) -> None:
        """Move `1 - decay` of the way to the network as it is after `step`, from 0.

        The decay is at most (1 + n) / (10 + n) after n steps, so that the first weights are soon forgotten
        (tf.train.ExponentialMovingAverage, `num_updates`).
        """
        now = network.state_dict()
        decay = min(self.decay, (2 + step) / (11 + step))
        real = [name for name, value in self.values.items() if value.is_floating_point()]
        torch._foreach_lerp_([own(self.values[name]) for name in real], [own(now[name]) for name in real], 1 - decay)
        _copy({name: now[name] for name in now.keys() - set(real)}, self.values)

    @contextmanager
    def applied(self, network: nn.Module) -> Iterator[None]:
        """The network has the averaged values meanwhile, and its own again afterwards."""
        now = network.state_dict()  # these tensors are the network's own
        kept = {name: value.clone() for name, value in now.items()}
        _copy(self.values, now)
        try:
            yield
        finally:
            _copy(kept, now)

    def state_dict(self) -> dict[str, Tensor]:
        return self.values

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        _copy(state, self.values)


@torch.no_grad()
def _copy(values: Mapping[str, Tensor], into: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        into[name].copy_(shared_as(value, into[name]))
