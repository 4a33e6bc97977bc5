"""How alike copies are, and other videos: what `query --duplicates --at-least` should be for the demo networks.

    python tests/bench/near_duplicates.py [--scenes 24]

Each scene of six seconds is encoded three times: well, badly, and at half size. Prints, for each network and threshold,
how many pairs of copies are missed and how many pairs of other scenes are taken for copies.
"""

import argparse
import itertools
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from vidproc.annotators.embeddings import EmbeddingNetwork, Embeddings, unit_length
from vidproc.media.archive import list_archive
from vidproc.media.glimpse import glimpses, probed
from vidproc.media.guard import Guard
from vidproc.media.sources import Source
from vidproc.tables.duplicates import MOST
from vidproc.train.encoded import encode
from vidproc.train.synthetic import MOTIONS, SHAPES, render

THRESHOLDS = (0.97, 0.98, 0.99, 0.995)
SECONDS = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=24)
    scenes = parser.parse_args().scenes
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder), scenes)
        for spec in ("demo:actions", "demo:objects"):
            measure(spec, embedded(spec, folder))


def draw(folder: Path, scenes: int) -> None:
    for seed in range(scenes):
        shape, motion = SHAPES[seed % len(SHAPES)], MOTIONS[seed % len(MOTIONS)]
        frames = render(shape=shape, motion=motion, seconds=SECONDS, fps=16, size=(96, 128), seed=seed)
        (folder / f"{seed}-good.mp4").write_bytes(encode(frames, fps=16, crf=20))
        (folder / f"{seed}-bad.mp4").write_bytes(encode(frames, fps=16, crf=33))
        (folder / f"{seed}-small.mp4").write_bytes(encode(np.ascontiguousarray(frames[:, ::2, ::2]), fps=16, crf=26))


def embedded(spec, folder):
    """File name → vectors [seconds, numbers]."""
    annotator = Embeddings.from_spec(spec)
    network = annotator.load("cpu")
    assert isinstance(network, EmbeddingNetwork)
    with tempfile.TemporaryDirectory() as listing:
        list_archive([folder], listing)
        sources = [Source.of(row) for row in pq.read_table(listing).to_pylist()]
    starts = [second * 1_000_000 for second in range(SECONDS)]
    with Guard() as guard:
        data = [glimpses(guard, one, probed(guard, one), annotator.view, starts_us=starts) for one in sources]
    vectors = [unit_length(found) for found in network.embedder.outputs(data)]
    return dict(zip([Path(one.uri).stem for one in sources], vectors, strict=True))


def measure(spec, vectors):
    pairs = list(itertools.combinations(sorted(vectors), 2))
    copies = np.array([one.split("-")[0] == other.split("-")[0] for one, other in pairs])
    cosines = np.array([(vectors[one] * vectors[other]).sum(axis=1) for one, other in pairs])
    for least in THRESHOLDS:
        alike = (cosines >= least).mean(axis=1) > MOST
        missed, wrong = (copies & ~alike).sum(), (alike & ~copies).sum()
        print(f"{spec} at least {least}: {missed} of {copies.sum()} missed, {wrong} of {(~copies).sum()} wrong")


if __name__ == "__main__":
    main()
