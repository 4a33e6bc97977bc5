"""No input makes the decoder open a connection or another file: twice over, by the whitelists and by confinement."""

import json
import socket
import struct
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import psutil
import pytest
from decoding import decode_all, probe
from made_videos import make_video

from vidproc.errors import InputError
from vidproc.media import container, decode
from vidproc.media import probe as probing
from vidproc.media.guard import Guard
from vidproc.media.limits import Limits
from vidproc.views import Audio, Frames, Picture

LIMITS = {**vars(Limits())}
VIEWS = [Frames(fps=2, picture=Picture(resize=(24, 32))), Audio()]
SECRET = b"canary-7d1e5f"


class Trap:
    """A listening socket that counts what connects to it, and a video that nobody asked for."""

    def __init__(self, folder: Path) -> None:
        self.canary = make_video(folder / "canary.mp4", "libx264", [i * 40 for i in range(50)])
        self.text = folder / "canary.txt"
        self.text.write_bytes(SECRET)
        self.connections = 0
        self._sockets = [socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)]
        self.port = self._sockets[0].getsockname()[1]
        self._sockets[1].bind(("127.0.0.1", self.port))
        for listener in self._sockets:
            threading.Thread(target=self._listen, args=(listener,), daemon=True).start()

    def _listen(self, listener: socket.socket) -> None:
        while True:
            try:
                taken = listener.accept()[0] if listener.type == socket.SOCK_STREAM else listener.recv(1)
            except OSError:
                return
            self.connections += 1
            if isinstance(taken, socket.socket):
                taken.close()

    def close(self) -> None:
        for listener in self._sockets:
            listener.shutdown(socket.SHUT_RDWR) if listener.type == socket.SOCK_STREAM else None
            listener.close()


@pytest.fixture(scope="module")
def trap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trap]:
    trap = Trap(tmp_path_factory.mktemp("trap"))
    yield trap
    trap.close()


def box(name: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I", len(body) + 8) + name + body


def with_reference(video: bytes, reference: bytes) -> bytes:
    """The video with its media data said to lie elsewhere: its `dref` entry replaced."""
    at = video.index(b"dref")
    old_size = struct.unpack(">I", video[at - 4 : at])[0]
    new = box(b"dref", bytes(4), struct.pack(">I", 1), reference)
    grown = bytearray(video[: at - 4] + new + video[at - 4 + old_size :])
    for parent in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
        place = video.rindex(parent, 0, at) - 4
        size = struct.unpack(">I", grown[place : place + 4])[0]
        grown[place : place + 4] = struct.pack(">I", size + len(new) - old_size)
    return bytes(grown)


def alias(path: Path) -> bytes:
    """A QuickTime alias record that names a file by path."""
    name = path.name.encode()[:63]
    record = bytearray(150)
    record[50 - 4] = 0
    record[42] = len(name)
    record[43 : 43 + len(name)] = name
    for kind, text in ((2, str(path).encode()), (18, str(path).encode())):
        record += struct.pack(">hH", kind, len(text)) + text + b"\0" * (len(text) % 2)
    record += struct.pack(">hH", -1, 0)
    return box(b"alis", bytes(4), bytes(record))


def hostile(trap: Trap) -> dict[str, bytes]:
    web = f"http://127.0.0.1:{trap.port}/x"
    healthy = trap.canary.read_bytes()
    return {
        "hls_web.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{web}.ts\n#EXT-X-ENDLIST\n".encode(),
        "hls_file.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://{trap.canary}\n".encode(),
        "hls_key.mp4": f'#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="{web}"\n#EXTINF:1,\n{trap.canary}\n'.encode(),
        "hls_concat.mp4": f"#EXTM3U\n#EXTINF:1,\nconcat:{trap.text}|{trap.canary}\n".encode(),
        "concat_file.mp4": f"ffconcat version 1.0\nfile '{trap.canary}'\n".encode(),
        "concat_web.mp4": f"ffconcat version 1.0\nfile '{web}.mp4'\n".encode(),
        "session.mp4": (
            f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {trap.port} RTP/AVP 96\n"
            "a=rtpmap:96 H264/90000\n"
        ).encode(),
        "dash.mp4": (
            '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
            'mediaPresentationDuration="PT9S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period>'
            '<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="9"><BaseURL>'
            f"{web}</BaseURL></Representation></AdaptationSet></Period></MPD>"
        ).encode(),
        "smooth.mp4": f'<SmoothStreamingMedia><StreamIndex Url="{web}"/></SmoothStreamingMedia>'.encode(),
        "pattern.jpg": f"{trap.canary.parent}/%03d.png".encode(),
        "redirect.mp4": f"[Reference]\nRef1={web}\n".encode(),
        "rtsp.mp4": f"rtsptextrtsp://127.0.0.1:{trap.port}/x".encode(),
        "vapoursynth.mp4": f"import os\nopen({str(trap.text)!r})\n".encode(),
        "drawing.svg": f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{web}"/></svg>'.encode(),
        "subtitles.idx": b"# VobSub index file, v7\nid: en, index: 0\n",
        "reference_file.mov": with_reference(healthy, alias(trap.canary)),
        "reference_web.mp4": with_reference(healthy, box(b"url ", bytes(4), web.encode() + b"\0")),
        "images.webm": b"\x1a\x45\xdf\xa3" + f"file:{trap.canary}".encode(),
    }


NAMES = [
    "concat_file.mp4",
    "concat_web.mp4",
    "dash.mp4",
    "drawing.svg",
    "hls_concat.mp4",
    "hls_file.mp4",
    "hls_key.mp4",
    "hls_web.mp4",
    "images.webm",
    "pattern.jpg",
    "redirect.mp4",
    "reference_file.mov",
    "reference_web.mp4",
    "rtsp.mp4",
    "session.mp4",
    "smooth.mp4",
    "subtitles.idx",
    "vapoursynth.mp4",
]


def test_every_hostile_input_is_tried(trap: Trap) -> None:
    assert sorted(hostile(trap)) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_through_the_guard_nothing_is_opened(trap: Trap, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(hostile(trap)[name])
    told = ""
    with Guard(Limits(seconds=20)) as guard:
        try:
            facts = probe(guard, path)
        except InputError as error:
            told = str(error)
        else:
            found = decode_all(guard, path, VIEWS, facts)
            told = json.dumps(facts) + str(found.errors) + str(found.data)
    assert SECRET.decode() not in told
    assert trap.connections == 0


@pytest.mark.parametrize("name", NAMES)
def test_the_whitelists_alone_refuse_it(trap: Trap, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without confinement, in a process that may open what it likes."""
    opens: list[str] = []
    path = tmp_path / name
    path.write_bytes(hostile(trap)[name])
    monkeypatch.chdir(trap.canary.parent)
    pictures = 0
    with path.open("rb") as file:
        named = _Nameless(file)
        try:
            with container.opened(named, limits=LIMITS) as opened:
                opens = [stream.type for stream in opened.streams]
                open_files = {entry.path for entry in psutil.Process().open_files()}
                assert not {str(trap.canary), str(trap.text)} & open_files
                pictures = sum(len(packet.decode()) for packet in opened.demux() if packet.size)
        except (InputError, av.FFmpegError):
            pass
    assert opens == [] or name.startswith("reference"), "only a real container may open at all"
    assert pictures == 0 or name == "reference_web.mp4", "FFmpeg reads media data by URL from the file itself"
    assert trap.connections == 0


class _Nameless:
    """As the child's file: no name that could lead FFmpeg to a neighbour."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def test_without_the_whitelists_these_inputs_do_reach_out(trap: Trap, tmp_path: Path) -> None:
    """The tests above would notice: plain PyAV follows the playlist."""
    own = Trap(tmp_path)
    path = tmp_path / "hls_web.mp4"
    path.write_bytes(hostile(own)["hls_web.mp4"])
    try:
        with path.open("rb") as file, av.open(_Nameless(file), format="hls") as opened:
            list(opened.demux())
    except av.FFmpegError:
        pass
    connected = own.connections
    own.close()
    assert connected > 0


def test_the_alias_would_lead_to_the_canary(trap: Trap, tmp_path: Path) -> None:
    path = tmp_path / "reference_file.mov"
    path.write_bytes(hostile(trap)["reference_file.mov"])
    with av.open(str(path), options={"enable_drefs": "1", "use_absolute_path": "1"}) as opened:
        assert sum(len(packet.decode()) for packet in opened.demux() if packet.size) > 0


ATTEMPTS = """
    import importlib.machinery, os, socket, sys

    def attempt():
        attempts = [
            lambda: open({text!r}).read(),
            lambda: socket.create_connection(("127.0.0.1", {port})),
            lambda: os.memfd_create("x"),
            lambda: os.pipe(),
            lambda: os.environ["AWS_SECRET_ACCESS_KEY"],
        ]
        told = []
        for do in attempts:
            try:
                told.append(repr(do()))
            except Exception as error:
                told.append(type(error).__name__)
        return told

    class Loader(importlib.machinery.SourceFileLoader):
        def exec_module(self, module):
            super().exec_module(module)
            module.run = lambda *_: dict(told=attempt())

    class Finder:
        def find_spec(name, path, target=None):
            if name == "vidproc.media.probe":
                spec = importlib.machinery.PathFinder.find_spec(name, path, target)
                spec.loader = Loader(spec.name, spec.origin)
                return spec

    sys.meta_path.insert(0, Finder)
"""


def test_a_child_can_open_neither_file_nor_socket(trap: Trap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second line: whatever code a decoder is made to run."""
    attempts = ATTEMPTS.format(text=str(trap.text), port=trap.port)
    (tmp_path / "sitecustomize.py").write_text(textwrap.dedent(attempts))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    with Guard() as guard:
        told = probe(guard, trap.canary)["told"]
    assert set(told[:4]) <= {"OSError", "PermissionError"}, "none to spare, or refused by the filter"
    assert told[4:] == ["KeyError"]
    assert trap.connections == 0


def test_the_tested_functions_are_those_that_the_sandbox_runs() -> None:
    assert decode.opened is probing.opened is container.opened
