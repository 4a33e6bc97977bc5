"""Samples of one video at times of one's own choosing: what training and evaluation look at.

    with Guard() as guard:
        facts = probed(guard, source)
        clips = glimpses(guard, source, facts, view, starts_us=[0, 1_500_000])

The decoder, its limits and its wall are the label job's; only the times differ.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from vidproc.errors import NoStreams
from vidproc.media.answers import checked_answer, checked_facts, checked_text
from vidproc.media.decode import layout, request_of
from vidproc.media.guard import Guard, run_verified
from vidproc.media.samples import Samples, text_bytes, text_samples
from vidproc.media.sampling import Span
from vidproc.media.sources import Source, open_source
from vidproc.media.windows import pieces
from vidproc.views import Audio, SignalView, Text


def probed(guard: Guard, source: Source) -> dict[str, Any]:
    """What a probe finds out about the video. Raises the typed input errors."""
    with open_source(source) as opened:
        answer, _ = run_verified(guard, "probe", {}, opened)
    return checked_facts(answer)


def glimpses(
    guard: Guard,
    source: Source,
    facts: Mapping[str, Any],
    view: SignalView,
    *,
    starts_us: Sequence[int],
    sound_us: int | None = None,
) -> npt.NDArray[Any]:
    """One sample for each start, in the given order: uint8 [starts, …] of the view's `sample_shape`.

    Of `Audio`: int16 [starts, time, channels], each `sound_us` long; what lies outside the sound is silence.
    Raises the typed input errors; `NoStreams` where there is nothing that the view could look at.
    """
    if not facts["has_audio" if isinstance(view, Audio) else "has_picture"]:
        raise NoStreams(f"the video has no {'sound' if isinstance(view, Audio) else 'picture'}")
    video = Span(facts["start_us"], facts["end_us"])
    order = np.argsort(np.asarray(starts_us, np.int64), kind="stable")
    starts = [int(starts_us[i]) for i in order]
    length_us = sound_us or 0 if isinstance(view, Audio) else view.span_us
    segment = Span(starts[0], max(starts[-1] + length_us, starts[0] + 1))
    picture_starts = None if isinstance(view, Audio) else starts
    places, size = layout([view], video=video, segment=segment, still=facts["still"], starts_us=picture_starts)
    request = request_of([view], facts, segment=segment, starts_us=picture_starts)
    with open_source(source) as opened:
        answer, output = run_verified(guard, "decode", request, opened, output_bytes=size)
    ((_, shape),) = places
    checked_answer(answer, [view], [shape])
    kind = np.int16 if isinstance(view, Audio) else np.uint8
    data = np.frombuffer(output if output is not None else b"", kind, int(np.prod(shape, dtype=np.int64)))
    data = data.reshape(shape)
    if isinstance(view, Audio):
        offsets_us = [start - starts[0] for start in starts]
        data = np.stack(pieces(data, view, offsets_us=offsets_us, length_us=length_us))
    return data[np.argsort(order)]


def written(guard: Guard, source: Source, facts: Mapping[str, Any], *, segment: Span) -> Samples:
    """The text of one segment of the video, as the label job reads it. Raises the typed input errors."""
    video = Span(facts["start_us"], facts["end_us"])
    request = request_of([Text()], facts, segment=segment)
    with open_source(source) as opened:
        answer, _ = run_verified(guard, "decode", request, opened)
    checked_answer(answer, [Text()], [(0,)])
    spans, whole = checked_text(answer, video=video, segment=segment)
    return replace(text_samples(text_bytes(spans, whole=whole)), subtitled=facts["has_text_stream"])
