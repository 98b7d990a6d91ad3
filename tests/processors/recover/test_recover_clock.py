"""Deadlines go by time that no broker's clock can make jump."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.runtime import topics
from ops.runtime.settings import Settings
from processors.recover.clock import BrokerClock, Steered, outvoted

HOUR_MS = 3_600_000.0

steps = st.lists(st.tuples(st.floats(0, 60_000), st.floats(-HOUR_MS, HOUR_MS)), max_size=50)


@given(steps)
def test_an_interval_has_two_thirds_to_twice_its_length_whatever_the_brokers_say(
    read: list[tuple[float, float]],
) -> None:
    clock, local_ms, before_ms = Steered(HOUR_MS, 0.0), 0.0, HOUR_MS
    for passed_ms, ahead_ms in read:
        local_ms += passed_ms
        now_ms = clock.at(local_ms, ahead_ms)
        assert 0.5 * passed_ms - 1e-3 <= now_ms - before_ms <= 1.5 * passed_ms + 1e-3
        before_ms = now_ms


@given(st.floats(-HOUR_MS, HOUR_MS))
def test_a_clock_that_was_set_right_is_followed_by_and_by(jump_ms: float) -> None:
    clock, local_ms = Steered(0.0, 0.0), 0.0
    while local_ms < 2 * abs(jump_ms):
        local_ms += 1000.0
        clock.at(local_ms, jump_ms)
    assert clock.at(local_ms + 1000, jump_ms) == pytest.approx(local_ms + 1000 + jump_ms, abs=1)


@given(st.lists(st.floats(-10, 10), min_size=3, max_size=5), st.floats(-HOUR_MS, HOUR_MS))
def test_one_wrong_clock_of_three_brokers_says_nothing(right: list[float], wrong_ms: float) -> None:
    assert min(right) <= outvoted([*right, wrong_ms]) <= max(right)


def test_of_two_clocks_the_earlier_counts() -> None:
    assert outvoted([0.0, HOUR_MS]) == 0.0


@pytest.mark.integration
def test_it_tells_the_brokers_time_asking_several_partitions(settings: Settings) -> None:
    topics.create(settings)
    clock = BrokerClock(settings, "clock")
    try:
        before_ms = time.time() * 1000
        assert clock.wait(10)
        assert before_ms - 1000 <= clock.now_ms() <= time.time() * 1000 + 1
        assert len(clock._ahead_ms) == settings.partitions
    finally:
        clock.close()
