"""Which packets need decoding: the nearest frames are found from the packets' time stamps before anything is decoded.

Packets are held back by groups of pictures, three at a time. Of a group, the frames nearest to target times are wanted;
a non-reference frame that is not wanted is skipped inside the decoder (`skip_frame`), which changes no other frame; a
group without any wanted frame is not decoded at all. So sampling 2 frames a second of an ordinary H.264 video costs
about half of decoding it, and sampling 1 frame a minute costs one group of pictures a minute.

Only for codecs whose decoders give every frame its packet's time stamp (`PLANNED`); `decode` checks that each wanted
frame came out, and otherwise decodes everything.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from vidproc.media.container import microseconds

PLANNED = frozenset({"h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mjpeg", "prores", "dnxhd"})
"""Decoders whose frames carry the time stamps of their packets. MPEG-4 ASP is not one: packed B-frames shift them."""

_GROUP_PACKETS = 300
_GROUP_BYTES = 32 << 20


@dataclass
class Group:
    """Packets in decode order, from one keyframe up to the next (or up to a limit of size)."""

    packets: list[Any] = field(default_factory=list)
    times_us: list[int] = field(default_factory=list)
    opens_with_keyframe: bool = True
    bytes: int = 0

    def add(self, packet: Any, time_us: int | None) -> None:
        self.packets.append(packet)
        self.bytes += packet.size
        if time_us is not None and not packet.is_discard:
            self.times_us.append(time_us)

    @property
    def full(self) -> bool:
        return len(self.packets) >= _GROUP_PACKETS or self.bytes >= _GROUP_BYTES


@dataclass(frozen=True)
class Step:
    """What to do with one group: nothing, or decode it for these frames. `fresh`: groups before it were left out."""

    group: Group
    wanted_us: frozenset[int]
    fresh: bool


class UntimedError(Exception):
    """A packet has no time stamp: the plan cannot be made, everything has to be decoded."""


def groups(packets: Iterable[Any], stream: Any) -> Iterator[Group]:
    """Cut the packets of `stream` into groups. Packets of other streams pass through in groups of their neighbours."""
    group = Group()
    for packet in packets:
        if not packet.size:
            continue
        ours = packet.stream_index == stream.index
        if ours and packet.pts is None:
            raise UntimedError
        if ours and group.packets and (packet.is_keyframe or group.full):
            yield group
            group = Group(opens_with_keyframe=packet.is_keyframe)
        group.add(packet, microseconds(packet.pts, stream.time_base) if ours else None)
    yield group


def nearest(times_us: npt.NDArray[np.int64], targets_us: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """For each target the nearest of the sorted `times_us`; of two equally near ones the earlier. int64 [targets]."""
    after = np.searchsorted(times_us, targets_us).clip(0, len(times_us) - 1)
    before = (after - 1).clip(0)
    earlier = np.abs(targets_us - times_us[before]) <= np.abs(times_us[after] - targets_us)
    return times_us[np.where(earlier, before, after)]


def plan(arriving: Iterable[Group], targets_us: npt.NDArray[np.int64]) -> Iterator[Step]:
    """Say of each group what to decode of it. `targets_us`: sorted int64 [targets]. Holds three groups at most."""
    before, fresh = Group(), False
    iterator = iter(arriving)
    group = next(iterator, None)
    while group is not None:
        after = next(iterator, None)
        wanted = _wanted(group, (before, group, after), targets_us)
        leads = after is not None and _leading(after, _wanted(after, (group, after), targets_us))
        left_out = (
            not wanted and not leads and group.opens_with_keyframe and (after is None or after.opens_with_keyframe)
        )
        if left_out and group.times_us:
            fresh = True
            yield Step(Group([p for p in group.packets if p.stream.type != "video"]), frozenset(), False)
        else:
            yield Step(group, wanted, fresh)
            fresh = False
        before, group = group, after


def _wanted(group: Group, around: tuple[Group | None, ...], targets_us: npt.NDArray[np.int64]) -> frozenset[int]:
    times = np.unique(np.asarray([t for g in around if g is not None for t in g.times_us], np.int64))
    if not len(times) or not group.times_us:
        return frozenset()
    return frozenset(nearest(times, targets_us).tolist()) & frozenset(group.times_us)


def _leading(group: Group, wanted: frozenset[int]) -> bool:
    """Whether a wanted frame is shown before its group's keyframe, and so may refer to the group before."""
    return bool(group.times_us) and any(t < group.times_us[0] for t in wanted)
