"""Alerts and dashboard ask for metrics that the code defines, by labels that these have; alerts fire when due."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from crd_facts import FACTS, faults
from manifests import CLUSTER, built, of_kind, overlay, pods

from vidproc.pipeline.metrics import EXPORTED

MONITORING = CLUSTER / "monitoring"
RULES = yaml.safe_load((MONITORING / "rules.yaml").read_text())["spec"]["groups"][0]["rules"]
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
EXPRESSIONS = [(rule["alert"], rule["expr"]) for rule in RULES] + [
    (panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel["targets"]
]
OTHERS = {"kube_cronjob_status_last_successful_time", "kube_job_status_failed"}
"""Metrics of kube-state-metrics."""


def selectors(expression: Any) -> Iterator[Any]:
    """The series that an expression selects, anywhere in it."""
    if isinstance(expression, promql_parser.VectorSelector):
        yield expression
    for name in ("expr", "lhs", "rhs", "vector_selector", "param", "args"):
        inner = getattr(expression, name, None)
        for each in inner if isinstance(inner, list) else [inner]:
            if each is not None:
                yield from selectors(each)


def grouped(expression: Any) -> Iterator[tuple[set[str], Any]]:
    """Each aggregation's labels, with what it aggregates."""
    if isinstance(expression, promql_parser.AggregateExpr):
        yield set(expression.modifier.labels if expression.modifier else ()), expression.expr
    for name in ("expr", "lhs", "rhs", "args"):
        inner = getattr(expression, name, None)
        for each in inner if isinstance(inner, list) else [inner]:
            if each is not None:
                yield from grouped(each)


def metric_of(series: str) -> Any:
    """The metric of ours that a series is of, None if there is none."""
    for suffix in ("", "_bucket", "_sum", "_count"):
        name = series.removesuffix(suffix) if suffix else series
        metric = EXPORTED.get(name)
        if metric and (metric.kind == "histogram") == bool(suffix) and series.endswith(suffix):
            return metric
    return None


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS, ids=[where for where, _ in EXPRESSIONS])
def test_metrics_and_labels_exist(where: str, expression: str) -> None:
    parsed = promql_parser.parse(expression)
    found = list(selectors(parsed))
    assert found, where
    for series in found:
        if series.name in OTHERS:
            continue
        metric = metric_of(series.name)
        assert metric is not None, f"{where}: {series.name} is no metric of vidproc/pipeline/metrics.py"
        assert {matcher.name for matcher in series.matchers.matchers} <= set(metric.labels), f"{where}: {series}"
    for labels, inner in grouped(parsed):
        for series in selectors(inner):
            metric = metric_of(series.name)
            known = {*metric.labels, "le"} if metric else set()
            assert labels <= known, f"{where}: {labels} are no labels of {series.name}"


def test_the_checks_catch_mistakes() -> None:
    assert metric_of("ray_vidproc_batch_fill_ratio_bucket") and not metric_of("ray_vidproc_batch_fill_ratio")
    assert not metric_of("ray_vidproc_frames") and not metric_of("ray_vidproc_frames_total_sum")


def test_every_metric_is_on_the_dashboard() -> None:
    seen = {
        metric_of(series.name).exported
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
        for series in selectors(promql_parser.parse(target["expr"]))
    }
    assert seen == set(EXPORTED)


def test_panels_lie_beside_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not taken & cells and at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_every_alert_says_what_to_do() -> None:
    for rule in RULES:
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert rule["annotations"]["summary"] and rule["annotations"]["description"]


def test_objects_fit_the_schemas() -> None:
    for each in built("monitoring"):
        if each["kind"] in FACTS:
            assert list(faults(each, FACTS[each["kind"]])) == []
    (board,) = of_kind(built("monitoring"), "ConfigMap").values()
    assert json.loads(board["data"]["dashboard.json"]) == DASHBOARD


def test_prometheus_finds_the_pods() -> None:
    (monitor,) = of_kind(built("monitoring"), "PodMonitor").values()
    wanted = monitor["spec"]["selector"]["matchLabels"]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    found = set()
    for of, labels, spec in pods(overlay("aws")):
        if wanted.items() <= labels.items():
            ports = {port["name"]: port["containerPort"] for port in spec["containers"][0]["ports"]}
            assert ports[endpoint["port"]] == 8080, of
            found.add(of)
    assert found == {"head", "decode", "network"}


def test_missed_nights_are_those_of_the_cronjob() -> None:
    (rule,) = [rule for rule in RULES if rule["alert"] == "VidprocMissedNight"]
    (series,) = selectors(promql_parser.parse(rule["expr"]))
    wanted = {matcher.name: matcher.value for matcher in series.matchers.matchers}
    cron = of_kind(overlay("aws"), "CronJob")[wanted["cronjob"]]
    assert cron["metadata"]["namespace"] == wanted["namespace"]


def test_alerts_fire_when_they_should(tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("no promtool here (it comes with Prometheus)")
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "vidproc", "rules": RULES}]}))
    shutil.copy(MONITORING / "rules-test.yaml", tmp_path)
    done = subprocess.run(
        ["promtool", "test", "rules", "rules-test.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case() -> None:
    cases = yaml.safe_load((MONITORING / "rules-test.yaml").read_text())["tests"]
    fired = {each["alertname"] for case in cases for each in case["alert_rule_test"] if each.get("exp_alerts")}
    assert fired == {rule["alert"] for rule in RULES}
