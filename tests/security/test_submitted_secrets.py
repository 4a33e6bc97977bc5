"""Ways around `submit`'s refusal of secrets: encoded, wrapped, in the job's flags, in URLs, in uploaded files."""

import base64
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray_head import ray_head

from vidproc.command import Options
from vidproc.errors import UsageError

JOBS = Path(__file__).parents[2] / "jobs"
SUBMIT = JOBS / "submit.py"
AWS_SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLE1"
AWS_KEY = "AKIAIOSFODNN7EXAMPLE"


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"job_{name}", JOBS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


submit = load("submit")


def in_base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "value",
    [
        AWS_SECRET,
        in_base64(AWS_SECRET),
        in_base64(AWS_KEY),
        in_base64(AWS_KEY).rstrip("="),
        base64.urlsafe_b64encode(f"?>{AWS_KEY}".encode()).decode(),
        f"key is {AWS_SECRET} indeed",
        '{"aws_secret_access_key": "x"}',
        f'{{"k":"{AWS_SECRET}"}}',
        f"Authorization: Bearer {in_base64('some-user')}",
        "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=abcd",
        "https://host/path?token=abc",
        "https://host/path?a=1&access_token=abc",
        "postgres://me:pass@host/db",
    ],
)
@pytest.mark.parametrize("way", ["env", "flag", "flag with =", "working dir", "python", "address"])
def test_a_secret_is_refused_however_it_comes(value: str, way: str) -> None:
    arguments = {
        "env": ["--env", f"PLAIN={value}", "label"],
        "flag": ["label", "--archive", value],
        "flag with =": ["label", f"--weights=objects={value}"],
        "working dir": ["--working-dir", value if "://" in value else f"s3://bucket/jobs.zip?v={value}", "label"],
        "python": ["--python", value, "label"],
        "address": ["--address", f"http://h/ {value}", "label"],
    }[way]
    with pytest.raises(UsageError, match=r"looks like a secret|holds .*a key, a password or a signed URL") as caught:
        submit.main(arguments)
    assert value not in str(caught.value), "a message must not repeat the secret"


@pytest.mark.parametrize(
    "name",
    ["DB_PASS", "db_pwd", "BASIC_AUTH", "AZURE_SAS", "SENTRY_DSN", "SESSION_COOKIE", "AZURE_STORAGE_CONNECTION_STRING"],
)
@pytest.mark.parametrize("way", ["env", "flag", "word"])
def test_names_that_promise_a_secret_are_refused(name: str, way: str) -> None:
    flag = name.lower().replace("_", "-")
    arguments = {
        "env": ["--env", f"{name}=x", "label"],
        "flag": ["label", f"--{flag}", "x"],
        "word": ["label", f"{name}=x"],
    }
    with pytest.raises(UsageError, match=r"secret|a key"):
        submit.main(arguments[way])


def test_no_flag_of_a_job_is_taken_for_a_secret() -> None:
    """Nor what people write behind them."""
    pending, names = [Options], set()
    for path in JOBS.glob("*.py"):
        load(path.stem)
    while pending:
        model = pending.pop()
        pending += model.__subclasses__()
        names |= set(model.model_fields)
    assert len(names) > 50
    words = [f"--{name.replace('_', '-')}" for name in names]
    words += [
        "objects=ResNet50_Weights.IMAGENET1K_V2",
        "actions=models/ResNet50V2/finalNetwork2026/weights.safetensors",
    ]
    words += ["s3://Bucket/2026/VideosOfTheNorthernCameras/Clip01.mp4", "/Data/VideosOfTheNorthernCameras2026/archive"]
    words += ["SELECT key, count(*) FROM videos WHERE author = 'token' GROUP BY key", "0123456789abcdef" * 4]
    for word in words:
        submit._check_job(
            SimpleNamespace(address="http://h:1", working_dir=str(JOBS.parent), python=None, job="label", flags=[word])
        )


LISTER = """
import os
found = [os.path.relpath(os.path.join(folder, name)) for folder, _, names in os.walk(".") for name in names]
print("files", sorted(found))
"""
SECRET_FILES = (
    ".env",
    ".env.production",
    ".netrc",
    ".aws/credentials",
    ".ssh/id_ed25519",
    ".kube/config",
    "tls/server.pem",
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[str, dict[str, str], Path]]:
    """A cluster that asks for a token, and a checkout in which somebody keeps secrets."""
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        work = Path(folder, "work")
        for name, text in {"jobs/lister.py": LISTER, "nested/.env": "x", **dict.fromkeys(SECRET_FILES, "x")}.items():
            path = work / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        with ray_head(Path(folder), num_cpus=1) as (address, environment):
            yield address, environment, work


def asked(url: str, *headers: str, data: str | None = None) -> int:
    """The HTTP status that an answer has."""
    line = ["curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", "--max-time", "30", url]
    line += [part for header in headers for part in ("--header", header)]
    line += ["--header", "Content-Type: application/json", "--data", data] if data else []
    return int(subprocess.run(line, check=True, capture_output=True, text=True).stdout)


@pytest.mark.slow
def test_the_job_api_wants_a_token(cluster: tuple[str, dict[str, str], Path]) -> None:
    address, environment, work = cluster
    job = '{"entrypoint": "touch /tmp/never"}'
    for path in ("/api/jobs/", "/api/version", "/api/cluster_status", "/api/v0/nodes"):
        assert asked(address + path) == 401, path
    assert asked(f"{address}/api/jobs/", data=job) == 401
    assert asked(f"{address}/api/jobs/", "Authorization: Bearer 00000000000000000000000000000000", data=job) == 403
    token = Path(environment["HOME"], ".ray", "auth_token").read_text()
    assert asked(f"{address}/api/jobs/", f"Authorization: Bearer {token}") == 200

    line = [sys.executable, str(SUBMIT), "--address", address, "--working-dir", str(work), "lister"]
    given = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert given.returncode == 0, given.stdout + given.stderr
    assert "files ['jobs/lister.py']" in given.stdout, "secrets were uploaded"

    for changed in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 32}):
        ended = subprocess.run(
            line, env=environment | changed, capture_output=True, text=True, timeout=120, check=False
        )
        assert ended.returncode == 2, ended.stdout + ended.stderr
        assert "RAY_AUTH_TOKEN_PATH" in ended.stderr and "Traceback" not in ended.stderr
        assert "f" * 32 not in ended.stderr and token not in ended.stderr
