"""Near-duplicates: pairs of videos whose clips look the same at the same times, such as copies encoded anew.

Exact: every pair of videos that could be one is compared, clip by clip; nothing is sampled or hashed. What it means is
narrow on purpose: times count from each video's start, so that two matches on the same pitch are not copies, and a copy
with another beginning is not found (`similar` finds its moments).
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vidproc.command import log
from vidproc.errors import UsageError
from vidproc.media.sampling import SEGMENT_US
from vidproc.tables.query import connect
from vidproc.tables.similar import chosen_model, vectors

MOST = 0.5
"""Of the longer video's clips more than this share must match."""
MOST_PAIRS = 1_000_000
ROUNDING = 1e-6
"""Of cosines of float32 vectors."""
BLOCK = 512
"""Videos that are compared with as many others at once: bounds memory."""

_MODELS = """
    SELECT model_id FROM (SELECT DISTINCT annotator, model_id FROM embeddings)
    JOIN (SELECT annotator, model_id, max("at") AS "at" FROM ledger GROUP BY ALL) USING (annotator, model_id)
    ORDER BY "at" DESC, model_id"""
_VIDEOS = f"""
    SELECT video_id, uri, member, origin_us FROM latest_videos LEFT JOIN (
        SELECT video_id, min(start_us - segment * {SEGMENT_US}) AS origin_us
        FROM ledger WHERE segment >= 0 AND end_us > start_us GROUP BY video_id) USING (video_id)
    ORDER BY uri, member, video_id"""

PAIRS = pa.schema(
    [
        ("uri", pa.string()),
        ("member", pa.string()),
        ("other_uri", pa.string()),
        ("other_member", pa.string()),
        ("share", pa.float64()),  # of the longer one's clips
        ("similarity", pa.float64()),  # mean cosine of the clips that both have
    ]
)
Ints = npt.NDArray[np.int64]


def near_duplicates(tables_url: str, *, at_least: float = 0.98, model: str | None = None) -> pa.Table:
    """Pairs of videos as `PAIRS`, the most alike first: more than half of the longer one's clips have a cosine of at
    least `at_least` to the other's clip of the same time. How alike copies are depends on the network.

    `model`: of the embeddings; None takes the one that was used last. Vectors lie in a temporary file; in memory are
    those of `BLOCK` videos at one time, and 40 bytes a clip. Raises `UsageError` where over `MOST_PAIRS` are alike.
    """
    connection = connect(tables_url)
    models = [row[0] for row in connection.execute(_MODELS).fetchall()]
    model = chosen_model(models, model, what=tables_url)
    videos = connection.sql(_VIDEOS).to_arrow_table()
    with tempfile.TemporaryFile(prefix="vidproc-vectors-") as file:
        clips = _read(tables_url, model, videos, file)
        log("near-duplicates", model=model, videos=len(clips.video), clips=int(clips.counts.sum()))
        found: list[tuple[int, int, float, float]] = []
        for pair in _alike(clips, at_least):
            found.append(pair)
            if len(found) > MOST_PAIRS:
                raise UsageError(f"more than {MOST_PAIRS} pairs are alike to {at_least}: raise --at-least")
    return _shown(videos, found)


@dataclass(frozen=True, eq=False)
class _Clips:
    """All clips. Videos are numbered by how many clips they have, clips lie by their time and then by that number.

    `video`: number → row of the listing. `counts`: clips of each. `of`, `row`: each clip's video, and where its vector
    is. `starts`: where each time's clips begin, and the end.
    """

    vectors: npt.NDArray[np.float32]
    video: Ints
    counts: Ints
    of: Ints
    row: Ints
    starts: Ints

    def block(self, time: int, first: int, last: int) -> tuple[Ints, npt.NDArray[np.float32]]:
        """Of videos first ≤ number < last those that have a clip of this time, and the vectors."""
        of = self.of[self.starts[time] : self.starts[time + 1]]
        low, high = self.starts[time] + np.searchsorted(of, [first, last])
        return self.of[low:high] - first, self.vectors[self.row[low:high]]


def _read(tables_url: str, model: str, videos: pa.Table, file: Any) -> _Clips:
    """All vectors, at length 1, into the file; and whose they are."""
    listed, starts, size = [], [], 1
    for given in vectors(tables_url, ["video_id", "start_us", "vector"], model=model):
        place = pc.index_in(given["video_id"], videos["video_id"].combine_chunks())
        batch = given.filter(pc.is_valid(place))  # older versions of files are left out
        if not batch.num_rows:
            continue
        values = batch["vector"].flatten().to_numpy().reshape(batch.num_rows, -1).astype(np.float64)
        size = values.shape[1]
        length = np.linalg.norm(values, axis=1, keepdims=True)
        file.write((values / np.where(length > 0, length, 1)).astype(np.float32).tobytes())
        listed.append(place.drop_null().to_numpy().astype(np.int64))
        starts.append(batch["start_us"].to_numpy())
    file.flush()
    whose, start_us = (np.concatenate(one) if one else np.empty(0, np.int64) for one in (listed, starts))
    shape = (len(whose), size)
    kept = np.memmap(file, np.float32, "r", shape=shape) if len(whose) else np.empty(shape, np.float32)
    return _arranged(kept, whose, start_us, videos["origin_us"].to_pylist())


def _arranged(kept: npt.NDArray[np.float32], whose: Ints, start_us: Ints, origins: list[int | None]) -> _Clips:
    counted = np.bincount(whose, minlength=len(origins))
    video = np.flatnonzero(counted)
    video = video[np.argsort(counted[video], kind="stable")]
    number = np.zeros(len(origins), np.int64)
    number[video] = np.arange(len(video))
    first = np.full(len(origins), np.iinfo(np.int64).max)
    np.minimum.at(first, whose, start_us)
    known = np.array([own if origin is None else origin for origin, own in zip(origins, first, strict=True)], np.int64)
    times, time = np.unique(start_us - known[whose], return_inverse=True)
    row = np.lexsort((number[whose], time))
    starts = np.searchsorted(time[row], np.arange(len(times) + 1))
    return _Clips(kept, video, counted[video], number[whose][row], row, starts)


def _alike(clips: _Clips, at_least: float) -> Iterator[tuple[int, int, float, float]]:
    """(row of one video, row of the other, share, mean cosine), block by block of videos of like length."""
    total = len(clips.video)
    for low in range(0, total, BLOCK):
        for high in range(low, total, BLOCK):
            longest, shortest = clips.counts[min(low + BLOCK, total) - 1], clips.counts[high]
            if longest <= MOST * shortest:
                break  # so are all that are longer still
            yield from _compared(clips, at_least, (low, min(low + BLOCK, total)), (high, min(high + BLOCK, total)))


def _compared(
    clips: _Clips, at_least: float, one: tuple[int, int], other: tuple[int, int]
) -> Iterator[tuple[int, int, float, float]]:
    """The pairs of two blocks. Given up as soon as none can come to its share any more: at half of their length."""
    ours, theirs = clips.counts[slice(*one)], clips.counts[slice(*other)]
    longer = np.maximum(ours[:, None], theirs[None, :])
    matching, common, cosines = (
        np.zeros(longer.shape, np.int32),
        np.zeros(longer.shape, np.int32),
        np.zeros(longer.shape),
    )
    left, other_left = ours.copy(), theirs.copy()
    open_pairs = np.triu(np.ones(longer.shape, bool), 1) if one == other else np.ones(longer.shape, bool)
    times = len(clips.starts) - 1
    for time in range(times):
        (a, x), (b, y) = clips.block(time, *one), clips.block(time, *other)
        left[a] -= 1
        other_left[b] -= 1
        if len(a) and len(b):
            cosine, where = x @ y.T, _where(a, b)
            matching[where] += cosine >= at_least - ROUNDING
            common[where] += 1
            cosines[where] += cosine
        if time % 8 == 7 or time == times - 1:
            open_pairs &= matching + np.minimum(left[:, None], other_left[None, :]) > MOST * longer
            if not open_pairs.any():
                return
    for i, j in np.argwhere(open_pairs).tolist():
        share, mean = matching[i, j] / longer[i, j], cosines[i, j] / common[i, j]
        yield int(clips.video[one[0] + i]), int(clips.video[other[0] + j]), float(share), float(min(mean, 1.0))


def _where(a: Ints, b: Ints) -> Any:
    """The index of rows a and columns b; of neighbours as slices, which is ten times as fast."""
    if a[-1] - a[0] + 1 == len(a) and b[-1] - b[0] + 1 == len(b):
        return slice(a[0], a[-1] + 1), slice(b[0], b[-1] + 1)
    return np.ix_(a, b)


def _shown(videos: pa.Table, pairs: list[tuple[int, int, float, float]]) -> pa.Table:
    ordered = sorted((-share, -mean, min(a, b), max(a, b)) for a, b, share, mean in pairs)
    one, other = (pa.array([pair[side] for pair in ordered], pa.int64()) for side in (2, 3))
    uris, members = videos["uri"], videos["member"]
    columns = [uris.take(one), members.take(one), uris.take(other), members.take(other)]
    figures = [pa.array([-pair[side] for pair in ordered], pa.float64()) for side in (0, 1)]
    return pa.table([*columns, *figures], schema=PAIRS)
