"""The launcher against a Kubernetes API that answers over HTTP as the real one does, with RayJobs that live and end."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from manifests import module

launch = module("cluster/kuberay/launch.py")

FAILED = (
    "Job entrypoint command failed with exit code {}, last available logs (truncated to 20,000 chars):\nexit code 77"
)
TEMPLATE = {
    "metadata": {"name": "label", "labels": {"a": "b"}, "uid": "1", "resourceVersion": "5"},
    "spec": {"suspend": True, "jobId": "x", "entrypoint": "python jobs/label.py"},
}


class Kubernetes:
    """RayJobs by name. `lives[n]` are the states that the n-th created one goes through, one for each look."""

    def __init__(self, *lives: list[dict[str, Any]]) -> None:
        self.lives = list(lives)
        self.created: dict[str, dict[str, Any]] = {}
        self.states: dict[str, list[dict[str, Any]]] = {}
        self.tokens: set[str | None] = set()
        self.fail_next: list[int] = []

    def answer(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, dict[str, Any]]:
        if self.fail_next:
            return self.fail_next.pop(0), {"message": "etcd is busy"}
        if method == "POST":
            assert body is not None
            name = body["metadata"]["name"]
            if name in self.created:
                return 409, {"reason": "AlreadyExists"}
            self.created[name], self.states[name] = body, self.lives.pop(0)
            return 201, body
        name = path.rpartition("/")[2]
        if name == "label":
            return 200, TEMPLATE
        if not self.states.get(name):
            return 404, {"reason": "NotFound"}
        states = self.states[name]
        return 200, {"status": states.pop(0) if len(states) > 1 else states[0]}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    (tmp_path / "namespace").write_text("vidproc\n")
    (tmp_path / "token").write_text("rotated-by-kubernetes\n")
    monkeypatch.setattr(launch.time, "sleep", lambda _: None)
    servers = []

    def go(api: Kubernetes, *flags: str) -> int:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                api.tokens.add(self.headers["Authorization"])
                assert self.path.startswith("/apis/ray.io/v1/namespaces/vidproc/rayjobs")
                size = int(self.headers["Content-Length"] or 0)
                body = json.loads(self.rfile.read(size)) if size else None
                status, answer = api.answer(self.command, self.path, body)
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_POST = do_GET  # noqa: N815  # http.server's name

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        at = f"http://127.0.0.1:{server.server_port}"
        owner = ["--template", "label", "--owner", "label-29380260", "--owner-uid", "u-1"]
        code: int = launch.main([*owner, "--api", at, "--account", str(tmp_path), *flags])
        return code

    yield go
    for server in servers:
        server.shutdown()
        server.server_close()


def life(*, job: str, deployment: str = "Complete", **more: str) -> list[dict[str, Any]]:
    return [
        {},
        {"jobDeploymentStatus": "Initializing"},
        {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"},
        {"jobDeploymentStatus": deployment, "jobStatus": job, **more},
    ]


def test_a_good_night(run: Callable[..., int]) -> None:
    api = Kubernetes(life(job="SUCCEEDED"))
    assert run(api) == 0
    (made,) = api.created.values()
    assert made["metadata"] == {
        "name": "label-29380260-0",
        "labels": {"a": "b"},
        "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "label-29380260", "uid": "u-1"}],
    }
    assert made["spec"] == {"suspend": False, "entrypoint": "python jobs/label.py"}
    assert api.tokens == {"Bearer rotated-by-kubernetes"}


@pytest.mark.parametrize("code", [2, 3, 4, 5, 130, 143])
def test_the_jobs_own_exit_code(run: Callable[..., int], code: int) -> None:
    """It is passed on, and not tried again: the second run of exit code 3 would say 0."""
    api = Kubernetes(life(job="FAILED", deployment="Failed", reason="AppFailed", message=FAILED.format(code)))
    assert run(api) == code
    assert len(api.created) == 1


@pytest.mark.parametrize(
    ("ended", "code"),
    [
        ({"job": "STOPPED"}, 143),
        ({"job": "RUNNING", "deployment": "Failed", "reason": "DeadlineExceeded"}, 124),
    ],
)
def test_ends_that_are_no_crash(run: Callable[..., int], ended: dict[str, str], code: int) -> None:
    api = Kubernetes(life(**ended))
    assert run(api) == code
    assert len(api.created) == 1


@pytest.mark.parametrize(
    ("message", "code"),
    [(FAILED.format(1), 1), (FAILED.format(-9), 137), ("the head pod is gone", 1), ("log: exit code 3", 1)],
)
def test_a_crash_is_tried_again(run: Callable[..., int], message: str, code: int) -> None:
    crash = {"job": "FAILED", "deployment": "Failed", "message": message}
    api = Kubernetes(life(**crash), life(job="SUCCEEDED"))
    assert run(api) == 0
    assert list(api.created) == ["label-29380260-0", "label-29380260-1"]
    assert run(Kubernetes(life(**crash), life(**crash))) == code


def test_a_second_pod_goes_on_waiting(run: Callable[..., int]) -> None:
    """Its node was drained: what the first pod created is found, not created again."""
    api = Kubernetes([])
    api.created["label-29380260-0"] = {}
    api.states["label-29380260-0"] = life(job="SUCCEEDED")[2:]
    assert run(api) == 0
    assert api.lives == [[]]  # nothing was taken from it


def test_a_second_pod_knows_the_second_try(run: Callable[..., int]) -> None:
    crash = life(job="FAILED", deployment="Failed", message=FAILED.format(1))
    api = Kubernetes([])
    for name, states in (("label-29380260-0", crash[-1:]), ("label-29380260-1", life(job="SUCCEEDED")[2:])):
        api.created[name], api.states[name] = {}, states
    assert run(api) == 0


def test_a_deleted_run_is_a_stopped_one(run: Callable[..., int]) -> None:
    assert run(Kubernetes([])) == 143


def test_the_api_may_be_away_for_a_while(run: Callable[..., int]) -> None:
    api = Kubernetes(life(job="SUCCEEDED"))
    api.fail_next = [503, 500, 429]
    assert run(api) == 0


def test_a_refusal_is_told(run: Callable[..., int]) -> None:
    api = Kubernetes(life(job="SUCCEEDED"))
    api.fail_next = [403]
    with pytest.raises(launch.ApiError, match="403"):
        run(api)


def test_long_names_are_refused_here(run: Callable[..., int]) -> None:
    assert run(Kubernetes(), "--owner", "x" * 46) == 2


def test_ray_writes_the_exit_code_where_we_look() -> None:
    """The words are Ray's: a release that changes them must not pass unseen."""
    import inspect

    from ray.dashboard.modules.job import job_supervisor

    source = inspect.getsource(job_supervisor)
    assert '"Job entrypoint command "' in source and 'f"failed with exit code {return_code}' in source
