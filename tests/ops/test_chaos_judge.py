"""A judge that cannot accuse proves nothing: each broken invariant is named."""

from __future__ import annotations

from typing import Any

from ops.chaos import checker
from ops.chaos.checker import Verdict
from ops.chaos.wire import Row

DISPOSITIONS = "recovery.dispositions.v1"


def _rows(**topics: list[dict[str, Any]]) -> dict[str, list[Row]]:
    named = {name: f"recovery.{name}.v1" for name in ("commands", "results", "settled", "dispositions")}
    return {topic: [] for topic in checker.AUDITED} | {
        named[name]: [Row(named[name], 0, offset, 0, value) for offset, value in enumerate(values)]
        for name, values in topics.items()
    }


def _command(attempt: int = 1, offset: int = 0, **fields: Any) -> dict[str, Any]:
    candidate = {"strategy": "retry_once", "confidence": 0.5, "eligible": True}
    decision = {"mode": "greedy", "candidates": [candidate], "chosen": 0}
    known = {"recovery_id": "r", "command_id": f"c{attempt}", "execution_id": "x-1", "tenant_id": "tenant-1"}
    fence = {"offset": offset, "attempt": attempt}
    return known | {"attempt": attempt, "fence": fence, "strategy": "retry_once", "decision": decision} | fields


def _said(kind: str, offset: int = 0) -> dict[str, Any]:
    return {
        "subject": "failure",
        "subject_id": "f",
        "kind": kind,
        "origin_partition": 0,
        "origin_offset": offset,
        "tenant_id": "tenant-1",
        "execution_id": "x-1",
    }


ACKED = [{"did": "failure-acked", "failure_id": "f", "execution_id": "x-1", "place": [0, 0]}]


def test_a_failure_that_became_nothing_is_lost() -> None:
    for kinds, lost in ((["opened", "commanded"], 0), (["opened"], 1), ([], 1), (["forwarded"], 1)):
        verdict = Verdict()
        checker._no_failure_is_lost(verdict, _rows(dispositions=[_said(kind) for kind in kinds]), ACKED)
        assert verdict.lost == lost, kinds


def test_a_second_command_of_an_attempt_is_seen() -> None:
    verdict = Verdict()
    ended = [{"recovery_id": "r", "status": "success", "reason": "recovered", "total_duration_s": 0.1}]
    checker._one_command_an_attempt(verdict, _rows(commands=[_command(), _command(offset=1)], results=ended))
    assert verdict.commands_twice == 1
    assert list(verdict.broken) == ["2 one command an attempt"]


def test_a_fence_that_does_not_rise_is_seen() -> None:
    verdict = Verdict()
    ended = [{"recovery_id": "r", "status": "success", "reason": "recovered", "total_duration_s": 0.1}]
    checker._one_command_an_attempt(verdict, _rows(commands=[_command(2, 5), _command(1, 5)], results=ended))
    assert list(verdict.broken) == ["2 one command an attempt"]


def test_a_recovery_without_an_end_and_one_with_two_are_seen() -> None:
    verdict = Verdict()
    checker._one_command_an_attempt(verdict, _rows(commands=[_command()]))
    assert list(verdict.broken) == ["1 no failure is lost"]
    verdict = Verdict()
    twice = [{"recovery_id": "r", "status": "success", "reason": "recovered", "total_duration_s": 0.1}] * 2
    checker._one_end_a_recovery(verdict, _rows(results=twice))
    assert verdict.broken


def test_a_record_of_another_tenant_is_seen() -> None:
    verdict = Verdict()
    checker._tenants_apart(verdict, _rows(commands=[_command(tenant_id="tenant-2")]))
    assert list(verdict.broken) == ["6 tenants apart"]


def test_a_choice_that_was_not_the_best_is_seen() -> None:
    command = _command()
    command["decision"]["candidates"].append({"strategy": "better", "confidence": 0.9, "eligible": True})
    verdict = Verdict()
    checker._decisions_recomputable(verdict, _rows(commands=[command]))
    assert list(verdict.broken) == ["7 decisions recomputable"]


def test_a_row_that_is_missing_and_one_too_many_are_seen() -> None:
    rows = _rows(commands=[_command(), _command(2)])
    verdict = Verdict()
    topic = "recovery.commands.v1"
    checker._audit_complete(verdict, rows, lambda _: [(topic, 0, 0), (topic, 0, 0), (topic, 0, 7)])
    assert verdict.audit_missing == 1
    assert verdict.audit_twice == 1
    assert len(verdict.broken["3 audit complete"]) == 3


def test_an_effect_twice_is_seen() -> None:
    verdict = Verdict()
    checker._effects_once(verdict, [{"did": "took", "execution_id": "x-1", "fence": [0, 1]}] * 2)
    assert verdict.broken
