"""The text of one segment: which subtitles and captions start in it, and which chapters. Runs in the child."""

from collections.abc import Iterable, Mapping
from typing import Any

import av
import av.container

from vidproc.media.captions import Captions
from vidproc.media.container import clock, microseconds
from vidproc.media.markup import MOST_CHARACTERS, sanitised, shown
from vidproc.media.samples import CAPTIONS, CHAPTER, MOST_LANGUAGE, MOST_SEGMENT_CHARACTERS, MOST_SPANS, TextSpan
from vidproc.media.sampling import Span
from vidproc.views import MICROSECONDS

CODECS = frozenset({"srt", "subrip", "text", "webvtt", "ass", "ssa", "mov_text"})
"""FFmpeg's names of the decoders whose packets hold text. Those of DVD, Blu-ray and DVB hold pictures of it."""


_LAG_US, _SHORT_LAG_US = 5 * MICROSECONDS, MICROSECONDS
"""How far behind its time the packet of a subtitle may lie, counted in the time of the streams around it; and a picture
that has a caption."""


def text_streams(container: av.container.InputContainer) -> list[Any]:
    """The subtitle streams that hold text, in the container's order."""
    return [s for s in container.streams.subtitles if s.codec_context is not None and s.codec_context.name in CODECS]


def has_text(container: av.container.InputContainer) -> bool:
    """Whether there may be anything for a `Text` view."""
    return bool(text_streams(container)) or any(_title(chapter) for chapter in container.chapters())


class SegmentText:
    """Collects the spans that start in a segment. The first segment also has those that were on before the video began.

    A span that no longer shows when the video begins, or that starts when it is over, belongs to no segment.
    """

    def __init__(self, video: Span, segment: Span) -> None:
        self._video, self._segment = video, segment
        self._first = segment.start_us <= video.start_us
        self._clocks: dict[int, Any] = {}
        self._languages: dict[int, str] = {}
        self._spans: list[tuple[int, int, int | None, str]] = []  # stream, start, end, text
        self._next_us: dict[int, int] = {}  # of each stream, the earliest start seen after the segment
        self._characters = 0
        self._captions: Captions | None = None
        self.whole = True
        self.read_us = segment.start_us  # how far the packets have been read
        self.torn = False

    def add_chapters(self, chapters: Iterable[Mapping[str, Any]]) -> None:
        """Take in the container's chapters; what has no title shows nothing."""
        for chapter in chapters:
            start, end = (microseconds(int(chapter[name]), chapter["time_base"]) for name in ("start", "end"))
            self._add(CHAPTER, start, end, sanitised(_title(chapter), most=MOST_CHARACTERS))

    def follow(self, streams: Iterable[Any]) -> None:
        """These are the streams whose packets will come."""
        for stream in streams:
            self._clocks[stream.index] = clock(stream.time_base)
            self._languages[stream.index] = (stream.language or "")[:MOST_LANGUAGE]

    def watch(self, captions: Captions) -> None:
        """Captions will come, too."""
        self._captions = captions

    @property
    def reads(self) -> bool:
        """Whether there is anything to be found in packets."""
        return bool(self._clocks) or self._captions is not None

    @property
    def is_over(self) -> bool:
        """Whether so much has been read that nothing of the segment can come any more."""
        if self._captions is not None and self._captions.is_on(self.read_us):
            return False
        return self.read_us > self._segment.end_us + (_LAG_US if self._clocks else _SHORT_LAG_US)

    def add(self, packet: Any) -> None:
        """Take in a packet, if there can be text in it. One that shows nothing may say when the one before ends.

        Raises `LateError` if captions must be read from further ahead.
        """
        if packet.stream_index not in self._clocks:
            if self._captions is not None:
                self._captions.add(packet)
        elif packet.pts is not None:
            self._take(packet)

    def finish(self) -> None:
        """Nothing more will come. Raises `LateError`, too."""
        streams = {channel: stream for stream, channel in CAPTIONS.items()}
        for channel, start_us, end_us, text in self._captions.finish() if self._captions is not None else ():
            self._add(streams[channel], start_us, end_us, sanitised(text, most=MOST_CHARACTERS))

    def _take(self, packet: Any) -> None:
        index, to_us = packet.stream_index, self._clocks[packet.stream_index]
        start_us, length_us = to_us(packet.pts), to_us(packet.duration or 0)
        if start_us >= self._segment.end_us:
            self._next_us[index] = min(start_us, self._next_us.get(index, start_us))
        end_us = start_us + length_us if length_us > 0 else None
        self._add(index, start_us, end_us, shown(bytes(packet), packet.stream.codec_context.name))

    def told(self) -> dict[str, Any]:
        """What the answer says of the segment's text: see `answers.checked_text`."""
        return {"spans": [[*vars(span).values()] for span in self.spans()], "whole": self.whole}

    def spans(self) -> list[TextSpan]:
        """By stream, then by start, then as they came; inside the video. One without an end lasts until the next."""
        ordered = sorted(self._spans, key=lambda span: span[:2])
        following = dict(self._next_us)
        found = []
        for stream, start_us, told_end_us, text in reversed(ordered):
            next_us = following.get(stream, start_us)
            end_us = told_end_us or (next_us if next_us > start_us else self._segment.end_us)
            following[stream] = start_us
            inside = Span(max(start_us, self._video.start_us), min(end_us, self._video.end_us))
            if text and inside.duration_us > 0:
                language = self._languages.get(stream, "")
                found.append(TextSpan(stream, inside.start_us, inside.end_us, language, text))
        return found[::-1]

    @property
    def coverage(self) -> float:
        """Share of the segment whose packets could be read."""
        if not self.torn:
            return 1.0
        read_us = min(self.read_us, self._segment.end_us) - self._segment.start_us
        return max(read_us, 0) / max(self._segment.duration_us, 1)

    def _add(self, stream: int, start_us: int, end_us: int | None, text: str) -> None:
        early = self._first and start_us < self._segment.start_us
        if not early and not self._segment.start_us <= start_us < self._segment.end_us:
            return
        if len(self._spans) >= MOST_SPANS or self._characters + len(text) > MOST_SEGMENT_CHARACTERS:
            self.whole = False
            return
        self._characters += len(text)
        self._spans.append((stream, start_us, end_us, text))


def _title(chapter: Mapping[str, Any]) -> str:
    return str(chapter["metadata"].get("title", ""))
