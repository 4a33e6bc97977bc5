"""Label times come from a grid over the video's time, not from its frames: dropped and uneven ones change none.

And from end to end: a half that is black or frozen does not change what a video is.
"""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from by_steps import annotated, over_video, said

from vidproc.annotators import ANNOTATORS
from vidproc.annotators.base import Annotator
from vidproc.schema import LEDGER
from vidproc.train.synthetic import HELD_OUT, frames, scene

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = (144, 192)
SECONDS, CUT_S = 6.0, 3.0
Pixels = np.ndarray


def shown(times_s: Pixels) -> Pixels:
    """A circle that goes right, and from `CUT_S` on a square that goes up."""
    first = scene("circle", "right", seed=HELD_OUT + 4)
    second = scene("square", "up", seed=HELD_OUT + 25)
    early = times_s < CUT_S
    return np.concatenate([frames(first, times_s[early], size=SIZE), frames(second, times_s[~early], size=SIZE)])


def encode(path: Path, pixels: Pixels, times_s: Pixels) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"crf": "16", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = SIZE[1], SIZE[0], "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.thread_count = 1
        for picture, time_s in zip(pixels, times_s, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round(time_s * 1000), stream.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def of(name: str) -> Annotator:
    return ANNOTATORS[name]("demo")


def moments(way: str) -> Pixels:
    """When the frames are shown: seconds. The first, and those around the cut and the end, are always there."""
    steady = np.arange(0, SECONDS, 0.04)
    rng = np.random.default_rng(8)
    if way == "steady":
        return steady
    if way == "dropped":
        needed = (steady < 0.02) | (np.abs(steady - CUT_S) < 0.05) | (steady > SECONDS - 0.06)
        return steady[needed | (rng.random(len(steady)) < 0.6)]
    uneven = np.cumsum(rng.choice([0.011, 0.02, 0.033, 0.05, 0.09], 400))
    return np.unique(
        np.concatenate([[0, CUT_S - 0.04, CUT_S, SECONDS - 0.04], uneven[uneven < SECONDS - 0.05]]).round(3)
    )


@pytest.mark.parametrize("name", ["actions", "objects"])
def test_dropped_and_uneven_frames_give_the_same_label_times(tmp_path: Path, name: str) -> None:
    annotator = of(name)
    told = {}
    for way in ("steady", "dropped", "uneven"):
        times_s = moments(way)
        found, facts = annotated(annotator, encode(tmp_path / f"{way}.mkv", shown(times_s), times_s))
        assert facts["variable_rate"] == (way != "steady") or way == "dropped"
        rows = [row for row in said(found, "labels").to_pylist() if row["rank"] == 1]
        spans = over_video(annotator, found, facts)["labels"].to_pylist()
        told[way] = (
            [(row["start_us"], row["label"]) for row in rows],
            [(row["start_us"], row["label"], round(row["end_us"] / 1e5)) for row in spans],
        )
    assert len(told["steady"][0]) >= 5 and len(told["steady"][1]) >= 2
    assert told["dropped"] == told["steady"] and told["uneven"] == told["steady"]


@pytest.mark.parametrize("bad", ["black", "frozen"])
@pytest.mark.parametrize("name", ["actions", "objects"])
def test_a_video_that_is_half_black_or_frozen_is_labelled_as_its_good_half(tmp_path: Path, name: str, bad: str) -> None:
    annotator = of(name)
    times_s = np.arange(0, SECONDS, 0.04)
    good = frames(scene("circle", "right", seed=HELD_OUT + 4), times_s, size=SIZE)
    slate = frames(scene("square", "up", seed=HELD_OUT + 25), times_s[:1], size=SIZE)  # a picture of something else
    rest = np.repeat(np.zeros_like(slate) if bad == "black" else slate, 2 * len(good), axis=0)
    alone = whole(annotator, encode(tmp_path / "good.mkv", good, times_s))
    longer = np.arange(0, 3 * SECONDS, 0.04)
    both = whole(annotator, encode(tmp_path / "both.mkv", np.concatenate([good, rest]), longer))
    assert alone["best"] == both["best"]
    off, otherwise = (np.abs(scores - alone["scores"]).max() for scores in (both["scores"], both["all"]))
    assert off < 0.15, "at the border there is one sample of both, or one vote for what stands still from then on"
    assert otherwise > 2.5 * off and otherwise > 0.25, "what it would be if each sample had a vote"
    if bad == "black" or name == "actions":
        assert max(both["ends_us"]) <= (SECONDS + 1) * 1e6


def whole(annotator: Annotator, path: Path) -> dict[str, Any]:
    """A video's scores as derive has them, and as they would be if every sample had a vote; ends of its spans."""
    found, facts = annotated(annotator, path)
    ledger = found.select(LEDGER.schema.names)
    tallies = np.array(ledger["tally"].to_pylist(), np.float64)
    samples = sum(ledger["samples"].to_pylist())
    scores = annotator.mean_scores(annotator.joined_tally(tallies), samples)
    best = annotator.label_rows(scores)
    assert best is not None
    every: dict[int, float] = {}
    for row in said(found, "labels").to_pylist():
        every[row["label_id"]] = every.get(row["label_id"], 0) + row["score"] / samples
    ends = over_video(annotator, found, facts)["labels"]["end_us"].to_pylist()
    return {
        "best": best["label"][0].as_py(),
        "scores": scores,
        "all": np.array([every.get(i, 0.0) for i in range(len(scores))]),
        "ends_us": ends,
    }
