"""The queries of `ops/clickhouse/README.md` run as they stand, and answer what they say."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import Any

import pytest

from processors.audit.store import Store
from schemas.records import DispositionKind, ResultReason, ResultStatus
from tests.processors.audit.scene import Scene

pytestmark = pytest.mark.integration
QUERIES = re.findall(r"^```sql\n(.*?)^```", (files("ops.clickhouse") / "README.md").read_text("utf-8"), re.M | re.S)
Ask = Callable[..., list[dict[str, Any]]]


def _recent(scene: Scene) -> Scene:
    scene.now = datetime.now(UTC) - timedelta(minutes=10)
    return scene


@pytest.fixture(scope="module", autouse=True)
def _said(store: Store) -> None:
    store.insert(_recent(Scene("acme", "loan-7")).second_rung().rows)
    lost = _recent(Scene("acme", "loan-8"))
    lost.failure("f1")
    lost.disposition("f1", DispositionKind.OPENED)
    lost.result("f1", ResultStatus.FAILED, ResultReason.NO_CHECKPOINT, 0)
    store.insert(lost.rows)


def _asked(ask: Ask, words: str) -> list[dict[str, Any]]:
    (query,) = [query for query in QUERIES if words in query]
    return ask(query)


@pytest.mark.parametrize("query", QUERIES)
def test_each_query_runs(ask: Ask, query: str) -> None:
    ask(query)


def test_one_run(ask: Ask) -> None:
    rows = _asked(ask, "FROM recovery_audit")
    assert [(row["recovery_strategy"], row["result_success"]) for row in rows] == [
        ("constraint_injection", False),
        ("function_calling", True),
    ]
    (history,) = _asked(ask, "FROM recovery_history")
    assert (history["total_failures"], history["recovery_success_rate"]) == (2, 0.5)


def test_strategies_durations_costs_and_reasons(ask: Ask) -> None:
    today = datetime.now(UTC).date()
    days = [row for row in _asked(ask, "FROM v_commands") if (today - row["day"]).days <= 1]
    assert {row["strategy"] for row in days} >= {"constraint_injection", "function_calling"}
    assert all(0 <= row["success_rate"] <= 1 for row in days)
    durations = {row["failure_type"]: row for row in _asked(ask, "FROM recovery_attempts")}
    assert 0 < durations["hallucination"]["p50_s"] <= durations["hallucination"]["p99_s"]
    assert sum(row["recoveries"] for row in _asked(ask, "cost_usd DESC") if row["tenant_id"] == "acme") >= 2
    assert any(row["reason"] == "no_checkpoint" for row in _asked(ask, "asked_a_person"))
