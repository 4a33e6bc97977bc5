"""Run a job on a Ray cluster, show its log while it runs, and end with the job's own exit code.

    python jobs/submit.py [--address http://HEAD:8265] label --archive s3://bucket/videos --tables s3://bucket/tables

What stands before the job's name is for this command, what follows is for the job. `ray job submit` would turn every
failure into 1 and a stopped job into 0; a scheduler needs to tell 2 (usage) from 3 (failure budget) and 4 (lease).
"""

import argparse
import asyncio
import base64
import logging
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from vidproc.errors import UsageError, VidprocError

CHECKOUT = Path(__file__).resolve().parents[1]
DASHBOARD = "http://127.0.0.1:8265"
STOP_WAIT_S = 60
"""How long a job that is asked to stop may take to publish what it has; Ray's own default is 3 s."""

STOPPED_HERE, STOPPED_ELSEWHERE = 130, 143
"""Exit codes of a stopped job: as a shell says it of a process that ended by Ctrl-C, or by SIGTERM."""

_PLAIN_NAMES = {"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ALLOW_HTTP"}
_SECRET_NAME = re.compile(
    r"SECRET|TOKEN|PASSW|CREDENTIAL|KEY|PRIVATE|CONNECTION.STRING|^AWS_|(^|[_-])(PASS|PWD|AUTH|SAS|DSN|COOKIE)([_-]|$)",
    re.IGNORECASE,
)
_SECRET_VALUE = re.compile(
    r"\b(AKIA|ASIA)[A-Z0-9]{16}\b|-----BEGIN|\b(gh[pousr]_|github_pat_|hf_|sk-|xox[abp]-)\w{10}|\beyJ[\w-]{10,}\."
    r"|://[^/@\s]+:[^/@\s]+@|[?&](X-Amz-Signature|X-Goog-Signature|sig|Signature|(access_)?token|api_?key|password)="
    r"|\b(Bearer|Basic) \S{8}|\b(AccountKey|SharedAccessKey|SharedAccessSignature|aws_secret_access_key)\b"
)
_OPAQUE = re.compile(r"(?=.*[a-z])(?=.*[A-Z])(?=.*[0-9])[A-Za-z0-9+/=_-]{32,}")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{16,}={0,2}")
_NAMED = re.compile(r"(?=--|\w+=)-*([A-Za-z_][\w-]*)")
_BETWEEN = re.compile(r"[\s,;:='\"{}]+")
_PATH_FLAGS = ("--archive", "--tables", "--out")
_NOT_UPLOADED = [".git/", ".venv/", "out/", ".env", ".env.*", ".netrc", ".aws/", ".ssh/", ".kube/", "*.pem", "id_rsa*"]


def main(arguments: Sequence[str]) -> int:
    """Submit, follow, and return the job's exit code."""
    flags = _parse(arguments)
    environment = dict(_checked_variable(item) for item in flags.env)
    _check_job(flags)
    client = _connect(flags.address)
    entrypoint = f"exec {_interpreter(flags.python)} {shlex.join([f'jobs/{flags.job}.py', *flags.flags])}"
    runtime_env = {
        "working_dir": flags.working_dir,
        "excludes": _NOT_UPLOADED,
        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)} | environment,
    }
    job = client.submit_job(entrypoint=entrypoint, runtime_env=runtime_env)
    _say(f"job {job} was submitted to {flags.address}: {entrypoint}")
    stopped_here = _follow(client, job)
    return exit_code(client.get_job_info(job), stopped_here=stopped_here)


def exit_code(info: Any, *, stopped_here: bool = False) -> int:
    """What a shell would say had the job run in it: its exit code, 128 + signal, or 130 or 143 if it was stopped."""
    if info.status == "STOPPED":
        return STOPPED_HERE if stopped_here else STOPPED_ELSEWHERE
    if info.driver_exit_code is not None:
        code = int(info.driver_exit_code)
        return 128 - code if code < 0 else code
    if info.status == "SUCCEEDED":
        return 0
    _say(f"the job ended without an exit code ({info.status}): {info.message}")
    return 1


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="jobs/submit.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--address",
        default=os.environ.get("RAY_ADDRESS") or DASHBOARD,
        help=f"the cluster's dashboard; else RAY_ADDRESS, else {DASHBOARD}",
    )
    parser.add_argument(
        "--working-dir",
        default=str(CHECKOUT),
        help="the folder (uploaded, less what .gitignore names) or zip URL that the job runs in; else this checkout",
    )
    parser.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="an environment variable, never a secret"
    )
    parser.add_argument("--python", help="the interpreter there; else this one if it exists there, else python")
    parser.add_argument("job", help="which file of jobs/ to run: label, train, evaluate, …")
    parser.add_argument("flags", nargs=argparse.REMAINDER, help="handed to the job as they are")
    return parser.parse_args(arguments)


def _interpreter(python: str | None) -> str:
    """For a shell on the head node: a cluster on this machine may run in a virtual environment outside its PATH."""
    return shlex.quote(python) if python else f'"$(command -v {shlex.quote(sys.executable)} || echo python)"'


def _checked_variable(item: str) -> tuple[str, str]:
    name, equals, value = item.partition("=")
    if not (equals and re.fullmatch(r"[A-Za-z_]\w*", name)):
        raise UsageError(f"--env {name}: give NAME=VALUE")
    if _names_secret(name) or looks_secret(value):
        raise UsageError(
            f"--env {name} looks like a secret, and everybody who sees the dashboard could read it: give the cluster's "
            "nodes an identity of their own instead (an instance role, a Kubernetes service account, or variables that "
            "are set where `ray start` runs)"
        )
    return name, value


def looks_secret(value: str) -> bool:
    """Known forms of keys, a password in a URL, a signed URL, also in base64; or what only a program makes up."""
    known = any(_SECRET_VALUE.search(text) for text in (value, *_decoded(value)))
    return known or any(_OPAQUE.fullmatch(word) for word in _BETWEEN.split(value) if not word.startswith("/"))


def _decoded(value: str) -> Iterator[str]:
    """What is base64 in it: so Kubernetes shows its secrets."""
    for text in _BASE64.findall(value):
        with suppress(ValueError):
            yield base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_" if "-" in text else None).decode()


def _names_secret(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None and name not in _PLAIN_NAMES


def _check_job(flags: argparse.Namespace) -> None:
    """Raise `UsageError` for what would fail, or lose its results, only on the cluster; and for secrets."""
    for flag, given in (("--address", flags.address), ("--working-dir", flags.working_dir), ("--python", flags.python)):
        if given and looks_secret(given):
            raise UsageError(f"{flag} holds a key, a password or a signed URL, which logs and the dashboard would show")
    if not flags.address.startswith(("http://", "https://")):
        raise UsageError(f"address {flags.address!r}: give the dashboard's, such as {DASHBOARD}, with --address")
    if "://" not in flags.working_dir:
        jobs = sorted(path.stem for path in Path(flags.working_dir, "jobs").glob("*.py") if path.stem != "submit")
        if flags.job not in jobs:
            raise UsageError(f"there is no job {flags.job!r} in {flags.working_dir}/jobs: use one of {', '.join(jobs)}")
    flag = ""
    for word in flags.flags:
        named = _NAMED.match(word)
        if looks_secret(word) or (named and _names_secret(named[1])):
            raise UsageError(
                "a flag of the job holds what looks like a key, a password or a signed URL, which the dashboard would "
                "show: give the cluster's nodes an identity of their own instead"
            )
        if word.startswith("--"):
            flag, _, word = word.partition("=")  # noqa: PLW2901
        if flag in _PATH_FLAGS and word and "://" not in word and not word.startswith("/"):
            raise UsageError(
                f"{flag} {word}: the job runs in a folder of its own: give a URL, or an absolute path there"
            )


def _connect(address: str) -> Any:
    """A client of the jobs API. A cluster of `ray start` asks for the token that lies in the user's .ray folder."""
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if "RAY_AUTH_MODE" not in os.environ and (token.exists() or "RAY_AUTH_TOKEN" in os.environ):
        os.environ["RAY_AUTH_MODE"] = "token"
    from ray.exceptions import AuthenticationError  # Ray reads the mode when it is imported
    from ray.job_submission import JobSubmissionClient

    for name in ("dashboard_sdk", "job.sdk"):  # they tell of every package and connection
        logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise UsageError(
            f"{address} asks for another token: set RAY_AUTH_TOKEN_PATH to the cluster's: {error}"
        ) from error
    except (ConnectionError, RuntimeError) as error:
        raise UsageError(
            f"no Ray cluster answers at {address}: start one with `ray start --head`, or give --address: {error}"
        ) from error


def _follow(client: Any, job: str) -> bool:
    """Print the log until the job has ended. The first Ctrl-C (or SIGTERM) stops the job, the second leaves it alone.

    Returns whether it was stopped from here.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    stopping, log = False, _Log()
    while True:
        try:
            if client.get_job_info(job).status.is_terminal() and log.complete:
                return stopping
            asyncio.run(log.follow(client, job, stop=stopping))
        except KeyboardInterrupt:
            if stopping:
                raise
            stopping = True
            _say(f"asking the job to stop; it has {STOP_WAIT_S} s to publish what it has (again: stop waiting for it)")
        except (ConnectionError, RuntimeError, OSError) as error:
            _say(f"the log broke off and is taken up again: {error}")
            time.sleep(2)


class _Log:
    """A job's log, printed once, also when the connection breaks: it starts from the beginning each time."""

    def __init__(self) -> None:
        self.complete = False
        self._printed = 0

    async def follow(self, client: Any, job: str, *, stop: bool) -> None:
        stopper = asyncio.create_task(_stop(client, job)) if stop else None
        await self._print(client, job)
        while not client.get_job_info(job).status.is_terminal():
            await asyncio.sleep(0.2)
        if stopper:
            await stopper

    async def _print(self, client: Any, job: str) -> None:
        seen = 0
        async for lines in client.tail_job_logs(job):
            fresh = lines[max(0, self._printed - seen) :]
            seen += len(lines)
            self._printed = max(self._printed, seen)
            sys.stdout.write(fresh)
            sys.stdout.flush()
        self.complete = True


async def _stop(client: Any, job: str) -> None:
    """Ask until it has happened: Ray forgets a request that comes before the job has started; repeating is harmless."""
    while not client.get_job_info(job).status.is_terminal():
        client.stop_job(job)
        await asyncio.sleep(1)


def _say(message: str) -> None:
    print(f"submit: {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except VidprocError as error:
        _say(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(STOPPED_HERE)
