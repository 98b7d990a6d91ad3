"""A decision carries what is needed to make it again: evidence, versions, and what was learned until then."""

from __future__ import annotations

from datetime import UTC, datetime

from schemas.records import (
    NATURAL,
    Category,
    ConfidenceRow,
    FailureEvent,
    Origin,
    RecoveryOptions,
    Severity,
    Strategy,
)
from streams.decide import Rates, decide
from streams.decide.catalogue import shipped
from streams.decide.classify import built_in

NOW = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
EVENT = FailureEvent.model_validate(
    {
        "tenant_id": "bank",
        "execution_id": "run-1",
        "checkpoint": {"id": "c-1"},
        "tool_response": {"tool": "pay", "status_code": 429, "call_fingerprint": "pay(1)", "fallbacks": ["pay-eu"]},
    },
    context=NATURAL,
)
LEARNED = Rates.of(
    [
        ConfidenceRow(
            subtype="rate_limit",
            severity=Severity.LOW,
            attempt_class="1",
            strategy=Strategy.EXPONENTIAL_BACKOFF,
            samples=20,
            successes=4,
            window_start=NOW,
            updated_at=NOW,
        )
    ]
)


def decided(rates: Rates) -> RecoveryOptions:
    origin = Origin(partition=2, offset=7)
    return decide(EVENT, failure_id="2-7", origin=origin, rates=rates, catalogue=shipped(), now=NOW)


def test_a_decision_says_what_it_was_made_from() -> None:
    decision = decided(LEARNED)
    assert (decision.failure_id, decision.origin) == ("2-7", Origin(partition=2, offset=7))
    assert decision.classification.category is Category.TOOL_FAILURE
    assert decision.checkpoint == EVENT.checkpoint
    assert decision.call_fingerprint == "pay(1)"
    assert decision.rules_version == built_in().version
    assert decision.catalogue_version == shipped().version
    assert decision.confidence_snapshot == LEARNED.snapshot != ""
    assert decision.value_microusd == 50_000_000
    assert decision.decided_at == NOW


def test_what_was_learned_changes_the_next_decision() -> None:
    assert decided(Rates()).options[0].strategy is Strategy.EXPONENTIAL_BACKOFF
    assert decided(LEARNED).options[0].strategy is Strategy.FALLBACK_SERVICE
