"""From weights to a network: the bytes are checked again, read without running anything in them, and named."""

import io
import re
from collections.abc import Mapping

import safetensors.torch
import torch
from torch import Tensor

from vidproc.errors import WeightsError
from vidproc.models.fetch import check, checked_bytes
from vidproc.models.published import HOST, hub_file
from vidproc.models.residual import ResidualNetwork, build
from vidproc.models.weights import Weights

_RENAMES: Mapping[str, tuple[tuple[str, str], ...]] = {
    # akamaster/pytorch_resnet_cifar10, saved from nn.DataParallel
    "cifar_": ((r"^module\.", ""), (r"^linear\.", "fc.")),
}
"""Architecture's prefix → (pattern, replacement) on each parameter's name, where another layout is published."""


def load_state(weights: Weights) -> dict[str, Tensor]:
    """The parameters under our names. Raises `WeightsError` when the bytes differ or are no plain checkpoint."""
    if weights.url.startswith(HOST):
        data = hub_file(weights.url).read_bytes()
        check(weights.url, data, sha256=weights.sha256)
    else:
        data = checked_bytes(weights.url, sha256=weights.sha256)
    try:
        if weights.url.endswith(".safetensors"):
            state = safetensors.torch.load(data)
        else:
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            state = state.get("state_dict", state)
    except Exception as error:  # whatever a damaged or hostile file makes of the readers, it is this file's fault
        raise WeightsError(f"weights {weights.url} are no plain checkpoint: {type(error).__name__}: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"weights {weights.url} must hold one dictionary of tensors")
    return {_renamed(name, weights.architecture): value for name, value in state.items()}


def load_network(weights: Weights) -> ResidualNetwork:
    """The network in eval mode on the CPU. Raises `WeightsError` when names or shapes do not fit."""
    # Not on torch.device("meta"): initialising there imports torch._dynamo and sympy, 4 s of a core in every actor.
    network = build(weights.spec, classes=len(weights.categories))
    state = load_state(weights)
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise WeightsError(
            f"weights {weights.url} do not fit {weights.architecture} {weights.options} with "
            f"{len(weights.categories)} categories: {error}"
        ) from error
    return network.eval()


def _renamed(name: str, architecture: str) -> str:
    for prefix, renames in _RENAMES.items():
        if architecture.startswith(prefix):
            for pattern, replacement in renames:
                name = re.sub(pattern, replacement, name)
    return name
