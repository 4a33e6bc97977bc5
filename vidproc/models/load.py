"""From weights to a network: the bytes are checked again, read without running anything in them, and named."""

import io
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from vidproc.errors import WeightsError
from vidproc.models.build import Network, build
from vidproc.models.checkpoints import our_name
from vidproc.models.fetch import check, checked_bytes
from vidproc.models.published import HOST, hub_file
from vidproc.models.restoration import RestorationNetwork
from vidproc.models.restorer import Restorer
from vidproc.models.sidecar import Checkpoint
from vidproc.models.weights import Weights

_WRAPPERS = ("state_dict", "model_state", "net_state_dict", "model")
"""Under which key training scripts keep the parameters, beside optimisers and counters."""


def load_saved(weights: Checkpoint) -> Any:
    """What the checkpoint's file holds. Raises `WeightsError` when its bytes differ or it is no plain checkpoint."""
    if weights.url.startswith(HOST):
        data = hub_file(weights.url).read_bytes()
        check(weights.url, data, sha256=weights.sha256)
    else:
        data = checked_bytes(weights.url, sha256=weights.sha256)
    try:
        if weights.url.endswith(".safetensors"):
            return safetensors.torch.load(data)
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or hostile file makes of the readers, it is this file's fault
        raise WeightsError(f"weights {weights.url} are no plain checkpoint: {type(error).__name__}: {error}") from error


def named_state(saved: Any, *, layout: str, network: nn.Module) -> dict[str, Tensor]:
    """The parameters that a training script saved, under our names and in our shapes.

    Kernels over space become kernels over one frame, where the network is one for clips. Raises ValueError when there
    is anything but tensors.
    """
    state = saved
    if isinstance(saved, dict):
        state = next((saved[key] for key in _WRAPPERS if isinstance(saved.get(key), dict)), saved)
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ValueError("it must hold one dictionary of tensors by name")
    ours = network.state_dict()
    named = {our_name(name, layout): value for name, value in state.items()}
    return {
        name: value.unsqueeze(2) if name in ours and ours[name].dim() == 5 and value.dim() == 4 else value
        for name, value in named.items()
        if name
    }


def load_network(weights: Weights) -> Network:
    """The network in eval mode on the CPU. Raises `WeightsError` when names or shapes do not fit."""
    # Not on torch.device("meta"): initialising there imports torch._dynamo and sympy, 4 s of a core in every actor.
    saved = load_saved(weights)
    try:
        network = build(weights.spec, classes=len(weights.categories))
        network.load_state_dict(named_state(saved, layout=weights.layout, network=network), strict=True)
    except (RuntimeError, ValueError) as error:
        raise WeightsError(
            f"weights {weights.url} do not fit {weights.architecture} {weights.options} with "
            f"{len(weights.categories)} categories, read as layout {weights.layout!r}: {error}"
        ) from error
    return network.eval()


def load_restorer(restorer: Restorer, device: str) -> RestorationNetwork:
    """The network on `device`, ready for inference. Raises `WeightsError` when names or shapes do not fit."""
    network = RestorationNetwork(restorer.restoration)
    saved = load_saved(restorer)
    try:
        network.load_state_dict(named_state(saved, layout="torchvision", network=network), strict=True)
    except (RuntimeError, ValueError) as error:
        raise WeightsError(f"weights {restorer.url} do not fit {restorer.restoration}: {error}") from error
    return network.eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)
