"""Are sounds labelled at their times? Videos composed of ESC-10 clips that the network was never trained on.

    python tests/bench/composed_sounds.py [--weights URL] [--data ../shared/data] [--videos 8] [--seed 0]

Without --weights the recipe of `real_data.py` is trained on folds 1 to 3 first, some minutes. Each video has six clips
of fold 4, of six classes, with silence between them, encoded as AAC; its 30-second segments cut through clips.

As the command printed it on two busy cores, with 48 clips:

    clips                   48
    right                   41
    time_right           0.705
    time_wrong           0.126
    silence_labelled     0.078
    start_error_s        0.452
    end_error_s          0.262

The network itself has 0.875 of the clips of fold 4 right; the grid has half a second.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

sys.path.append(str(Path(__file__).parents[1]))

from annotators.composing import RATE, Sound, clip, composed, mixed

from vidproc.media.guard import Guard
from vidproc.pipeline.options import LabelConfig
from vidproc.tables.query import connect

FOLD = "4"
CLIPS, GAPS_S = 6, (1.0, 4.0)
STEP_S = 0.5
"""From one label to the next."""
SAID_AT = 0.5
"""The least score at which a label is said: at most one at a time."""
BLOCK_S = 0.1
AUDIBLE_DB = -60.0


class Placed(NamedTuple):
    """A clip in a video: its class, and from when to when it is to be heard, in seconds."""

    label: str
    start_s: float
    end_s: float


@dataclass(frozen=True, eq=False)
class Composition:
    """One video's truth. `audible`: bool [blocks of 0.1 s]."""

    name: str
    placed: Sequence[Placed]
    audible: npt.NDArray[np.bool_]


def audible_blocks(sound: Sound) -> npt.NDArray[np.bool_]:
    size = round(BLOCK_S * RATE)
    blocks = sound[: len(sound) // size * size].reshape(-1, size).astype(np.float64) / 32_768
    found: npt.NDArray[np.bool_] = np.square(blocks).mean(axis=1) >= 10 ** (AUDIBLE_DB / 10)
    return found


def compositions(data: Path, folder: Path, *, videos: int, seed: int) -> Iterator[Composition]:
    """Write the videos. Clips of ESC-10 may end in digital silence: what is to be heard is the truth."""
    rng = np.random.default_rng(seed)
    classes = sorted((data / "audio/esc10").iterdir())
    folder.mkdir(parents=True)
    with Guard() as guard:
        for number in range(videos):
            at, laid, placed = float(rng.uniform(*GAPS_S)), [], []
            for chosen in rng.permutation(len(classes))[:CLIPS]:
                files = sorted(classes[chosen].glob(f"{FOLD}-*"))
                sound = clip(guard, files[int(rng.integers(len(files)))])
                heard = np.flatnonzero(audible_blocks(sound)) * BLOCK_S
                placed.append(Placed(classes[chosen].name, at + heard[0], at + heard[-1] + BLOCK_S))
                laid.append((at, sound))
                at += len(sound) / RATE + float(rng.uniform(*GAPS_S))
            whole = mixed(laid, seconds=at)
            name = f"{number}.mp4"
            composed(folder / name, whole)
            yield Composition(name, placed, audible_blocks(whole))


def for_labelling(url: str, folder: Path) -> str:
    """The checkpoint with a sidecar that says how closely, and from which score on, it labels."""
    folder.mkdir(parents=True)
    path = shutil.copy(url, folder / "network.safetensors")
    sidecar = json.loads(Path(f"{url}.json").read_text())
    sidecar["listening"]["stride_s"] = STEP_S
    sidecar["thresholds"] = [SAID_AT] * len(sidecar["categories"])
    Path(f"{path}.json").write_text(json.dumps(sidecar))
    return str(path)


def spans(archive: Path, tables: str, weights: str) -> dict[str, list[Placed]]:
    """Label the folder of videos; the spans of `label_spans`, by file name."""
    from vidproc.pipeline.label import run

    config = LabelConfig(
        archive=(str(archive),), tables=tables, annotators=("sounds",), weights={"sounds": weights},
        allow_licences=("private",), device="cpu",
    )  # fmt: skip
    assert run(config) == 0
    query = "SELECT uri, label, start_s, end_s FROM label_spans WHERE task = 'audio' ORDER BY uri, start_s"
    found: dict[str, list[Placed]] = {}
    for uri, *span in connect(tables).sql(query).fetchall():
        found.setdefault(Path(uri).name, []).append(Placed(*span))
    return found


@dataclass(frozen=True)
class Figures:
    """`clips` and `right`: how many were laid, and how many have their own label for most of what is said while they
    are to be heard. `time_right`: share of the time that is to be heard, labelled rightly; `time_wrong`: wrongly.
    `silence_labelled`: share of the silence that was labelled as something. `start_error_s`, `end_error_s`: median
    distance of the right clips' spans from when they are to be heard.
    """

    clips: int
    right: int
    time_right: float
    time_wrong: float
    silence_labelled: float
    start_error_s: float
    end_error_s: float


def overlap(one: Placed, other: Placed) -> float:
    return max(0.0, min(one.end_s, other.end_s) - max(one.start_s, other.start_s))


def figures(truth: Sequence[Composition], found: dict[str, list[Placed]]) -> Figures:
    right = 0
    edges: list[tuple[float, float]] = []
    blocks = dict.fromkeys(("heard", "right", "wrong", "silent", "false"), 0)
    for one in truth:
        said = found.get(one.name, [])
        for place in one.placed:
            times: dict[str, float] = {}
            for span in said:
                times[span.label] = times.get(span.label, 0.0) + overlap(place, span)
            own_s = times.pop(place.label, 0.0)
            if own_s > max(times.values(), default=0.0):
                right += 1
                own = [span for span in said if span.label == place.label and overlap(place, span) > 0]
                start, end = min(span.start_s for span in own), max(span.end_s for span in own)
                edges.append((abs(start - place.start_s), abs(end - place.end_s)))
        _count(one, said, blocks)
    start_error, end_error = np.median(np.array(edges), axis=0) if edges else (np.nan, np.nan)
    return Figures(
        clips=sum(len(one.placed) for one in truth),
        right=right,
        time_right=blocks["right"] / blocks["heard"],
        time_wrong=blocks["wrong"] / blocks["heard"],
        silence_labelled=blocks["false"] / blocks["silent"],
        start_error_s=float(start_error),
        end_error_s=float(end_error),
    )


def _count(one: Composition, said: Sequence[Placed], blocks: dict[str, int]) -> None:
    """Add one video's blocks. Silence inside a clip, such as between barks, counts neither way."""
    for number, audible in enumerate(one.audible):
        middle = (number + 0.5) * BLOCK_S
        labels = {span.label for span in said if span.start_s <= middle < span.end_s}
        own = {place.label for place in one.placed if place.start_s <= middle < place.end_s}
        if audible and own:
            blocks["heard"] += 1
            blocks["right"] += bool(labels & own)
            blocks["wrong"] += bool(labels - own)
        elif not own:
            blocks["silent"] += 1
            blocks["false"] += bool(labels)


def measured(weights: str, data: Path, scratch: Path, *, videos: int, seed: int) -> Figures:
    truth = list(compositions(data, scratch / "videos", videos=videos, seed=seed))
    url = for_labelling(weights, scratch / "weights")
    return figures(truth, spans(scratch / "videos", str(scratch / "tables"), url))


def trained(data: Path, scratch: Path, **changes: Any) -> str:
    """A network that has never heard fold 4: its URL."""
    from bench.real_data import trained as by_recipe

    folder = str(data / "audio/esc10")
    config, _, _ = by_recipe("audio", "composed", scratch, 0, data=folder, held_out=f"{FOLD}-*", **changes)
    return f"{config.folder}/network.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", help="a checkpoint that jobs/train.py made without fold 4; by default one is made")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="the folder of the test data")
    parser.add_argument("--videos", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    from vidproc.pipeline.cluster import connected

    with tempfile.TemporaryDirectory() as folder, connected(workers_speak=False):
        scratch, data = Path(folder), asked.data.resolve()
        weights = asked.weights or trained(data, scratch)
        found = measured(weights, data, scratch / "composed", videos=asked.videos, seed=asked.seed)
    for name, value in vars(found).items():
        print(f"{name:<18}{value:>8.3f}" if isinstance(value, float) else f"{name:<18}{value:>8}")


if __name__ == "__main__":
    main()
