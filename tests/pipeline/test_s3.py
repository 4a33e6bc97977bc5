"""An archive on a real S3 server, as files and as tar shards, its tables there too; read by range, and only once."""

import io
import os
import shutil
import socket
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import s3fs
from labelling import ALL, Row, by_name, check, command, event, read, run

from vidproc.pipeline import label
from vidproc.pipeline.options import LabelConfig
from vidproc.train.archive import make_archive

pytestmark = pytest.mark.s3
MIB = 1 << 20


class Meter:
    """A connection in front of a server that counts what comes back."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.received = 0
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._port))
            threading.Thread(target=self._pass_on, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._pass_on, args=(server, client, True), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        try:
            while data := source.recv(1 << 16):
                if counted:
                    with self._lock:
                        self.received += len(data)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        finally:
            if counted:
                source.close()
                target.close()


@contextmanager
def metered() -> Iterator[Meter]:
    """The S3 server's address in the environment is that of a meter, for processes that are started meanwhile."""
    name = next(name for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") if name in os.environ)
    meter = Meter(int(os.environ[name].rstrip("/").rpartition(":")[2]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name, meter.url)
        try:
            yield meter
        finally:
            meter.close()


def upload(folder: Path, url: str) -> None:
    s3fs.S3FileSystem().put(f"{folder}/", f"{url}/", recursive=True)


def label_twice(archive: str, tables: str, *, annotators: tuple[str, ...]) -> tuple[Row, Row, Any]:
    """What the first and the second run of the same command told at their end, and the tables between them."""
    line = command(archive, tables, annotators=annotators)
    first = run(line, timeout_s=1200)
    assert first.returncode == 0, first.stderr[-3000:]
    between = read(tables)
    second = run(line)
    assert second.returncode == 0, second.stderr[-3000:]
    after = read(tables)
    assert {name: rows for name, rows in after.items() if name != "runs"} == {
        name: rows for name, rows in between.items() if name != "runs"
    }
    return event(first.stderr, "finished"), event(second.stderr, "finished"), between


@pytest.mark.usefixtures("ray_cluster")  # of the run on this disk: Ray of the other one knows where S3 is
def test_files_and_shards_on_s3_come_out_as_on_this_disk(s3: str, tmp_path: Path) -> None:
    make_archive(tmp_path / "archive", plain=4, sharded=3, seconds=2)
    upload(tmp_path / "archive", f"{s3}/small/archive")
    ended = run(command(f"{s3}/small/archive", f"{s3}/small/tables"))
    assert ended.returncode == 0, ended.stderr[-3000:]
    told, tables = event(ended.stderr, "finished"), read(f"{s3}/small/tables")
    check(tables)
    assert (told["planned"], told["labelled"], told["partial"], told["quarantined"]) == (14, 9, 1, 4)
    assert {row["uri"].partition("://")[0] for row in tables["videos"]} == {"s3"}
    assert dict(by_name(tables)["0002.mp4"]["metadata"])["title"] == "scene 2"
    archive, url = (str(tmp_path / name) for name in ("archive", "tables"))
    assert label.run(LabelConfig(archive=(archive,), tables=url, annotators=("quality",), failure_budget=1.0)) == 0
    here = by_name(read(str(tmp_path / "tables")))
    for name, row in by_name(tables).items():
        same = ("status", "reason", "width", "height", "duration_us", "coverage", "n_segments")
        assert [row[key] for key in same] == [here[name][key] for key in same], name
    assert not s3fs.S3FileSystem().find(f"{s3}/small/tables/_scratch")


@pytest.mark.slow
def test_one_member_of_a_large_shard_is_read_by_range(s3: str, tmp_path: Path) -> None:
    make_archive(tmp_path / "archive", plain=1, sharded=0, seconds=2)
    video = (tmp_path / "archive" / "camera-1" / "clip-000.mp4").read_bytes()
    shard = io.BytesIO()
    with tarfile.open(fileobj=shard, mode="w") as tar:
        for name, data in (("a.bin", os.urandom(24 * MIB)), ("b.mp4", video), ("c.bin", os.urandom(24 * MIB))):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    s3fs.S3FileSystem().pipe_file(f"{s3}/large/archive/shard-0001.tar", shard.getvalue())
    with metered() as meter:
        ended = run(command(f"{s3}/large/archive", tmp_path / "tables"))
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert event(ended.stderr, "finished")["labelled"] == 1
    assert len(video) < meter.received < 6 * MIB, (
        f"{meter.received / MIB:.1f} of {shard.tell() / MIB:.0f} MiB were read"
    )


@pytest.mark.slow
def test_two_hundred_videos_on_s3(s3: str, tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    make_archive(folder / "files", plain=100, sharded=0, seconds=2, seed=1)
    shutil.rmtree(folder / "files" / "broken")
    (folder / "files" / "shard-0001.tar").unlink()
    for number in range(4):
        (folder / f"shard-{number}").mkdir()
        make_archive(folder / f"shard-{number}", plain=0, sharded=25, seconds=2, seed=2 + number)
        shutil.rmtree(folder / f"shard-{number}" / "broken")
    upload(folder, f"{s3}/many/archive")
    first, second, tables = label_twice(f"{s3}/many/archive", f"{s3}/many/tables", annotators=ALL)
    check(tables)
    assert first["planned"] == first["labelled"] == 200, first
    assert second["planned"] == 0
    assert {row["status"] for row in tables["videos"]} == {"labelled"}
    local = run(command(folder, tmp_path / "tables", annotators=ALL), timeout_s=1200)
    assert local.returncode == 0, local.stderr[-3000:]
    here = read(str(tmp_path / "tables"))
    for name in ("labels", "quality"):
        assert len(tables[name]) == len(here[name]), name
