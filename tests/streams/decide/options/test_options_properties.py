"""What holds of the options of every failure under every verdict."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st
from options_events import KIND_OF, classifications, events

from schemas import codec
from schemas.modifications import parameters
from schemas.records import (
    Category,
    Classification,
    ConfidenceRow,
    FailureEvent,
    FailureOrigin,
    Origin,
    Severity,
    SideEffects,
    Strategy,
)
from schemas.topics import OPTIONS
from streams.decide import Rates, decide
from streams.decide.catalogue import shipped
from streams.decide.options import options

NOW = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
MAX_PARAMETERS_CHARS = 64 * 1024
"""More than this recover refuses."""
MAX_OPTIONS_CHARS = 200_000
"""Well under the 512 KiB of a record on recovery.options, whatever the failure held."""


def _may_have_had_its_effect(event: FailureEvent, verdict: Classification) -> bool:
    keyed = event.tool_response is not None and event.tool_response.idempotency_key
    return (
        verdict.category is Category.TOOL_FAILURE
        and event.side_effects_since_checkpoint is SideEffects.UNKNOWN
        and event.origin is not FailureOrigin.MODEL
        and not keyed
        and orjson.loads(verdict.details).get("call_may_have_executed") is True
    )


rows = st.builds(
    lambda subtype, strategy, samples, successes: ConfidenceRow(
        subtype=subtype,
        severity=Severity.HIGH,
        attempt_class="1",
        strategy=strategy,
        samples=samples,
        successes=successes,
        window_start=NOW - timedelta(days=7),
        updated_at=NOW,
    ),
    st.sampled_from(["rate_limit", "timeout", "range_violation", "wrong_conclusion"]),
    st.sampled_from(list(Strategy)),
    st.integers(0, 40),
    st.integers(0, 40),
)
rates = st.lists(rows, max_size=6).map(Rates.of)


@settings(max_examples=600, deadline=None)
@given(events, classifications, rates)
def test_options_of_any_failure(event: FailureEvent, verdict: Classification, known: Rates) -> None:
    offered = options(event, verdict, shipped(), known, now=NOW)
    if verdict.category is Category.NONE:
        assert offered == ()
        return
    *automatic, last = offered
    assert last.strategy is Strategy.ASK_HUMAN
    assert last.why
    order = [(-o.confidence, o.cost_microusd, o.latency_s, o.strategy) for o in automatic]
    assert order == sorted(order)
    strategies = [option.strategy for option in automatic]
    assert len(set(strategies)) == len(strategies)
    for option in automatic:
        parameters(option.strategy, option.parameters)
        assert len(option.parameters) < MAX_PARAMETERS_CHARS
        if event.agent.capabilities is not None:
            assert KIND_OF[option.strategy] in event.agent.capabilities
    if event.side_effects_since_checkpoint is SideEffects.UNSAFE or verdict.category is Category.UNCLASSIFIED:
        assert automatic == []
    if _may_have_had_its_effect(event, verdict):
        assert automatic == []
    assert sum(len(option.parameters) + len(option.why) for option in offered) < MAX_OPTIONS_CHARS


@settings(max_examples=200, deadline=None)
@given(events, rates)
def test_any_failure_gets_a_decision(event: FailureEvent, known: Rates) -> None:
    """Through the real classifier; equal arguments give an equal decision, and it survives the wire."""
    first, second = (
        decide(event, failure_id="f", origin=Origin(partition=0, offset=1), rates=known, catalogue=shipped(), now=NOW)
        for _ in range(2)
    )
    assert first == second
    topic = OPTIONS[first.classification.category]
    read = codec.decode(topic.name, codec.encode(topic, first, source="test").value)
    assert isinstance(read, codec.Decoded)
    assert read.record == first
