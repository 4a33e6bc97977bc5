"""A task for picture and sound together: does the pitch go the way the shape goes?

Shapes move up or down, tones rise or fall, all four pairs alike often: who only sees or only hears can but guess.
"""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import torch

from vidproc.annotators.forward import DeviceNetwork, load_embedding_network
from vidproc.annotators.fused import Streams
from vidproc.annotators.fusion import Moments
from vidproc.models.build import build, without_scores
from vidproc.models.listener import Listener
from vidproc.models.spectrum import HONK, Listening
from vidproc.models.weights import Weights, resolve_weights
from vidproc.models.zoo import spec_of
from vidproc.train.loop import fit
from vidproc.train.synthetic import SHAPES, render
from vidproc.views import Audio, Clips

CATEGORIES = ("agree", "differ")
RATE = 16_000
LISTENING = Listening(spectrum=HONK, seconds=1.0, stride_s=0.5)
VIEW = Audio(rate=RATE)
Sound = npt.NDArray[np.int16]


def tone(*, rising: bool, seconds: float, seed: int) -> Sound:
    """A pitch that rises (or falls) and starts again, in some noise: int16 [time] at `RATE`."""
    rng = np.random.default_rng([seed, 5])
    low, octaves, period = rng.uniform(300, 700), rng.uniform(1, 2), rng.uniform(0.3, 0.6)
    through = (np.arange(round(seconds * RATE)) / RATE / period + rng.uniform()) % 1
    hertz = low * 2 ** (octaves * (through if rising else 1 - through))
    wave = rng.uniform(0.1, 0.5) * np.sin(2 * np.pi * np.cumsum(hertz) / RATE)
    noisy: Sound = ((wave + 0.02 * rng.standard_normal(len(wave))) * 32_767).astype(np.int16)
    return noisy


@dataclass(frozen=True)
class Scene:
    """Number `seed`: of every four, one of each pair."""

    seed: int

    @property
    def up(self) -> bool:
        return self.seed % 2 == 0

    @property
    def rising(self) -> bool:
        return self.seed // 2 % 2 == 0

    @property
    def truth(self) -> int:
        return int(self.up != self.rising)

    def frames(self, *, seconds: float, fps: float, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
        shape = SHAPES[self.seed // 4 % len(SHAPES)]
        motion = "up" if self.up else "down"
        return render(shape=shape, motion=motion, seconds=seconds, fps=fps, size=size, seed=self.seed)

    def sound(self, *, seconds: float) -> Sound:
        return tone(rising=self.rising, seconds=seconds, seed=self.seed)

    def moment(self, view: Clips) -> Moments:
        seconds = view.num_frames / view.fps
        clip = self.frames(seconds=seconds, fps=view.fps, size=view.picture.shape[:2])
        time = np.zeros(1, np.int64)
        return Moments(time, time + view.span_us, clip[None], [self.sound(seconds=LISTENING.seconds)[:, None]])


def video(path: Path, scene: Scene, *, seconds: float = 3.0, picture: bool = True, sound: Sound | None = None) -> None:
    """A Matroska file of 16 frames a second; `sound` None leaves it out."""
    with av.open(path, "w", format="matroska") as container:
        if picture:
            frames = scene.frames(seconds=seconds, fps=16, size=(96, 96))
            stream = container.add_stream("libx264", rate=16, options={"crf": "20", "preset": "veryfast"})
            stream.height, stream.width, stream.pix_fmt = 96, 96, "yuv420p"
            stream.codec_context.thread_count = 1
        if sound is not None:
            track = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        if picture:
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode(None))
        if sound is not None:
            block = av.AudioFrame.from_ndarray(sound[None], format="s16", layout="mono")
            block.sample_rate, block.pts, block.time_base = RATE, 0, Fraction(1, RATE)
            container.mux(track.encode(block))
            container.mux(track.encode(None))


def trained_ear(*, steps: int = 120, seed: int = 0) -> tuple[torch.nn.Module, Weights]:
    """A small network that tells rising from falling tones, and its description without a file."""
    torch.manual_seed(seed)
    network = build(spec_of("res8_narrow"), classes=2)
    listener = Listener(LISTENING, network)

    def batch_at(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        seeds = range(step * 16, step * 16 + 16)
        waves = np.stack([tone(rising=s % 2 == 0, seconds=1.0, seed=10_000 + s) for s in seeds])
        return torch.from_numpy(waves / 32_768).float(), torch.tensor([s % 2 for s in seeds])

    fit(listener, batch_at, steps=steps, learning_rate=5e-3)
    weights = Weights(
        url="ear.safetensors", sha256="0" * 64, licence="MIT", provenance="a test", architecture="res8_narrow",
        categories=("rising", "falling"), view=VIEW, listening=LISTENING,
    )  # fmt: skip
    return network, weights


def streams(ear: torch.nn.Module, weights: Weights) -> Streams:
    """The shipped network for motions, and the trained ear; changes the ear: without the layer that makes scores."""
    listener = Listener(LISTENING, without_scores(ear)).eval()  # type: ignore[arg-type]
    eyes = load_embedding_network(resolve_weights("demo:actions"), device="cpu", batch=16)
    return Streams(eyes, DeviceNetwork(listener, weights, device="cpu", batch=16))
