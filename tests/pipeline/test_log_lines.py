"""What a run writes to its log: whole JSON lines that say which run, video and segment, and hold no secret."""

import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from labelling import read
from scraping import scrape

from vidproc import command
from vidproc.command import log, redacted
from vidproc.pipeline import label
from vidproc.pipeline.options import LabelConfig
from vidproc.pipeline.progress import Progress
from vidproc.train.archive import make_archive

SECRET, PASSWORD = "5ec4e7s1gnature", "pa55w0rd"

Lines = list[dict[str, Any]]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("https://u:p@host/a.mp4?X-Amz-Signature=5ec&b=c", "https://host/a.mp4"),
        ("gone: 's3://u:p%40@b/k e y.mp4' (403)", "gone: 's3://b/k e y.mp4' (403)"),
        ('{"url": "https://host:8080/x?sig=1"}', '{"url": "https://host:8080/x"}'),
        ("two: http://a@b/c?d, http://e/f?g", "two: http://b/c http://e/f"),
        ("https://user:p@ss@host/a?t", "https://host/a"),
        ("https://host?token=1", "https://host"),
        ("s3://bucket/who@home.mp4", "s3://bucket/who@home.mp4"),
        ("/local/what?.mp4 and C://x", "/local/what?.mp4 and C://x"),
        ("simplecache::s3://u:p@b/k?v=1", "simplecache::s3://b/k"),
    ],
)
def test_urls_are_redacted_wherever_they_stand(text: str, left: str) -> None:
    assert redacted(text) == left


def test_every_value_of_a_line_is_redacted_and_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_always", {"run": "r1"})
    stream = io.StringIO()
    url = f"https://u:{PASSWORD}@h/v.mp4?sig={SECRET}"
    log("e", stream=stream, url=url, deep={url: [url, {"x": (Path("/p"), OSError(url))}]}, number=1.5, none=None)
    (line,) = stream.getvalue().splitlines()
    assert SECRET not in line and PASSWORD not in line
    told = json.loads(line)
    assert told["run"] == "r1" and told["number"] == 1.5 and told["none"] is None
    assert told["deep"] == {"https://h/v.mp4": ["https://h/v.mp4", {"x": ["/p", "https://h/v.mp4"]}]}


@pytest.mark.parametrize(
    ("code", "event"),
    [
        ("raise RuntimeError(URL)", "crashed"),
        ("raise UsageError(URL)", "failed"),
        ("import logging; logging.getLogger('anybody').warning('at %s', URL); return 0", "warning"),
        ("import logging; logging.getLogger('vidproc.tables.lease').info('at %s', URL); return 0", "info"),
    ],
)
def test_crashes_and_what_libraries_log_are_json_lines_too(code: str, event: str) -> None:
    program = f"""
from vidproc.command import end_with, log_always
from vidproc.errors import UsageError
URL = "https://u:{PASSWORD}@h/v.mp4?sig={SECRET}"
def main():
    log_always(run="r1")
    {code}
end_with(main)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    (line,) = done.stderr.splitlines()
    assert SECRET not in line and PASSWORD not in line
    told = json.loads(line)
    assert (told["event"], told["run"]) == (event, "r1") and "https://h/v.mp4" in told["message"]
    assert done.returncode == {"crashed": 1, "failed": 2}.get(event, 0)


def test_failures_are_told_once_for_all_annotators() -> None:
    stream = io.StringIO()
    progress = Progress(2, stream=stream)
    row = {"video_id": "v", "start_us": 0, "end_us": 0, "status": "quarantined", "reason": "damaged", "expected": 4}
    row |= {
        "uri": f"https://h/a.tar?{SECRET}",
        "member": "m.mp4",
        "detail": "broken",
        "coverage": 0.0,
        "declared_us": None,
    }
    progress.add([{**row, "segment": n, "annotator": name} for name in ("quality", "actions") for n in (0, 1)])
    told = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(one["event"], one["video"], one["segment"]) for one in told] == [("quarantined", "v", n) for n in (0, 1)]
    assert told[0]["uri"] == "https://h/a.tar" and (told[0]["member"], told[0]["detail"]) == ("m.mp4", "broken")


@pytest.fixture
def signed(tmp_path: Path) -> Iterator[str]:
    """A web server that gives three files, one of them broken, only to whoever knows a password and a signature."""
    make_archive(tmp_path / "made", plain=1, sharded=0, seconds=2)
    good = next(path for path in (tmp_path / "made").rglob("*.mp4") if "broken" not in path.parts).read_bytes()
    files = {"/good.mp4": good, "/broken.mp4": b"\0" * 5000}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            path, _, query = self.path.partition("?")
            if path not in files or SECRET not in query:
                self.send_response(404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            data, status = files[path], 200
            if ranged := self.headers.get("Range"):
                first, _, last = ranged.removeprefix("bytes=").partition("-")
                status, whole = 206, len(data)
                data = data[int(first) : int(last or whole) + 1]
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", '"1"')
            if status == 206:
                self.send_header("Content-Range", f"bytes {first}-{int(first) + len(data) - 1}/{whole}")
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://user:{PASSWORD}@127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_signed_urls_reach_neither_log_nor_labels(
    ray_cluster: None, signed: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    listed = tmp_path / "list.csv"
    names = ("good.mp4", "broken.mp4", "gone.mp4")
    listed.write_text("uri\n" + "".join(f"{signed}/{name}?sig={SECRET}\n" for name in names))
    config = LabelConfig(
        archive=(str(listed),), tables=str(tmp_path / "tables"), annotators=("quality",), failure_budget=1.0
    )
    assert label.run(config) == 0
    told = capfd.readouterr().err
    assert SECRET not in told and PASSWORD not in told
    lines: Lines = [json.loads(line) for line in told.splitlines()]
    (run,) = read(str(tmp_path / "tables"))["runs"]
    assert {line["run"] for line in lines} == {run["run_id"]}, "every line says whose it is"
    failed = {line["uri"].rpartition("/")[2]: line for line in lines if line["event"] in ("quarantined", "missing")}
    assert set(failed) == {"broken.mp4", "gone.mp4"}
    videos = {row["uri"].partition("?")[0].rpartition("/")[2]: row for row in read(str(tmp_path / "tables"))["videos"]}
    for name, line in failed.items():
        assert (line["video"], line["segment"], line["reason"]) == (videos[name]["video_id"], 0, videos[name]["reason"])
    assert videos["good.mp4"]["status"] == "labelled", "it was read through its signed URL"
    assert not [one for one in scrape() if SECRET in str(one) or PASSWORD in str(one)]
