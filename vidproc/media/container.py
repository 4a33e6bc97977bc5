"""Opens containers under the whitelists, with errors by type; times as integer microseconds. Runs in the child."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import Any, Protocol

import av
import av.container
import av.stream

from vidproc.errors import Damaged, NoStreams, NotMedia, TooLarge, Unsupported
from vidproc.media.limits import OPEN_OPTIONS
from vidproc.views import MICROSECONDS

_BUFFER_BYTES = 1 << 18

# (offset, bytes) that say "this is a container we know", to tell a broken video from something that never was one.
_SIGNATURES = (
    (4, b"ftyp"), (4, b"moov"), (4, b"mdat"), (4, b"free"), (4, b"skip"), (4, b"wide"), (4, b"pnot"), (4, b"styp"),
    (4, b"moof"), (0, b"\x1a\x45\xdf\xa3"), (0, b"RIFF"), (0, b"RF64"), (0, b"OggS"), (0, b"FLV"), (0, b"DKIF"),
    (0, b"\x30\x26\xb2\x75"), (0, b"\x06\x0e\x2b\x34"), (0, b"\x00\x00\x01"), (0, b"\x00\x00\x00\x01"),
    (0, b"\x47"), (4, b"\x47"), (0, b"YUV4MPEG"), (0, b".RMF"), (0, b"ID3"), (0, b"fLaC"), (0, b"FORM"), (0, b".snd"),
    (0, b"#!AMR"), (0, b"\x0b\x77"), (0, b"\xff\xf1"), (0, b"\xff\xfb"), (0, b"\xff\xd8\xff"), (0, b"\x89PNG"),
    (0, b"GIF8"), (0, b"BM"), (0, b"II*\x00"), (0, b"MM\x00*"),
)  # fmt: skip


class LateError(Exception):
    """A seek led to after what the segment needs: look from further ahead."""


class BinaryFile(Protocol):
    """What FFmpeg needs of an input: ranges of bytes, and no name."""

    def read(self, size: int = -1) -> bytes: ...
    def seek(self, offset: int, whence: int = 0) -> int: ...
    def tell(self) -> int: ...


@contextmanager
def opened(file: BinaryFile, *, limits: dict[str, Any]) -> Iterator[av.container.InputContainer]:
    """Open `file` as one of the whitelisted formats.

    Raises `NotMedia` if its bytes look like no container, `Damaged` if they do but do not open, `TooLarge` for too many
    streams, `NoStreams` for none of use.
    """
    file.seek(0)
    head = file.read(16)
    file.seek(0)
    options = {**OPEN_OPTIONS, "max_streams": str(limits["streams"] + 1)}
    try:
        container = av.open(file, "r", options=options, metadata_errors="ignore", buffer_size=_BUFFER_BYTES)
    except MemoryError:
        raise TooLarge(f"opening it needs too much memory, or it has more than {limits['streams']} streams") from None
    except (av.FFmpegError, ValueError, OverflowError) as error:
        if not head:
            raise Damaged("the file is empty") from None
        if any(head[at : at + len(magic)] == magic for at, magic in _SIGNATURES):
            said = getattr(error, "strerror", None) or error  # FFmpeg's number would tell nobody anything
            raise Damaged(f"looks like a container, but does not open: {said}") from None
        raise NotMedia(f"no known video, audio or picture format (first bytes {head[:8].hex()})") from None
    with container:
        if len(container.streams) > limits["streams"]:
            raise TooLarge(f"{len(container.streams)} streams; the limit is {limits['streams']}")
        yield container


def picture_stream(container: av.container.InputContainer) -> Any | None:
    """The best picture stream that is not cover art, or None. Raises `Unsupported` if no decoder exists for it."""
    stream = container.streams.best("video")
    if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
        moving = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        stream = moving[0] if moving else None
    if stream is not None and stream.codec_context is None:
        raise Unsupported("its picture codec is unknown to FFmpeg")
    return stream


def sound_stream(container: av.container.InputContainer) -> Any | None:
    """The best sound stream that has a decoder, or None."""
    stream = container.streams.best("audio")
    return stream if stream is not None and stream.codec_context is not None else None


def select(container: av.container.InputContainer, *, texts: Sequence[Any] = ()) -> tuple[Any | None, Any | None]:
    """(picture stream, sound stream), every other stream but `texts` discarded. Raises `NoStreams` if there is none."""
    picture, sound = picture_stream(container), sound_stream(container)
    if picture is None and sound is None and not texts:
        raise NoStreams(f"its {len(container.streams)} streams hold neither picture nor sound nor text")
    wanted = {stream.index for stream in (picture, sound, *texts) if stream is not None}
    for stream in container.streams:
        if stream.index not in wanted:
            stream.discard = av.stream.Discard.all
    return picture, sound


def prepare(stream: Any, *, limits: dict[str, Any]) -> Any:
    """The stream's decoder, on one thread and with the pixel limit set: one process per core is what scales here."""
    context = stream.codec_context
    if not context.is_open:
        context.thread_count = 1
        context.thread_type = av.codec.context.ThreadType.NONE
        context.options = {"max_pixels": str(limits["pixels"])}
    return context


def clock(time_base: Fraction) -> Callable[[int], int]:
    """What turns time stamps into µs, rounded half up, in integers: a float loses a microsecond after some hours."""
    scale, divisor = 2 * time_base.numerator * MICROSECONDS, 2 * time_base.denominator
    half = time_base.denominator
    return lambda stamp: (stamp * scale + half) // divisor


def microseconds(stamp: int, time_base: Fraction) -> int:
    """One time stamp in µs. Where there are many, keep a `clock`: it is several times as fast."""
    return clock(time_base)(stamp)


def time_stamp(time_us: int, time_base: Fraction) -> int:
    """The time stamp at or before a time in µs."""
    return time_us * time_base.denominator // (time_base.numerator * MICROSECONDS)


def has_own_times(container: av.container.InputContainer) -> bool:
    """Whether the container stores presentation times. AVI stores none: what FFmpeg reports as PTS there is a guess."""
    return container.format.name != "avi"
