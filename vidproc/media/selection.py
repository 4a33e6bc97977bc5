"""Which names of an archive are videos, sound or pictures; which are tar shards; and counting what is neither."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

_VIDEO = (
    ".mp4 .m4v .mov .qt .mkv .webm .avi .divx .ts .m2ts .mts .m2t .mpg .mpeg .mpe .m1v .m2v .vob .ps .ogv .ogm .ogx "
    ".flv .f4v .3gp .3gpp .3g2 .wmv .asf .mxf .gxf .gif .264 .h264 .avc .265 .h265 .hevc .266 .h266 .vvc .ivf .obu "
    ".y4m .mjpeg .mjpg .mj2 .dv .dif .rm .rmvb .nut .nsv .wtv .vc1 .apng .roq .bik .smk"
)
_AUDIO = (
    ".mp3 .mp2 .wav .w64 .rf64 .flac .ogg .oga .opus .spx .m4a .m4b .aac .ac3 .eac3 .thd .mlp .dts .wma .aif .aiff "
    ".aifc .au .snd .caf .amr .mka .tta .wv .ape"
)
_PICTURE = ".jpg .jpeg .jpe .jfif .png .webp .bmp .tif .tiff"
KNOWN_SUFFIXES = frozenset(f"{_VIDEO} {_AUDIO} {_PICTURE}".split())
"""What is listed without `--include`. No playlists (.m3u8, .ffconcat, .sdp): they name other files."""

SHARD_SUFFIX = ".tar"
_PACKED = (
    ".tar.gz .tgz .taz .tar.bz2 .tbz .tbz2 .tz2 .tar.xz .txz .tar.lzma .tlz .tar.zst .tzst .tar.lz4 .tar.lz .tar.z"
)
PACKED_SHARD_SUFFIXES = tuple(_PACKED.split())
"""Compressed tars: no range of them can be read alone."""

_MAX_KINDS = 1000


@dataclass(frozen=True)
class Selection:
    """`include` globs take the place of the known endings, `exclude` globs take names away.

    A glob is compared, case-sensitively, with the path below the archive's URL and with the last part of that path;
    `*` also crosses `/`. Members of a tar shard are compared by their name in the shard.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()

    def is_media(self, name: str) -> bool:
        if self.is_excluded(name) or _base(name).startswith("._"):  # ._clip.mp4: what macOS keeps beside clip.mp4
            return False
        return _matches(name, self.include) if self.include else suffix(name) in KNOWN_SUFFIXES

    def is_shard(self, name: str) -> bool:
        return name.lower().endswith(SHARD_SUFFIX) and not self.is_excluded(name)

    def is_packed_shard(self, name: str) -> bool:
        return name.lower().endswith(PACKED_SHARD_SUFFIXES) and not self.is_excluded(name)

    def is_excluded(self, name: str) -> bool:
        return _matches(name, self.exclude)


class Ignored:
    """How many names were not listed, by ending. Its memory is bounded, whatever the names are."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, kind: str, count: int = 1) -> None:
        known = kind in self.counts or len(self.counts) < _MAX_KINDS
        self.counts[kind if known else "(other)"] += count

    def add_name(self, name: str) -> None:
        self.add(suffix(name)[:16].encode(errors="backslashreplace").decode() or "(none)")

    @property
    def total(self) -> int:
        return self.counts.total()


def suffix(name: str) -> str:
    """The ending in lower case with its dot, "" if there is none."""
    return PurePosixPath(_base(name)).suffix.lower()


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _matches(name: str, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(name, glob) or fnmatchcase(_base(name), glob) for glob in globs)
