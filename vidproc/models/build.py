"""From a spec to a network with fresh weights: the one door to the whole family."""

from torch import nn

from vidproc.models.dense import DenseNetwork
from vidproc.models.residual import ResidualNetwork, start_at_identity
from vidproc.models.slowfast import SlowFastNetwork
from vidproc.models.specs import DenseSpec, SlowFastSpec, Spec

Network = ResidualNetwork | DenseNetwork | SlowFastNetwork


def build(spec: Spec, *, classes: int, zero_init: bool = False) -> Network:
    """The network with fresh weights, drawn from torch's current seed.

    `zero_init`: every residual block begins as its shortcut (Goyal et al. 2017, arXiv:1706.02677, section 5.1).
    """
    if isinstance(spec, DenseSpec):
        return DenseNetwork(spec, classes)
    if isinstance(spec, SlowFastSpec):
        network: Network = SlowFastNetwork(spec, classes)
    else:
        network = ResidualNetwork(spec, classes)
    if zero_init:
        start_at_identity(network)
    return network


def without_scores(network: Network) -> Network:
    """The network, changed so that it gives what its last layer made scores of: float [batch, numbers], after pooling.

    A network that makes embeddings, such as of faces, has no such layer and stays as it is.
    """
    if network.scores_name is not None:
        setattr(network, network.scores_name, nn.Identity())
    return network


def parameters_count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
