"""Network policies: nothing is open but what is listed, and what is listed is little, and enough."""

import ipaddress
from typing import Any

import pytest
from manifests import OVERLAYS, of_kind, overlay, pods

GKE_METADATA = {"169.254.169.252/32", "169.254.169.254/32"}
"""On GKE a pod has its identity from here, and the node's credentials are hidden: see overlays/gcp/egress.yaml."""


@pytest.fixture(params=OVERLAYS)
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def objects(name: str) -> tuple[dict[str, Any], ...]:
    return overlay(name)


def test_nothing_is_open_by_default(objects: tuple[dict[str, Any], ...]) -> None:
    deny = of_kind(objects, "NetworkPolicy")["default-deny"]["spec"]
    assert deny["podSelector"] == {} and set(deny["policyTypes"]) == {"Ingress", "Egress"}
    assert "egress" not in deny and "ingress" not in deny


def test_addresses_are_few(name: str, objects: tuple[dict[str, Any], ...]) -> None:
    """No pod may go to the internet, and none to a metadata service but GKE's."""
    for of, labels, _ in pods(objects):
        for cidr in _cidrs(objects, labels):
            if name == "gcp" and cidr in GKE_METADATA:
                assert labels["vidproc/role"] in ("head", "decode", "network")
                continue
            network = ipaddress.ip_network(cidr)
            assert network.prefixlen >= 16, f"{of}: {cidr} is half the world"
            assert ipaddress.ip_address("169.254.169.254") not in network, of
            assert not network.overlaps(ipaddress.ip_network("192.0.2.0/24")), f"{of}: a documentation address is left"


def test_each_pod_reaches_what_it_needs(objects: tuple[dict[str, Any], ...]) -> None:
    for of, labels, _ in pods(objects):
        opened = {each["metadata"]["name"] for each in _policies(objects, labels)}
        role = labels["vidproc/role"]
        assert {"default-deny", "dns"} <= opened, of
        assert ("kubernetes-api" in opened) == (role in ("launch", "head")), of
        assert ("ray" in opened) == (role in ("head", "decode", "network")), of
        assert ("submit" in opened) == (role == "submit"), of
        if role in ("head", "decode", "network"):
            assert "store" in opened, of
        if role in ("launch", "submit"):
            assert "store" not in opened, of


def _policies(objects: tuple[dict[str, Any], ...], labels: dict[str, str]) -> list[dict[str, Any]]:
    return [
        policy
        for policy in of_kind(objects, "NetworkPolicy").values()
        if _selects(policy["spec"]["podSelector"], labels)
    ]


def _selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    assert set(selector) <= {"matchLabels", "matchExpressions"}
    wanted = selector.get("matchLabels", {})
    for each in selector.get("matchExpressions", ()):
        assert each["operator"] == "In"
        if labels.get(each["key"]) not in each["values"]:
            return False
    return all(labels.get(key) == value for key, value in wanted.items())


def _cidrs(objects: tuple[dict[str, Any], ...], labels: dict[str, str]) -> list[str]:
    return [
        to["ipBlock"]["cidr"]
        for policy in _policies(objects, labels)
        for rule in policy["spec"].get("egress", ())
        for to in rule.get("to") or [{"ipBlock": {"cidr": "0.0.0.0/0"}}]
        if "ipBlock" in to
    ]
