"""Start the label job from its RayJob template, wait for its end, and end with the job's own exit code.

    python cluster/kuberay/launch.py --template label --owner JOB --owner-uid UID

Runs in the pod of the nightly CronJob: as long as it waits, `concurrencyPolicy: Forbid` holds the next night back. The
RayJob is named after the Kubernetes Job and belongs to it, so a second pod of that Job (its node was drained, say)
finds the run and goes on waiting, and whoever deletes the Job ends the run; what is committed stays. A crash is tried
again on a new cluster, where the job goes on. Usage, budget, lease and canary (2, 3, 4, 5) are not: after an exceeded
budget a second run would say 0.

Needs `get` and `create` on RayJobs, and the Python standard library. KubeRay keeps the driver's exit code only in the
message that Ray gives with a failed job.
"""

import argparse
import json
import re
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
API = "https://kubernetes.default.svc"
GROUP = "ray.io/v1"
LONGEST_NAME = 47
"""KubeRay refuses longer names of RayJobs: it makes others from them."""

CRASH, TIMED_OUT, GONE = 1, 124, 143
_FINAL = {0, 2, 3, 4, 5, TIMED_OUT, 130, GONE}
_EXIT_CODE = re.compile(r"^Job entrypoint command failed with exit code (-?\d+)")


class ApiError(Exception):
    """The Kubernetes API refused; `status` is HTTP's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class RayJobs:
    """The RayJobs of one namespace, through the Kubernetes API."""

    def __init__(self, api: str, account: Path, *, patience_s: float = 900.0) -> None:
        """`account`: folder with `token`, `namespace` and `ca.crt`. `patience_s`: how long the API may be away."""
        namespace = (account / "namespace").read_text().strip()
        self._url = f"{api}/apis/{GROUP}/namespaces/{namespace}/rayjobs"
        self._account, self._patience_s = account, patience_s
        self._tls = ssl.create_default_context(cafile=str(account / "ca.crt")) if api.startswith("https:") else None

    def get(self, name: str) -> dict[str, Any]:
        """Raises `ApiError`: 404 if there is none."""
        return self._patiently("GET", f"{self._url}/{name}", None)

    def create(self, rayjob: Mapping[str, Any]) -> None:
        """Create it, or find that it is there: somebody has created it under this name before."""
        try:
            self._patiently("POST", self._url, json.dumps(rayjob).encode())
        except ApiError as error:
            if error.status != 409:
                raise

    def _patiently(self, method: str, url: str, body: bytes | None) -> dict[str, Any]:
        deadline, wait_s = time.monotonic() + self._patience_s, 1.0
        while True:
            try:
                return self._request(method, url, body)
            except (ApiError, OSError) as error:
                passing = not isinstance(error, ApiError) or error.status == 429 or error.status >= 500
                if not passing or time.monotonic() > deadline:
                    raise
                say("the Kubernetes API is away", error=str(error))
                time.sleep(wait_s)
                wait_s = min(30.0, wait_s * 2)

    def _request(self, method: str, url: str, body: bytes | None) -> dict[str, Any]:
        token = (self._account / "token").read_text().strip()  # anew: it is rotated
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        request = urllib.request.Request(url, data=body, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=30, context=self._tls) as reply:
                answer: dict[str, Any] = json.loads(reply.read())
                return answer
        except urllib.error.HTTPError as error:
            raise ApiError(error.code, error.read(2000).decode(errors="replace")) from None


def from_template(template: Mapping[str, Any], name: str, owner: Mapping[str, str]) -> dict[str, Any]:
    """The RayJob to create: the template's spec, no longer suspended, owned by the Job that runs this."""
    metadata = {
        "name": name,
        "labels": template["metadata"].get("labels", {}),
        "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", **owner}],
    }
    spec = {key: value for key, value in template["spec"].items() if key not in ("suspend", "jobId")}
    return {"apiVersion": GROUP, "kind": "RayJob", "metadata": metadata, "spec": spec | {"suspend": False}}


def exit_code(status: Mapping[str, Any]) -> int | None:
    """The exit code that a RayJob's status tells; None while it runs.

    The driver's own (128 + signal as a shell has it); 143 if it was stopped; 124 past its deadline; else 1.
    """
    if status.get("jobDeploymentStatus") not in ("Complete", "Failed"):
        return None
    match status.get("jobStatus"), status.get("reason"):
        case "SUCCEEDED", _:
            return 0
        case _, "DeadlineExceeded":
            return TIMED_OUT
        case "STOPPED", _:
            return GONE
    found = _EXIT_CODE.match(status.get("message") or "")
    code = int(found[1]) if found else CRASH
    return 128 - code if code < 0 else code


def wait(rayjobs: RayJobs, name: str, *, poll_s: float) -> int:
    """Its exit code, once it has one. 143 if somebody has deleted it."""
    last: tuple[Any, ...] = ()
    while True:
        try:
            status = rayjobs.get(name).get("status") or {}
        except ApiError as error:
            if error.status != 404:
                raise
            say("somebody deleted the RayJob", rayjob=name)
            return GONE
        told = status.get("jobDeploymentStatus"), status.get("jobStatus")
        if told != last:
            say("is", rayjob=name, deployment=told[0], job=told[1], cluster=status.get("rayClusterName"))
            last = told
        if (code := exit_code(status)) is not None:
            say("ended", rayjob=name, exit_code=code, reason=status.get("reason"), message=status.get("message"))
            return code
        time.sleep(poll_s)


def main(arguments: Sequence[str]) -> int:
    """Create, wait, perhaps again; returns the label job's exit code."""
    flags = _parse(arguments)
    rayjobs = RayJobs(flags.api, flags.account)
    code = CRASH
    for attempt in range(flags.tries):
        name = f"{flags.owner}-{attempt}"
        if len(name) > LONGEST_NAME:
            say("the name is too long for KubeRay", rayjob=name, at_most=LONGEST_NAME)
            return 2
        template = rayjobs.get(flags.template)
        rayjobs.create(from_template(template, name, {"name": flags.owner, "uid": flags.owner_uid}))
        code = wait(rayjobs, name, poll_s=flags.poll_s)
        if code in _FINAL:
            break
    return code


def say(event: str, **fields: Any) -> None:
    """One line of JSON, as the jobs write."""
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    print(json.dumps({"at": at, "event": event, **fields}), file=sys.stderr, flush=True)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--template", required=True, help="name of the suspended RayJob that is copied")
    parser.add_argument("--owner", required=True, help="name of the Kubernetes Job that this runs for")
    parser.add_argument("--owner-uid", required=True, help="its uid")
    parser.add_argument("--tries", type=int, default=2, help="how often a crash is tried in all (default: 2)")
    parser.add_argument("--poll-s", type=float, default=15.0, help="seconds between looks (default: 15)")
    parser.add_argument("--api", default=API, help=f"the Kubernetes API (default: {API})")
    parser.add_argument("--account", type=Path, default=ACCOUNT, help="folder with the pod's token")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (ApiError, OSError) as failure:
        say("the Kubernetes API refused", error=str(failure))
        sys.exit(CRASH)
