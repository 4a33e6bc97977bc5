"""Scenes as a decoder hands them over: through H.264 and back, nearest frames, scaled by swscale."""

import io
from fractions import Fraction

import av
import numpy as np
import numpy.typing as npt

from vidproc.views import Clips, Frames


def encode(frames: npt.NDArray[np.uint8], *, fps: int, crf: int = 26) -> bytes:
    """An MP4 with the frames uint8 [frames, height, width, 3] as H.264."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": str(crf), "preset": "veryfast"})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        stream.time_base = Fraction(1, fps)
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


def first_samples(video: bytes, view: Clips | Frames, *, count: int, start_us: int = 0) -> npt.NDArray[np.uint8]:
    """The view's first `count` samples from `start_us` on: uint8 [count, …], of the frames nearest to target times."""
    height, width, _ = view.picture.shape
    times, pictures = [], []
    with av.open(io.BytesIO(video), "r") as container:
        for frame in container.decode(video=0):
            times.append(round(frame.time * 1_000_000))
            pictures.append(frame.reformat(width, height, "rgb24", interpolation="BILINEAR").to_ndarray())
    targets = start_us + np.arange(count)[:, None] * view.stride_us + np.array(view.offsets_us)
    nearest = np.abs(np.array(times)[None, None] - targets[..., None]).argmin(axis=-1)
    samples: npt.NDArray[np.uint8] = np.stack(pictures)[nearest].reshape(count, *view.sample_shape)
    return samples
