"""Metrics, rules, alerts and runbooks agree with each other."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics import MetricWrapperBase

from ops.runtime import metrics

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "ops" / "prometheus"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
ALERTS = [rule for rule in RULES if "alert" in rule]
METRICS = [each for each in vars(metrics).values() if isinstance(each, MetricWrapperBase)]
Promtool = Callable[..., str]


def _exposition() -> str:
    """What /metrics says, with one series of every metric."""
    registry = CollectorRegistry()
    for metric in METRICS:
        if metric._labelnames:
            metric.labels(*("x" for _ in metric._labelnames))
        registry.register(metric)
    return generate_latest(registry).decode()


def _series() -> set[str]:
    return set(re.findall(r"^(\w+)[{ ]", _exposition(), re.MULTILINE))


def test_names_and_help_follow_the_conventions(promtool: Promtool) -> None:
    assert promtool("check", "metrics", stdin=_exposition()) == ""


def test_the_named_metrics_are_there() -> None:
    """Dashboards of users rest on these names."""
    assert {
        "omium_failures_detected_total",
        "omium_recovery_success_total",
        "omium_recovery_duration_seconds_bucket",
        "omium_strategy_effectiveness",
    } <= _series()


def test_no_label_grows_with_the_traffic() -> None:
    """An execution, a tenant or a message as label makes a series for each."""
    labels = {label for metric in METRICS for label in metric._labelnames}
    assert labels <= {
        "failure_type", "strategy", "status", "reason", "partition", "worker", "group", "topic", "version", "subject",
        "kind", "cause", "circuit", "result",
    }  # fmt: skip


def test_rules_and_configuration_are_valid(promtool: Promtool) -> None:
    promtool("check", "rules", str(FOLDER / "alerts.yml"))
    promtool("check", "config", str(FOLDER / "prometheus.yml"))


def test_each_alert_fires_when_it_should_and_only_then(promtool: Promtool) -> None:
    tests = Path(__file__).with_name("alerts_test.yml")
    promtool("test", "rules", str(tests))
    tried = re.findall(r"alertname: (\w+)", tests.read_text())
    assert {rule["alert"] for rule in ALERTS} == set(tried)


def test_rules_ask_for_metrics_that_exist() -> None:
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    for rule in RULES:
        asked = set(re.findall(r"\bomium[\w:]+", rule["expr"]))
        assert asked <= _series() | recorded, rule


@pytest.mark.parametrize("alert", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_has_a_runbook_that_helps(alert: dict[str, Any]) -> None:
    path = ROOT / alert["annotations"]["runbook"]
    assert path.stem == alert["alert"]
    headings = re.findall(r"^## (.+)$", path.read_text(), re.MULTILINE)
    assert headings == ["Meaning", "Impact", "Diagnosis", "Mitigation"]


def test_no_runbook_is_left_over() -> None:
    assert {path.stem for path in (FOLDER / "runbooks").iterdir()} == {rule["alert"] for rule in ALERTS}
