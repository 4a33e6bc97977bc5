"""What one decoding child may take, whatever its input claims. Also the list of formats that may be opened at all."""

from dataclasses import dataclass

GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Hard limits of one segment's decoding. Beyond them the segment is quarantined, nothing else is touched."""

    seconds: float = 120.0
    memory_bytes: int = 2 * GIB
    pixels: int = 8192 * 4608
    streams: int = 64
    frames: int = 30_000
    output_bytes: int = GIB

    def __post_init__(self) -> None:
        if min(self.seconds, self.memory_bytes, self.pixels, self.streams, self.frames, self.output_bytes) <= 0:
            raise ValueError(f"limits must be positive: {self}")


DEMUXERS = [
    "mov",
    "mp4",
    "matroska",
    "webm",
    "avi",
    "mpegts",
    "mpeg",
    "mpegvideo",
    "m4v",
    "flv",
    "live_flv",
    "ogg",
    "asf",
    "asf_o",
    "mxf",
    "gxf",
    "gif",
    "apng",
    "h264",
    "hevc",
    "vvc",
    "ivf",
    "obu",
    "yuv4mpegpipe",
    "mjpeg",
    "mjpeg_2000",
    "dv",
    "rm",
    "nsv",
    "vc1",
    "dirac",
    "wtv",
    "nut",
    "swf",
    "roq",
    "bink",
    "smk",
    "mp3",
    "wav",
    "w64",
    "flac",
    "aac",
    "ac3",
    "eac3",
    "truehd",
    "dts",
    "aiff",
    "au",
    "caf",
    "amr",
    "amrnb",
    "amrwb",
    "tta",
    "wv",
    "ape",
    "jpeg_pipe",
    "png_pipe",
    "webp_pipe",
    "bmp_pipe",
    "tiff_pipe",
]
"""FFmpeg demuxers that may read an input: containers only. Playlists, SDP, concat, image sequences and devices are not
among them, so that no input can name another file or an address."""

OPEN_OPTIONS = {
    "format_whitelist": ",".join(DEMUXERS),
    "protocol_whitelist": "none",
    "enable_drefs": "0",
    "use_absolute_path": "0",
}
