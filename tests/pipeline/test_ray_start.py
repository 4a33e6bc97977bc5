"""Ray that does not come up in its own time limits is started again, and what was left of it is ended before."""

import subprocess
from typing import Any

import pytest
import ray

from vidproc.pipeline import cluster


class Slow:
    """`ray.init` that leaves a process behind and fails, so many times."""

    def __init__(self, failures: int, error: Exception) -> None:
        self.failures, self.error = failures, error
        self.settings: list[dict[str, Any]] = []
        self.left: list[subprocess.Popen[bytes]] = []

    def __call__(self, **settings: Any) -> None:
        assert not [process for process in self.left if process.poll() is None], "the last attempt's processes live"
        self.settings.append(settings)
        if len(self.settings) <= self.failures:
            self.left.append(subprocess.Popen(["sleep", "300"]))
            raise self.error

    def end(self) -> None:
        for process in self.left:
            process.kill()
            process.wait()


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(cluster, "_BEFORE_AGAIN_S", 0.0)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    return monkeypatch


def test_ray_is_started_again(patched: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    slow = Slow(2, Exception("The current node timed out during startup."))
    patched.setattr(ray, "init", slow)
    cluster._start({"num_cpus": 1})
    assert slow.settings == [{"num_cpus": 1}] * 3
    assert len(slow.left) == 2 and not [process for process in slow.left if process.poll() is None]
    assert capsys.readouterr().err.count("ray did not start") == 2
    slow.end()


def test_the_third_failure_is_told(patched: pytest.MonkeyPatch) -> None:
    slow = Slow(3, RuntimeError("Failed to start GCS."))
    patched.setattr(ray, "init", slow)
    with pytest.raises(RuntimeError, match="Failed to start GCS"):
        cluster._start({})
    assert len(slow.settings) == 3
    slow.end()


def test_wrong_settings_are_told_at_once(patched: pytest.MonkeyPatch) -> None:
    slow = Slow(1, ValueError("num_cpus must be an integer"))
    patched.setattr(ray, "init", slow)
    with pytest.raises(ValueError, match="num_cpus"):
        cluster._start({"num_cpus": "many"})
    assert len(slow.settings) == 1
    slow.end()
