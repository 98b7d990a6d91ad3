"""Counts equal the fold of what settled, whatever is replayed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from schemas.records import SettledStatus
from streams.learning.counts import HOUR_S, KEPT_S, Count, hour_of, is_over, settle, total

STATUSES = st.lists(st.sampled_from(list(SettledStatus)), max_size=60)
NOW = 1_800_000_000.0


def fold(statuses: list[SettledStatus], start: int = 0, count: Count | None = None) -> Count | None:
    for offset, status in enumerate(statuses[start:], start):
        count = settle(count, status, offset) or count
    return count


@given(STATUSES, st.data())
def test_replays_never_count_twice(statuses: list[SettledStatus], data: st.DataObject) -> None:
    """A crash anywhere replays from anywhere before it, any number of times."""
    expected = fold(statuses)
    count: Count | None = None
    for _ in range(data.draw(st.integers(1, 4))):
        crash = data.draw(st.integers(0, len(statuses)))
        start = data.draw(st.integers(0, crash))
        # What is replayed begins at or before what is counted, as a committed offset does.
        start = min(start, count[0] + 1 if count else 0)
        count = fold(statuses[:crash], start, count) or count
    assert fold(statuses, 0, count) == expected


@given(STATUSES)
def test_against_plain_counting(statuses: list[SettledStatus]) -> None:
    """not_applied teaches nothing; expired counts as a failure; a newer writer's status is not guessed."""
    count = fold(statuses) or (0, 0, 0)
    taught = [s for s in statuses if s in (SettledStatus.SUCCEEDED, SettledStatus.FAILED, SettledStatus.EXPIRED)]
    assert count[1:] == (len(taught), taught.count(SettledStatus.SUCCEEDED))


@given(st.dictionaries(st.integers(0, 400), st.tuples(st.integers(0), st.integers(0, 9), st.integers(0, 9))))
def test_the_sum_is_of_the_hours_that_are_not_over(hours: dict[int, Count]) -> None:
    first = hour_of(int(NOW * 1000)) - 200 * HOUR_S
    counts = {first + h * HOUR_S: c for h, c in hours.items()}
    kept = {h: c for h, c in counts.items() if h + HOUR_S > NOW - KEPT_S}
    samples, successes, oldest = total(counts, NOW)
    assert (samples, successes) == (sum(c[1] for c in kept.values()), sum(c[2] for c in kept.values()))
    assert not is_over(oldest, NOW)
