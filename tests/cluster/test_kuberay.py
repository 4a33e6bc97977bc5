"""The overlays, as Kustomize builds them: valid, confined, bounded, and their commands are ones that our jobs take."""

import re
import shlex
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from crd_facts import FACTS, faults
from manifests import CLUSTER, OVERLAYS, ROOT, config, group, module, of_kind, overlay, pods, rayjob

from vidproc.command import parse
from vidproc.pipeline.options import LabelConfig

KUBERNETES = "1.34"
"""The release whose schemas the objects of Kubernetes' own kinds are held against."""

INSTALLED = "/opt/vidproc/"
"""Where the image has the repository's files."""


FILES = sorted([*CLUSTER.rglob("*.yaml"), *CLUSTER.rglob("*.json")])


@pytest.fixture(params=OVERLAYS)
def objects(request: pytest.FixtureRequest) -> tuple[dict[str, Any], ...]:
    return overlay(request.param)


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(CLUSTER)) for path in FILES])
def test_every_file_is_yaml(path: Path) -> None:
    """JSON is YAML, too; no file may repeat a key, which YAML's reader would hide."""
    for document in yaml.compose_all(path.read_text()):
        _no_key_twice(document, path)


def _no_key_twice(node: Any, path: Path) -> None:
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"{path}: {node.start_mark}: a key twice among {keys}"
    for child in node.value if isinstance(node, yaml.CollectionNode) else ():
        for each in child if isinstance(child, tuple) else (child,):
            _no_key_twice(each, path)


def test_every_file_is_in_use() -> None:
    """A file that no kustomization names is a mistake, or dead."""
    for kustomization in CLUSTER.rglob("kustomization.yaml"):
        folder, text = kustomization.parent, kustomization.read_text()
        for path in folder.glob("*.yaml"):
            assert path.name in text or path.name in ("kustomization.yaml", "rules-test.yaml"), (
                f"{path} is not in {kustomization}"
            )


def test_objects_fit_the_schemas(objects: tuple[dict[str, Any], ...]) -> None:
    for each in objects:
        if each["kind"] in FACTS:
            assert list(faults(each, FACTS[each["kind"]])) == []
        else:
            kubernetes_validate.validate(each, KUBERNETES, strict=True)
    for of, labels, spec in pods(objects):  # a custom resource's pods too
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": of, "labels": labels}, "spec": spec}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_facts_catch_mistakes() -> None:
    wrong = {"apiVersion": "ray.io/v1", "kind": "RayJob", "spec": {"activeDeadline": 5, "submissionMode": "Http"}}
    assert len(list(faults(wrong, FACTS["RayJob"]))) == 2
    assert list(faults({"spec": {"backoffLimit": "0"}}, FACTS["RayJob"]))


def test_pods_keep_to_the_restricted_standard(objects: tuple[dict[str, Any], ...]) -> None:
    """Kubernetes' Pod Security Standard `restricted`, which the namespace enforces, and a read-only root besides."""
    assert of_kind(objects, "Namespace")["vidproc"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == (
        "restricted"
    )
    for of, _, spec in pods(objects):
        context = spec["securityContext"]
        assert context["runAsNonRoot"] and context["runAsUser"] > 0, of
        assert context["seccompProfile"]["type"] == "RuntimeDefault", of
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), of
        assert not any("hostPath" in volume for volume in spec.get("volumes", ())), of
        contexts = [container["securityContext"] for container in spec["containers"]]
        if of == "head":
            contexts.append(rayjob(objects)["rayClusterSpec"]["autoscalerOptions"]["securityContext"])
        for each in contexts:
            assert each["allowPrivilegeEscalation"] is False and each["capabilities"] == {"drop": ["ALL"]}, of
            assert each["readOnlyRootFilesystem"] is True, of


def test_pods_are_bounded(objects: tuple[dict[str, Any], ...]) -> None:
    for of, _, spec in pods(objects):
        for container in spec["containers"]:
            assert {"cpu", "memory"} <= set(container["resources"]["limits"]), of
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), of
        for volume in spec.get("volumes", ()):
            assert "emptyDir" not in volume or volume["emptyDir"].get("sizeLimit"), f"{of}: {volume}"
    assert all(
        "limits" in options and "requests" in options
        for options in (rayjob(objects)["rayClusterSpec"]["autoscalerOptions"]["resources"],)
    )


def test_shared_memory_leaves_room_for_processes(objects: tuple[dict[str, Any], ...]) -> None:
    """Ray takes 30 % of memory for its object store, and falls back to the disk if /dev/shm is smaller than that."""
    for of, labels, spec in pods(objects):
        if labels.get("vidproc/part") == "ray":
            memory = spec["containers"][0]["resources"]["limits"]["memory"]
            (shm,) = [volume["emptyDir"] for volume in spec["volumes"] if volume["name"] == "shm"]
            assert shm["medium"] == "Memory"
            assert 0.1 < _gib(shm["sizeLimit"]) / _gib(memory) < 0.5, of


def _gib(quantity: str) -> float:
    assert quantity.endswith("Gi")
    return float(quantity.removesuffix("Gi"))


def test_images_are_pinned(objects: tuple[dict[str, Any], ...]) -> None:
    images = {container["image"] for _, _, spec in pods(objects) for container in spec["containers"]}
    (image,) = images
    assert re.search(r"(:\d+\.\d+\.\d+[\w.-]*|@sha256:[0-9a-f]{64})$", image), image


def test_no_secret_is_written_down(objects: tuple[dict[str, Any], ...]) -> None:
    looks_secret = module("jobs/submit.py").looks_secret
    assert not of_kind(objects, "Secret")
    for text in _scalars(list(objects)):
        assert not looks_secret(text), text
    assert looks_secret("https://user:word@host/")


def _scalars(value: Any) -> list[str]:
    if isinstance(value, dict):
        value = [*value, *value.values()]
    return [text for each in value for text in _scalars(each)] if isinstance(value, list | tuple) else [str(value)]


def test_runs_do_not_overlap_and_end(objects: tuple[dict[str, Any], ...]) -> None:
    for of, cron in of_kind(objects, "CronJob").items():
        assert cron["spec"]["concurrencyPolicy"] == "Forbid", of
        assert cron["spec"]["timeZone"] and cron["spec"]["startingDeadlineSeconds"] > 0
        assert cron["spec"]["jobTemplate"]["spec"]["activeDeadlineSeconds"] > 0, of
        assert cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]["restartPolicy"] == "Never", of
    job = rayjob(objects)
    assert job["suspend"] is True  # a template: applying it starts nothing
    assert job["shutdownAfterJobFinishes"] is True and job["ttlSecondsAfterFinished"] > 0
    assert job["backoffLimit"] == 0  # a second run would turn exit code 3 into 0
    night = of_kind(objects, "CronJob")["label"]["spec"]["jobTemplate"]["spec"]
    tries = _launch_flags(objects).tries
    longest = tries * (job["activeDeadlineSeconds"] + 600)
    assert longest < night["activeDeadlineSeconds"] < 86400
    assert job["preRunningDeadlineSeconds"] < job["activeDeadlineSeconds"]


def _launch_flags(objects: tuple[dict[str, Any], ...]) -> Any:
    launch = module("cluster/kuberay/launch.py")
    (container,) = of_kind(objects, "CronJob")["label"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["python", f"{INSTALLED}cluster/kuberay/launch.py"]
    return launch._parse(container["args"])


def test_the_night_passes_exit_codes_on(objects: tuple[dict[str, Any], ...]) -> None:
    """A drained pod comes again and finds its run; every other end is the label job's."""
    night = of_kind(objects, "CronJob")["label"]["spec"]["jobTemplate"]["spec"]
    drained, failed = night["podFailurePolicy"]["rules"]
    assert drained == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    assert failed["action"] == "FailJob" and failed["onExitCodes"]["operator"] == "NotIn"
    assert failed["onExitCodes"]["values"] == [0]
    assert _launch_flags(objects).template in of_kind(objects, "RayJob")


def test_the_launcher_may_do_just_that(objects: tuple[dict[str, Any], ...]) -> None:
    (role,) = of_kind(objects, "Role").values()
    assert role["rules"] == [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["get", "create"]}]
    (binding,) = of_kind(objects, "RoleBinding").values()
    assert [subject["name"] for subject in binding["subjects"]] == ["launch"]
    assert not of_kind(objects, "ClusterRole")


def test_every_pod_has_an_account_of_its_own(objects: tuple[dict[str, Any], ...]) -> None:
    """Only the launcher and the head (for the autoscaler) get a token of the Kubernetes API."""
    accounts = of_kind(objects, "ServiceAccount")
    token = {}
    for of, _, spec in pods(objects):
        account = accounts[spec["serviceAccountName"]]
        token[of] = spec.get("automountServiceAccountToken", account["automountServiceAccountToken"])
    assert {of for of, mounted in token.items() if mounted} == {"head", "label"}


def test_aws_roles_are_those_of_the_policies() -> None:
    accounts = of_kind(overlay("aws"), "ServiceAccount")
    roles = {
        name: account["metadata"]["annotations"]["eks.amazonaws.com/role-arn"].rpartition("/")[2]
        for name, account in accounts.items()
        if "annotations" in account["metadata"]
    }
    assert roles == {
        "head": "vidproc-label",
        "network": "vidproc-label",
        "decode": "vidproc-decode",
        "maintain": "vidproc-maintain",
    }
    for role in set(roles.values()):
        assert (CLUSTER / "policies" / f"aws-{role.removeprefix('vidproc-')}.json").exists()


def test_the_label_job_takes_its_flags(objects: tuple[dict[str, Any], ...], tmp_path: Path) -> None:
    options = _label_options(objects, tmp_path)
    assert options.tables == _maintain(objects, tmp_path)["tables"]


def _label_options(objects: tuple[dict[str, Any], ...], folder: Path) -> LabelConfig:
    files = config(objects, folder)
    program, job, *flags = shlex.split(rayjob(objects)["entrypoint"])
    assert program == "python" and job == f"{INSTALLED}jobs/label.py"
    return parse(LabelConfig, None, [flag.replace("/etc/vidproc/", f"{files}/") for flag in flags])


def _maintain(objects: tuple[dict[str, Any], ...], folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((config(objects, folder) / "maintain.yaml").read_text())
    return found


def test_maintenance_takes_its_flags(objects: tuple[dict[str, Any], ...], tmp_path: Path) -> None:
    maintain = module("jobs/maintain.py")
    files = config(objects, tmp_path)
    taken = {"compact": maintain.CompactOptions, "vacuum": maintain.VacuumOptions, "check": maintain.TablesOptions}
    for verb, model in taken.items():
        spec = of_kind(objects, "CronJob")[verb]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        assert container["command"] == ["python", f"{INSTALLED}jobs/maintain.py"]
        assert container["args"][0] == verb and verb in maintain.VERBS
        parse(model, None, [flag.replace("/etc/vidproc/", f"{files}/") for flag in container["args"][1:]])


def test_every_step_finds_a_node(objects: tuple[dict[str, Any], ...], tmp_path: Path) -> None:
    """What Ray's own autoscaler reads out of the groups offers what the options book, and nothing else does."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _generate_available_node_types_from_ray_cr_spec

    options = _label_options(objects, tmp_path)
    nodes = _generate_available_node_types_from_ray_cr_spec(rayjob(objects)["rayClusterSpec"])
    offered = {name: node["resources"] for name, node in nodes.items()}
    assert offered["headgroup"]["CPU"] == 0
    for booked, only in (
        (options.decode_resources, "decode"),
        (options.network_resources, "network"),
        (options.write_resources, "network"),
    ):
        assert booked
        able = {
            name
            for name, offers in offered.items()
            if all(offers.get(resource, 0) >= amount for resource, amount in booked.items())
        }
        assert able == {only}
    decode, network = offered["decode"], offered["network"]
    assert decode["decode"] * options.decode_cpus <= decode["CPU"]
    assert options.device == ("cuda" if network.get("GPU") else "cpu")
    networks = group(objects, "network")
    assert networks["minReplicas"] == networks["maxReplicas"] == options.actors  # the pool is made at the start
    assert nodes["decode"]["max_workers"] > nodes["decode"]["min_workers"]


def test_ray_is_the_one_that_is_locked() -> None:
    locked = re.search(r"^ray==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert locked and rayjob(overlay("aws"))["rayClusterSpec"]["rayVersion"] == locked[1]


def test_ray_asks_for_a_token_and_scales(objects: tuple[dict[str, Any], ...]) -> None:
    cluster = rayjob(objects)["rayClusterSpec"]
    assert cluster["authOptions"]["mode"] == "token"
    assert cluster["enableInTreeAutoscaling"] is True and cluster["autoscalerOptions"]["version"] == "v2"


def test_spot_nodes_are_tolerated_by_workers_only() -> None:
    for name in ("aws", "gcp"):
        tolerant = {of for of, _, spec in pods(overlay(name)) if spec.get("tolerations")}
        assert tolerant == {"decode", "network"}
