"""Text as `fusion` sees it: exact measures, a bit that says whether there is any, and old weights as they were."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from by_steps import annotated, said
from media.made_subtitles import Track, cue, make_subtitled
from random_weights import SIDECARS

from vidproc.annotators.fused import Fused, heat_of
from vidproc.annotators.fusion import Fusion, FusionAnnotator, Moments, text_of
from vidproc.errors import WeightsError
from vidproc.media.samples import CHAPTER, Samples, TextSpan, text_bytes, text_samples
from vidproc.models.build import build
from vidproc.models.fuser import TEXT_MEASURES, FusionSpec
from vidproc.models.fusion import FusionNetwork
from vidproc.models.zoo import spec_of
from vidproc.views import Text, View

SECOND = 1_000_000


def text(*spans: tuple[int, int, int, str], whole: bool = True, subtitled: bool = True) -> Samples:
    """Spans of (stream, start, end, text)."""
    made = [TextSpan(stream, start, end, "", line) for stream, start, end, line in sorted(spans)]
    return replace(text_samples(text_bytes(made, whole=whole)), subtitled=subtitled)


def measured(given: Samples, *moments: tuple[int, int]) -> list[list[float]]:
    start_us, end_us = np.array(moments, np.int64).T
    found = text_of(given, start_us, end_us)
    assert found is not None and found.dtype == np.float32 and found.shape == (len(moments), len(TEXT_MEASURES))
    return found.tolist()


def measures(*, shown: int, covered: float, pace: float, lines: int) -> Any:
    return pytest.approx([shown, covered, np.log1p(pace), np.log1p(lines)], abs=1e-6)


def test_measures_of_text() -> None:
    given = text((2, SECOND, 3 * SECOND, "ten letter\nten letter"), (2, 3 * SECOND, 5 * SECOND, "four"))
    found = measured(
        given, (0, SECOND), (0, 2 * SECOND), (SECOND, 2 * SECOND), (2 * SECOND, 4 * SECOND), (4 * SECOND, 8 * SECOND),
        (9 * SECOND, 10 * SECOND), (2 * SECOND, 2 * SECOND + 1),
    )  # fmt: skip
    nothing = measures(shown=0, covered=0, pace=0, lines=0)
    assert found[0] == found[5] == nothing
    assert found[1] == measures(shown=1, covered=0.5, pace=21 / 4, lines=2)  # half-open: it is on from its start
    assert found[2] == measures(shown=1, covered=1, pace=21 / 2, lines=2)
    assert found[3] == measures(shown=1, covered=1, pace=(21 / 2 + 4 / 2) / 2, lines=1)
    assert found[4] == measures(shown=0, covered=0.25, pace=4 / 2 / 4, lines=0)
    assert found[6] == measures(shown=1, covered=1, pace=21 / 2, lines=2)


def test_lines_that_are_on_together_add_up_and_languages_do_not() -> None:
    one, two, same = (2, 0, SECOND, "a" * 10), (2, 0, 2 * SECOND, "b" * 10), (3, 0, SECOND, "c" * 12)
    assert measured(text(one, two), (0, SECOND)) == [measures(shown=1, covered=1, pace=15, lines=2)]
    assert measured(text(one, same), (0, SECOND)) == [measures(shown=1, covered=1, pace=12, lines=1)]
    assert measured(text(one, (CHAPTER, 0, SECOND, "x" * 99)), (0, SECOND)) == measured(text(one), (0, SECOND))


def test_measures_are_those_of_a_count_microsecond_by_microsecond() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        starts, lengths = rng.integers(0, 40, 6), rng.integers(1, 15, 6)
        words = ["x" * int(n) + "\n" * int(n % 3) for n in rng.integers(1, 9, 6)]
        spans = [(1, int(s), int(s + n), word) for s, n, word in zip(starts, lengths, words, strict=True)]
        moments = [(int(at), int(at + n)) for at, n in zip(rng.integers(0, 50, 9), rng.integers(1, 12, 9), strict=True)]
        for (start, end), found in zip(moments, measured(text(*spans), *moments), strict=True):
            on = [[span for span in spans if span[1] <= t < span[2]] for t in range(start, end)]
            pace = sum(len(s[3]) / (s[2] - s[1]) for now in on for s in now) / (end - start) * SECOND
            lines = sum(s[3].count("\n") + 1 for s in on[(start + end) // 2 - start])
            covered = sum(map(bool, on)) / (end - start)
            assert found == measures(shown=int(lines > 0), covered=covered, pace=pace, lines=lines)


def test_no_text_now_is_not_no_text_at_all() -> None:
    moment = np.array([0]), np.array([SECOND])
    assert text_of(None, *moment) is None
    assert text_of(text(subtitled=False), *moment) is None
    assert text_of(text((CHAPTER, 0, SECOND, "One"), subtitled=False), *moment) is None
    for given in (text(), text((CHAPTER, 0, SECOND, "One"))):
        found = text_of(given, *moment)
        assert found is not None and not found.any()
    found = text_of(text((2, 0, SECOND, "a caption"), subtitled=False), *moment)
    assert found is not None and found.all()


# ---- networks with the same weights on every machine

PICTURE = SIDECARS["scenes"] | {"options": {"depths": [1, 1], "widths": [4, 8]}}
SOUND = SIDECARS["sounds"] | {"options": {"depths": [1, 1], "widths": [4, 8]}}
PATTERNS = {"picture+sound": 1.5, "picture": 2.0, "sound": 0.5}


def filled(network: torch.nn.Module) -> bytes:
    """A checkpoint of numbers by a formula, that no random generator makes."""
    for count, (name, value) in enumerate(network.state_dict().items()):
        if value.is_floating_point():
            numbers = (torch.arange(value.numel()) * 7919 + count * 104_729) % 1009 / 1009
            value.copy_(numbers.reshape(value.shape) - (0 if name.endswith(("var", "norm.weight", "scale")) else 0.5))
    return safetensors.torch.save(network.state_dict())


def put(folder: Path, name: str, data: bytes, described: dict[str, Any]) -> tuple[str, str]:
    path = folder / f"{name}.safetensors"
    path.write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    common = {"sha256": sha256, "licence": "MIT", "provenance": "a test"}
    path.with_name(f"{path.name}.json").write_text(json.dumps(common | described))
    return str(path), sha256


def fusion_at(folder: Path, *sizes: int, temperatures: dict[str, float]) -> str:
    """Three checkpoints, and the sidecar as it was before there was text in it."""
    bases = {}
    for name, told in (("picture", PICTURE), ("sound", SOUND)):
        network: torch.nn.Module = build(spec_of(told["architecture"], told["options"]), classes=3)
        url, sha256 = put(folder, name, filled(network), told)
        bases[name] = {"spec": url, "sha256": sha256}
    spec: dict[str, Any] = {"sizes": list(sizes), "width": 8, "depth": 1, "dropout": 0.1}
    network = FusionNetwork(FusionSpec(sizes=sizes, width=8, depth=1), 3)  # type: ignore[arg-type]
    described = {"fusion": spec, **bases, "categories": ["a", "b", "c"], "temperatures": temperatures}
    return put(folder, "fusion", filled(network), described)[0]


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Fusion:
    return Fusion.from_spec(fusion_at(tmp_path_factory.mktemp("old"), 8, 32, temperatures=PATTERNS))


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Fusion:
    six = PATTERNS | {f"{name}+text": heat + 1 for name, heat in PATTERNS.items()}
    folder = tmp_path_factory.mktemp("new")
    return Fusion.from_spec(fusion_at(folder, 8, 32, len(TEXT_MEASURES), temperatures=six))


def moments(fusion: Fusion, count: int, *, sound: bool = True, written: Any = None) -> Moments:
    """Pictures and sounds by a formula."""
    view: Any = fusion.picture.view
    size = count * int(np.prod(view.sample_shape))
    pictures = (np.arange(size) * 37 % 251).astype(np.uint8).reshape(count, *view.sample_shape)
    waves = [(np.sin(np.arange(8000) * (0.05 + i / 50)) * 9000).astype(np.int16)[:, None] for i in range(count)]
    start_us = np.arange(count) * SECOND
    return Moments(start_us, start_us + SECOND, pictures, waves if sound else (), written)


def some_text(count: int) -> Any:
    return np.linspace(0, 2, count * len(TEXT_MEASURES), dtype=np.float32).reshape(count, -1)


def judge_of(fusion: Fusion) -> Fused:
    network = fusion.load("cpu")
    assert isinstance(network, FusionAnnotator) and isinstance(network.judge, Fused)
    return network.judge


GOLDEN_ID = "fusion-ae2c7b49"
GOLDEN_SCORES = [
    [0.3174343, 0.2274444, 0.4551213], [0.3176211, 0.2272784, 0.4551005],  # picture and sound
    [0.2887112, 0.2848064, 0.4264824],  # picture
    [0.2884092, 0.0939424, 0.6176484], [0.2885055, 0.0938847, 0.6176099],  # sound
]  # fmt: skip


def test_old_weights_give_the_same_scores_under_the_same_id(old: Fusion) -> None:
    """As commit 8ab7e0c gave them, which knew nothing of text."""
    assert old.model_id == GOLDEN_ID and len(old.views) == 2
    judge = judge_of(old)
    given = [moments(old, 2), moments(old, 1, sound=False), replace(moments(old, 2), pictures=None)]
    both, picture, sound = judge.scores(given)
    np.testing.assert_allclose([*both, *picture, *sound], GOLDEN_SCORES, atol=2e-5)
    [told] = judge.scores([moments(old, 2, written=some_text(2))])
    np.testing.assert_array_equal(told, both)


def test_scores_with_text_do_not_depend_on_company(new: Fusion) -> None:
    judge = judge_of(new)
    given = [
        moments(new, 2, written=some_text(2)), moments(new, 3), moments(new, 1, sound=False, written=some_text(1)),
        moments(new, 1, sound=False), replace(moments(new, 2, written=some_text(2)), pictures=None),
        moments(new, 2, written=np.zeros((2, 4), np.float32)),
    ]  # fmt: skip
    together = judge.scores(given)
    for one, expected in zip(given, together, strict=True):
        np.testing.assert_array_equal(judge.scores([one])[0], expected)
    for reverse, expected in zip(judge.scores(given[::-1])[::-1], together, strict=True):
        np.testing.assert_array_equal(reverse, expected)
    without = judge.scores([moments(new, 2)])[0]
    for told in (together[0], together[5]):  # no text now is told apart from not knowing
        assert np.abs(told - without).max() > 1e-3


def test_a_temperature_for_each_of_six_patterns(new: Fusion) -> None:
    rows = np.zeros((6, 8 + 32 + 4 + 3), np.float32)
    rows[:, -3:] = [[1, 1, 0], [1, 0, 0], [0, 1, 0], [1, 1, 1], [1, 0, 1], [0, 1, 1]]
    temperatures = {name: float(number) for number, name in enumerate(new.weights.fusion.patterns)}
    assert heat_of(rows, new.weights.fusion, temperatures).tolist() == [0, 1, 2, 3, 4, 5]
    assert new.weights.fusion.patterns[3:] == ("picture+sound+text", "picture+text", "sound+text")


def test_text_that_is_missing_counts_for_nothing(new: Fusion) -> None:
    network = FusionNetwork(new.weights.fusion, 3).eval()
    rows = torch.randn(6, 8 + 32 + 4 + 3)
    rows[:, -3:] = torch.tensor([1.0, 1.0, 0.0])
    other = rows.clone()
    other[:, 40:44] = torch.nan
    with torch.inference_mode():
        torch.testing.assert_close(network(rows), network(other))


def test_a_measure_that_never_changed_in_training_counts_for_nothing() -> None:
    network = FusionNetwork(FusionSpec(sizes=(2, 2, 4), width=8, depth=1), 2).eval()
    rows = torch.randn(50, 11)
    rows[:, -3:], rows[:, 7] = 1, 1  # always one line
    network.standardise(rows)
    other = rows.clone()
    other[:, 7] = 9
    with torch.inference_mode():
        torch.testing.assert_close(network(rows), network(other))
    assert bool((network.scale[:7] > 0).all())


@pytest.mark.parametrize(
    ("sizes", "temperatures", "message"),
    [
        ([8, 32, 5], PATTERNS, "the third must be 4, of .*pace"),
        ([8], PATTERNS, "sizes"),
        ([8, 32], {**PATTERNS, "picture+text": 1.0}, "temperatures must name"),
        ([8, 32, 4], PATTERNS, "temperatures must name .*sound.text"),
    ],
)
def test_what_cannot_be_is_refused(
    new: Fusion, tmp_path: Path, sizes: list[int], temperatures: dict[str, float], message: str
) -> None:
    told = json.loads(Path(f"{new.weights.url}.json").read_text())
    told["fusion"]["sizes"], told["temperatures"] = sizes, temperatures
    path = tmp_path / "fusion.safetensors"
    path.write_bytes(Path(new.weights.url).read_bytes())
    path.with_name(f"{path.name}.json").write_text(json.dumps(told))
    with pytest.raises(WeightsError, match=message):
        Fusion.from_spec(str(path))


# ---- through the decoder


def samples_of(fusion: Fusion, given: Moments) -> dict[View, Samples]:
    assert given.pictures is not None
    nothing = np.empty((len(given.start_us), 0), np.int64)
    return {fusion.picture.view: Samples(given.start_us, given.end_us, nothing, given.pictures)}


def test_text_that_was_left_out_is_told(new: Fusion, old: Fusion) -> None:
    for fusion, reason in ((new, "too_large"), (old, None)):
        seen = samples_of(fusion, moments(fusion, 2))
        [cut, whole, none] = fusion.load("cpu").annotate(
            [seen | {Text(): text((2, 0, SECOND, "x"), whole=False)}, seen | {Text(): text()}, seen]
        )
        assert (cut.reason, whole.reason, none.reason) == (reason, None, None)


def test_every_video_has_its_rows_whatever_text_it_has(new: Fusion, tmp_path: Path) -> None:
    """Lines, none at all, chapters alone; and text alone, of which nothing is said."""
    line = Track("subrip", [cue("subrip", 0, 1_500, "shown for half of it")])
    quiet = Track("subrip", [cue("subrip", 2_900, 50, "late")])
    chapters = [(0, 3_000, "The start")]
    make_subtitled(tmp_path / "lines.mkv", [line], seconds=3)
    make_subtitled(tmp_path / "quiet.mkv", [quiet], seconds=3)
    make_subtitled(tmp_path / "bare.mkv", [], seconds=3)
    make_subtitled(tmp_path / "chapters.mkv", [], seconds=3, chapters=chapters)
    make_subtitled(tmp_path / "alone.mkv", [line], seconds=0, picture=None)
    found = {path.stem: annotated(new, path)[0] for path in tmp_path.glob("*.mkv")}
    states = {name: (one["status"][0].as_py(), one["reason"][0].as_py()) for name, one in found.items()}
    assert states == {**dict.fromkeys(found, ("labelled", None)), "alone": ("empty", "no_picture")}
    scores = {name: one["tally"][0].as_py() for name, one in found.items()}
    samples = {name: one["samples"][0].as_py() for name, one in found.items()}
    assert samples == {**dict.fromkeys(found, 6), "alone": 0}
    assert scores["bare"] == scores["chapters"]  # whether there are subtitles is all that counts
    assert len({str(scores[name]) for name in ("bare", "quiet", "lines")}) == 3
    assert said(found["alone"], "labels").num_rows == 0 < said(found["bare"], "labels").num_rows
