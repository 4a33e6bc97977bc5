"""The decoder's reference: decode the whole file from its start, take the frame nearest to each time. Slow, plain."""

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.filter import Graph
from av.video.reformatter import ColorRange, Interpolation

from vidproc.views import Clips, Frames


def all_frames(path: str) -> Iterator[tuple[int, Any, Any]]:
    """(time in µs, frame, stream) of every frame of the best video stream, in the order the decoder gives them.

    AVI stores no presentation times: its n-th frame is shown at the time of its n-th packet that holds a picture.
    """
    packet_dts = []
    with av.open(path, metadata_errors="ignore") as container:
        if container.format.name == "avi":
            packet_dts = [packet.dts for packet in container.demux(video=0) if packet.size > 1]
    with av.open(path, metadata_errors="ignore") as container:
        stream = container.streams.best("video")
        stream.codec_context.thread_count = 1
        count = 0
        for packet in container.demux(stream):
            for frame in packet.decode():
                stamp = packet_dts[count] if packet_dts else frame.pts if frame.pts is not None else frame.dts
                if stamp is None and stream.start_time is not None:
                    continue  # no telling when
                seconds = count / stream.average_rate if stamp is None else stamp * stream.time_base
                count += 1
                yield math.floor(seconds * 1_000_000 + Fraction(1, 2)), frame, stream


def targets(view: Frames | Clips, *, start_us: int, end_us: int, still: bool) -> list[list[int]]:
    """The target times of every sample of a video, by counting up from its start."""
    if still and isinstance(view, Clips):
        return []
    found = []
    time_us = start_us
    while time_us < end_us and (isinstance(view, Frames) or time_us + view.span_us // 2 <= end_us or not found):
        found.append([time_us + offset for offset in view.offsets_us])
        time_us += view.stride_us
    return found


def nearest(sorted_us: np.ndarray, target_us: int) -> int:
    """The frame time nearest to a target, of two equally near ones the earlier."""
    return int(sorted_us[np.abs(sorted_us - target_us).argmin()])


def samples(path: str, views: list[Frames | Clips], facts: dict[str, Any]) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each view (frame times int64 [samples, frames], pixels uint8 [samples, frames, height, width, channels])."""
    times = np.array(sorted(time_us for time_us, _, _ in all_frames(path)), np.int64)
    chosen = []
    for view in views:
        wanted = targets(view, start_us=facts["start_us"], end_us=facts["end_us"], still=facts["still"])
        chosen.append([[nearest(times, target) for target in sample] for sample in wanted])
    needed = [{time_us for sample in view for time_us in sample} for view in chosen]
    pixels: list[dict[int, np.ndarray]] = [{} for _ in views]
    for time_us, frame, stream in all_frames(path):
        for i, view in enumerate(views):
            if time_us in needed[i] and time_us not in pixels[i]:
                pixels[i][time_us] = picture(frame, view.picture, stream.sample_aspect_ratio)
    results = []
    for i, view in enumerate(views):
        data = [pixels[i][time_us] for sample in chosen[i] for time_us in sample]
        shape = (len(chosen[i]), len(view.offsets_us))
        results.append(
            (
                np.array(chosen[i], np.int64).reshape(shape),
                np.array(data, np.uint8).reshape(*shape, *view.picture.shape),
            )
        )
    return results


def first_field(frame: Any) -> Any:
    """By a graph that has seen no other frame."""
    graph = Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000))
    graph.link_nodes(source, graph.add("separatefields"), graph.add("buffersink")).configure()
    graph.vpush(frame)
    return graph.vpull()


def picture(frame: Any, wanted: Any, aspect: Fraction | None) -> np.ndarray:
    """uint8 [height, width, channels]: one field, pixel aspect, rotation, one swscale pass, centre crop."""
    turns = int(frame.rotation) // 90 % 4
    width, height = round(frame.width * (aspect or 1)), frame.height
    if turns % 2:
        width, height = height, width
    if isinstance(wanted.resize, tuple):
        height, width = wanted.resize
    elif width < height:
        width, height = wanted.resize, round(wanted.resize * height / width)
    else:
        width, height = round(wanted.resize * width / height), wanted.resize
    if frame.interlaced_frame:
        frame = first_field(frame)
    small = frame.reformat(
        width=height if turns % 2 else width,
        height=width if turns % 2 else height,
        format="rgb24" if wanted.colour == "rgb" else "gray8",
        interpolation=getattr(Interpolation, wanted.interpolation.upper())
        | Interpolation.ACCURATE_RND
        | Interpolation.FULL_CHR_H_INT,
        dst_color_range=ColorRange.JPEG,
    )
    array = small.to_ndarray().reshape(small.height, small.width, -1)
    array = np.rot90(array, turns)
    crop_height, crop_width = wanted.shape[:2]
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    return array[top : top + crop_height, left : left + crop_width]
