"""Which packets need decoding: the nearest frames are found from the packets' time stamps before anything is decoded.

Packets are held back by groups of pictures, three at a time. Of a group, the frames nearest to target times are wanted.
A non-reference frame that is not wanted is skipped inside the decoder (`skip_frame`), which changes no other frame.
What comes after the last wanted frame is left out up to the next keyframe, and so is a group without any. So sampling
two frames a second of an ordinary H.264 video costs about half of decoding it, one frame a minute one group a minute.

Only for codecs whose decoders give every frame its packet's time stamp (`PLANNED`); `decode` checks that each wanted
frame came out, and otherwise decodes everything.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from vidproc.media.container import clock

PLANNED = frozenset({"h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mjpeg", "prores", "dnxhd"})
"""Decoders whose frames carry the time stamps of their packets. MPEG-4 ASP is not one: packed B-frames shift them."""

_GROUP_PICTURES = 300
_GROUP_BYTES = 32 << 20


@dataclass
class Group:
    """Packets in decode order, from one keyframe up to the next (or up to a limit of size).

    `packets`: (packet, its time in µs, or None if it is not a picture that will be shown).
    """

    opens_with_keyframe: bool
    packets: list[tuple[Any, int | None]] = field(default_factory=list)
    times_us: set[int] = field(default_factory=set)
    key_us: int | None = None
    bytes: int = 0

    def add(self, packet: Any, time_us: int | None) -> None:
        self.packets.append((packet, time_us))
        self.bytes += packet.size
        if time_us is not None:
            self.times_us.add(time_us)
            if self.key_us is None:
                self.key_us = time_us

    @property
    def full(self) -> bool:
        return len(self.times_us) >= _GROUP_PICTURES or self.bytes >= _GROUP_BYTES


@dataclass(frozen=True)
class Step:
    """What to decode of one group: `packets` as in `Group`, for the frames `wanted_us`.

    `fresh`: pictures before this group were left out, so the decoder has to start anew.
    """

    packets: Sequence[tuple[Any, int | None]]
    wanted_us: frozenset[int]
    fresh: bool


class UntimedError(Exception):
    """A packet has no time stamp: no plan can be made, everything has to be decoded."""


def groups(packets: Iterable[Any], stream: Any) -> Iterator[Group]:
    """Cut the packets of `stream` into groups. Packets of other streams pass through in groups of their neighbours."""
    index, to_us = stream.index, clock(stream.time_base)
    group = Group(opens_with_keyframe=True)
    for packet in packets:
        if packet.stream_index != index:
            group.add(packet, None)
            continue
        pts = packet.pts
        if pts is None:
            raise UntimedError
        if group.times_us and (packet.is_keyframe or group.full):
            yield group
            group = Group(opens_with_keyframe=packet.is_keyframe)
        group.add(packet, None if packet.is_discard else to_us(pts))
    yield group


def plan(arriving: Iterable[Group], targets_us: Sequence[int], picture_index: int) -> Iterator[Step]:
    """Say of each group what to decode of it. `targets_us`: sorted. Holds three groups. Raises `UntimedError`."""
    before, fresh = Group(opens_with_keyframe=True), False
    iterator = iter(arriving)
    group = next(iterator, None)
    while group is not None:
        after = next(iterator, None)
        wanted = _wanted(group, (before, after), targets_us)
        packets = group.packets
        if after is None or (after.opens_with_keyframe and not _leads(group, after, targets_us)):
            packets = _needed(group, wanted, picture_index)
        decodes = any(packet.stream_index == picture_index for packet, _ in packets)
        yield Step(packets, wanted, fresh and decodes)
        fresh = len(packets) < len(group.packets) or (fresh and not decodes)
        before, group = group, after


def _wanted(group: Group, around: tuple[Group | None, ...], targets_us: Sequence[int]) -> frozenset[int]:
    """The times in `group` that are nearest to a target among those in sight; of two equally near ones the earlier.

    A frame out of sight could only be nearer still: so none that is nearest of all is missed.
    """
    if not group.times_us:
        return frozenset()
    times = sorted(group.times_us.union(*(g.times_us for g in around if g is not None)))
    found = []
    past = 0
    for time_us, following_us in zip(times, [*times[1:], None], strict=True):
        stop = (
            len(targets_us) if following_us is None else bisect_right(targets_us, (time_us + following_us) // 2, past)
        )
        if stop > past and time_us in group.times_us:
            found.append(time_us)
        past = stop
    return frozenset(found)


def _leads(group: Group, after: Group, targets_us: Sequence[int]) -> bool:
    """Whether `after` has a wanted frame that is shown before its keyframe, and so may refer to frames of `group`."""
    key_us = after.key_us
    if key_us is None or all(time_us >= key_us for time_us in after.times_us):
        return False
    return any(time_us < key_us for time_us in _wanted(after, (group,), targets_us))


def _needed(group: Group, wanted: frozenset[int], picture_index: int) -> list[tuple[Any, int | None]]:
    """The group's packets without the pictures after its last wanted one."""
    last = max((i for i, (_, time_us) in enumerate(group.packets) if time_us in wanted), default=-1)
    return [
        (packet, time_us)
        for i, (packet, time_us) in enumerate(group.packets)
        if i <= last or packet.stream_index != picture_index
    ]
