"""Published confidence until twenty attempts were observed, then what was observed; the best first, ties settled."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from schemas.records import ConfidenceRow, Severity, Strategy
from streams.decide import Rates
from streams.decide.rank import Proposal, rank

NOW = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)


def row(
    samples: int,
    successes: int,
    strategy: Strategy = Strategy.EXPONENTIAL_BACKOFF,
    severity: Severity = Severity.LOW,
    attempt_class: str = "1",
    updated_at: datetime = NOW,
) -> ConfidenceRow:
    return ConfidenceRow(
        subtype="rate_limit",
        severity=severity,
        attempt_class=attempt_class,
        strategy=strategy,
        samples=samples,
        successes=successes,
        window_start=updated_at - timedelta(days=7),
        updated_at=updated_at,
    )


def proposal(strategy: Strategy, prior: float = 0.9, cost: int = 0, latency_s: float = 0.0) -> Proposal:
    return Proposal(strategy, "{}", prior, cost, latency_s, "why")


def test_below_twenty_samples_the_published_number_holds() -> None:
    rates = Rates.of([row(19, 0)])
    (option,) = rank([proposal(Strategy.EXPONENTIAL_BACKOFF)], "rate_limit", rates, NOW)
    assert (option.confidence, option.prior, option.posterior, option.samples) == (0.9, 0.9, None, 19)


def test_from_twenty_samples_the_observed_rate_replaces_it_and_changes_the_order() -> None:
    rates = Rates.of([row(20, 5)])
    first, second = rank(
        [proposal(Strategy.EXPONENTIAL_BACKOFF), proposal(Strategy.FALLBACK_SERVICE, 0.7)], "rate_limit", rates, NOW
    )
    assert first.strategy is Strategy.FALLBACK_SERVICE
    assert (second.confidence, second.prior, second.posterior, second.samples) == (0.25, 0.9, 0.25, 20)


def test_samples_of_all_severities_and_attempts_count_together() -> None:
    rates = Rates.of([row(12, 12), row(8, 3, severity=Severity.HIGH, attempt_class="2+")])
    assert rates.rate("rate_limit", None, Strategy.EXPONENTIAL_BACKOFF) == (20, 15)
    assert rates.rate("rate_limit", Severity.HIGH, Strategy.EXPONENTIAL_BACKOFF) == (8, 3)
    assert rates.rate("timeout", None, Strategy.EXPONENTIAL_BACKOFF) == (0, 0)


def test_what_was_learned_more_than_seven_days_ago_is_forgotten() -> None:
    rates = Rates.of([row(40, 0, updated_at=NOW - timedelta(days=7))])
    assert rates.rate("rate_limit", None, Strategy.EXPONENTIAL_BACKOFF, NOW) == (0, 0)
    just = NOW - timedelta(milliseconds=1)
    assert rates.rate("rate_limit", None, Strategy.EXPONENTIAL_BACKOFF, just) == (40, 0)


def test_more_successes_than_samples_are_no_rate_above_one() -> None:
    (option,) = rank([proposal(Strategy.EXPONENTIAL_BACKOFF)], "rate_limit", Rates.of([row(20, 99)]), NOW)
    assert option.confidence == 1


def test_ties_go_to_the_cheaper_then_the_faster_then_by_name() -> None:
    proposals = [
        proposal(Strategy.RETRY_ONCE, cost=1),
        proposal(Strategy.FALLBACK_SERVICE, latency_s=2),
        proposal(Strategy.INCREASE_TIMEOUT, latency_s=1),
        proposal(Strategy.ASYNC_EXECUTION, latency_s=1),
    ]
    expected = [
        Strategy.ASYNC_EXECUTION,
        Strategy.INCREASE_TIMEOUT,
        Strategy.FALLBACK_SERVICE,
        Strategy.RETRY_ONCE,
    ]
    for shuffled in (proposals, proposals[::-1]):
        assert [option.strategy for option in rank(shuffled, "rate_limit", Rates(), NOW)] == expected


rows = st.builds(
    row,
    st.integers(0, 50),
    st.integers(0, 50),
    st.sampled_from([Strategy.EXPONENTIAL_BACKOFF, Strategy.FALLBACK_SERVICE]),
    st.sampled_from([Severity.LOW, Severity.HIGH]),
    st.sampled_from(["1", "2+"]),
    st.integers(0, 5).map(lambda hours: NOW - timedelta(hours=hours)),
)


@given(st.lists(rows, max_size=12, unique_by=lambda r: (r.key, r.updated_at)), st.randoms())
def test_the_same_rows_are_the_same_knowledge_in_whatever_order_they_come(
    known: list[ConfidenceRow],
    random: st.randoms,  # type: ignore[valid-type]
) -> None:
    at_once = Rates.of(known)
    shuffled = list(known)
    random.shuffle(shuffled)
    one_by_one = Rates()
    for one in shuffled:
        one_by_one = one_by_one.with_row(one)
    assert one_by_one.snapshot == at_once.snapshot
    assert dict(one_by_one.rows) == dict(at_once.rows)
    for strategy in (Strategy.EXPONENTIAL_BACKOFF, Strategy.FALLBACK_SERVICE):
        assert one_by_one.rate("rate_limit", None, strategy, NOW) == at_once.rate("rate_limit", None, strategy, NOW)


def test_other_knowledge_has_another_name() -> None:
    assert Rates().snapshot == ""
    snapshots = {Rates.of([row(n, 1)]).snapshot for n in range(1, 50)}
    assert len(snapshots) == 49
