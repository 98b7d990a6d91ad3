"""Counts equal the fold of what settled, whatever is replayed; of what is shared no tenant has more than its part."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.records import SettledStatus
from streams.learning.counts import (
    FLOOR,
    HOUR_S,
    KEPT_S,
    TOLD_APART,
    Count,
    Tally,
    capped,
    digest_of,
    hour_of,
    is_over,
    merged,
    settle,
    shared,
)

NOW = 1_800_000_000.0
TAUGHT = (SettledStatus.SUCCEEDED, SettledStatus.FAILED, SettledStatus.EXPIRED)
# Up to twice as many tenants as are told apart.
TENANTS = st.integers(0, 2 * TOLD_APART)
ATTEMPTS = st.lists(st.tuples(st.sampled_from(list(SettledStatus)), TENANTS), max_size=150)
TAUGHT_ATTEMPTS = st.lists(st.tuples(st.sampled_from(TAUGHT), TENANTS), max_size=150)
EVERYBODY = [(SettledStatus.SUCCEEDED, tenant) for tenant in range(2 * TOLD_APART)]
TALLIES = st.lists(
    st.integers(0, 3000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), min_size=1, max_size=8
)
SHARES = st.sampled_from([1, 100, 300, 500, 1000])

Attempts = list[tuple[SettledStatus, int]]


def fold(attempts: Attempts, start: int = 0, count: Count | None = None) -> Count:
    """As the table does it: each count is written down as JSON and read again."""
    count = count or Count()
    for offset, (status, tenant) in enumerate(attempts[start:], start):
        count = settle(count, status, offset, tenant) or count
        count = Count.of_row(tuple(json.loads(json.dumps(count.row()))))
    return count


def sums(attempts: Attempts) -> dict[int, Tally]:
    found: dict[int, Tally] = {}
    for status, tenant in attempts:
        if status in TAUGHT:
            n, s = found.get(tenant, (0, 0))
            found[tenant] = n + 1, s + (status is SettledStatus.SUCCEEDED)
    return found


@given(ATTEMPTS, st.data())
def test_replays_never_count_twice(attempts: Attempts, data: st.DataObject) -> None:
    """A crash anywhere replays from anywhere before it, any number of times."""
    expected = fold(attempts)
    count = Count()
    for _ in range(data.draw(st.integers(1, 4))):
        crash = data.draw(st.integers(0, len(attempts)))
        start = data.draw(st.integers(0, crash))
        # What is replayed begins at or before what is counted, as a committed offset does.
        count = fold(attempts[:crash], min(start, count.offset + 1), count)
    assert fold(attempts, 0, count) == expected


@given(ATTEMPTS)
def test_against_plain_counting(attempts: Attempts) -> None:
    """not_applied teaches nothing; expired counts as a failure; a newer writer's status is not guessed."""
    count, expected = fold(attempts), sums(attempts)
    assert count.attempts == sum(n for n, _ in expected.values())
    assert count.successes == sum(s for _, s in expected.values())
    assert count.tenants == {tenant: expected[tenant] for tenant in sorted(expected)[:TOLD_APART]}


@given(st.permutations(EVERYBODY), TAUGHT_ATTEMPTS, st.data())
def test_who_is_told_apart_does_not_depend_on_who_came_first(
    everybody: Attempts, attempts: Attempts, data: st.DataObject
) -> None:
    attempts = everybody + attempts
    assert fold(data.draw(st.permutations(attempts))) == fold(attempts)
    assert len(fold(attempts).row()) == 3 + 3 * TOLD_APART


@given(st.lists(ATTEMPTS | st.just(EVERYBODY), min_size=1, max_size=5))
def test_no_tenant_is_in_two_parts_of_a_sum(hours: list[Attempts]) -> None:
    """Told apart in a quiet hour and of the rest in a busy one, it would have two shares."""
    count, expected = merged(map(fold, hours)), sums([attempt for hour in hours for attempt in hour])
    assert count.attempts == sum(n for n, _ in expected.values())
    assert count.successes == sum(s for _, s in expected.values())
    assert count.tenants == {tenant: expected[tenant] for tenant in expected if tenant <= count.limit}
    assert len(count.tenants) >= min(TOLD_APART, len(expected))


@given(st.lists(ATTEMPTS | st.just(EVERYBODY), max_size=4), st.integers(0, 4))
def test_the_sum_of_sums_is_the_sum(hours: list[Attempts], split: int) -> None:
    counts = [fold(hour) for hour in hours]
    assert merged([merged(counts[:split]), *counts[split:]]) == merged(counts)


def parts(tallies: list[Tally], share: int) -> list[int]:
    """Attempts that each counts with: the successes where only it has any."""
    return [
        capped([(n, n if other == tenant else 0) for other, (n, _) in enumerate(tallies)], share)[1]
        for tenant in range(len(tallies))
    ]


@given(TALLIES, SHARES)
def test_no_tenant_has_more_than_its_part(tallies: list[Tally], share: int) -> None:
    """Nor is more cut than must be: one attempt more of whoever was cut would be too many."""
    of_each = parts(tallies, share)
    samples, successes = capped(tallies, share)
    assert samples == sum(of_each)
    assert 0 <= successes <= samples
    equal = Fraction(1, max(1, sum(n > 0 for n, _ in tallies)))
    allowed = max(Fraction(share, 1000), equal)
    assert all(part <= max(Fraction(FLOOR), allowed * samples) for part in of_each)
    cut = [part for part, (n, _) in zip(of_each, tallies, strict=True) if part < n]
    assert not cut or max(cut) + 1 > max(Fraction(FLOOR), allowed * (samples + len(cut)))


@given(TALLIES, st.integers(1, 10**9), st.booleans(), SHARES)
def test_a_tenant_that_comes_moves_the_rate_by_no_more_than_its_part(
    others: list[Tally], attempts: int, lucky: bool, share: int
) -> None:
    """However many attempts it claims, and however much the others' parts change by that."""
    poison = attempts, attempts if lucky else 0
    (n, s), (poisoned_n, poisoned_s) = capped(others, share), capped([*others, poison], share)
    if not n:
        return
    part = Fraction(parts([*others, poison], share)[-1], poisoned_n)
    assert part <= max(
        Fraction(share, 1000), Fraction(1, 1 + sum(n > 0 for n, _ in others)), Fraction(FLOOR, poisoned_n)
    )
    rounding = Fraction(len(others) + 1, 2 * n) + Fraction(len(others) + 1, 2 * poisoned_n)
    assert abs(Fraction(poisoned_s, poisoned_n) - Fraction(s, n)) <= part + rounding


@pytest.mark.parametrize(
    ("tallies", "expected"),
    [
        ([], (0, 0)),
        ([(0, 0)], (0, 0)),
        ([(10_000, 9_000)], (10_000, 9_000)),
        ([(10_000, 9_000), (10_000, 1_000)], (20_000, 10_000)),
        ([(10_000, 9_000), (4, 0)], (34, 27)),
        ([(29, 29), (1, 0)], (30, 29)),
        ([(100, 50)] * 4, (400, 200)),
        # 30 % of what is counted: 300 of 1,000, 301 would be of 1,001.
        ([(100_000, 0), *[(100, 100)] * 7], (1_000, 700)),
        ([(1_000, 1), *[(10, 10)] * 3], (60, 30)),
    ],
)
def test_parts_by_hand(tallies: list[Tally], expected: Tally) -> None:
    assert capped(tallies, 300) == expected


def test_what_a_tenant_left_out_had_does_not_count() -> None:
    attempts = [(SettledStatus.FAILED, 1)] * 100 + [(SettledStatus.SUCCEEDED, 2)] * 50
    assert shared(fold(attempts), 300, {1}) == (50, 50)
    assert shared(fold(attempts), 300, {1, 2}) == (0, 0)
    assert shared(fold(attempts), 300, {3}) == (100, 50)


def test_a_row_without_tenants_is_of_one() -> None:
    """Written by the release before, and gone on with."""
    old = Count.of_row((7, 1_000, 900))
    assert shared(old, 300) == (1_000, 900)
    count = old
    for offset in range(8, 108):
        count = settle(count, SettledStatus.FAILED, offset, 5) or count
    assert settle(count, SettledStatus.FAILED, 107, 5) is None
    assert count.row() == (107, 1_100, 900, 5, 100, 0)
    assert shared(count, 300) == (200, 90)
    assert shared(merged([old, fold([(SettledStatus.FAILED, 5)] * 100)]), 300) == (200, 90)


def test_a_tenants_digest_says_no_name_and_is_another_in_each_stratum() -> None:
    assert digest_of("a", "acme") != digest_of("b", "acme")
    assert 0 <= digest_of("a", "acme") < 1 << 48


@given(st.integers(0, 400))
def test_seven_days_are_counted(hours: int) -> None:
    hour = hour_of(int(NOW * 1000)) - hours * HOUR_S
    assert is_over(hour, NOW) == (hour + HOUR_S <= NOW - KEPT_S)
