"""Where subtitles alone tell two classes apart, fusion with text tells them, and says so when there are none."""

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from annotators.by_steps import annotated, said
from annotators.random_weights import shared_by_tests
from media.decoding import source_of
from media.made_subtitles import Track, cue, make_subtitled

from vidproc.annotators.fused import Fused, pattern_of
from vidproc.annotators.fusion import Fusion, text_of
from vidproc.errors import UsageError
from vidproc.media.guard import close_guards, process_guard
from vidproc.media.samples import TextSpan, text_bytes, text_samples
from vidproc.models.fuser import FusionSpec
from vidproc.models.fusion import FusionNetwork
from vidproc.train.fusion import Embedded, FusionConfig, learn, moments_of, train, without_some
from vidproc.views import Clips, Text

SPEC = FusionSpec(sizes=(6, 5, 4), width=16, depth=1)
WITH_TEXT, WITHOUT = ("picture+sound+text", "picture+text", "sound+text"), ("picture+sound", "picture", "sound")
SECOND = 1_000_000


def config(**changed: Any) -> FusionConfig:
    sound = shared_by_tests("sounds")
    return FusionConfig(
        **{"out": "none", "picture": "demo:actions", "sound": sound, "steps": 200, "batch": 64, "text": True} | changed
    )


# ---- drawn numbers


def drawn(count: int) -> Embedded:
    """Moments of two seconds, half of them with a line at the time; what is seen and heard does not depend on it."""
    rng = np.random.default_rng(1)
    truth = rng.permutation(np.arange(count) % 2)
    rows = np.ones((count, sum(SPEC.sizes) + 3), np.float32)
    rows[:, :11] = rng.standard_normal((count, 11))
    for row, shown in zip(rows, truth.tolist(), strict=True):
        start, length = int(rng.uniform(-1, 0.5) * SECOND), int(rng.uniform(2, 5) * SECOND)
        span = TextSpan(1, start if shown else 9 * SECOND, (start if shown else 9 * SECOND) + length, "", "words " * 3)
        told = text_of(text_samples(text_bytes([span], whole=True)), np.array([0]), np.array([2 * SECOND]))
        assert told is not None
        row[11:15] = told
    return Embedded(rows, truth, np.arange(count) % 2 == 1)


def test_text_tells_what_neither_picture_nor_sound_does(one_thread: None) -> None:
    _, temperatures, measures = learn(drawn(1200), SPEC, classes=2, config=config())
    print({name: round(value, 3) for name, value in measures.items()})
    assert set(temperatures) == {*WITH_TEXT, *WITHOUT}
    for name in WITH_TEXT:
        assert measures[f"{name}: accuracy"] >= 0.95 and measures[f"{name}: mean confidence"] > 0.9
    for name in WITHOUT:  # of six hundred that are held out: chance, and the network says so
        assert 0.43 <= measures[f"{name}: accuracy"] <= 0.57
        assert measures[f"{name}: mean confidence"] < 0.6


def test_a_network_without_text_only_guesses(one_thread: None) -> None:
    given = drawn(1200)
    rows = np.delete(given.rows, [*range(11, 15), 17], axis=1)
    _, _, measures = learn(replace(given, rows=rows), replace(SPEC, sizes=(6, 5)), classes=2, config=config())
    assert {name.partition(":")[0] for name in measures} == set(WITHOUT)
    assert 0.43 <= measures["picture+sound: accuracy"] <= 0.57


def test_text_is_taken_at_random_and_the_rest_as_without_it() -> None:
    rows = torch.ones(800, sum(SPEC.sizes) + 3)
    changed = without_some(rows, np.random.default_rng(0), SPEC, share=0.5)
    rows_of_text_alone = torch.zeros(1, sum(SPEC.sizes) + 3)
    rows_of_text_alone[0, -1] = 1
    assert pattern_of(rows_of_text_alone.numpy(), SPEC).tolist() == [-1]
    counts = Counter(pattern_of(changed.numpy(), SPEC).tolist())
    expected = {0: 200, 1: 100, 2: 100, 3: 200, 4: 100, 5: 100}
    assert counts.keys() == expected.keys()
    assert all(abs(counts[name] - count) < 45 for name, count in expected.items())
    two = without_some(rows[:, :13], np.random.default_rng(0), replace(SPEC, sizes=(6, 5)), share=0.5)
    torch.testing.assert_close(two[:, 11:], changed[:, 15:17])  # the same ones as ever
    none = without_some(rows, np.random.default_rng(0), SPEC, share=0.0)
    torch.testing.assert_close(none, rows)


# ---- files

CLASSES = ("plain", "titled")
STRETCH_MS = 2_000


def titled(path: Path) -> list[bool]:
    """Which of a file's twelve stretches of two seconds have a line: half of them, in each file others."""
    return [bool(number % 2) for number in np.random.default_rng(list(path.stem.encode())).permutation(12)]


def make(path: Path, *, lines: bool | None) -> Path:
    """24 s of the same picture; `lines` in titled stretches, or a stream without any but a last one, or no stream."""
    cues = [
        cue("subrip", n * STRETCH_MS + 50, STRETCH_MS - 100, f"line number {n}")
        for n, shown in enumerate(titled(path))
        if lines and shown
    ]
    tracks = [] if lines is None else [Track("subrip", cues or [cue("subrip", 23_940, 20, "end")])]
    return make_subtitled(path, tracks, seconds=24)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, float]]:
    """Weights from files in which titled stretches and plain ones follow each other, and the held-out measures."""
    folder = tmp_path_factory.mktemp("with_text")
    spans = []
    for name in ("a", "b", "c"):
        path = make(folder / f"{name}.mkv", lines=True)
        spans += [
            {"uri": str(path), "start_s": 2 * n, "end_s": 2 * n + 2, "label": CLASSES[shown],
             "split": "val" if name == "c" else "train"}
            for n, shown in enumerate(titled(path))
        ]  # fmt: skip
    with (folder / "spans.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, spans[0].keys())
        writer.writeheader()
        writer.writerows(spans)
    asked = config(out=str(folder / "out"), data=(str(folder / "spans.csv"),), samples=3, licence="MIT")
    try:
        return str(folder / "out" / "network.safetensors"), dict(train(asked))
    finally:
        close_guards()


def test_trained_from_files(trained: tuple[str, dict[str, float]]) -> None:
    url, measures = trained
    print({name: round(value, 3) for name, value in measures.items()})
    fusion = Fusion.from_spec(url)
    assert fusion.views == (fusion.picture.view, fusion.sound.view, Text())
    assert fusion.weights.fusion.sizes == (36, 32, 4) and fusion.weights.metrics == measures
    assert measures["picture+text: accuracy"] >= 0.95 and measures["picture+text: mean confidence"] > 0.9
    assert not any(name.startswith("sound") for name in measures)  # there was none
    assert measures["picture: accuracy"] <= 0.7 and measures["picture: mean confidence"] < 0.75


def best(fusion: Fusion, path: Path) -> dict[int, tuple[str, float]]:
    rows = said(annotated(fusion, path)[0], "labels").to_pylist()
    return {row["start_us"]: (row["label"], row["score"]) for row in rows if row["rank"] == 1}


def test_labelled_as_it_was_trained(trained: tuple[str, dict[str, float]], tmp_path: Path) -> None:
    """Right where there are subtitles; as many rows, and unsure ones, where there are none."""
    fusion = Fusion.from_spec(trained[0])
    found = {
        "lines": best(fusion, make(tmp_path / "lines.mkv", lines=True)),
        "quiet": best(fusion, make(tmp_path / "quiet.mkv", lines=False)),
        "bare": best(fusion, make(tmp_path / "bare.mkv", lines=None)),
    }
    assert found["lines"].keys() == found["quiet"].keys() == found["bare"].keys()
    inside = {at: one for at, one in found["lines"].items() if at % (2 * SECOND) <= SECOND}  # a clip lasts a second
    assert len(inside) >= 8
    assert all(label == CLASSES[titled(Path("lines.mkv"))[at // (2 * SECOND)]] for at, (label, _) in inside.items())
    assert all(label == "plain" and score > 0.85 for label, score in list(found["quiet"].values())[:-2])
    assert all(score < 0.75 for _, score in found["bare"].values())


def test_training_sees_text_as_labelling_does_even_at_a_border(
    trained: tuple[str, dict[str, float]], tmp_path: Path
) -> None:
    """A line from 29 s to 32 s is not seen from 30 s on, where another segment begins; the next one is."""
    fusion = Fusion.from_spec(trained[0])
    cues = [cue("subrip", 29_000, 3_000, "across the border"), cue("subrip", 33_000, 4_000, "behind it")]
    path = make_subtitled(tmp_path / "a.mkv", [Track("subrip", cues)], seconds=38)
    labelled = best(fusion, path)
    judge = fusion.load("cpu").judge  # type: ignore[attr-defined]
    view = fusion.picture.view
    assert isinstance(judge, Fused) and isinstance(view, Clips)
    expected = {27: 0, 28: 0, 29: 1, 30: 0, 31: 0, 33: 1, 35: 1}
    for at, shown in expected.items():
        example = {**vars(source_of(path)), "start_us": at * SECOND, "end_us": at * SECOND + view.span_us}
        given = moments_of(process_guard(), example, fusion.picture, fusion.sound, samples=1, text=True)
        assert given.text is not None and given.text[0, 0] == shown
        [scores] = judge.scores([given])
        label, score = labelled[at * SECOND]
        assert CLASSES[int(scores[0].argmax())] == label and scores[0].max() == pytest.approx(score, abs=1e-6)
    close_guards()


def test_files_without_text_are_told(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split / "plain").mkdir(parents=True)
        make_subtitled(tmp_path / split / "plain" / "a.mkv", [], seconds=1)
    with pytest.raises(UsageError, match="no example is of a file that has a text stream: leave out --text"):
        train(config(out=str(tmp_path / "out"), data=(str(tmp_path),), samples=1))
    close_guards()


def test_a_network_without_text_is_made_as_before(one_thread: None) -> None:
    """Its parameters are those of two streams: what was trained before can be loaded."""
    shapes = {
        name: tuple(value.shape) for name, value in FusionNetwork(replace(SPEC, sizes=(6, 5)), 2).named_parameters()
    }
    assert shapes["missing"] == (2, 16) and shapes["join.weight"] == (16, 32) and "streams.2.weight" not in shapes
