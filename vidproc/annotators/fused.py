"""The device's side of `fusion`: two networks make embeddings, a third judges them, with text. Imports torch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from vidproc.annotators.embeddings import unit_length
from vidproc.annotators.forward import DeviceNetwork, load_embedding_network
from vidproc.annotators.fusion import Moments
from vidproc.errors import NotFinite, WeightsError
from vidproc.media.windows import piece_length
from vidproc.models.fuser import PATTERNS, FusionSpec, FusionWeights
from vidproc.models.fusion import FusionNetwork
from vidproc.models.load import load_saved
from vidproc.models.restorer import Restorer
from vidproc.models.weights import Weights
from vidproc.views import Audio

if TYPE_CHECKING:
    from vidproc.annotators.fusion import Fusion

Rows = npt.NDArray[np.float32]


class Streams:
    """The two networks that make embeddings, on their device."""

    def __init__(self, picture: DeviceNetwork, sound: DeviceNetwork) -> None:
        self.picture, self.sound = picture, sound

    def rows(self, given: Sequence[Moments], *, sizes: Sequence[int]) -> list[Rows]:
        """What a `FusionNetwork` takes: float32 [moments, embeddings + streams] for each. Missing ones are zeros.

        `sizes`: as of a `FusionSpec`; where these are two, text is not looked at.
        """
        if not given:
            return []
        lengths = [len(one.start_us) for one in given]
        heard = [one.heard for one in given]
        seen = np.repeat([one.pictures is not None for one in given], lengths)
        hears = np.concatenate(heard)
        whole = np.zeros((sum(lengths), sum(sizes) + len(sizes)), np.float32)
        looked = self.picture.outputs([one.pictures for one in given if one.pictures is not None])
        whole[seen, : sizes[0]] = _stacked(looked, sizes[0])
        kept = [
            one.sounds[i][None] for one, own in zip(given, heard, strict=True) for i in np.flatnonzero(own).tolist()
        ]
        whole[hears, sizes[0] : sum(sizes[:2])] = _stacked(self.sound.outputs(kept), sizes[1])
        whole[:, sum(sizes)], whole[:, sum(sizes) + 1] = seen, hears
        if len(sizes) > 2:
            told = np.repeat([one.text is not None for one in given], lengths)
            texts = [one.text for one in given if one.text is not None]
            whole[told, sum(sizes[:2]) : sum(sizes)] = np.concatenate([np.zeros((0, sizes[2]), np.float32), *texts])
            whole[:, -1] = told
        return np.split(whole, np.cumsum(lengths)[:-1])

    def sizes(self, picture: Weights, sound: Weights) -> tuple[int, int]:
        """How many numbers each embedding has."""
        nothing = moment_of_nothing(picture, sound)
        assert nothing.pictures is not None  # it is black
        [looked], [heard] = self.picture.outputs([nothing.pictures]), self.sound.outputs([nothing.sounds[0][None]])
        return looked.shape[1], heard.shape[1]


def _stacked(found: Sequence[Rows], size: int) -> Rows:
    return unit_length(np.concatenate([np.zeros((0, size), np.float32), *(one for one in found if len(one))]))


def load_streams(
    picture: Weights, sound: Weights, device: str, *, batch: int | None = None, restorer: Restorer | None = None,
    compiled: bool = False,
) -> Streams:  # fmt: skip
    """Raises `WeightsError` when a checkpoint is not what its sidecar says."""
    return Streams(
        load_embedding_network(picture, device=device, batch=batch, restorer=restorer, compiled=compiled),
        load_embedding_network(sound, device=device, batch=batch, compiled=compiled),
    )


class Fused:
    """The judging network with the two before it. It is small, and computes in float64 on the CPU: so its scores do not
    depend on who shares a batch."""

    def __init__(self, streams: Streams, network: FusionNetwork, weights: FusionWeights) -> None:
        self.streams = streams
        self.network = network.double().eval().requires_grad_(False)
        self.weights = weights

    def scores(self, given: Sequence[Moments]) -> list[Rows]:
        """float32 [moments, labels] for each, in 0..1. Raises `NotFinite`."""
        return [self._judged(rows) for rows in self.streams.rows(given, sizes=self.weights.fusion.sizes)]

    def _judged(self, rows: Rows) -> Rows:
        logits = logits_of(self.network, rows)
        heat = heat_of(rows, self.weights.fusion, self.weights.temperatures)
        scores = torch.from_numpy(logits / heat[:, None]).softmax(dim=1)
        found: Rows = scores.float().numpy()
        if not np.isfinite(found).all():
            raise NotFinite("the fusing network's scores are no numbers: its weights are damaged; nothing was written")
        return found


def logits_of(network: FusionNetwork, rows: Rows) -> npt.NDArray[np.float64]:
    """float64 [rows, labels] of a network in float64."""
    with torch.inference_mode():
        logits: npt.NDArray[np.float64] = network(torch.from_numpy(rows).double()).numpy()
    return logits


def pattern_of(rows: Rows, spec: FusionSpec) -> npt.NDArray[np.int64]:
    """Which of the spec's patterns each row has; -1 of those without picture and sound, which make no moment."""
    seen, heard, *told = (rows[:, sum(spec.sizes) :] > 0.5).T
    found = np.select([seen & heard, seen, heard], [0, 1, 2], -1)
    return np.where(told[0] & (found >= 0), found + len(PATTERNS), found) if told else found


def heat_of(rows: Rows, spec: FusionSpec, temperatures: dict[str, float]) -> npt.NDArray[np.float64]:
    return np.array([temperatures[name] for name in spec.patterns])[pattern_of(rows, spec)]


def load_fused(fusion: "Fusion", device: str, *, compiled: bool) -> Fused:
    """Raises `WeightsError` when a checkpoint is not what its sidecar says."""
    weights = fusion.weights
    network = FusionNetwork(weights.fusion, len(weights.categories))
    saved = load_saved(weights)
    try:
        network.load_state_dict(saved, strict=True)
    except (RuntimeError, TypeError) as error:
        raise WeightsError(f"weights {weights.url} do not fit {weights.fusion}: {error}") from error
    streams = load_streams(
        fusion.picture, fusion.sound, device, batch=fusion.batch, restorer=fusion.restorer, compiled=compiled
    )
    fused = Fused(streams, network, weights)
    try:
        fused.scores([moment_of_nothing(fusion.picture, fusion.sound)])
    except (RuntimeError, ValueError) as error:
        raise WeightsError(f"weights {weights.url} do not fit the networks that they were made for: {error}") from error
    return fused


def moment_of_nothing(picture: Weights, sound: Weights) -> Moments:
    """One moment of black, with a sound that is just not silence."""
    assert not isinstance(picture.view, Audio) and isinstance(sound.view, Audio) and sound.listening is not None
    time = np.zeros(1, np.int64)
    pixels = np.zeros((1, *picture.view.sample_shape), np.uint8)
    return Moments(
        time,
        time + 1,
        pixels,
        [np.ones((piece_length(sound.view, sound.listening.sound_us), sound.view.channels), np.int16)],
    )
