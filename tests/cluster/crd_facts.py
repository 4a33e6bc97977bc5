"""What the custom resources that we use may hold: field names and types, as far as our files go, and no further.

Written down from the API references: RayJob and RayCluster of `ray.io/v1` from KubeRay v1.7.0's generated field
reference (docs.ray.io, "KubeRay CRD API reference"); PrometheusRule and PodMonitor of `monitoring.coreos.com/v1` from
prometheus-operator's. `POD` stands for a Kubernetes PodTemplateSpec, which Kubernetes' own schemas check.
"""

from collections.abc import Iterator
from typing import Any

POD = "pod template"
TEXTS = {"*": str}
RESOURCES = {"requests": {"*": str}, "limits": {"*": str}}
MOUNT = {"name": str, "mountPath": str, "readOnly": bool, "subPath": str}
SECURITY = {
    "allowPrivilegeEscalation": bool,
    "readOnlyRootFilesystem": bool,
    "runAsNonRoot": bool,
    "runAsUser": int,
    "capabilities": {"drop": [str], "add": [str]},
    "seccompProfile": {"type": str},
}
METADATA = {"name": str, "namespace": str, "labels": TEXTS, "annotations": TEXTS}

WORKER_GROUP = {
    "groupName": str,
    "replicas": int,
    "minReplicas": int,
    "maxReplicas": int,
    "idleTimeoutSeconds": int,
    "priority": int,
    "resources": TEXTS,
    "labels": TEXTS,
    "rayStartParams": TEXTS,
    "template": POD,
    "numOfHosts": int,
}
RAY_CLUSTER = {
    "rayVersion": str,
    "authOptions": {"mode": ("disabled", "token"), "secretName": str, "enableK8sTokenAuth": bool},
    "enableInTreeAutoscaling": bool,
    "autoscalerOptions": {
        "version": ("v1", "v2"),
        "idleTimeoutSeconds": int,
        "upscalingMode": ("Default", "Aggressive", "Conservative"),
        "resources": RESOURCES,
        "securityContext": SECURITY,
        "volumeMounts": [MOUNT],
        "env": [{"name": str, "value": str}],
    },
    "headGroupSpec": {
        "resources": TEXTS,
        "labels": TEXTS,
        "rayStartParams": TEXTS,
        "serviceType": str,
        "enableIngress": bool,
        "template": POD,
    },
    "workerGroupSpecs": [WORKER_GROUP],
}
RAY_JOB = {
    "apiVersion": ("ray.io/v1",),
    "kind": ("RayJob",),
    "metadata": METADATA,
    "spec": {
        "suspend": bool,
        "entrypoint": str,
        "entrypointNumCpus": float,
        "runtimeEnvYAML": str,
        "submissionMode": ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
        "backoffLimit": int,
        "activeDeadlineSeconds": int,
        "preRunningDeadlineSeconds": int,
        "shutdownAfterJobFinishes": bool,
        "ttlSecondsAfterFinished": int,
        "submitterConfig": {"backoffLimit": int},
        "submitterPodTemplate": POD,
        "metadata": TEXTS,
        "rayClusterSpec": RAY_CLUSTER,
    },
}
PROMETHEUS_RULE = {
    "apiVersion": ("monitoring.coreos.com/v1",),
    "kind": ("PrometheusRule",),
    "metadata": METADATA,
    "spec": {
        "groups": [
            {
                "name": str,
                "interval": str,
                "rules": [
                    {
                        "alert": str,
                        "record": str,
                        "expr": str,
                        "for": str,
                        "labels": TEXTS,
                        "annotations": TEXTS,
                    }
                ],
            }
        ]
    },
}
POD_MONITOR = {
    "apiVersion": ("monitoring.coreos.com/v1",),
    "kind": ("PodMonitor",),
    "metadata": METADATA,
    "spec": {
        "selector": {"matchLabels": TEXTS},
        "namespaceSelector": {"matchNames": [str]},
        "podMetricsEndpoints": [
            {
                "port": str,
                "interval": str,
                "relabelings": [{"action": str, "sourceLabels": [str], "targetLabel": str, "regex": str}],
            }
        ],
    },
}
FACTS: dict[str, dict[str, Any]] = {"RayJob": RAY_JOB, "PrometheusRule": PROMETHEUS_RULE, "PodMonitor": POD_MONITOR}


def faults(value: Any, expected: Any, at: str = "") -> Iterator[str]:
    """What does not agree with the facts: unknown fields, other types, values that are not among the allowed."""
    match expected:
        case tuple():
            if value not in expected:
                yield f"{at}: {value!r} is none of {expected}"
        case dict() | str() if not isinstance(value, dict):
            yield f"{at}: {value!r} is no object"
        case dict():
            yield from _of_fields(value, expected, at)
        case [each]:
            if not isinstance(value, list):
                yield f"{at}: {value!r} is no list"
                return
            for number, item in enumerate(value):
                yield from faults(item, each, f"{at}[{number}]")
        case type():
            if type(value) is not expected and not (expected is float and type(value) is int):
                yield f"{at}: {value!r} is no {expected.__name__}"


def _of_fields(value: dict[str, Any], expected: dict[str, Any], at: str) -> Iterator[str]:
    for name, item in value.items():
        if name in expected or "*" in expected:
            yield from faults(item, expected.get(name, expected.get("*")), f"{at}.{name}")
        else:
            yield f"{at}: unknown field {name!r}, known are {sorted(expected)}"
