"""What a batch takes of what was read: in order, and no options before their failure."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.recover.lane import LINGER_S, REST_S, Lane
from processors.recover.ledger import Raw
from schemas.records import Category
from schemas.topics import FAILURES, OPTIONS, OUTCOMES

TOPICS = (FAILURES.name, OUTCOMES.name, OPTIONS[Category.TOOL_FAILURE].name, OPTIONS[Category.HALLUCINATION].name)


def _lane(limit: int = 100) -> Lane:
    return Lane(cast(Any, SimpleNamespace(limit=limit, positions={})))


def _raw(topic: str, offset: int, key: str) -> Raw:
    return Raw(topic, 0, offset, 0, key.encode(), b"")


def test_a_failure_waits_for_its_options_and_goes_with_them() -> None:
    lane = _lane()
    lane.append(_raw(FAILURES.name, 0, "t/a"), now_s=1.0)
    assert lane.batch(1.0) == []
    assert lane.lingers_s(1.0) == pytest.approx(LINGER_S)
    lane.append(_raw(TOPICS[2], 0, "t/a"), now_s=1.001)
    assert {raw.topic for raw in lane.batch(1.001)} == {FAILURES.name, TOPICS[2]}
    assert lane.lingers_s(1.001) is None


def test_a_failure_without_options_does_not_wait_longer() -> None:
    lane = _lane()
    lane.append(_raw(FAILURES.name, 0, "t/a"), now_s=1.0)
    assert [raw.offset for raw in lane.batch(1.0 + 2 * LINGER_S)] == [0]


def test_what_is_of_another_execution_waits_for_nobody() -> None:
    lane = _lane()
    lane.append(_raw(FAILURES.name, 0, "t/a"), now_s=1.0)
    lane.append(_raw(OUTCOMES.name, 0, "t/b"), now_s=1.0)
    assert [raw.topic for raw in lane.batch(1.0)] == [OUTCOMES.name]


def test_a_busy_partition_rests_between_batches_and_an_idle_one_does_not() -> None:
    lane, idle = _lane(), _lane()
    for n in range(40):
        lane.append(_raw(OUTCOMES.name, n, f"t/{n}"), now_s=1.0 + n / 1000)
    assert len(lane.batch(1.04)) == 40
    lane.append(_raw(OUTCOMES.name, 40, "t/40"), now_s=1.041)
    assert lane.batch(1.041) == []
    assert lane.rests_s(1.041) == pytest.approx(REST_S - 0.001)
    assert [raw.offset for raw in lane.batch(1.041 + REST_S)] == [40]
    for n in range(3):
        idle.append(_raw(OUTCOMES.name, n, f"t/{n}"), now_s=1.0 + n / 50)
        assert len(idle.batch(1.0 + n / 50)) == 1


def test_a_backlog_does_not_rest() -> None:
    lane = _lane(limit=10)
    for n in range(100):
        lane.append(_raw(OUTCOMES.name, n, f"t/{n}"), now_s=1.0)
    assert [len(lane.batch(1.0)) for _ in range(10)] == [10] * 10


def test_a_busy_partition_that_went_quiet_does_not_rest() -> None:
    lane = _lane()
    for n in range(100):
        lane.append(_raw(OUTCOMES.name, n, f"t/{n}"), now_s=1.0)
    assert len(lane.batch(1.0)) == 100
    lane.append(_raw(OUTCOMES.name, 100, "t/100"), now_s=2.0)
    assert len(lane.batch(2.0)) == 1


records = st.lists(
    st.tuples(st.sampled_from(TOPICS), st.sampled_from("abcd"), st.floats(0, 0.02), st.booleans()), max_size=40
)


@given(records, st.integers(1, 8))
def test_batches_take_each_topic_in_order_and_no_options_before_their_failure(
    read: list[tuple[str, str, float, bool]], limit: int
) -> None:
    lane, now_s = _lane(limit), 0.0
    offsets: dict[str, int] = defaultdict(int)
    taken: dict[str, list[int]] = defaultdict(list)

    def take() -> None:
        batch = lane.batch(now_s)
        assert len(batch) <= limit
        for raw in batch:
            taken[raw.topic].append(raw.offset)
        waiting = {raw.key for raw in lane.read[FAILURES.name]}
        # A full batch may leave a ripe failure behind: its options come with a later one, and are kept as early.
        if len(batch) < limit:
            assert not any(raw.key in waiting for raw in batch if raw.topic != FAILURES.name)

    for topic, key, after_s, batch_now in read:
        now_s += after_s
        lane.append(_raw(topic, offsets[topic], key), now_s)
        offsets[topic] += 1
        if batch_now:
            take()
    now_s += 2 * LINGER_S
    for _ in range(sum(offsets.values()) + 1):
        take()
    assert {topic: list(range(count)) for topic, count in offsets.items()} == dict(taken)
