"""Interlaced frames: half of their lines are of a later moment, so what moves has combs. Only the first half is kept.

FFmpeg's `separatefields` takes them apart, and knows their order. The lines of one field are enough for what follows:
a network's pictures are small, and scaling makes whole ones of them. Filters that weave both fields where nothing
moves (yadif, bwdif) keep more detail, but look at the frames before and after: which of those are decoded depends on
what else is asked of a segment, and then the same frame would be other pixels beside other annotators, or in training.
"""

from fractions import Fraction
from typing import Any

import av
from av import VideoFrame
from av.filter import Graph

_LEAST_LINES = 4
"""Of less there is no half worth having."""
_ANY_TIME_BASE = Fraction(1, 1_000_000)


class FirstField:
    """Takes the first field of a stream's interlaced frames, one graph for all; other frames are what they were.

    Each frame once, however many views ask for it in turn. A frame that FFmpeg cannot take apart stays whole.
    """

    def __init__(self) -> None:
        self._graph: Graph | None = None
        self._form: tuple[Any, ...] = ()
        self._frame: VideoFrame | None = None
        self._field: VideoFrame | None = None

    def __call__(self, frame: VideoFrame) -> VideoFrame:
        """A frame of half the height, to be shown as high as before, if `frame` is interlaced; else `frame` itself."""
        if not frame.interlaced_frame or frame.height < _LEAST_LINES:
            return frame
        if frame is not self._frame or self._field is None:
            self._frame, self._field = frame, self._taken(frame)
        return self._field

    def _taken(self, frame: VideoFrame) -> VideoFrame:
        form = (frame.width, frame.height, frame.format.name)
        try:
            if self._graph is None or form != self._form:
                self._graph, self._form = _separating(frame), form
            return _last_pulled(self._graph, frame) or frame
        except av.FFmpegError as error:
            if isinstance(error, MemoryError):
                raise
            self._graph = None
            return frame


def _separating(frame: VideoFrame) -> Graph:
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=_ANY_TIME_BASE)
    graph.link_nodes(source, graph.add("separatefields"), graph.add("buffersink")).configure()
    return graph


def _last_pulled(graph: Graph, frame: VideoFrame) -> VideoFrame | None:
    """What a frame brings out last: its first field. Its second comes with the next frame, before that one's first."""
    graph.vpush(frame)
    found = None
    while True:
        try:
            found = graph.vpull()
        except av.BlockingIOError:
            return found
