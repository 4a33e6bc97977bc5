"""What is written: subtitles, captions and chapter titles with their spans, and the container's metadata, into `text`.

Nothing is read off the picture, which `ocr` does for what is drawn into the frames: subtitles that are stored as
pictures (DVD, Blu-ray, DVB) give no rows. `videos.has_subtitles` counts them all the same.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vidproc.annotators.base import Annotation, Network, WithoutWeights
from vidproc.annotators.rows import no_rows, rows_of
from vidproc.errors import TooLarge
from vidproc.media.markup import MOST_CHARACTERS, sanitised
from vidproc.media.samples import CAPTIONS, CHAPTER, Samples
from vidproc.schema import TEXT
from vidproc.views import Text, View

METADATA = -1
"""The `stream` of metadata, as of chapters: they are the container's own."""

_MOST_METADATA = 256
_NO_LANGUAGE = {"und", "mis", "mul", "zxx"}
"""ISO 639-2's words for "not said", "no code for it", "several" and "none at all"."""
_PROGRAMS = {
    "major_brand", "minor_version", "compatible_brands", "encoder", "creation_time", "duration", "timecode",
    "handler_name", "vendor_id", "itunsmpb", "gapless_playback",
}  # fmt: skip
"""Tags that programs write for programs; `videos.metadata` has these, too."""


@dataclass(frozen=True)
class WrittenText(WithoutWeights):
    """Reads what is written: no weights, no labels."""

    name: ClassVar[str] = "text"
    version: ClassVar[int] = 2
    architecture: ClassVar[str] = "written"
    view: ClassVar[Text] = Text()
    views: ClassVar[tuple[View, ...]] = (view,)
    tables: ClassVar[tuple[str, ...]] = (TEXT.name,)
    reads: ClassVar[tuple[str, ...]] = tables

    def over_video(self, rows: Mapping[str, pa.Table], facts: Mapping[str, Any]) -> Mapping[str, pa.Table]:  # noqa: ARG002
        """The metadata of the container and of the archive (a shard's `.json` member): rows that span the video."""
        if facts.get("end_us") is None:  # it never opened
            return {}
        tags = sorted((facts.get("metadata") or {}).items())[:_MOST_METADATA]
        found = [
            {"name": key, "text": text}
            for key, value in tags
            if key.lower() not in _PROGRAMS and (text := _as_text(value))
        ]
        same = {"start_us": facts["start_us"], "end_us": facts["end_us"], "source": "metadata", "stream": METADATA}
        numbered = [{**same, **row, "number": number, "language": None} for number, row in enumerate(found)]
        return {TEXT.name: pa.Table.from_pylist(numbered, schema=TEXT.body)}

    def load(self, device: str, *, compiled: bool = False) -> Network:  # noqa: ARG002  no device is needed
        return TextNetwork()


class TextNetwork:
    """No network at all: the decoder has read the text, here it becomes rows."""

    def annotate(self, segments: Sequence[Mapping[View, Samples]]) -> list[Annotation]:
        """One row per span that starts in the segment."""
        return [_annotation(segment.get(WrittenText.view)) for segment in segments]


def _annotation(samples: Samples | None) -> Annotation:
    if samples is None or not len(samples):
        return Annotation(rows={TEXT.name: no_rows(TEXT)})
    said, streams = samples.data, samples.data["stream"].tolist()
    sources = {CHAPTER: "chapter"} | dict.fromkeys(CAPTIONS, "caption")
    columns = {
        "start_us": samples.start_us,
        "end_us": samples.end_us,
        "source": pa.array([sources.get(stream, "subtitle") for stream in streams], pa.string()),
        "stream": pa.array([CAPTIONS.get(stream, stream) for stream in streams], pa.int32()),
        "number": _numbers(said["stream"], samples.start_us),
        "name": pa.nulls(len(samples), pa.string()),
        "language": pa.array([iso_639_2(language) for language in said["language"]], pa.string()),
        "text": pa.array(said["text"].tolist(), pa.string()),
    }
    reason = None if samples.whole else TooLarge.reason
    return Annotation(rows={TEXT.name: rows_of(TEXT, columns)}, samples=len(samples), reason=reason)


def _numbers(stream: npt.NDArray[np.int32], start_us: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Of spans sorted by stream and start, each one's number among those with the same stream and start, from 0."""
    fresh = np.concatenate([[True], (stream[1:] != stream[:-1]) | (start_us[1:] != start_us[:-1])])
    places = np.arange(len(stream))
    return (places - np.maximum.accumulate(np.where(fresh, places, 0))).astype(np.int32)


def iso_639_2(tag: str) -> str | None:
    """The three letters of a language tag, as the language calls itself: `deu` for `ger`, `de` and `de-AT` alike.

    None where the tag names no language. Nothing is guessed from the text.
    """
    import langcodes  # here: the driver imports annotators, and does not need it

    try:
        code = langcodes.Language.get(tag.strip()).to_alpha3()
    except (LookupError, ValueError):
        return None
    return None if code in _NO_LANGUAGE or not langcodes.tag_is_valid(code) else code


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    said = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return sanitised(said, most=MOST_CHARACTERS)
