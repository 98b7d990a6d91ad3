"""A judge that cannot accuse proves nothing: each broken invariant is named."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import Producer
from hypothesis import given
from hypothesis import strategies as st

from ops.chaos import checker
from ops.chaos.checker import Verdict
from ops.chaos.wire import Row
from ops.runtime import topics
from ops.runtime.settings import Settings
from schemas.topics import AUDITED, TOPICS
from streams.decide.catalogue import shipped
from streams.learning.counts import capped

OPTIONS = "recovery.options.performance.v1"


def _rows(**topics: list[dict[str, Any]]) -> dict[str, list[Row]]:
    named = {name: f"recovery.{name}.v1" for name in ("commands", "results", "settled", "dispositions")}
    named |= {"letters": "recovery.dead-letters.v1", "outcomes": "agent.outcomes.v1", "options": OPTIONS}
    named |= {"failures": "agent.failures.v1"}
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
        "attempt": 1,
        "origin_partition": 0,
        "origin_offset": offset,
        "tenant_id": "tenant-1",
        "execution_id": "x-1",
    }


ACKED = [{"did": "failure-acked", "failure_id": "f", "execution_id": "x-1", "place": [0, 0]}]


def test_the_judge_looks_at_every_audited_topic() -> None:
    assert set(checker.AUDITED) == {topic.name for topic in AUDITED}
    assert set(checker.TRANSACTIONAL) <= {topic.name for topic in TOPICS}


def test_a_failure_that_became_nothing_is_lost() -> None:
    for kinds, lost in ((["opened", "commanded"], 0), (["opened"], 1), ([], 1), (["forwarded"], 1)):
        verdict = Verdict()
        checker.no_failure_is_lost(verdict, _rows(dispositions=[_said(kind) for kind in kinds]), ACKED)
        assert verdict.lost == lost, kinds


@pytest.mark.parametrize(("buried", "lost"), [(1, 0), (2, 1)])
def test_a_forwarded_failure_may_end_among_the_dead_letters(buried: int, lost: int) -> None:
    verdict = Verdict()
    failures = [{"failure_id": each, "tenant_id": "tenant-1", "execution_id": "x-1"} for each in ("f", "f", "other")]
    letter = {"origin_topic": "agent.failures.v1", "origin_partition": 0, "origin_offset": buried}
    rows = _rows(failures=failures, dispositions=[_said("forwarded")], letters=[letter])
    checker.no_failure_is_lost(verdict, rows, ACKED)
    assert verdict.lost == lost


def test_a_second_command_of_an_attempt_is_seen() -> None:
    verdict = Verdict()
    ended = [{"recovery_id": "r", "status": "success", "reason": "recovered", "total_duration_s": 0.1}]
    checker.one_command_an_attempt(verdict, _rows(commands=[_command(), _command(offset=1)], results=ended))
    assert verdict.commands_twice == 1
    assert list(verdict.broken) == ["2 one command an attempt"]


def test_a_fence_that_does_not_rise_is_seen() -> None:
    verdict = Verdict()
    ended = [{"recovery_id": "r", "status": "success", "reason": "recovered", "total_duration_s": 0.1}]
    checker.one_command_an_attempt(verdict, _rows(commands=[_command(2, 5), _command(1, 5)], results=ended))
    assert list(verdict.broken) == ["2 one command an attempt"]


def test_a_recovery_without_an_end_and_one_with_two_are_seen() -> None:
    verdict = Verdict()
    checker.one_command_an_attempt(verdict, _rows(commands=[_command()]))
    assert list(verdict.broken) == ["1 no failure is lost"]
    verdict = Verdict()
    twice = [{"recovery_id": "r", "status": "success", "reason": "recovered", "total_duration_s": 0.1}] * 2
    checker.one_end_a_recovery(verdict, _rows(results=twice))
    assert verdict.broken


def test_a_record_of_another_tenant_is_seen() -> None:
    verdict = Verdict()
    checker.tenants_apart(verdict, _rows(commands=[_command(tenant_id="tenant-2")]))
    assert list(verdict.broken) == ["6 tenants apart"]


def test_a_choice_that_was_not_the_best_is_seen() -> None:
    command = _command()
    command["decision"]["candidates"].append({"strategy": "better", "confidence": 0.9, "eligible": True})
    verdict = Verdict()
    checker.decisions_recomputable(verdict, _rows(commands=[command]))
    assert list(verdict.broken) == ["7 decisions recomputable"]


def test_a_row_that_is_missing_and_one_too_many_are_seen() -> None:
    rows = _rows(commands=[_command(), _command(2)])
    verdict = Verdict()
    topic = "recovery.commands.v1"
    stored = {topic: [(0, 0), (0, 0), (0, 7)]}

    def query(sql: str) -> list[tuple[Any, ...]]:
        return [(0,)] if "count()" in sql else stored.get(sql.split("'")[1], [])

    checker.audit_complete(verdict, rows, query)
    assert verdict.audit_missing == 1
    assert verdict.audit_twice == 1
    assert len(verdict.broken["3 audit complete"]) == 3


def test_an_effect_twice_is_seen() -> None:
    verdict = Verdict()
    checker.effects_once(verdict, [{"did": "took", "execution_id": "x-1", "fence": [0, 1]}] * 2)
    assert verdict.broken


def test_a_failure_that_streams_passed_over_is_seen() -> None:
    for origins, broken in (([{"partition": 0, "offset": 0}], []), ([{"partition": 1, "offset": 0}], [checker.LOST])):
        verdict = Verdict()
        checker.every_failure_is_decided(verdict, _rows(options=[{"origin": origin} for origin in origins]), ACKED)
        assert list(verdict.broken) == broken


def test_an_input_that_was_taken_twice_is_seen() -> None:
    for kinds, broken in ((["opened", "commanded", "joined"], []), (["opened", "duplicate"], [checker.TWICE])):
        verdict = Verdict()
        checker.inputs_count_once(verdict, _rows(dispositions=[_said(kind) for kind in kinds]))
        assert list(verdict.broken) == broken


def test_an_outcome_of_which_nothing_became_is_seen() -> None:
    verdict = Verdict()
    checker.inputs_count_once(verdict, _rows(outcomes=[{"command_id": "c1", "status": "succeeded"}]))
    assert list(verdict.broken) == [checker.LOST]


def test_a_success_that_was_said_in_time_and_did_not_count_is_seen() -> None:
    for at_ms, broken in ((999, [checker.LOST]), (1000, [])):
        rows = _rows(commands=[_command(outcome_deadline=1000)], settled=[{"command_id": "c1", "status": "expired"}])
        said = {"command_id": "c1", "status": "succeeded", "tenant_id": "tenant-1"}
        rows["agent.outcomes.v1"] = [Row("agent.outcomes.v1", 0, 0, at_ms, said)]
        verdict = Verdict()
        checker.words_in_time_count(verdict, rows)
        assert list(verdict.broken) == broken, at_ms


def test_a_recovery_that_a_stranger_ended_is_seen() -> None:
    verdict = Verdict()
    checker.tenants_apart(verdict, _rows(results=[{"recovery_id": "r", "reason": "abandoned"}]))
    assert list(verdict.broken) == [checker.TENANTS]


def test_garbage_that_vanished_good_records_that_were_buried_and_crashes_are_seen() -> None:
    garbage = [{"did": "garbage-acked", "topic": "agent.outcomes.v1", "place": [0, 3]}]
    letter = {
        "origin_topic": "agent.outcomes.v1",
        "origin_partition": 0,
        "origin_offset": 3,
        "reason": "x",
        "error": "e",
    }
    for letters, entries, crashes, broken in (
        ([letter], garbage, [], 0),
        ([], garbage, [], 1),
        ([letter], [], [], 1),
        ([letter | {"error": checker.REFUSED}], [], [], 0),
        ([letter], garbage, ["recover-1 ended with 1"], 1),
    ):
        verdict = Verdict()
        checker.no_input_stops_a_worker(verdict, _rows(letters=letters), entries, crashes)
        assert len(verdict.broken.get(checker.INPUT, [])) == broken


def _settled(tenant: str, attempts: int, successes: int) -> list[Row]:
    known = {"tenant_id": tenant, "attempt": 2, "subtype": "timeout", "severity": "high", "strategy": "retry_once"}
    return [
        Row("", 0, n, 0, known | {"command_id": f"{tenant}-{n}", "status": "succeeded" if n < successes else "expired"})
        for n in range(attempts)
    ]


def _learned(samples: int, successes: int) -> Row:
    known = {"subtype": "timeout", "severity": "high", "attempt_class": "2+", "strategy": "retry_once"}
    return Row("", 0, 0, 0, known | {"samples": samples, "successes": successes})


@pytest.mark.parametrize(
    ("learned", "right"),
    [
        ([_learned(60, 33)], True),
        ([_learned(1, 1), _learned(60, 33)], True),
        # What all settled, without regard to whose it was: one tenant made most of it.
        ([_learned(1030, 33)], False),
        ([_learned(61, 33)], False),
        ([_learned(60, 33), _learned(1, 1)], False),
        ([], False),
    ],
)
def test_a_count_that_is_not_the_fold_is_seen(learned: list[Row], right: bool) -> None:
    verdict = Verdict()
    settled = [*_settled("loud", 1000, 100), *(_settled("small", 30, 30) * 2)]
    checker.counts_are_the_fold(verdict, settled, learned)
    assert list(verdict.broken) == ([] if right else [checker.COUNTS])


@given(
    st.lists(st.integers(1, 500).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), min_size=1, max_size=9)
)
def test_the_judges_own_arithmetic_of_shares_is_the_workers(tallies: list[tuple[int, int]]) -> None:
    """Two that were written apart: what the judge looks for one by one, the worker finds in halves."""
    settled = [row for number, (n, s) in enumerate(tallies) for row in _settled(f"t{number}", n, s)]
    verdict = Verdict()
    counts = capped(tallies, shipped().learning.tenant_share_permille)
    checker.counts_are_the_fold(verdict, settled, [_learned(*counts)])
    assert not verdict.broken


@pytest.mark.integration
def test_a_transaction_that_stays_open_is_seen(settings: Settings) -> None:
    topics.create(settings)
    verdict = Verdict()
    checker.transactions_ended(verdict, settings.bootstrap)
    assert not verdict.broken
    producer = Producer(settings.producer(**{"transactional.id": "forgetful"}))
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(checker.TRANSACTIONAL[0], b"x")
    producer.flush(30)
    checker.transactions_ended(verdict, settings.bootstrap)
    producer.abort_transaction(30)
    assert list(verdict.broken) == [checker.TWICE]
