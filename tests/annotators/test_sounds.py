"""Sound is labelled at its time: steps and silence, the same numbers anywhere, and a published keyword network."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pytest
from composing import clip, composed, mixed
from media.decoding import SHARED, decode_all, probe, source_of
from media.made_videos import make_video
from random_weights import LISTENING, written

from vidproc.annotators.sounds import Sounds, SoundsNetwork
from vidproc.errors import UsageError, WeightsError
from vidproc.media.glimpse import glimpses
from vidproc.media.guard import Guard
from vidproc.media.samples import Samples
from vidproc.models.describe import describe
from vidproc.models.restorer import resolve_restorer
from vidproc.tables.query import connect
from vidproc.train.evaluate import annotator_model_id
from vidproc.views import Audio

VIEW = Audio(rate=8000)
SECOND = 1_000_000
Sound = npt.NDArray[np.int16]


def noise(seconds: float, *, seed: int = 0) -> Sound:
    return np.random.default_rng(seed).integers(-3000, 3000, round(seconds * VIEW.rate)).astype(np.int16)


def silence(seconds: float) -> Sound:
    return np.zeros(round(seconds * VIEW.rate), np.int16)


def samples(*sounds: Sound, start_us: int = 0, view: Audio = VIEW) -> Samples:
    data = np.concatenate(sounds).reshape(-1, 1)
    data.flags.writeable = False
    starts = np.array([start_us])
    return Samples(starts, starts + len(data) * SECOND // view.rate, np.empty(0, np.int64), data)


class Loudness:
    """A scorer for three labels that remembers what it heard; the louder, the more it is the second."""

    def __init__(self) -> None:
        self.heard: list[npt.NDArray[Any]] = []

    def scores(self, data: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[np.float32]]:
        self.heard += list(data)
        loud = [min(1.0, float(np.abs(one).mean()) / 3000) for one in data]
        return [np.array([[0.9 * (1 - one), one, 0.1 * (1 - one)]], np.float32) for one in loud]


def sounds(tmp_path: Path, **changes: Any) -> Sounds:
    return Sounds.from_spec(written(tmp_path, "sounds", **changes))


def test_steps_that_are_silent_get_no_rows(tmp_path: Path) -> None:
    annotator = sounds(tmp_path)
    network = SoundsNetwork(annotator, Loudness())
    given = samples(noise(1.5), silence(2.0), noise(0.75), start_us=30 * SECOND)
    [annotation] = network.annotate([{VIEW: given}])
    rows = annotation.rows["labels"]
    spans = sorted(set(zip(rows["start_us"].to_pylist(), rows["end_us"].to_pylist(), strict=True)))
    half = SECOND // 2
    first = [(30 * SECOND + i * half, 30 * SECOND + (i + 1) * half) for i in range(3)]
    assert spans == [*first, (33_500_000, 34_000_000), (34_000_000, 34_250_000)]
    assert set(rows["task"].to_pylist()) == {"audio"} and set(rows["scope"].to_pylist()) == {"sample"}
    assert annotation.samples == 5
    assert annotation.tally is not None and annotation.tally[:-1].sum() == pytest.approx(5, abs=1e-5)
    assert all(piece.shape == (1, 8000, 1) for piece in network.scorer.heard)  # type: ignore[attr-defined]


def test_nothing_but_silence_is_nothing(tmp_path: Path) -> None:
    scorer = Loudness()
    hum = (30 * np.sin(np.arange(16_000) / 20)).astype(np.int16)  # -64 dB
    given = [{VIEW: samples(one)} for one in (silence(3), hum)]
    for annotation in SoundsNetwork(sounds(tmp_path), scorer).annotate(given):
        assert annotation.rows["labels"].num_rows == 0
        assert (annotation.samples, annotation.tally) == (0, None)
    assert not scorer.heard


def test_a_network_that_knows_silence_says_so(tmp_path: Path) -> None:
    annotator = sounds(tmp_path, categories=["rain", "speech", "Silence"])
    [annotation] = SoundsNetwork(annotator, Loudness()).annotate([{VIEW: samples(noise(1), silence(2))}])
    rows = annotation.rows["labels"].filter(pc.field("rank") == 1).to_pylist()
    assert [row["label"] for row in rows[2:]] == ["Silence"] * 4 and {row["score"] for row in rows[2:]} == {1.0}
    assert all(row["label"] != "Silence" for row in rows[:2])
    assert annotation.samples == 6 and annotation.tally is not None and annotation.tally[2] >= 4


def test_windows_are_what_training_looks_at(tmp_path: Path) -> None:
    """The decoder's glimpses at the same times, sample for sample; and silence behind the end."""
    path = composed(tmp_path / "noise.mp4", np.random.default_rng(0).integers(-9000, 9000, 48_000 * 4).astype(np.int16))
    scorer = Loudness()
    with Guard() as guard:
        facts = probe(guard, path)
        found = decode_all(guard, path, [VIEW], facts)
        span, data = found.segments[0], found.data[0][0]
        given = Samples(np.array([span.start_us]), np.array([span.end_us]), np.empty(0, np.int64), data)
        SoundsNetwork(sounds(tmp_path), scorer).annotate([{VIEW: given}])
        starts = [0, *range(250_000, 3_000_000, 500_000), facts["end_us"] - SECOND]
        expected = glimpses(guard, source_of(path), facts, VIEW, starts_us=starts, sound_us=SECOND)
    heard = np.concatenate(scorer.heard)
    assert heard.shape == expected.shape
    assert np.array_equal(heard, expected)


def test_scores_do_not_depend_on_batches(tmp_path: Path) -> None:
    annotator = sounds(tmp_path)
    given = [{VIEW: samples(noise(seconds, seed=i))} for i, seconds in enumerate((7.3, 0.4, 12.0))]
    found = [replace(annotator, batch=batch).load("cpu").annotate(given) for batch in (4, 8, 64)]
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            ours, theirs = one.rows["labels"], two.rows["labels"]
            assert ours.drop_columns("score").equals(theirs.drop_columns("score"))
            np.testing.assert_allclose(ours["score"].to_numpy(), theirs["score"].to_numpy(), atol=1e-6)


def test_model_id_follows_all_that_changes_rows(tmp_path: Path) -> None:
    base = sounds(tmp_path)
    listening = base.weights.listening
    assert listening is not None
    others = [
        replace(base, stride_s=1.0),
        replace(base, silent_db=-50.0),
        replace(base, weights=replace(base.weights, listening=replace(listening, seconds=2.0))),
    ]
    assert len({one.model_id for one in (base, *others)}) == 4
    assert replace(base, stride_s=0.5).model_id == base.model_id
    assert annotator_model_id(base.weights) == base.model_id, "what evaluation says joins what labelling says"
    restored = Sounds.from_spec(base.weights.url, restorer=resolve_restorer("demo"))
    assert restored == base, "noise is taken out of frames, not out of sound"


def test_what_cannot_listen_is_told_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"sounds has no weights of its own: give --weights sounds=panns:resnet38"):
        Sounds.from_spec()
    with pytest.raises(WeightsError, match="look at frames, but sounds needs audio"):
        Sounds.from_spec("demo:objects")
    with pytest.raises(WeightsError, match="their sidecar needs `listening` with seconds, stride_s and spectrum"):
        sounds(tmp_path, listening=None)
    with pytest.raises(UsageError, match=r"stride_s must be at least 0.02"):
        sounds(tmp_path, listening={**LISTENING, "stride_s": 0.001})
    short = sounds(tmp_path, listening={**LISTENING, "seconds": 0.02})
    narrow = sounds(tmp_path, listening={**LISTENING, "spectrum": {**LISTENING["spectrum"], "mels": 40}})
    for unfit in (short, narrow):
        with pytest.raises(WeightsError, match="do not fit their `listening`"):
            unfit.load("cpu")


def honk(folder: Path) -> str:
    """The published keyword network, its sidecar made by `describe`."""
    file = SHARED / "weights" / "honk_res8_narrow.pt"
    if not file.exists() or not (SHARED / "audio" / "yes_1000ms.wav").exists():
        pytest.skip("the shared keyword network and sounds are not there")
    path = Path(shutil.copy(file, folder / file.name))
    describe("honk:res8_narrow", path)
    return str(path)


def test_a_published_network_hears_words_at_their_times(tmp_path: Path) -> None:
    annotator = Sounds.from_spec(honk(tmp_path), allow_licences=["not stated"])
    words = {"yes": 4.3, "no": 20.0, "yes again": 31.7}  # the last one in the second segment
    with Guard() as guard:
        clips = [(at, clip(guard, SHARED / "audio" / f"{word.split()[0]}_1000ms.wav")) for word, at in words.items()]
        path = composed(tmp_path / "words.mp4", mixed(clips, seconds=36))
        found = decode_all(guard, path, annotator.views, probe(guard, path))
    given = [
        {annotator.view: Samples(np.array([span.start_us]), np.array([span.end_us]), np.empty(0, np.int64), data[0])}
        for span, data in zip(found.segments, found.data, strict=True)
    ]
    best = [
        (row["start_us"] / SECOND, row["end_us"] / SECOND, row["label"])
        for annotation in annotator.load("cpu").annotate(given)
        for row in annotation.rows["labels"].to_pylist()
        if row["rank"] == 1
    ]
    assert len(best) == 36 / 0.25 and best[-1][1] == 36
    for word, at in words.items():
        # both are spoken from about 0.3 to 0.8 of their seconds
        during = {label for start, end, label in best if at + 0.3 < end and start < at + 0.8}
        assert during == {word.split()[0]}, word
    away = {label for start, end, label in best if all(end <= at or start >= at + 1 for at in words.values())}
    assert away == {"silence"}


@pytest.mark.ray
def test_sound_in_the_tables(ray_cluster: None, tmp_path: Path) -> None:
    """Spans merge over steps and over the border of segments; a video without sound says so."""
    from vidproc.pipeline.label import run
    from vidproc.pipeline.options import LabelConfig

    loud = np.random.default_rng(0).integers(-9000, 9000, 48_000 * 6).astype(np.int16)
    archive = tmp_path / "archive"
    archive.mkdir()
    composed(archive / "two.mp4", mixed([(2.0, loud), (27.0, loud)], seconds=36))
    make_video(archive / "mute.mp4", "libx264", [i * 200 for i in range(10)], size=(64, 48))
    url = written(tmp_path, "sounds", categories=["noise"])
    tables = str(tmp_path / "tables")
    given = {"archive": (str(archive),), "tables": tables, "annotators": ("sounds",), "weights": {"sounds": url}}
    assert run(LabelConfig(**given)) == 0
    connection = connect(tables)
    spans = connection.sql("SELECT label, start_s, end_s FROM label_spans WHERE task = 'audio' ORDER BY 2").fetchall()
    assert [label for label, *_ in spans] == ["noise", "noise"]
    assert np.array(spans)[:, 1:].astype(float) == pytest.approx(np.array([[2.0, 8.0], [27.0, 33.0]]), abs=0.51)
    whole = connection.sql("SELECT label, score FROM video_labels WHERE task = 'audio'").fetchall()
    assert whole == [("noise", 1.0)]
    ledger = connection.sql("SELECT status, reason FROM ledger WHERE segment = 0 ORDER BY status").fetchall()
    assert ledger == [("empty", "no_sound"), ("labelled", None)]
