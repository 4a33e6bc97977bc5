"""Interlaced video: no combs, the first field's moment, the times as they were, and nothing else changes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import brute_force
import numpy as np
import pytest
from media.decoding import Decoded, decode_all, probe

from vidproc.media.fields import FirstField
from vidproc.media.guard import Guard
from vidproc.views import Clips, Frames, Picture

SHARED = Path(__file__).parents[3] / "shared" / "data" / "videos" / "interlaced"
WIDTH, HEIGHT, COUNT = 192, 144, 40
WHOLE = Frames(fps=25, picture=Picture(resize=(HEIGHT, WIDTH), colour="gray"))
CODECS = {
    "libx264": {"flags": "+ilme+ildct", "crf": "10"},
    "mpeg2video": {"flags": "+ilme+ildct", "b": "8000000"},
}


@pytest.fixture(scope="module")
def guard() -> Iterator[Guard]:
    with Guard() as made:
        yield made


def moments() -> list[np.ndarray]:
    """A smooth ground that moves four pixels from one field to the next: uint8 [height, width]."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    waves = [np.sin((x - 4 * i) / 9.0) * 70 + np.sin(y / 17.0) * 40 + 128 for i in range(2 * COUNT)]
    return [wave.astype(np.uint8) for wave in waves]


def woven(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Two moments in one frame. These encoders write that the lower line comes first."""
    frame = second.copy()
    frame[1::2] = first[1::2]
    return frame


def encode(path: Path, frames: list[np.ndarray], codec: str, options: dict[str, str]) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.thread_count = 1
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="gray").reformat(format="yuv420p")))
        container.mux(stream.encode(None))
    return path


def combs(pixels: np.ndarray) -> float:
    """How much each line differs from both its neighbours: mean of |2 l - above - below|."""
    lines = pixels[..., 0].astype(int)
    return float(np.abs(2 * lines[:, 1:-1] - lines[:, :-2] - lines[:, 2:]).mean())


def decoded(guard: Guard, path: Path, *views: Any) -> Decoded:
    return decode_all(guard, path, views, probe(guard, path))


@pytest.mark.parametrize("codec", CODECS)
def test_combs_are_gone_and_times_stay(guard: Guard, tmp_path: Path, codec: str) -> None:
    shown = moments()
    frames = [woven(*shown[i : i + 2]) for i in range(0, 2 * COUNT, 2)]
    flags = CODECS[codec]
    quality = {name: value for name, value in flags.items() if name != "flags"}
    interlaced = decoded(guard, encode(tmp_path / "i.mkv", frames, codec, flags), WHOLE)
    unsaid = decoded(guard, encode(tmp_path / "p.mkv", frames, codec, quality), WHOLE)  # combed, and says nothing
    truth = np.stack(shown[::2])[..., None]
    assert combs(unsaid.joined(0)) > 20 and combs(truth) < 2
    assert combs(interlaced.joined(0)) < 3
    errors = [np.abs(one.joined(0).astype(int) - truth).mean() for one in (interlaced, unsaid)]
    assert errors[0] < 3 and errors[1] > 6
    assert interlaced.times(0) == unsaid.times(0)
    assert [answer["frames"] for answer in interlaced.answers] == [answer["frames"] for answer in unsaid.answers]
    assert interlaced.coverage == unsaid.coverage == 1.0


def test_a_frames_pixels_do_not_depend_on_what_else_is_decoded(guard: Guard, tmp_path: Path) -> None:
    """Filters that look at neighbours would give others: alone, this view lets most frames be skipped."""
    shown = moments()
    frames = [woven(*shown[i : i + 2]) for i in range(0, 2 * COUNT, 2)]
    path = encode(tmp_path / "i.mkv", frames, "libx264", {**CODECS["libx264"], "bf": "2"})
    seldom = Frames(fps=3, picture=Picture(resize=(72, 96)))
    dense = Clips(num_frames=8, fps=50, stride_s=0.1, picture=Picture(resize=(40, 40)))
    alone, beside = decoded(guard, path, seldom), decoded(guard, path, dense, seldom)
    assert alone.answers[0]["frames"] < beside.answers[0]["frames"]
    assert np.array_equal(alone.joined(0), beside.joined(1))
    assert np.array_equal(alone.joined(0), brute_force.samples(str(path), [seldom], probe(guard, path))[0][1][:, 0])


@pytest.mark.parametrize("name", ["CVFI1_SVA_C.264", "freh6_foreman.264"])
def test_real_interlaced_videos_have_fewer_combs(guard: Guard, name: str) -> None:
    path = SHARED / name
    if not path.exists():
        pytest.skip("the shared interlaced videos are not there")
    with av.open(str(path)) as container:
        frames = [frame for _, frame in zip(range(7), container.decode(video=0), strict=False)]
    assert all(frame.interlaced_frame for frame in frames)
    taken = FirstField()
    whole = np.stack([frame.reformat(format="gray8").to_ndarray()[..., None] for frame in frames])
    halves = [taken(frame).reformat(width=frame.width, height=frame.height, format="gray8") for frame in frames]
    assert combs(np.stack([half.to_ndarray()[..., None] for half in halves])) < 0.75 * combs(whole)


def test_other_frames_are_handed_on_as_they_are() -> None:
    """Progressive ones; and one graph serves a stream that changes its size between two interlaced ones."""
    frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
    assert FirstField()(frame) is frame
    taken = FirstField()
    for height in (32, 64, 32):
        frame = av.VideoFrame.from_ndarray(np.full((height, 16), height, np.uint8), format="gray")
        interlaced = as_interlaced(frame)
        assert taken(interlaced).height == height // 2 and taken(interlaced) is taken(interlaced)


def as_interlaced(frame: Any) -> Any:
    from av.filter import Graph

    graph = Graph()
    form = {"width": frame.width, "height": frame.height, "format": frame.format.name}
    source = graph.add_buffer(**form, time_base="1/1000")
    graph.link_nodes(source, graph.add("setfield", "mode=tff"), graph.add("buffersink")).configure()
    graph.vpush(frame)
    found = graph.vpull()
    assert found.interlaced_frame
    return found
