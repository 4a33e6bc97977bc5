"""Train the network that judges picture and sound together, on the embeddings of two networks that stay as they are.

    python -m vidproc.train.fusion --data clips --picture demo:actions --sound out/sounds/network.safetensors \
        --out out/fusion --licence private

Data as for `jobs/train.py`: CLASS/FILE folders, tables of spans, or SQL. Each example is decoded and embedded once, in
this process; then training takes seconds. In training, streams are left out at random (modality dropout: Neverova et
al. 2016, arXiv:1501.00102, section 4.4), so that the network learns what half the evidence is worth. With --text it
learns from how much text subtitles show, too, and that is also left out at random. The result:
OUT/network.safetensors with its sidecar, for `label --annotators fusion --weights fusion=OUT/network.safetensors`.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import safetensors.torch
import torch
from pydantic import Field
from torch.nn import functional as F

from vidproc import __version__
from vidproc.annotators.fused import load_streams, logits_of, pattern_of
from vidproc.annotators.fusion import Moments, sound_starts, text_of
from vidproc.command import end_with, log, parse
from vidproc.errors import InputError, UsageError
from vidproc.media.glimpse import glimpses, probed, written
from vidproc.media.guard import Guard, process_guard
from vidproc.media.sampling import SEGMENT_US, Span, segments
from vidproc.media.sources import Source
from vidproc.models.fuser import STREAMS, TEXT_MEASURES, Base, FusionSpec, FusionWeights, check_bases
from vidproc.models.fusion import FusionNetwork
from vidproc.models.sidecar import sidecar_text
from vidproc.models.weights import Weights, resolve_weights
from vidproc.tables.store import Store
from vidproc.train.calibration import temperature
from vidproc.train.examples import found_categories, read_examples
from vidproc.train.feed import Look
from vidproc.train.loop import Batch, fit
from vidproc.train.options import DataOptions
from vidproc.views import Audio

Rows = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]
Sizes = tuple[int, int] | tuple[int, int, int]


class FusionConfig(DataOptions):
    """Options of this training."""

    out: str = Field(description="folder or object-store URL of the result")
    picture: str = Field(description="weights that look at clips or frames, as --weights names them")
    sound: str = Field(description="weights that listen")
    text: bool = Field(False, description="learn from how much text is shown, too, where files have subtitles")
    samples: int = Field(4, ge=1, description="moments of each example, evenly spaced")
    steps: int = Field(800, ge=1)
    batch: int = Field(128, ge=2)
    learning_rate: float = Field(3e-3, gt=0)
    width: int = Field(64, ge=2)
    depth: int = Field(2, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    missing: float = Field(
        0.5, ge=0, lt=1, description="share of training moments that lose a stream; and that lose text"
    )
    seed: int = Field(0, ge=0)
    device: Literal["cuda", "cpu"] | None = Field(None, description="CUDA if there is one, else CPU")
    licence: str = Field("private", description="of the result, for its sidecar")
    provenance: str = Field("python -m vidproc.train.fusion", description="who made it and how, for its sidecar")
    allow_licences: tuple[str, ...] = Field((), description="licences of the two networks that are accepted by name")


@dataclass(frozen=True, eq=False)
class Embedded:
    """Moments as the network takes them. `rows`: float32 [moments, embeddings + streams]; `truth`: int64 [moments];
    `held`: bool [moments], those that are never trained on."""

    rows: Rows
    truth: Numbers
    held: npt.NDArray[np.bool_]


def main() -> int:
    config = parse(FusionConfig, __doc__)
    log("trained", out=config.out, measures=train(config))
    return 0


def train(config: FusionConfig) -> Mapping[str, float]:
    """Embed, train, calibrate, write. Returns the held-out measures of each of the patterns. Raises `UsageError`."""
    picture, sound = (resolve_weights(spec, allow_licences=config.allow_licences) for spec in _bases(config))
    check_bases(picture, sound)
    examples = read_examples(config)
    categories = found_categories(examples, config)
    device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
    embedded, sizes = embed(
        examples, categories, picture, sound, device=device, samples=config.samples, text=config.text
    )
    spec = FusionSpec(sizes=sizes, width=config.width, depth=config.depth, dropout=config.dropout)
    network, temperatures, measures = learn(embedded, spec, classes=len(categories), config=config)
    save(config, network, temperatures, measures, categories=categories, bases=(picture, sound))
    return measures


def _bases(config: FusionConfig) -> tuple[str, str]:
    return config.picture, config.sound


# ---- examples → embeddings


def embed(
    examples: pa.Table,
    categories: tuple[str, ...],
    picture: Weights,
    sound: Weights,
    *,
    device: str,
    samples: int,
    text: bool,
) -> tuple[Embedded, Sizes]:
    """All examples' moments, and the sizes of the embeddings. What cannot be decoded is told and left out."""
    streams, guard = load_streams(picture, sound, device), process_guard()
    both = streams.sizes(picture, sound)
    sizes: Sizes = (*both, len(TEXT_MEASURES)) if text else both
    rows, truth, held = [], [], []
    for number, example in enumerate(examples.to_pylist()):
        try:
            given = moments_of(guard, example, picture, sound, samples=samples, text=text)
        except InputError as error:
            log("left out", uri=example["uri"], member=example["member"], reason=error.reason, detail=str(error))
            continue
        [found] = streams.rows([given], sizes=sizes)
        rows.append(found)
        truth += [categories.index(_only(example))] * len(found)
        held += [example["split"] != "train"] * len(found)
        if number % 100 == 99:
            log("embedded", examples=number + 1, of=examples.num_rows)
    if not rows:
        raise UsageError(f"none of the {examples.num_rows} examples can be used: the log says why")
    whole = np.concatenate(rows)
    if text and not whole[:, -1].any():
        raise UsageError("no example is of a file that has a text stream: leave out --text")
    return Embedded(whole, np.array(truth), np.array(held)), sizes


def _only(example: Mapping[str, Any]) -> str:
    label = json.loads(example["label"])
    if not isinstance(label, str):
        raise UsageError(f"{example['uri']} is labelled {label}: a fusion is trained on one label an example")
    return label


def moments_of(
    guard: Guard, example: Mapping[str, Any], picture: Weights, sound: Weights, *, samples: int, text: bool
) -> Moments:
    """Evenly spaced moments of an example, as `label` cuts them. Raises the typed input errors."""
    source = Source.of(example)
    facts = probed(guard, source)
    assert not isinstance(picture.view, Audio) and isinstance(sound.view, Audio) and sound.listening is not None
    length_us = sound.listening.sound_us
    span_us = picture.view.span_us if facts["has_picture"] else length_us
    view = picture.view if facts["has_picture"] else sound.view
    look = Look(view=view, samples=1 if facts["still"] else samples, even=True, seed=0, sound_us=length_us)
    start_us = np.array(look.starts_us({**example, "facts": json.dumps(facts)}, epoch=0), np.int64)
    end_us = np.minimum(start_us + span_us, max(facts["end_us"], facts["start_us"] + 1))
    pictures, sounds = None, tuple[npt.NDArray[np.int16], ...]()
    if facts["has_picture"]:
        pictures = glimpses(guard, source, facts, picture.view, starts_us=start_us.tolist())
    if facts["has_audio"]:
        at = sound_starts(start_us, end_us, first_us=facts["start_us"], last_us=facts["end_us"], length_us=length_us)
        sounds = tuple(glimpses(guard, source, facts, sound.view, starts_us=at.tolist(), sound_us=length_us))
    told = _text(guard, source, facts, start_us, end_us) if text and facts["has_text"] else None
    return Moments(start_us, end_us, pictures, sounds, told)


def _text(guard: Guard, source: Source, facts: Mapping[str, Any], start_us: Numbers, end_us: Numbers) -> Rows | None:
    """What is written around moments, each seen from the segment that it starts in, as by `label`."""
    spans = list(segments(Span(facts["start_us"], facts["end_us"])))
    number = ((start_us - facts["start_us"]) // SEGMENT_US).clip(0, len(spans) - 1)
    found = np.zeros((len(start_us), len(TEXT_MEASURES)), np.float32)
    known = False
    for n in np.unique(number).tolist():
        mine = number == n
        told = text_of(written(guard, source, facts, segment=spans[n]), start_us[mine], end_us[mine])
        if told is not None:
            known, found[mine] = True, told
    return found if known else None


# ---- embeddings → a network


def learn(
    embedded: Embedded, spec: FusionSpec, *, classes: int, config: FusionConfig
) -> tuple[FusionNetwork, dict[str, float], dict[str, float]]:
    """The network, the temperature of each of the spec's patterns, and how good it is on what is held out."""
    trained, held = ~embedded.held, embedded.held
    if not trained.any() or not held.any():
        raise UsageError("some examples must be trained on and others held out: set --held-out to a share above 0")
    torch.manual_seed(config.seed)
    network = FusionNetwork(spec, classes)
    rows, truth = torch.from_numpy(embedded.rows[trained]), torch.from_numpy(embedded.truth[trained])
    network.standardise(rows)

    def batch_at(step: int) -> Batch:
        rng = np.random.default_rng([config.seed, step])
        chosen = torch.from_numpy(rng.integers(len(rows), size=config.batch))
        return without_some(rows[chosen], rng, spec, share=config.missing), truth[chosen]

    fit(network, batch_at, steps=config.steps, learning_rate=config.learning_rate, loss_of=F.cross_entropy)
    network = network.double().eval()
    temperatures, measures = {}, dict[str, float]()
    for number, name in enumerate(spec.patterns):
        left, right = _only_with(embedded.rows[held], name, spec), embedded.truth[held]
        usable = pattern_of(left, spec) == number
        logits = logits_of(network, left[usable]).astype(np.float32)
        temperatures[name] = temperature(logits, right[usable], multi_label=False) if usable.any() else 1.0
        measures |= _measures(name, logits / temperatures[name], right[usable])
    return network, temperatures, measures


def without_some(rows: torch.Tensor, rng: np.random.Generator, spec: FusionSpec, *, share: float) -> torch.Tensor:
    """Rows from which picture or sound is taken, of a share of those that have both; and text, of a share of all."""
    changed, first = rows.clone(), sum(spec.sizes)
    both = ((rows[:, first : first + 2] > 0.5).all(dim=1)).numpy()
    lost = both & (rng.uniform(size=len(rows)) < share)
    which = rng.integers(2, size=len(rows))
    for stream in range(2):
        changed[torch.from_numpy(lost & (which == stream)), first + stream] = 0
    if spec.text:
        changed[torch.from_numpy(rng.uniform(size=len(rows)) < share), -1] = 0
    return changed


def _only_with(rows: Rows, pattern: str, spec: FusionSpec) -> Rows:
    """Rows as if there were no more than the pattern says."""
    changed = rows.copy()
    for i, stream in enumerate(STREAMS[: len(spec.sizes)]):
        if stream not in pattern.split("+"):
            changed[:, sum(spec.sizes) + i] = 0
    return changed


def _measures(name: str, logits: npt.NDArray[np.float32], truth: Numbers) -> dict[str, float]:
    """Accuracy, and how sure the network was on average: honest where the two agree."""
    if not len(truth):
        return {}
    confidence = torch.from_numpy(logits).softmax(dim=1).numpy().max(axis=1)
    accuracy = float((logits.argmax(axis=1) == truth).mean())
    return {f"{name}: accuracy": accuracy, f"{name}: mean confidence": float(confidence.mean())}


def save(
    config: FusionConfig,
    network: FusionNetwork,
    temperatures: dict[str, float],
    measures: dict[str, float],
    *,
    categories: tuple[str, ...],
    bases: tuple[Weights, Weights],
) -> None:
    """The checkpoint, and then its sidecar."""
    store = Store(config.out)
    state = {name: value.float().contiguous() for name, value in network.state_dict().items()}
    data = safetensors.torch.save(state)
    picture, sound = (
        Base(spec=_lasting(spec), sha256=weights.sha256) for spec, weights in zip(_bases(config), bases, strict=True)
    )
    described = FusionWeights(
        url=store.url_of("network.safetensors"),
        sha256=hashlib.sha256(data).hexdigest(),
        licence=config.licence,
        provenance=config.provenance,
        protocol="moments of held-out examples, on which the temperatures were fitted too; a stream was left out",
        metrics=measures,
        origin={"code_version": __version__},
        fusion=network.spec,
        picture=picture,
        sound=sound,
        categories=categories,
        temperatures=temperatures,
    )
    store.put("network.safetensors", data)
    store.put("network.safetensors.json", sidecar_text(described).encode())


def _lasting(spec: str) -> str:
    """A file's name as it is known from everywhere on this machine."""
    return str(Path(spec).absolute()) if Path(spec).exists() else spec


if __name__ == "__main__":
    end_with(main)
