"""A network that is too large for each worker to hold whole: FSDP (Zhao et al. 2023, arXiv:2304.11277), torch's second.

Parameters, their gradients, the optimiser's state and the moving average are then DTensors, of which a worker holds its
part. A checkpoint holds them whole, so that a run goes on with any number of workers, sharded or not.

DTensors take four seconds to import, which only workers need: so it is done late.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from vidproc.models.blocks import Residual


def shard(network: nn.Module) -> None:
    """Share the network out over all workers, in place. Its blocks are gathered one by one, as they are needed."""
    from torch.distributed.fsdp import fully_shard

    for module in network.modules():
        if isinstance(module, Residual):
            fully_shard(module)
    fully_shard(network)


def own(tensor: Tensor) -> Tensor:
    """This worker's part, the same memory: what works on each number alone may work on it."""
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(value: Any) -> Any:
    """A state, however nested, with nothing shared out. All workers must call this together."""
    from torch.distributed.tensor import DTensor

    if isinstance(value, DTensor):
        return value.full_tensor()
    if isinstance(value, Mapping):
        return {name: whole(inner) for name, inner in value.items()}
    return value


def shared_as(tensor: Tensor, pattern: Tensor) -> Tensor:
    """A whole tensor shared out as another one of its shape is. All workers must call this together."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(pattern, DTensor) and not isinstance(tensor, DTensor) and tensor.shape == pattern.shape:
        return distribute_tensor(tensor, pattern.device_mesh, pattern.placements)
    return tensor
