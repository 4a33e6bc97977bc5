"""Ray's own metrics endpoint, read as Prometheus reads it."""

import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from typing import Any

import ray
from prometheus_client.parser import text_string_to_metric_families

OURS = "ray_vidproc_"
RAYS_LABELS = {"Component", "JobId", "NodeAddress", "SessionName", "Version", "WorkerId"}
EXPORT_S = 2.0
"""Between two reports of a process: what `ray_cluster` is started with."""

Samples = Counter[tuple[str, frozenset[tuple[str, str]]]]
"""(sample's name, our labels) → its value, summed over processes."""


def scrape() -> Samples:
    """What all nodes export of ours."""
    found: Samples = Counter()
    for node in ray.nodes():
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        with urllib.request.urlopen(url, timeout=30) as answer:
            text = answer.read().decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name.startswith(OURS):
                    labels = {k: v for k, v in sample.labels.items() if k not in RAYS_LABELS and k[:4] != "otel"}
                    found[sample.name, frozenset(labels.items())] += sample.value  # type: ignore[assignment]
    return found


def settled() -> Samples:
    """A scrape after which nothing of what was counted before is still to come."""
    time.sleep(EXPORT_S + 1)
    return scrape()


def scraped_until(true: Callable[[Samples], Any], *, since: Samples, timeout_s: float = 60) -> Samples:
    """What was added `since`, once this holds of it, or at the latest after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        fresh = Counter(scrape())
        fresh.subtract(since)
        if true(fresh) or time.monotonic() > deadline:
            return Counter({key: value for key, value in fresh.items() if value > 1e-300})  # what is only begun is less
        time.sleep(0.5)
