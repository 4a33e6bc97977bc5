"""More like this: the clips whose embeddings lie nearest to one clip's, by exact cosine over all of them."""

import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from vidproc.command import log
from vidproc.errors import UsageError
from vidproc.schema import EMBEDDINGS
from vidproc.tables import sql
from vidproc.tables.query import connect
from vidproc.tables.store import Store

_TIME = re.compile(r"(?:(?:(\d+):)?(\d{1,2}):)?(\d+(?:\.\d+)?)")
"""Seconds, MM:SS or H:MM:SS, with decimals or not."""

_NEAREST = """
    WITH best AS (
        SELECT video_id, start_us, end_us, list_cosine_similarity(vector, $vector::FLOAT[]) AS similarity
        FROM vectors SEMI JOIN latest_videos USING (video_id)
        WHERE video_id != $video AND NOT isnan(similarity)
        ORDER BY similarity DESC, video_id, start_us LIMIT $limit)
    SELECT uri, member, start_us / 1e6 AS start_s, end_us / 1e6 AS end_s, similarity
    FROM best JOIN latest_videos USING (video_id) ORDER BY similarity DESC, uri, member, start_s"""

_NAMED = """
    SELECT video_id, uri, member, video_id = $name OR uri = $name AS exact FROM videos
    WHERE starts_with(video_id, $name) OR video_id IN (
        SELECT video_id FROM latest_videos
        WHERE uri = $name OR ends_with('/' || uri, '/' || $name) OR ends_with('/' || uri || '/' || member, '/' || $name)
    ) ORDER BY exact DESC, uri, member, video_id"""

_MODELS_OF = """
    SELECT model_id FROM (SELECT DISTINCT annotator, model_id FROM embeddings WHERE video_id = $video)
    JOIN (SELECT annotator, model_id, max("at") AS "at" FROM ledger WHERE video_id = $video GROUP BY ALL)
        USING (annotator, model_id) ORDER BY "at" DESC, model_id"""


def similar(tables_url: str, moment: str, *, limit: int = 10, model: str | None = None) -> pa.Table:
    """The `limit` clips of other videos most like the one at `moment`: uri, member, start_s, end_s, similarity.

    `moment`: VIDEO@TIME. VIDEO is a video_id or the beginning of one, or a uri (of a shard's member with /MEMBER after
    it) or the end of one, from a / on. TIME is of the tables' clock: seconds, MM:SS or H:MM:SS; the nearest clip is
    meant. `similarity`: the cosine.
    `model`: of the embeddings; None takes the last one that looked at this video. Compared are the newest versions of
    all files. In memory are some thousand vectors at a time. Raises `UsageError` where nothing, or too much, fits.
    """
    name, time_us = parsed_moment(moment)
    connection = connect(tables_url)
    video, shown = _video(connection, name)
    model = chosen_model(_models_of(connection, video), model, what=shown)
    _check_inside(connection, video, time_us, shown)
    own = vectors(tables_url, ["start_us", "end_us", "vector"], model=model, video=video)
    clip = _nearest(own, time_us)
    if not any(clip["vector"]):
        raise UsageError(f"{shown} has nothing at {time_us / 1e6} s that can be compared: its vector is all zeros")
    log("similar", to=shown, start_s=clip["start_us"] / 1e6, end_s=clip["end_us"] / 1e6, model=model)
    connection.register("vectors", vectors(tables_url, ["video_id", "start_us", "end_us", "vector"], model=model))
    given = {"vector": clip["vector"], "video": video, "limit": limit}
    return connection.sql(_NEAREST, params=given).to_arrow_table()


def parsed_moment(moment: str) -> tuple[str, int]:
    """What comes before the last @, and the microseconds after it. Raises `UsageError`."""
    name, _, time = moment.rpartition("@")
    found = _TIME.fullmatch(time.strip())
    if not name or found is None:
        raise UsageError(
            f"{moment!r} is no moment: give VIDEO@TIME, such as match.mp4@75.5 or match.mp4@1:15 (H:MM:SS also works)"
        )
    hours, minutes, seconds = found.groups(default="0")
    return name, round((int(hours) * 3600 + int(minutes) * 60 + float(seconds)) * 1e6)


def chosen_model(models: Sequence[str], wanted: str | None, *, what: str) -> str:
    """The one that is wanted, else the first. Raises `UsageError`."""
    if not models:
        raise UsageError(f"{what} has no embeddings: label with --annotators embeddings first")
    if wanted is not None and wanted not in models:
        raise UsageError(f"{what} has no embeddings of model {wanted!r}: choose from {', '.join(models)}")
    return wanted or models[0]


def vectors(tables_url: str, columns: list[str], *, model: str, video: str | None = None) -> pa.RecordBatchReader:
    """Embeddings of one model (and one video) as they are read, some thousand rows at a time."""
    found = sql.rows_of(Store(tables_url), EMBEDDINGS)
    where = pc.field("model_id") == model
    if video is not None:
        where &= pc.field("video_id") == video
    dataset = found if isinstance(found, ds.Dataset) else ds.dataset(found)
    return dataset.scanner(columns=columns, filter=where, **_FRUGAL).to_reader()


_FRUGAL: dict[str, Any] = {"batch_size": 4096, "batch_readahead": 2, "fragment_readahead": 1}
"""Else pyarrow holds 16 times 131,072 rows of each of 4 files."""


def _video(connection: Any, name: str) -> tuple[str, str]:
    """The only video of that name: its id, and how it is shown."""
    rows = connection.execute(_NAMED, {"name": name}).fetchall()
    if not rows:
        raise UsageError(f"no video is called {name!r}: give its video_id, its uri, or the end of that from a / on")
    exact = [row for row in rows if row[3]]
    if len(exact or rows) > 1:
        some = ", ".join(f"{'/'.join(filter(None, row[1:3]))} ({row[0]})" for row in rows[:5])
        raise UsageError(f"{len(rows)} videos are called {name!r}, such as {some}: give more of it, or the video_id")
    video_id, uri, member, _ = rows[0]
    return video_id, "/".join(filter(None, (uri, member)))


def _models_of(connection: Any, video: str) -> list[str]:
    """The models that embedded this video, the last one first."""
    return [model for (model,) in connection.execute(_MODELS_OF, {"video": video}).fetchall()]


def _check_inside(connection: Any, video: str, time_us: int, shown: str) -> None:
    span = "SELECT min(start_us), max(end_us) FROM ledger WHERE video_id = $video AND end_us > start_us"
    [(start_us, end_us)] = connection.execute(span, {"video": video}).fetchall()
    if start_us is not None and not start_us <= time_us <= end_us:
        raise UsageError(f"{shown} runs from {start_us / 1e6} to {end_us / 1e6} s: {time_us / 1e6} s is outside")


def _nearest(clips: pa.RecordBatchReader, time_us: int) -> dict[str, Any]:
    """The clip nearest to the time; of those that hold it the last to start. There is at least one."""

    def distance(row: dict[str, Any]) -> tuple[int, int]:
        return max(row["start_us"] - time_us, time_us - row["end_us"] + 1, 0), -row["start_us"]

    return min((row for batch in clips for row in batch.to_pylist()), key=distance)
