"""The launcher's files, by Ray's own schema and checks; what their machines offer is what the steps book."""

import re
import shlex
from typing import Any

import pytest
import yaml
from manifests import CLUSTER

from vidproc.command import parse
from vidproc.pipeline.options import LabelConfig


@pytest.fixture(params=["aws", "gcp"])
def path(request: pytest.FixtureRequest) -> Any:
    return CLUSTER / f"ray-up-{request.param}.yaml"


@pytest.fixture
def cluster(path: Any) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    return found


def flags_in(text: str) -> list[str]:
    """The flags of the label job in a file's opening comment."""
    comment = re.sub(r"^# ?", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    (line,) = re.findall(r"^ *(?:python jobs/submit.py|sbatch) .*$", comment, re.MULTILINE)
    words = shlex.split(line)
    return words[words.index("label" if "label" in words else "cluster/slurm.sbatch") + 1 :]


def test_ray_takes_it(cluster: dict[str, Any]) -> None:
    """Its schema (ray/autoscaler/ray-schema.json) and its own checks of numbers of workers."""
    import jsonschema
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(cluster))
    with pytest.raises(jsonschema.ValidationError, match="min_worker"):
        validate_config(prepare_config(cluster) | {"min_worker": 3})


def test_steps_find_machines(path: Any, cluster: dict[str, Any]) -> None:
    options = parse(LabelConfig, None, flags_in(path.read_text()))
    types = cluster["available_node_types"]
    offered = {name: kind["resources"] for name, kind in types.items()}
    for booked, only in (
        (options.decode_resources, {"decode"}),
        (options.network_resources, {"network"}),
        (options.write_resources, {"network"}),
    ):
        assert {name for name, offers in offered.items() if booked and booked.keys() <= offers.keys()} == only
    assert offered["head"] == {"CPU": 0}
    assert types["network"]["min_workers"] == types["network"]["max_workers"]
    assert sum(kind.get("max_workers", 0) for kind in types.values()) <= cluster["max_workers"]


def test_nobody_else_may_submit(cluster: dict[str, Any]) -> None:
    """The token goes along, every Ray process asks for it, and neither dashboard nor machines are public."""
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    (head,) = [command for command in cluster["head_start_ray_commands"] if " start " in command]
    (worker,) = [command for command in cluster["worker_start_ray_commands"] if " start " in command]
    assert "RAY_AUTH_MODE=token" in head and "RAY_AUTH_MODE=token" in worker
    assert "--dashboard-host=127.0.0.1" in head
    assert cluster["provider"]["use_internal_ips"] is True
    assert not {"auth_token", ".env"} & set(cluster.get("cluster_synced_files", ()))


def test_start_flags_are_rays(cluster: dict[str, Any]) -> None:
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in parameter.opts}
    for command in cluster["head_start_ray_commands"] + cluster["worker_start_ray_commands"]:
        assert set(re.findall(r" (--[a-z-]+)", command)) <= known


def test_aws_machines_are_confined(cluster: dict[str, Any], path: Any) -> None:
    if "gcp" in path.name:
        pytest.skip("of AWS")
    for name, kind in cluster["available_node_types"].items():
        config = kind["node_config"]
        assert config["MetadataOptions"] == {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}
        assert config["BlockDeviceMappings"][0]["Ebs"]["Encrypted"] is True
        role = config["IamInstanceProfile"]["Name"]
        assert role == {"head": "vidproc-head", "decode": "vidproc-decode", "network": "vidproc-label"}[name]
        assert ("InstanceMarketOptions" in config) == (name != "head")  # the head stays
