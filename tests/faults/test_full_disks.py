"""Disks that are full: told in words, exit 1, and the same command goes on once there is room."""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from labelling import Tables, assert_same, check, command, environment, event, events, read, run

from vidproc.errors import StorageFull, StorageRefused
from vidproc.models.sidecar import DEMO
from vidproc.pipeline import failures
from vidproc.pipeline.cluster import check_room
from vidproc.train.archive import make_archive

FAST = ("--commit-every-s", "0", "--lease-s", "3")

IN_ITS_OWN_MOUNTS = """
set -u
mount -t tmpfs -o size="$1" tmpfs "$2"; small="$2"; result="$3"; shift 3
"$@" 2> "$result/first"; echo $? > "$result/first.code"
mount -o remount,size=2g "$small"
"$@" 2> "$result/second"; echo $? > "$result/second.code"
if [ -d "$small/tables" ]; then cp -r "$small/tables" "$result/"; fi
"""
"""The command twice, on a small file system of its own that is larger the second time."""

FILLED_MIDWAY = """
set -u
mount -t tmpfs -o size=512m tmpfs "$1"; small="$1"; log="$2"; code="$3"; shift 3
"$@" 2> "$log" & job=$!
until ls "$small"/ray/session_2*/logs/worker-*.err > /dev/null 2>&1; do sleep 0.1; done
until grep -q planned "$log"; do sleep 0.1; done
dd if=/dev/zero of="$small/filler" bs=1M status=none 2> /dev/null
wait $job; echo $? > "$code"
"""
"""The command with Ray on a small file system, which somebody fills as soon as workers are there."""


def own_mounts() -> bool:
    """Whether this user may mount: in a namespace, so that nobody else sees it."""
    line = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return shutil.which("unshare") is not None and not subprocess.run(line, capture_output=True, check=False).returncode


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("full") / "archive"
    make_archive(folder, plain=4, sharded=2, seconds=2)
    shutil.rmtree(folder / "broken")
    return folder


@pytest.fixture(scope="module")
def undisturbed(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Tables:
    tables = tmp_path_factory.mktemp("undisturbed") / "tables"
    ended = run(command(archive, tables, *FAST))
    assert ended.returncode == 0, ended.stderr[-3000:]
    return read(str(tables))


@pytest.mark.slow
@pytest.mark.parametrize("size", ["60k", "100k", "130k"])
def test_a_full_disk_of_tables(archive: Path, undisturbed: Tables, tmp_path: Path, size: str) -> None:
    """Full when the first tables are made, at a commit, or while parts are written: whatever comes first."""
    if not own_mounts():
        pytest.skip("mounting a small file system is not allowed here")
    small, result = tmp_path / "small", tmp_path / "result"
    small.mkdir()
    result.mkdir()
    line = command(archive, small / "tables", *FAST)
    script = ["unshare", "--mount", "bash", "-c", IN_ITS_OWN_MOUNTS, "-", size, str(small), str(result), *line]
    subprocess.run(script, env=environment(), check=True, timeout=900)
    told = (result / "first").read_text()
    assert (result / "first.code").read_text().strip() == "1", told[-3000:]
    failed = events(told)[-1]
    assert failed["error"] == "StorageFull" and "free space" in failed["message"], failed
    again = (result / "second").read_text()
    assert (result / "second.code").read_text().strip() == "0", again[-3000:]
    found = read(str(result / "tables"))
    check(found)
    assert_same(found, undisturbed)
    assert event(again, "finished")["status"] == "done"


def test_a_full_folder_of_rays_is_told_before_ray_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=5 << 20))
    with pytest.raises(StorageFull, match=r"/tmp has 5 MiB free.*RAY_TMPDIR.*run the same command again"):
        check_room()
    monkeypatch.undo()
    check_room()


@pytest.mark.slow
def test_a_folder_of_rays_that_fills_up(archive: Path, undisturbed: Tables, tmp_path: Path) -> None:
    """By others, once Ray is there."""
    if not own_mounts():
        pytest.skip("mounting a small file system is not allowed here")
    small = Path(tempfile.mkdtemp(prefix="ray-"))  # short: the path of a Unix socket has at most 107 bytes
    log, code = tmp_path / "log", tmp_path / "code"
    line = command(archive, tmp_path / "tables", *FAST)
    script = ["unshare", "--mount", "bash", "-c", FILLED_MIDWAY, "-", str(small), str(log), str(code), *line]
    subprocess.run(script, env=environment() | {"RAY_TMPDIR": str(small)}, check=True, timeout=300)
    told = log.read_text()
    assert code.read_text().strip() == "1", told[-3000:]
    failed = events(told)[-1]
    assert failed["error"] == "StorageFull" and str(small) in failed["message"], failed
    again = run(line)
    assert again.returncode == 0, again.stderr[-3000:]
    found = read(str(tmp_path / "tables"))
    check(found)
    assert_same(found, undisturbed)


def that_sees_much(folder: Path) -> Path:
    """Weights for which a segment of 30 s is 40 MB of pixels."""
    shutil.copyfile(DEMO / "objects.safetensors", folder / "objects.safetensors")
    sidecar = json.loads((DEMO / "objects.safetensors.json").read_text())
    sidecar["view"] |= {"fps": 12, "picture": {"resize": [192, 192]}}
    (folder / "objects.safetensors.json").write_text(json.dumps(sidecar))
    return folder / "objects.safetensors"


@pytest.mark.slow
def test_an_object_store_that_spills_into_a_full_disk(tmp_path: Path) -> None:
    """Pictures of more bytes than Ray's object store holds, and a disk for the rest that does not hold that either."""
    if not own_mounts():
        pytest.skip("mounting a small file system is not allowed here")
    make_archive(tmp_path / "archive", plain=6, sharded=0, seconds=30)
    shutil.rmtree(tmp_path / "archive" / "broken")
    small, result = tmp_path / "small", tmp_path / "result"
    small.mkdir()
    result.mkdir()
    asked = (*FAST, "--weights", f"objects={that_sees_much(tmp_path)}")
    line = command(tmp_path / "archive", tmp_path / "tables", *asked, annotators=["objects"])
    script = ["unshare", "--mount", "bash", "-c", IN_ITS_OWN_MOUNTS, "-", "8m", str(small), str(result), *line]
    store = {"RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": str(76 << 20), "RAY_object_spilling_directory": str(small)}
    subprocess.run(script, env=environment() | store, check=True, timeout=900)
    told = (result / "first").read_text()
    assert (result / "first.code").read_text().strip() == "1", told[-3000:]
    failed = events(told)[-1]
    assert failed["error"] == "StorageFull" and "Local disk is full" in failed["message"], failed
    again = (result / "second").read_text()
    assert (result / "second.code").read_text().strip() == "0", again[-3000:]
    undisturbed = run(command(tmp_path / "archive", tmp_path / "undisturbed", *asked, annotators=["objects"]))
    assert undisturbed.returncode == 0, undisturbed.stderr[-3000:]
    found = read(str(tmp_path / "tables"))
    check(found)
    assert_same(found, read(str(tmp_path / "undisturbed")))


class _WornByRay(Exception):
    """As Ray raises what a worker raised: the error in `cause`, a traceback for a message."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(f"ray::MapBatches()\n  File …\n{cause!r}")
        self.cause = cause


class OutOfDiskError(Exception):
    """Named as Ray's."""


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (_WornByRay(StorageFull("free space")), StorageFull),
        (_WornByRay(StorageRefused("renew")), StorageRefused),
        (_WornByRay(OSError(28, os.strerror(28))), StorageFull),
        (OutOfDiskError("The object cannot be created because the local object store is full"), StorageFull),
        (RuntimeError("IO Error: Could not write file: No space left on device"), StorageFull),
        (RuntimeError("something else"), RuntimeError),
    ],
)
def test_what_ended_a_run_is_told_in_our_words(raised: Exception, expected: type[Exception]) -> None:
    known = failures.told(raised, tables_url="out/tables")
    assert type(known) is expected
    if expected is StorageFull and not isinstance(raised, _WornByRay):
        assert "free space" in str(known)
