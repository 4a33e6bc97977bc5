"""Whatever a decoder does, the guard names the reason, the next request works, and nothing survives."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from decoding import decode_all, probe, source_of
from made_videos import make_video
from planting import FOLDER, poisoned

from vidproc.errors import Changed, Damaged, InputError, KilledWorker, TimedOut, TooLarge
from vidproc.media.guard import Guard
from vidproc.media.limits import Limits
from vidproc.media.sources import open_source
from vidproc.views import Frames, Picture

VIEWS = [Frames(fps=2, picture=Picture(resize=(24, 32)))]
LIMITS = Limits(seconds=3, memory_bytes=512 << 20)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("healthy") / "healthy.mp4", "libx264", [i * 100 for i in range(20)])


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch) -> Iterator[Guard]:
    monkeypatch.syspath_prepend(str(FOLDER))
    before = _children()
    with Guard(LIMITS) as guard:
        yield guard
    assert _children() == before, "a sandbox, a child or a zombie was left"


def _children() -> set[int]:
    return {process.pid for process in psutil.Process().children(recursive=True)}


def _works(guard: Guard, video: Path) -> None:
    found = decode_all(guard, video, VIEWS, probe(guard, video))
    assert not found.errors
    assert len(found.joined(0)) == 4


@pytest.mark.parametrize(
    ("fault", "expected", "told"),
    [
        ("segfault", KilledWorker, "SIGSEGV"),
        ("sleep", TimedOut, "3 s"),
        ("busy", TimedOut, "3 s"),
        ("memory", TooLarge, "bytes of memory"),
        ("kill", KilledWorker, "SIGKILL"),
        ("exit", KilledWorker, "exit status 0"),
        ("kill_sandbox", KilledWorker, "together with its parent"),
        ("error", Damaged, "planted"),
        ("garbage", KilledWorker, "no sense"),
        ("no_answer", KilledWorker, "no sense"),
        ("brackets", KilledWorker, "no sense"),
        ("wrong_answer", KilledWorker, "no sense"),
        ("half_message", TimedOut, "3 s"),
        ("huge_message", KilledWorker, "no sense"),
        ("short_question", KilledWorker, "no sense"),
        ("vast_question", KilledWorker, "no sense"),
        ("read_forever", TimedOut, "3 s"),
    ],
)
def test_a_fault_is_named_and_the_next_request_works(
    guard: Guard, healthy: Path, tmp_path: Path, *, fault: str, expected: type[InputError], told: str
) -> None:
    video = tmp_path / "poison.mp4"
    video.write_bytes(poisoned(healthy.read_bytes(), f"decode/{fault}"))
    facts = probe(guard, video)
    started = time.monotonic()
    with pytest.raises(expected, match=told):
        raise decode_all(guard, video, VIEWS, facts).errors[0]
    assert time.monotonic() - started < 9
    _works(guard, healthy)


def test_a_fault_at_probe_is_named(guard: Guard, healthy: Path, tmp_path: Path) -> None:
    video = tmp_path / "poison.mp4"
    video.write_bytes(poisoned(healthy.read_bytes(), "segfault"))
    with pytest.raises(KilledWorker, match="SIGSEGV"):
        probe(guard, video)
    _works(guard, healthy)


def test_a_poisoned_video_is_healthy_where_no_fault_is_planted(healthy: Path, tmp_path: Path) -> None:
    video = tmp_path / "poison.mp4"
    video.write_bytes(poisoned(healthy.read_bytes(), "segfault"))
    with Guard(LIMITS) as guard:
        _works(guard, video)


def test_a_child_that_is_killed_in_the_midst_of_its_work_is_reported(
    guard: Guard, healthy: Path, tmp_path: Path
) -> None:
    video = tmp_path / "poison.mp4"
    video.write_bytes(poisoned(healthy.read_bytes(), "sleep"))
    killer = threading.Thread(target=_kill_grandchild_soon)
    killer.start()
    with pytest.raises(KilledWorker, match="SIGTERM"):
        probe(guard, video)
    killer.join()
    _works(guard, healthy)


def _kill_grandchild_soon() -> None:
    me = psutil.Process()
    for _ in range(500):
        grandchildren = [c for child in me.children() for c in child.children()]
        if grandchildren:
            time.sleep(0.2)
            grandchildren[0].terminate()
            return
        time.sleep(0.01)


def test_a_sandbox_that_is_killed_between_requests_is_replaced(guard: Guard, healthy: Path) -> None:
    _works(guard, healthy)
    for sandbox in psutil.Process().children():
        if "vidproc.media.sandbox" in sandbox.cmdline():
            sandbox.kill()
            time.sleep(0.2)
    _works(guard, healthy)


@pytest.mark.parametrize("fault", ["sleep", "busy", "read_forever"])
def test_nothing_survives_a_killed_worker(healthy: Path, tmp_path: Path, fault: str) -> None:
    video = tmp_path / "poison.mp4"
    video.write_bytes(poisoned(healthy.read_bytes(), fault))
    program = f"""
        from decoding import probe
        from vidproc.media.guard import Guard
        probe(Guard(), {str(video)!r})
    """
    path = os.pathsep.join([str(FOLDER), str(Path(__file__).parent), str(Path(__file__).parents[2])])
    worker = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], env={**os.environ, "PYTHONPATH": path})
    family: list[psutil.Process] = []
    deadline = time.monotonic() + 30
    while len(family) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
        family = psutil.Process(worker.pid).children(recursive=True)
    assert len(family) == 2, "a sandbox and its child"
    time.sleep(0.3)
    worker.kill()
    worker.wait()
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not alive


def test_a_video_that_needs_more_memory_than_allowed_is_too_large(tmp_path: Path) -> None:
    video = make_video(tmp_path / "big.mkv", "mjpeg", [0, 40], size=(4096, 2304), pixels="yuvj420p")
    with Guard(Limits(memory_bytes=80 << 20)) as guard, pytest.raises(TooLarge, match="memory"):
        probe(guard, video)


def test_a_video_with_more_pixels_than_allowed_is_too_large(tmp_path: Path) -> None:
    video = make_video(tmp_path / "big.mkv", "mjpeg", [0, 40], size=(1024, 512), pixels="yuvj420p")
    with Guard(Limits(pixels=1023 * 512)) as guard, pytest.raises(TooLarge, match="1024x512"):
        probe(guard, video)


def test_views_beyond_the_limit_are_refused_before_anything_is_allocated(healthy: Path) -> None:
    with Guard(Limits(output_bytes=1000)) as guard:
        found = decode_all(guard, healthy, VIEWS, probe(guard, healthy))
    assert isinstance(found.errors[0], TooLarge)
    assert "sample fewer or smaller frames" in str(found.errors[0])


def test_more_frames_than_allowed_are_too_large(healthy: Path) -> None:
    with Guard(Limits(frames=3)) as guard:
        found = decode_all(guard, healthy, [Frames(fps=10, picture=VIEWS[0].picture)], probe(guard, healthy))
    assert isinstance(found.errors[0], TooLarge)


def test_what_storage_says_is_what_is_raised(guard: Guard, healthy: Path) -> None:
    class Replaced:
        size = 10_000
        local = None
        bytes_read = requests = 0

        def read(self, offset: int, size: int) -> bytes:
            raise Changed("replaced")

        def verify(self) -> None:
            raise Changed("replaced")

    with pytest.raises(Changed):
        guard.run("probe", {}, Replaced())
    _works(guard, healthy)


def test_a_remote_video_is_read_through_the_guard(guard: Guard, healthy: Path) -> None:
    class Remote:
        local = None
        bytes_read = requests = 0

        def __init__(self) -> None:
            self._bytes = healthy.read_bytes()
            self.size = len(self._bytes)

        def read(self, offset: int, size: int) -> bytes:
            return self._bytes[offset : offset + size]

        def verify(self) -> None: ...

    facts, _ = guard.run("probe", {}, Remote())
    with open_source(source_of(healthy)) as local:
        assert {**guard.run("probe", {}, local)[0], "bytes_read": 0} == {**facts, "bytes_read": 0}


def test_ctrl_c_during_a_request_ends_the_child(guard: Guard, healthy: Path, tmp_path: Path) -> None:
    video = tmp_path / "poison.mp4"
    video.write_bytes(poisoned(healthy.read_bytes(), "sleep"))
    threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        probe(guard, video)
    assert not [c for child in psutil.Process().children() for c in child.children()]
    _works(guard, healthy)
