"""What `kubectl kustomize` makes of an overlay, and all the pods that Kubernetes would make of that."""

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
OVERLAYS = ("aws", "gcp", "small")


class PodSpec(NamedTuple):
    """A pod that some object makes: who, its labels, its spec."""

    of: str
    labels: dict[str, str]
    spec: dict[str, Any]


@cache
def built(folder: str) -> tuple[dict[str, Any], ...]:
    """The objects of `cluster/<folder>`, as Kustomize builds them. Skips the test where there is no kubectl."""
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl here to build with")
    done = subprocess.run(["kubectl", "kustomize", CLUSTER / folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr  # what is deprecated is warned of there
    return tuple(yaml.safe_load_all(done.stdout))


def overlay(name: str) -> tuple[dict[str, Any], ...]:
    return built(f"kuberay/overlays/{name}")


def of_kind(objects: tuple[dict[str, Any], ...], kind: str) -> dict[str, dict[str, Any]]:
    """The objects of a kind, by name."""
    return {each["metadata"]["name"]: each for each in objects if each["kind"] == kind}


def rayjob(objects: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    (found,) = of_kind(objects, "RayJob").values()
    spec: dict[str, Any] = found["spec"]
    return spec


def pods(objects: tuple[dict[str, Any], ...]) -> Iterator[PodSpec]:
    """All of them: head, worker groups, submitter, and those of the CronJobs."""
    job = rayjob(objects)
    cluster = job["rayClusterSpec"]
    templates = {"head": cluster["headGroupSpec"]["template"], "submit": job["submitterPodTemplate"]}
    templates |= {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    templates |= {
        name: cron["spec"]["jobTemplate"]["spec"]["template"] for name, cron in of_kind(objects, "CronJob").items()
    }
    for name, template in templates.items():
        yield PodSpec(name, template["metadata"]["labels"], template["spec"])


def group(objects: tuple[dict[str, Any], ...], name: str) -> dict[str, Any]:
    """A worker group of the RayJob."""
    (found,) = [each for each in rayjob(objects)["rayClusterSpec"]["workerGroupSpecs"] if each["groupName"] == name]
    return dict(found)


def config(objects: tuple[dict[str, Any], ...], folder: Path) -> Path:
    """A folder with the files of the ConfigMap `vidproc`, as pods see it at /etc/vidproc."""
    for name, text in of_kind(objects, "ConfigMap")["vidproc"]["data"].items():
        (folder / name).write_text(text)
    return folder


def module(path: str) -> Any:
    """A script of the repository, as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded
