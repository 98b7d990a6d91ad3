"""What the views show must be a function of the set of records: never of their order, or of how often they came."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from processors.audit.store import Store
from schemas.records import Category, DispositionKind, ResultReason, ResultStatus, SettledStatus, Strategy
from schemas.topics import FAILURES
from tests.processors.audit.scene import START, Scene

pytestmark = pytest.mark.integration
Ask = Callable[..., list[dict[str, Any]]]

AUDIT_COLUMNS = (
    *("execution_id", "tenant_id", "timestamp"),
    *("failure_type", "failure_detected_at", "failure_agent", "failure_details"),
    *("checkpoint_id", "checkpoint_created_at", "checkpoint_data"),
    *("recovery_strategy", "options_considered", "modifications", "applied_at"),
    *("result_success", "final_output", "retry_count", "duration_seconds"),
)


def audit(ask: Ask, tenant: str) -> list[dict[str, Any]]:
    return ask("SELECT * FROM recovery_audit WHERE tenant_id = {t:String} ORDER BY failure_detected_at", t=tenant)


def history(ask: Ask, tenant: str, execution: str = "exec-1") -> dict[str, Any]:
    (row,) = ask("SELECT * FROM recovery_history(tenant_id={t:String}, execution_id={e:String})", t=tenant, e=execution)
    return row


def test_recovery_audit_has_exactly_the_promised_columns(ask: Ask) -> None:
    columns = ask(
        "SELECT name FROM system.columns WHERE database = 'default' AND table = 'recovery_audit' ORDER BY position"
    )
    assert tuple(column["name"] for column in columns) == AUDIT_COLUMNS


def test_one_recovery_is_one_row_that_tells_all(store: Store, ask: Ask, tenant: str) -> None:
    store.insert(Scene(tenant).recovered().rows)
    (row,) = audit(ask, tenant)
    assert (row["failure_type"], row["failure_agent"]) == ("hallucination", "loan-agent")
    assert orjson.loads(row["failure_details"]) == {"field": "apr", "actual_value": 0}
    assert (row["checkpoint_id"], row["checkpoint_created_at"]) == ("cp-1", START)
    assert orjson.loads(row["checkpoint_data"]) == {"step": 3}
    assert row["recovery_strategy"] == "constraint_injection"
    assert [o["eligible"] for o in orjson.loads(row["options_considered"])] == [True, False]
    assert orjson.loads(row["modifications"]) == [{"kind": "append_prompt", "parameters": {"text": "APR > 0"}}]
    assert row["result_success"] is True
    assert orjson.loads(row["final_output"]) == {"apr": 7}
    assert row["retry_count"] == 2
    assert row["duration_seconds"] == 6.0  # seven records, a second apart
    assert row["failure_detected_at"] < row["applied_at"] < row["timestamp"]


def test_a_failed_attempt_and_the_one_that_followed_are_two_rows(store: Store, ask: Ask, tenant: str) -> None:
    store.insert(Scene(tenant).second_rung().rows)
    rows = [(r["recovery_strategy"], r["result_success"], bool(r["final_output"])) for r in audit(ask, tenant)]
    assert rows == [("constraint_injection", False, False), ("function_calling", True, True)]
    found = history(ask, tenant)
    assert (found["total_failures"], found["recovery_success_rate"]) == (2, 0.5)
    assert [e["success"] for e in found["events"]] == [False, True]
    assert set(found["events"][0]) == {"time", "failure_type", "recovery_strategy", "success"}


def test_history_of_an_execution_without_failures(ask: Ask) -> None:
    assert history(ask, "nobody", "nothing") == {
        "execution_id": "nothing",
        "total_failures": 0,
        "recovery_success_rate": 0,
        "events": [],
    }


def test_a_failure_without_an_id_is_known_by_its_place(store: Store, ask: Ask, tenant: str) -> None:
    scene = Scene(tenant)
    at = scene.failure(None)
    scene.disposition(f"0-{at.offset}", DispositionKind.OPENED)
    scene.command(f"0-{at.offset}", 1, Strategy.CONSTRAINT_INJECTION)
    store.insert(scene.rows)
    (row,) = audit(ask, tenant)
    assert (row["failure_agent"], row["recovery_strategy"]) == ("loan-agent", "constraint_injection")


@pytest.mark.parametrize("kind", [DispositionKind.DUPLICATE, DispositionKind.IGNORED, DispositionKind.EXPIRED])
def test_a_failure_that_was_set_aside_was_not_handled(
    store: Store, ask: Ask, tenant: str, kind: DispositionKind
) -> None:
    scene = Scene(tenant)
    scene.failure("f1")
    scene.disposition("f1", kind)
    store.insert(scene.rows)
    assert audit(ask, tenant) == []
    assert history(ask, tenant)["total_failures"] == 0


def test_control_flow_is_no_failure(store: Store, ask: Ask, tenant: str) -> None:
    scene = Scene(tenant)
    scene.failure("f1")
    scene.options("f1", category=Category.NONE)
    scene.disposition("f1", DispositionKind.ENDED)
    store.insert(scene.rows)
    assert audit(ask, tenant) == []


def test_an_open_recovery_has_neither_succeeded_nor_failed(store: Store, ask: Ask, tenant: str) -> None:
    scene = Scene(tenant)
    scene.failure("f1")
    scene.disposition("f1", DispositionKind.OPENED)
    scene.command("f1", 1, Strategy.CONSTRAINT_INJECTION)
    store.insert(scene.rows)
    (row,) = audit(ask, tenant)
    assert (row["result_success"], row["duration_seconds"]) == (None, None)


def test_a_recovery_without_a_command_failed(store: Store, ask: Ask, tenant: str) -> None:
    scene = Scene(tenant)
    scene.failure("f1")
    scene.disposition("f1", DispositionKind.OPENED)
    scene.result("f1", ResultStatus.FAILED, ResultReason.NO_CHECKPOINT, 0)
    store.insert(scene.rows)
    (row,) = audit(ask, tenant)
    assert (row["recovery_strategy"], row["result_success"]) == ("", False)


def test_a_failure_after_the_last_rung_does_not_borrow_the_rung_that_failed(
    store: Store, ask: Ask, tenant: str
) -> None:
    scene = Scene(tenant)
    scene.failure("f1")
    scene.command("f1", 1, Strategy.CONSTRAINT_INJECTION)
    scene.failure("f2", resumed_attempt=1)
    scene.disposition("f2", DispositionKind.ESCALATED, attempt=1)
    scene.settled(1, Strategy.CONSTRAINT_INJECTION, SettledStatus.FAILED)
    scene.result("f1", ResultStatus.PARTIAL, ResultReason.EXHAUSTED, 1)
    store.insert(scene.rows)
    rows = [(r["recovery_strategy"], r["result_success"]) for r in audit(ask, tenant)]
    assert rows == [("constraint_injection", False), ("", False)]


def test_a_parallel_branch_shares_the_command_that_answered_it(store: Store, ask: Ask, tenant: str) -> None:
    scene = Scene(tenant).recovered("f1")
    scene.failure("f1b")
    scene.disposition("f1b", DispositionKind.JOINED, attempt=1)
    store.insert(scene.rows)
    assert [r["result_success"] for r in audit(ask, tenant)] == [True, True]


def test_another_tenant_cannot_settle_my_recovery(store: Store, ask: Ask, tenant: str) -> None:
    mine, theirs = Scene(tenant), Scene(f"{tenant}-evil")
    mine.failure("f1")
    mine.command("f1", 1, Strategy.CONSTRAINT_INJECTION)
    theirs.recovery = mine.recovery
    theirs.outcome(1, output='{"stolen": true}')
    theirs.settled(1, Strategy.CONSTRAINT_INJECTION, SettledStatus.SUCCEEDED)
    store.insert(mine.rows + theirs.rows)
    assert [r["result_success"] for r in audit(ask, tenant)] == [None]
    assert audit(ask, f"{tenant}-evil") == []


_scenes = itertools.count(1)


@given(seed=st.integers(0, 2**32), repeats=st.integers(1, 3), batches=st.integers(1, 4))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_order_repeats_and_batches_change_nothing(
    store: Store, ask: Ask, seed: int, repeats: int, batches: int
) -> None:
    """The same records, inserted in order once, or shuffled, in pieces and some of them again."""
    name = f"order-{next(_scenes)}"
    plain = Scene(f"{name}-plain").second_rung().rows
    rows = Scene(f"{name}-plain".replace("plain", "wild"[:4] + "x")).second_rung().rows
    draw = random.Random(seed)
    wild = [r for r in rows for _ in range(draw.randint(1, repeats))]
    draw.shuffle(wild)
    store.insert(plain)
    size = -(-len(wild) // batches)
    for i in range(0, len(wild), size):
        store.insert(wild[i : i + size])

    def seen(tenant: str) -> list[dict[str, Any]]:
        rows = [{k: v for k, v in row.items() if k != "tenant_id"} for row in audit(ask, tenant)]
        return [
            *rows,
            *(
                {"kind": r["kind"], "n": r["n"]}
                for r in ask(
                    "SELECT kind, count() AS n FROM v_events WHERE tenant_id = {t:String} GROUP BY kind ORDER BY kind",
                    t=tenant,
                )
            ),
            history(ask, tenant),
        ]

    assert seen(f"{name}-plain") == seen(f"{name}-wildx")


def test_repeats_are_counted_and_never_shown(store: Store, ask: Ask, tenant: str) -> None:
    rows = Scene(tenant).recovered().rows
    store.insert(rows)
    store.insert(rows[:3])
    (before,) = ask("SELECT count() AS n FROM v_events WHERE tenant_id = {t:String}", t=tenant)
    assert before["n"] == len(rows)
    (physical,) = ask("SELECT count() AS n FROM audit_events WHERE tenant_id = {t:String}", t=tenant)
    assert physical["n"] == len(rows) + 3
    (coverage,) = ask("SELECT sum(repeats) >= 3 AS counted, sum(conflicts) AS conflicts FROM v_coverage")
    assert (coverage["counted"], coverage["conflicts"]) == (1, 0)


def test_what_cannot_be_decoded_is_there_with_its_digest_only(store: Store, ask: Ask, tenant: str) -> None:
    scene = Scene(tenant)
    scene.append(FAILURES, b'{"password": "hunter2"', key=f"{tenant}/exec-1".encode())
    store.insert(scene.rows)
    (row,) = ask("SELECT * FROM v_events WHERE tenant_id = {t:String}", t=tenant)
    assert (row["kind"], row["reason"], row["execution_id"], row["body"]) == ("malformed", "not_json", "exec-1", "")
    assert (len(row["sha256"]), row["size_bytes"]) == (64, 22)
    assert "hunter2" not in str(row)


def test_strategy_success_counts_what_teaches_something(store: Store, ask: Ask, tenant: str) -> None:
    strategy = Strategy.REPHRASE_REQUEST
    statuses = [SettledStatus.SUCCEEDED] * 3 + [SettledStatus.FAILED, SettledStatus.EXPIRED, SettledStatus.NOT_APPLIED]
    for number, status in enumerate([*statuses, None]):
        scene = Scene(tenant, f"exec-{number}")
        scene.failure("f")
        scene.command("f", 1, strategy)
        if status:
            scene.settled(1, strategy, status)
        store.insert(scene.rows * 2)
    (row,) = ask("SELECT * FROM v_strategy_success WHERE strategy = {s:String}", s=strategy)
    assert (row["attempts"], row["successes"], row["success_rate"]) == (5, 3, 0.6)
    assert (row["not_applied"], row["open"], row["cost_microusd"]) == (1, 1, 6 * 900)
    # statsmodels.stats.proportion.proportion_confint(3, 5, method="wilson")
    assert (round(row["success_rate_low"], 3), round(row["success_rate_high"], 3)) == (0.231, 0.882)


def test_a_failure_that_nobody_answered_is_told(store: Store, ask: Ask, tenant: str) -> None:
    waiting, answered = Scene(tenant, "waiting"), Scene(tenant, "answered").recovered()
    waiting.failure("f1")
    ignored = Scene(tenant, "ignored")
    ignored.failure("f1")
    ignored.disposition("f1", DispositionKind.OPENED)
    ignored.disposition("f1", DispositionKind.IGNORED)
    store.insert(waiting.rows + answered.rows + ignored.rows)
    rows = ask("SELECT execution_id FROM v_unanswered WHERE tenant_id = {t:String}", t=tenant)
    assert [r["execution_id"] for r in rows] == ["waiting"]


def test_every_view_answers_and_says_what_it_is(ask: Ask) -> None:
    for view in ask("SELECT name, comment FROM system.tables WHERE database = 'default' AND engine = 'View'"):
        assert view["comment"]
        if view["name"] != "recovery_history":
            ask(f"SELECT * FROM {view['name']} LIMIT 1")
    undocumented = ask(
        "SELECT name FROM system.columns WHERE database = 'default' AND table = 'recovery_audit' AND comment = ''"
    )
    assert undocumented == []
