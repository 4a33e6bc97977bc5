"""Picture and sound together tell what neither does alone; half of the evidence is judged with half the confidence."""

import copy
import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from agreement import CATEGORIES, RATE, Scene, streams, trained_ear, video
from torch import nn

from vidproc.annotators.fused import Fused, Streams, pattern_of
from vidproc.annotators.fusion import Fusion, Moments
from vidproc.errors import UsageError, WeightsError
from vidproc.models.fuser import PATTERNS, FusionSpec, FusionWeights
from vidproc.models.fusion import FusionNetwork
from vidproc.models.sidecar import sidecar_text
from vidproc.models.weights import Weights, resolve_weights
from vidproc.pipeline import label
from vidproc.pipeline.options import LabelConfig
from vidproc.tables.query import connect
from vidproc.train.fusion import Embedded, FusionConfig, learn, save, train, without_some
from vidproc.views import Clips

SIZES = (36, 19)
SCENES = 320
"""Two of three are trained on."""


@pytest.fixture(scope="module")
def ear(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, str]:
    """The network that tells rising from falling tones, and where it lies with its sidecar."""
    torch.set_num_threads(1)
    network, weights = trained_ear(steps=60)
    path = tmp_path_factory.mktemp("ear") / "ear.safetensors"
    path.write_bytes(safetensors.torch.save(network.state_dict()))
    described = replace(weights, url=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    path.with_name("ear.safetensors.json").write_text(sidecar_text(described))
    return network, str(path)


@pytest.fixture(scope="module")
def heard_and_seen(ear: tuple[nn.Module, str]) -> tuple[Streams, Embedded]:
    """Scenes as embeddings, every third held out in groups that hold all four pairs alike often."""
    both = streams(copy.deepcopy(ear[0]), resolve_weights(ear[1]))
    view = resolve_weights("demo:actions").view
    assert isinstance(view, Clips)
    rows = both.rows([Scene(seed).moment(view) for seed in range(SCENES)], sizes=SIZES)
    truth = np.array([Scene(seed).truth for seed in range(SCENES)])
    return both, Embedded(np.concatenate(rows), truth, np.arange(SCENES) % 12 >= 8)


def config(**changed: Any) -> FusionConfig:
    return FusionConfig(
        **{"out": "none", "picture": "demo:actions", "sound": "none", "steps": 250, "batch": 64} | changed
    )


@pytest.fixture(scope="module")
def learnt(heard_and_seen: tuple[Streams, Embedded]) -> tuple[FusionNetwork, dict[str, float], dict[str, float]]:
    return learn(heard_and_seen[1], FusionSpec(sizes=SIZES), classes=2, config=config())


def test_both_tell_what_neither_does_alone(learnt: tuple[FusionNetwork, dict[str, float], dict[str, float]]) -> None:
    _, _, measures = learnt
    print({name: round(value, 3) for name, value in measures.items()})
    accuracy = {name: measures[f"{name}: accuracy"] for name in PATTERNS}
    confidence = {name: measures[f"{name}: mean confidence"] for name in PATTERNS}
    assert accuracy["picture+sound"] >= 0.95
    assert abs(confidence["picture+sound"] - accuracy["picture+sound"]) < 0.06
    for name in ("picture", "sound"):
        assert 0.4 <= accuracy[name] <= 0.62  # of about a hundred that are held out: chance
        assert confidence[name] < 0.62  # and the network says so


@pytest.mark.parametrize("kept", [0, 1])
def test_a_network_of_one_stream_only_guesses(heard_and_seen: tuple[Streams, Embedded], kept: int) -> None:
    """It is the task that needs both: trained for one alone, with all its steps, the network is no better."""
    embedded = heard_and_seen[1]
    rows = embedded.rows.copy()
    rows[:, -1 - kept] = 0  # the other one is never there
    name = PATTERNS[1 + kept]
    alone = Embedded(rows, embedded.truth, embedded.held)
    _, _, measures = learn(alone, FusionSpec(sizes=SIZES), classes=2, config=config(missing=0.0))
    assert measures[f"{name}: accuracy"] <= 0.65


def test_streams_are_taken_at_random_and_never_both() -> None:
    rows = torch.ones(400, 5)
    rows[:100, -1] = 0  # these have a picture alone
    changed = without_some(rows, np.random.default_rng(0), FusionSpec(sizes=(2, 1)), share=0.5)
    counts = Counter(pattern_of(changed.numpy(), FusionSpec(sizes=(2, 1))).tolist())
    assert (changed[:100] == rows[:100]).all()
    assert changed[:, -2:].any(dim=1).all()
    assert 110 < counts[0] < 190 and 40 < counts[2] < 110


def test_what_is_missing_counts_for_nothing() -> None:
    network = FusionNetwork(FusionSpec(sizes=(3, 2), width=8, depth=1), 2).eval()
    rows = torch.randn(6, 7)
    rows[:, -2:] = torch.tensor([[1.0, 0.0]])
    other = rows.clone()
    other[:, 3:5] = torch.nan  # never looked at, whatever it is
    with torch.inference_mode():
        torch.testing.assert_close(network(rows), network(other))


# ---- through the job


@pytest.fixture(scope="module")
def saved(
    learnt: tuple[FusionNetwork, dict[str, float], dict[str, float]],
    ear: tuple[nn.Module, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> str:
    out = tmp_path_factory.mktemp("fusion")
    network, temperatures, measures = learnt
    bases = tuple(resolve_weights(spec) for spec in ("demo:actions", ear[1]))
    save(
        config(out=str(out), sound=ear[1], licence="MIT"), network, temperatures, measures,
        categories=CATEGORIES, bases=bases,  # type: ignore[arg-type]
    )  # fmt: skip
    return str(out / "network.safetensors")


def test_no_row_is_lost_whatever_is_missing(saved: str, tmp_path: Path, ray_cluster: None) -> None:
    """Videos with both, with silence, without sound, and sound alone: labelled through the whole job."""
    folder = tmp_path / "archive"
    folder.mkdir()
    seeds = range(1000, 1008)
    for seed in seeds:
        scene = Scene(seed)
        video(folder / f"{seed}-both.mkv", scene, sound=scene.sound(seconds=3))
    one = Scene(1000)
    video(folder / "silent.mkv", one, sound=np.zeros(3 * RATE, np.int16))
    video(folder / "mute.mkv", one)
    video(folder / "voice.mka", one, picture=False, sound=one.sound(seconds=3))
    video(folder / "nothing.mka", one, picture=False, sound=np.zeros(3 * RATE, np.int16))
    tables = str(tmp_path / "tables")
    asked = LabelConfig(archive=(str(folder),), tables=tables, annotators=("fusion",), weights={"fusion": saved})
    assert label.run(asked) == 0
    found = connect(tables)
    best = "SELECT parse_filename(uri), label, score, task FROM video_labels WHERE rank = 1"
    videos = {name: (said, score, task) for name, said, score, task in found.sql(best).fetchall()}
    assert len(videos) == len(seeds) + 3 and {one[2] for one in videos.values()} == {"event"}
    right = [videos[f"{seed}-both.mkv"][0] == CATEGORIES[Scene(seed).truth] for seed in seeds]
    assert sum(right) >= len(right) - 1
    assert np.mean([videos[f"{seed}-both.mkv"][1] for seed in seeds]) > 0.85
    assert all(videos[name][1] < 0.65 for name in ("silent.mkv", "mute.mkv", "voice.mka"))
    moments = "SELECT parse_filename(uri), count(DISTINCT start_us) FROM labels JOIN videos USING (video_id) " \
        "WHERE scope = 'sample' GROUP BY 1"  # fmt: skip
    assert dict(found.sql(moments).fetchall()) == {name: 6 if name == "voice.mka" else 3 for name in videos}


def test_scores_do_not_depend_on_company(saved: str) -> None:
    fusion = Fusion.from_spec(saved)
    judge = fusion.load("cpu").judge  # type: ignore[attr-defined]
    assert isinstance(judge, Fused)
    view = fusion.picture.view
    assert isinstance(view, Clips)
    given = [Scene(seed).moment(view) for seed in range(5)]
    given.append(Moments(given[0].start_us, given[0].end_us, given[0].pictures, ()))
    together = judge.scores(given)
    for one, expected in zip(given, together, strict=True):
        np.testing.assert_array_equal(judge.scores([one])[0], expected)


def test_another_network_than_it_was_trained_with_is_refused(saved: str, tmp_path: Path) -> None:
    sidecar = json.loads(Path(f"{saved}.json").read_text())
    sidecar["picture"]["sha256"] = "0" * 64
    path = tmp_path / "network.safetensors"
    path.write_bytes(Path(saved).read_bytes())
    path.with_name(f"{path.name}.json").write_text(json.dumps(sidecar))
    with pytest.raises(WeightsError, match="put the old checkpoint back, or train the fusion again"):
        Fusion.from_spec(str(path))
    sidecar["picture"] = {"spec": "demo:objects", "sha256": resolve_weights("demo:objects").sha256}
    path.with_name(f"{path.name}.json").write_text(json.dumps(sidecar))
    with pytest.raises(WeightsError, match="do not fit the networks that they were made for"):
        Fusion.from_spec(str(path)).load("cpu")


def test_networks_of_the_wrong_kind_and_none_at_all_are_refused(ear: tuple[nn.Module, str], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fusion has no weights of its own: train some"):
        Fusion.from_spec()
    with pytest.raises(WeightsError, match="as picture choose weights for clips or frames"):
        train(config(out=str(tmp_path), picture=ear[1], sound=ear[1]))
    with pytest.raises(WeightsError, match="as sound choose weights whose sidecar has"):
        train(config(out=str(tmp_path), sound="demo:objects"))


def test_training_from_files(ear: tuple[nn.Module, str], tmp_path: Path) -> None:
    """Some with sound, some without, one broken: embedded, trained, written, and loaded again."""
    for seed in range(8):
        scene = Scene(seed)
        folder = tmp_path / "clips" / ("train" if seed < 5 else "val") / CATEGORIES[scene.truth]
        folder.mkdir(parents=True, exist_ok=True)
        video(folder / f"{seed}.mkv", scene, seconds=1.5, sound=None if seed == 3 else scene.sound(seconds=1.5))
    (tmp_path / "clips" / "train" / "agree" / "broken.mp4").write_bytes(b"no video")
    asked = config(out=str(tmp_path / "out"), data=(str(tmp_path / "clips"),), sound=ear[1], steps=4, batch=4)
    measures = train(asked.model_copy(update={"samples": 2, "licence": "MIT"}))
    assert set(measures) == {f"{name}: {what}" for name in PATTERNS for what in ("accuracy", "mean confidence")}
    fusion = Fusion.from_spec(str(tmp_path / "out" / "network.safetensors"))
    assert isinstance(fusion.weights, FusionWeights) and fusion.weights.categories == CATEGORIES
    assert isinstance(fusion.sound, Weights) and fusion.sound.url == ear[1]
    assert fusion.weights.metrics == dict(measures)
    assert len(fusion.views) == 2 and fusion.load("cpu")
