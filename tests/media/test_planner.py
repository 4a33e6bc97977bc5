"""The plan against brute force on random groups: what it leaves out is never needed."""

from dataclasses import dataclass, field
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidproc.media import planner
from vidproc.views import MICROSECONDS

SECOND = MICROSECONDS


@dataclass
class Packet:
    """As much of a packet as the planner looks at. Time base: 1 µs."""

    pts: int | None
    is_keyframe: bool = False
    stream_index: int = 0
    is_discard: bool = False
    size: int = 100
    needs: list["Packet"] = field(default_factory=list, repr=False)


class Stream:
    index = 0
    time_base = Fraction(1, SECOND)


@st.composite
def coded_videos(draw: st.DrawFn) -> list[Packet]:
    """Packets in decode order: groups with leading pictures (open) or not, with varying steps, and sound in between.

    A leading picture refers to its own keyframe and to what the group before shows last, as encoders do: never to a
    leading picture there.
    """
    packets: list[Packet] = []
    time_us = draw(st.integers(-3 * SECOND, 3 * SECOND))
    for number in range(draw(st.integers(1, 8))):
        leading = draw(st.integers(0, 3)) if number else 0
        group_times = []
        for _ in range(leading + draw(st.integers(1, 10))):
            time_us += draw(st.integers(1, SECOND))
            group_times.append(time_us)
        key = Packet(group_times[leading], is_keyframe=True)
        earlier = sorted((p for p in packets if not p.stream_index), key=lambda p: p.pts or 0)[-1:]
        packets.append(key)
        for shown in (*group_times[:leading], *group_times[leading + 1 :]):
            trailing = [p for p in packets if p.pts > key.pts and not p.stream_index]
            needs = [key, *trailing[-1:]] if shown > key.pts else [key, *earlier]
            packets.append(Packet(shown, needs=needs))
            if draw(st.booleans()):
                packets.append(Packet(shown, stream_index=1))
        packets[-1].is_discard = packets[-1].stream_index == 0 and draw(st.integers(0, 9)) == 0
    return packets


def nearest(times: list[int], target: int) -> int:
    return min(sorted(times), key=lambda time_us: abs(time_us - target))


@given(coded_videos(), st.lists(st.integers(-5 * SECOND, 60 * SECOND), max_size=30), st.integers(5, 300))
@settings(max_examples=150, deadline=None)
def test_every_nearest_frame_is_decoded_together_with_all_that_it_needs(
    video: list[Packet], targets: list[int], most: int
) -> None:
    """`most` pictures a group: a keyframe comes together with its leading pictures, of which there are up to three."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planner, "_GROUP_PICTURES", most)
        steps = list(planner.plan(planner.groups(video, Stream()), sorted(set(targets)), 0))
    shown = [p.pts for p in video if p.stream_index == 0 and not p.is_discard]
    expected = {nearest(shown, target) for target in targets if shown}
    wanted = {t for step in steps for t in step.wanted_us}
    assert wanted >= expected
    assert wanted == expected or most < 20, "only groups cut very short see too little of their neighbours"
    available: list[Packet] = []  # what the decoder may refer to
    order = []
    for step in steps:
        if step.fresh:
            available = []
        for packet, time_us in step.packets:
            order.append(packet)
            if packet.stream_index:
                continue
            available.append(packet)
            if time_us in step.wanted_us:
                assert all(any(p is need for p in available) for need in _all_needs(packet))
    assert [p for p in order if p.stream_index == 1] == [p for p in video if p.stream_index == 1], (
        "sound is not planned"
    )
    places = [next(i for i, p in enumerate(video) if p is packet) for packet in order if not packet.stream_index]
    assert places == sorted(set(places))


def _all_needs(packet: Packet) -> list[Packet]:
    """All that a frame refers to, directly or not: back to its keyframe, and a leading picture to the one before."""
    found: list[Packet] = []
    open_ends = list(packet.needs)
    while open_ends:
        need = open_ends.pop()
        if not any(p is need for p in found):
            found.append(need)
            open_ends += need.needs
    return found


def test_a_group_without_targets_is_left_out_and_the_next_starts_anew() -> None:
    video = [Packet(i * SECOND, is_keyframe=i % 10 == 0) for i in range(40)]
    steps = list(planner.plan(planner.groups(video, Stream()), [0, 31 * SECOND], 0))
    decoded = [[packet.pts // SECOND for packet, _ in step.packets] for step in steps]
    assert decoded == [[0], [], [], [30, 31]]
    assert [step.fresh for step in steps] == [False, False, False, True]


def test_a_packet_without_a_time_allows_no_plan() -> None:
    with pytest.raises(planner.UntimedError):
        list(planner.plan(planner.groups([Packet(0, is_keyframe=True), Packet(None)], Stream()), [0], 0))
