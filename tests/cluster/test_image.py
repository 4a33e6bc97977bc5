"""The Dockerfile, as far as it can be checked without a build: what it copies, pins, runs as, and tells of licences."""

import re
from importlib.metadata import files, version

import pytest
from manifests import CLUSTER, OVERLAYS, ROOT, module, of_kind, overlay, pods, rayjob

DOCKERFILE = (CLUSTER / "Dockerfile").read_text()
INSTRUCTIONS = re.findall(r"^([A-Z]+) +((?:.*\\\n)*.*)$", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE), re.M)
LOCK = (ROOT / "requirements.lock").read_text()


def of(instruction: str) -> list[str]:
    return [text for name, text in INSTRUCTIONS if name == instruction]


def copied() -> list[str]:
    """What is copied from the repository."""
    return [source for text in of("COPY") if "--from" not in text for source in text.split()[:-1]]


def test_only_what_is_copied_is_sent() -> None:
    ignored = (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines()
    sent = [line.removeprefix("!") for line in ignored if line.startswith("!")]
    assert ignored[1] == "*" and sorted(sent) == sorted(set(copied()))
    for source in sent:
        assert (ROOT / source).exists(), source


def test_packages_are_those_of_the_lock() -> None:
    installs = [text for text in of("RUN") if "pip install" in text]
    assert len(installs) == 3
    for text in installs:
        assert "--require-hashes" in text or "sha256sum --check --strict" in text, text
        assert "--only-binary=:all:" in text or "--no-index" in text, text
    assert "://" not in DOCKERFILE and "--index-url" not in DOCKERFILE


def test_the_image_runs_the_versions_that_were_tested_and_no_tools() -> None:
    entries = module("cluster/cpu_lock.py").entries
    runs, develops = (set(entries(lock)) for lock in (LOCK, (ROOT / "requirements-dev.lock").read_text()))
    assert runs < develops
    assert not {name for name, _ in runs} & {"deptry", "mypy", "pytest", "ruff"}


def test_base_is_the_locked_python() -> None:
    (base,) = [text for text in of("ARG") if text.startswith("PYTHON_IMAGE=")]
    assert base.removeprefix("PYTHON_IMAGE=").startswith("python:3.11-") and "latest" not in base
    assert all(text.startswith(("${PYTHON_IMAGE}", "packages-${VARIANT}")) for text in of("FROM"))


@pytest.mark.parametrize("name", OVERLAYS)
def test_pods_agree_with_the_image(name: str) -> None:
    """The user, and where the jobs lie."""
    (user,) = of("USER")
    (folder,) = of("WORKDIR")
    objects = overlay(name)
    for made_by, _, spec in pods(objects):
        context = spec["securityContext"]
        assert f"{context['runAsUser']}:{context['runAsGroup']}" == user, made_by
    assert f"{folder}/jobs/" in rayjob(objects)["entrypoint"]
    for cron in of_kind(objects, "CronJob").values():
        (container,) = cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
        script = container["command"][1]
        assert script.startswith(f"{folder}/")
        assert any(script.removeprefix(f"{folder}/").startswith(source) for source in copied())


def test_without_cuda() -> None:
    """All other packages stay, each with its hashes; what torch asks for of CUDA is gone."""
    cpu_lock = module("cluster/cpu_lock.py")
    all_of_it, rest = cpu_lock.entries(LOCK), cpu_lock.entries(cpu_lock.without_cuda(LOCK))
    gone = {name for name, _ in all_of_it} - {name for name, _ in rest}
    assert {"torch", "torchvision", "triton"} <= gone and len(rest) > 100
    assert all(re.match(r"nvidia-|cuda-|triton$|torch(vision)?$", name) for name in gone)
    assert not any(name.startswith(("nvidia-", "cuda-")) for name, _ in rest)
    assert [each for each in all_of_it if each[0] not in gone] == rest
    assert all("--hash=sha256:" in entry for _, entry in rest)
    assert sum(entry.count("--hash=") for _, entry in all_of_it) == LOCK.count("--hash=")
    assert cpu_lock.torch_pins(LOCK) == f"torch=={version('torch')} torchvision=={version('torchvision')}"


def test_notice_names_every_bundled_library() -> None:
    notice = (CLUSTER / "NOTICE").read_text()
    bundled = {
        re.split(r"-[0-9a-f]{8}\.so", path.name)[0] for path in files("av") or () if path.parent.name == "av.libs"
    }
    assert len(bundled) > 20
    named = set(re.findall(r"\blib[\w-]+", notice))
    assert bundled <= named, bundled - named
    assert f"av {version('av')}" in notice
