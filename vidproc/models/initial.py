"""Beginning with somebody else's weights: all that fits is taken, heads for other labels begin anew."""

from collections.abc import Sequence

from torch import nn

from vidproc.errors import WeightsError
from vidproc.models.load import load_saved, named_state
from vidproc.models.weights import resolve_weights


def begin_with(network: nn.Module, spec: str, *, allow_licences: Sequence[str] = ()) -> list[str]:
    """Copy the weights that `spec` names into the network; returns the names of parameters that found none.

    Of a network of sound it is the part behind its spectrogram, of a detector the backbone. Raises `WeightsError` when
    they cannot be had, or when less than half of the parameters (by number of values) fit: it is another network then.
    """
    weights = resolve_weights(spec, allow_licences=allow_licences)
    inner = _labelling(network)
    try:
        given = named_state(load_saved(weights), layout=weights.layout, network=inner)
    except ValueError as error:
        raise WeightsError(f"weights {spec} are no plain checkpoint: {error}") from error
    wanted = inner.state_dict()
    fitting = {name: value for name, value in given.items() if name in wanted and wanted[name].shape == value.shape}
    share = sum(v.numel() for v in fitting.values()) / max(1, sum(v.numel() for v in wanted.values()))
    if share < 0.5:
        raise WeightsError(
            f"weights {spec} are of {weights.architecture} and fit {share:.0%} of this network: choose its architecture"
        )
    inner.load_state_dict({**wanted, **fitting})
    return sorted(set(wanted) - set(fitting))


def _labelling(network: nn.Module) -> nn.Module:
    """The residual network inside another one."""
    for path in ("network", "backbone.body"):
        try:
            return network.get_submodule(path)
        except AttributeError:
            continue
    return network
