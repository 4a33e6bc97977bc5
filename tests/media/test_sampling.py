"""Segments cut a video without gap or overlap, and every sample belongs to exactly one of them."""

from itertools import pairwise

import numpy as np
from brute_force import targets
from hypothesis import given
from hypothesis import strategies as st

from vidproc.media.sampling import SEGMENT_US, Span, audio_length, data_shape, owned_starts, segments, target_times
from vidproc.views import MICROSECONDS, Audio, Clips, Frames, Picture

PICTURE = Picture(resize=(2, 2))
spans = st.builds(
    lambda start, length: Span(start, start + length),
    st.integers(-100 * MICROSECONDS, 10**10),
    st.integers(0, 200 * MICROSECONDS),
)
views = st.one_of(
    st.builds(Frames, fps=st.floats(0.01, 10), picture=st.just(PICTURE)),
    st.builds(
        Clips,
        num_frames=st.integers(1, 64),
        fps=st.floats(0.5, 60),
        stride_s=st.floats(0.2, 100),
        picture=st.just(PICTURE),
    ),
)


@given(spans)
def test_segments_cover_a_video_without_gap_or_overlap(video: Span) -> None:
    cut = list(segments(video))
    assert cut[0].start_us == video.start_us
    assert cut[-1].end_us == video.end_us
    assert all(before.end_us == after.start_us for before, after in pairwise(cut))
    assert all(0 < segment.duration_us <= SEGMENT_US for segment in cut) or video.duration_us == 0


@given(spans.filter(lambda video: video.duration_us > 0), views, st.booleans())
def test_every_sample_belongs_to_exactly_one_segment(video: Span, view: Frames | Clips, still: bool) -> None:
    owned = [owned_starts(view, video=video, segment=segment, still=still) for segment in segments(video)]
    expected = targets(view, start_us=video.start_us, end_us=video.end_us, still=still)
    found = target_times(view, np.concatenate(owned))
    assert found.tolist() == expected
    for segment, starts in zip(segments(video), owned, strict=True):
        assert all(segment.start_us <= start < segment.end_us for start in starts)
        assert data_shape(view, video=video, segment=segment, still=still)[0] == len(starts)


@given(spans, st.integers(1, 192_000), st.integers(1, 2))
def test_sound_has_room_for_all_of_a_segment(video: Span, rate: int, channels: int) -> None:
    for segment in segments(video):
        length = audio_length(Audio(rate=rate, channels=channels), segment)
        assert 0 <= length * MICROSECONDS - segment.duration_us * rate < MICROSECONDS
