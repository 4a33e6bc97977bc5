"""The tables, one constant each: Arrow schema and key. Data files are plain Parquet inside Delta tables.

Times are integer microseconds of the presentation clock (PTS), half-open: `start_us <= t < end_us`.
"""

from dataclasses import dataclass

import pyarrow as pa

STATUSES = ("labelled", "partial", "empty", "quarantined", "missing")
"""What can become of a video or a segment. `deferred` exists in `runs` only: planned, not reached."""

FAILED = ("quarantined", "missing")
"""Those of the states in which nothing of it could be used."""

COMMON = ("video_id", "annotator", "model_id", "run_id")
"""Columns that every annotation row carries."""

WHOLE_COVERAGE = 0.98
"""A segment or video of which less could be decoded is `partial`: containers round, and a last frame may be cut."""

WHOLE_VIDEO = -1
"""`ledger.segment` of the row that says a whole video was derived for one annotator."""


def _key(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


_ANNOTATION = (
    _key("video_id", pa.string()),
    _key("annotator", pa.string()),
    _key("model_id", pa.string()),
    _key("run_id", pa.string()),
)
_SPAN = (_key("start_us", pa.int64()), _key("end_us", pa.int64()))
_AT = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class Table:
    """A table's name, its columns, the columns that identify a row, and the column that places a row in time."""

    name: str
    schema: pa.Schema
    key: tuple[str, ...]
    time: str | None = None

    @property
    def body(self) -> pa.Schema:
        """The columns less `COMMON`: what an annotator says of one segment."""
        return pa.schema([field for field in self.schema if field.name not in COMMON])


VIDEOS = Table(
    "videos",
    pa.schema(
        [
            _key("video_id", pa.string()),
            _key("run_id", pa.string()),
            _key("uri", pa.string()),
            _key("member", pa.string()),  # "" for a plain file
            _key("etag", pa.string()),
            _key("bytes", pa.int64()),
            ("container", pa.string()),
            ("codec", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("rotation", pa.int32()),
            ("fps", pa.float64()),
            ("variable_rate", pa.bool_()),
            ("duration_us", pa.int64()),
            ("has_audio", pa.bool_()),
            ("has_subtitles", pa.bool_()),
            ("metadata", pa.map_(pa.string(), pa.string())),
            _key("status", pa.string()),
            ("reason", pa.string()),
            ("coverage", pa.float64()),
            _key("n_segments", pa.int32()),
            _key("labelled_at", _AT),
        ]
    ),
    key=("video_id",),
)
LABELS = Table(
    "labels",
    pa.schema(
        [
            *_ANNOTATION,
            *_SPAN,
            _key("scope", pa.string()),  # sample (one clip or frame), span (over consecutive ones) or video (all of it)
            _key("task", pa.string()),
            _key("label", pa.string()),
            _key("label_id", pa.int32()),
            _key("score", pa.float32()),
            _key("rank", pa.int32()),
        ]
    ),
    key=("video_id", "annotator", "model_id", "scope", "start_us", "label_id"),
    time="start_us",
)
QUALITY = Table(
    "quality",
    pa.schema(
        [
            *_ANNOTATION,
            *_SPAN,
            ("brightness", pa.float32()),
            ("contrast", pa.float32()),
            ("sharpness", pa.float32()),
            ("noise", pa.float32()),
            ("blockiness", pa.float32()),
            ("motion", pa.float32()),
            ("black", pa.bool_()),
            ("frozen", pa.bool_()),
            ("loudness_lufs", pa.float32()),
            ("silent", pa.bool_()),
        ]
    ),
    key=("video_id", "annotator", "model_id", "start_us"),
    time="start_us",
)
_BOX = tuple(_key(name, pa.float32()) for name in ("x1", "y1", "x2", "y2"))
"""Shares of the displayed picture, from its upper left corner."""

DETECTIONS = Table(
    "detections",
    pa.schema(
        [
            *_ANNOTATION,
            _key("time_us", pa.int64()),
            _key("detection_id", pa.string()),  # of the video and model: time_us and the box's number, by score
            _key("label", pa.string()),
            _key("label_id", pa.int32()),
            _key("score", pa.float32()),
            *_BOX,
        ]
    ),
    key=("video_id", "annotator", "model_id", "detection_id"),
    time="time_us",
)
TRACKS = Table(
    "tracks",
    pa.schema(
        [
            *_ANNOTATION,
            _key("track_id", pa.string()),
            *_SPAN,
            _key("label", pa.string()),  # what most of its detections say, weighted by score
            _key("label_id", pa.int32()),
            _key("n_detections", pa.int32()),
            _key("mean_score", pa.float32()),
            _key("detection_ids", pa.list_(pa.string())),  # in time order
            _key("best_time_us", pa.int64()),  # of the best detection, whose box this is
            *_BOX,
        ]
    ),
    key=("video_id", "annotator", "model_id", "track_id"),
    time="start_us",
)
FACES = Table(
    "faces",
    pa.schema(
        [
            *_ANNOTATION,
            _key("time_us", pa.int64()),
            _key("face_id", pa.string()),
            ("track_id", pa.string()),
            *_BOX,
            _key("landmarks", pa.list_(pa.float32())),  # x, y of eyes, nose and corners of the mouth
            _key("score", pa.float32()),
            _key("quality", pa.float32()),  # 0..1: size, sharpness, pose
            ("identity", pa.string()),
            ("similarity", pa.float32()),  # cosine to the best of the gallery
            ("runner_up", pa.float32()),  # to the best of another person
            _key("decision", pa.string()),  # matched, unknown, unfit (too small or blurred to say), undecided
            ("gallery_version", pa.string()),
            ("vector", pa.list_(pa.float32())),  # only where a run was asked to keep it
        ]
    ),
    key=("video_id", "annotator", "model_id", "face_id"),
    time="time_us",
)
SHOTS = Table(
    "shots",
    pa.schema(
        [
            *_ANNOTATION,
            _key("shot", pa.int32()),
            *_SPAN,
            _key("transition", pa.string()),  # how it begins: start, cut, fade
            _key("score", pa.float32()),
        ]
    ),
    key=("video_id", "annotator", "model_id", "shot", "start_us"),
    time="start_us",
)
TEXT = Table(
    "text",
    pa.schema(
        [
            *_ANNOTATION,
            *_SPAN,
            # subtitle, caption, chapter (its title), metadata (of the whole video), picture (read off it by `ocr`)
            _key("source", pa.string()),
            # of the container; of captions their channel, 1 to 4; of what was read 0; -1: the container's own
            _key("stream", pa.int32()),
            _key("number", pa.int32()),  # from 0, of those of one stream that start together
            ("name", pa.string()),  # of metadata: its key
            ("language", pa.string()),  # ISO 639-2 (terminology), as the container says
            _key("text", pa.string()),
        ]
    ),
    key=("video_id", "annotator", "model_id", "source", "stream", "start_us", "number"),
    time="start_us",
)
EMBEDDINGS = Table(
    "embeddings",
    pa.schema([*_ANNOTATION, *_SPAN, _key("vector", pa.list_(pa.float32()))]),
    key=("video_id", "annotator", "model_id", "start_us"),
    time="start_us",
)
LEDGER = Table(
    "ledger",
    pa.schema(
        [
            *_ANNOTATION,
            _key("segment", pa.int32()),
            _key("n_segments", pa.int32()),
            *_SPAN,
            _key("status", pa.string()),
            ("reason", pa.string()),
            ("detail", pa.string()),
            _key("attempts", pa.int32()),
            _key("rows", pa.int64()),
            ("coverage", pa.float64()),
            _key("decode_s", pa.float64()),
            _key("infer_s", pa.float64()),
            ("worker", pa.string()),
            _key("at", _AT),
            ("facts", pa.string()),  # what the probe found, as JSON: `derive` needs no second look at the video
            _key("samples", pa.int32()),
            ("tally", pa.list_(pa.float32())),  # scores added up over `samples`: exact ones of whole videos
            ("notes", pa.string()),  # JSON: what else of a segment is needed when its whole video is there
        ]
    ),
    key=("video_id", "annotator", "model_id", "segment"),
    time="start_us",
)
RUNS = Table(
    "runs",
    pa.schema(
        [
            _key("run_id", pa.string()),
            _key("date", pa.date32()),
            _key("started_at", _AT),
            ("ended_at", _AT),
            _key("status", pa.string()),  # done, budget_exceeded, stopped, killed, failed
            ("exit_code", pa.int32()),
            _key("config", pa.string()),
            _key("code_version", pa.string()),
            _key("listed", pa.int64()),
            _key("planned", pa.int64()),
            *(_key(status, pa.int64()) for status in STATUSES),
            _key("deferred", pa.int64()),
            _key("video_hours", pa.float64()),
        ]
    ),
    key=("run_id",),
)
EVALUATIONS = Table(
    "evaluations",
    pa.schema(
        [
            _key("model_id", pa.string()),
            _key("dataset", pa.string()),
            _key("protocol", pa.string()),  # how examples were drawn and scored
            _key("metric", pa.string()),
            _key("slice", pa.string()),  # "" for all examples, or what they have in common: label=dog
            _key("value", pa.float64()),
            _key("at", _AT),
        ]
    ),
    key=("model_id", "dataset", "protocol", "metric", "slice"),
)

FORGOTTEN = Table(
    "forgotten",
    pa.schema(
        [
            _key("run_id", pa.string()),
            _key("what", pa.string()),  # video, person, allowed (a video again), proof (that nothing is left)
            _key("place", pa.string()),  # SHA-256 of a video's place in the archive; "" for the others
            _key("rows", pa.int64()),  # removed or cleared; of a proof, where something was found: 0 is proven
            _key("files", pa.int64()),  # of a proof: read through and through
            _key("by", pa.string()),  # user@host
            ("reference", pa.string()),  # what the asker gave: a ticket, a letter's number
            _key("at", _AT),
        ]
    ),
    key=("run_id", "what", "place"),
)

ANNOTATION_TABLES: dict[str, Table] = {
    table.name: table for table in (LABELS, QUALITY, DETECTIONS, TRACKS, FACES, SHOTS, TEXT, EMBEDDINGS)
}
"""Tables that annotators fill: of segments, or of whole videos."""

TABLES: dict[str, Table] = {
    table.name: table for table in (VIDEOS, *ANNOTATION_TABLES.values(), LEDGER, RUNS, EVALUATIONS, FORGOTTEN)
}
