"""Submitting keeps exit codes apart, refuses secrets before anything leaves this machine, and stops what it started."""

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray_head import ray_head

from vidproc.errors import UsageError

SUBMIT = Path(__file__).parents[2] / "jobs" / "submit.py"

JOB = """
import os, signal, sys, time
print("started with", sys.argv[1:], os.environ.get("GREETING"), flush=True)
def publish(*_):
    time.sleep(5)  # longer than the 3 s that Ray gives by default
    print("published", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, publish)
what = sys.argv[1]
if what == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
if what == "wait":
    time.sleep(300)
if what == "ray":
    import ray
    ray.init()
    print("answer", ray.get(ray.remote(lambda: 6 * 7).remote()), flush=True)
sys.exit(int(sys.argv[-1]))
"""


def load() -> Any:
    spec = importlib.util.spec_from_file_location("submit", SUBMIT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


submit = load()


@pytest.fixture(autouse=True)
def environment_kept() -> Iterator[None]:
    """`submit` turns Ray's token on for its process; the Ray that other tests start here must not hear of it."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def work() -> Iterator[Path]:
    """A working directory with one tiny job."""
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:  # short: Ray makes Unix sockets below it
        path = Path(folder, "work")
        (path / "jobs").mkdir(parents=True)
        (path / "jobs" / "tiny.py").write_text(JOB)
        yield path


@pytest.mark.parametrize(
    ("status", "code", "here", "expected"),
    [
        ("SUCCEEDED", 0, False, 0),
        ("SUCCEEDED", None, False, 0),
        ("FAILED", 1, False, 1),
        ("FAILED", 2, False, 2),
        ("FAILED", 3, True, 3),
        ("FAILED", -9, False, 137),
        ("FAILED", None, False, 1),
        ("STOPPED", None, True, 130),
        ("STOPPED", 0, False, 143),
    ],
)
def test_exit_codes(status: str, code: int | None, here: bool, expected: int) -> None:
    info = SimpleNamespace(status=status, driver_exit_code=code, message="why")
    assert submit.exit_code(info, stopped_here=here) == expected


@pytest.mark.parametrize(
    "variable",
    [
        "AWS_ACCESS_KEY_ID=x", "AWS_SESSION_TOKEN=x", "AWS_PROFILE=x", "HF_TOKEN=x", "db_password=x", "MY_SECRET=x",
        "API_KEY=x", "AWS_REGION=AKIAIOSFODNN7EXAMPLE", "PLAIN=AKIAIOSFODNN7EXAMPLE", "PLAIN=ghp_0123456789abcdef",
        "PLAIN=-----BEGIN PRIVATE KEY-----", "PLAIN=https://user:pass@host/", "PLAIN=eyJhbGciOiJIUzI1NiJ9.e30.x",
        "PLAIN=https://h/x?a=1&X-Amz-Signature=abc", "PLAIN=wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLE1",
    ],
)  # fmt: skip
def test_secrets_are_refused(variable: str) -> None:
    with pytest.raises(UsageError, match="identity of their own") as caught:
        submit.main(["--env", variable, "label"])
    value = variable.partition("=")[2]
    assert len(value) < 5 or value not in str(caught.value), "a message must not repeat the secret"


@pytest.mark.parametrize(
    "variable",
    ["GREETING=hello world", "AWS_REGION=eu-west-1", "AWS_ENDPOINT_URL=http://10.0.0.1:7480", "EMPTY=", "A=/data/x"],
)
def test_plain_variables_are_taken(variable: str) -> None:
    assert "=".join(submit._checked_variable(variable)) == variable


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env", "NOVALUE", "label"], "NAME=VALUE"),
        (["nojob"], "use one of .*label"),
        (["submit"], "no job 'submit'"),
        (["--address", "ray://h:10001", "label"], "dashboard"),
        (["--address", "auto", "label"], "dashboard"),
        (["label", "--archive", "/data", "videos"], "absolute path"),
        (["label", "--tables=out/tables"], "absolute path"),
        (["label", "--archive", "https://h/x.mp4?sig=abc"], "signed URL"),
        (["--address", "http://127.0.0.1:9", "label", "--archive", "s3://b/x"], "ray start --head"),
    ],
)
def test_usage_errors(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        submit.main(arguments)


def test_the_command_ends_with_2_for_usage_errors() -> None:
    ended = subprocess.run([sys.executable, SUBMIT, "nojob"], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("submit: there is no job 'nojob'")


class Client:
    """A cluster whose log breaks off once, in the middle of a line."""

    def __init__(self) -> None:
        self.tails = 0
        self.info = SimpleNamespace(status=SimpleNamespace(is_terminal=lambda: self.tails > 1))

    def get_job_info(self, job: str) -> Any:
        return self.info

    async def tail_job_logs(self, job: str) -> Any:
        self.tails += 1
        yield "first\nsec"
        if self.tails == 1:
            raise RuntimeError("connection closed unexpectedly")
        yield "ond\nthird\n"


def test_a_log_that_breaks_off_is_printed_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        assert submit._follow(Client(), "job") is False
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert capsys.readouterr().out == "first\nsecond\nthird\n"


@pytest.fixture(scope="module")
def cluster(work: Path) -> Iterator[tuple[str, dict[str, str]]]:
    with ray_head(work.parent, num_cpus=1) as (address, environment):
        yield address, environment


@pytest.mark.slow
def test_jobs_on_a_cluster(cluster: tuple[str, dict[str, str]], work: Path) -> None:
    address, environment = cluster
    command = [sys.executable, str(SUBMIT), "--address", address, "--working-dir", str(work)]

    def run(*arguments: str, env: dict[str, str] = environment) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *arguments], env=env, capture_output=True, text=True, timeout=120, check=False)

    for arguments, code in ((["0"], 0), (["2"], 2), (["3"], 3), (["kill"], 137), (["ray", "3"], 3)):
        ended = run("tiny", *arguments)
        assert ended.returncode == code, ended.stdout + ended.stderr
        assert f"started with {arguments}" in ended.stdout
    assert "answer 42" in ended.stdout

    ended = run("--env", "GREETING=hello you", "tiny", "--flag=a b", "it's", "0")
    assert "started with ['--flag=a b', \"it's\", '0'] hello you" in ended.stdout

    ended = run("tiny", "0", env=environment | {"RAY_AUTH_MODE": "disabled"})
    assert ended.returncode == 2 and "RAY_AUTH_TOKEN_PATH" in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("started", [True, False], ids=["running", "pending"])
def test_interrupting_stops_the_job(cluster: tuple[str, dict[str, str]], work: Path, started: bool) -> None:
    address, environment = cluster
    command = [sys.executable, str(SUBMIT), "--address", address, "--working-dir", str(work), "tiny", "wait", "0"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as running:
        assert running.stdout is not None
        for line in running.stdout:
            if line.startswith("started with" if started else "submit: job"):
                break
        running.send_signal(signal.SIGINT)
        rest = running.stdout.read()
        assert running.wait(60) == 130, rest
    assert ("published" in rest) == started
