"""What a batch takes of what was read: in order, and no options before their failure."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recover_world import POLICIES

from ops.runtime.turns import CALM_S
from processors.recover.lane import LINGER_S, REST_S, Lane, in_time
from processors.recover.ledger import APPLIED_KEY, Ledger, Raw
from processors.recover.role import RECOVER
from schemas.flows import DEPENDENCY
from schemas.records import Category
from schemas.topics import CHECKPOINTS, FAILURES, OPTIONS, OUTCOMES

READ_AHEAD_BYTES = 64 * 1024 * 1024
TOPICS = (FAILURES.name, OUTCOMES.name, OPTIONS[Category.TOOL_FAILURE].name, OPTIONS[Category.HALLUCINATION].name)


def _lane(limit: int = 100) -> Lane:
    writer = SimpleNamespace(limit=limit, positions={}, ledger=Ledger(0, 1, POLICIES))
    return Lane(cast(Any, writer), RECOVER.flow, READ_AHEAD_BYTES)


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


def test_a_failure_that_waits_for_its_options_holds_up_no_other() -> None:
    """In a storm there always is one in front, whose options come much later."""
    lane = _lane()
    unanswered, other, options = _raw(FAILURES.name, 0, "a"), _raw(FAILURES.name, 1, "b"), _raw(TOPICS[2], 0, "b")
    for raw in (unanswered, other, options):
        lane.append(raw, 0.0)
    assert lane.batch(0.0) == [other, options]
    assert lane.positions() == {FAILURES.name: 0, TOPICS[2]: 1}
    assert lane.batch(LINGER_S) == [unanswered]
    assert lane.positions() == {FAILURES.name: 2, TOPICS[2]: 1}


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
def test_batches_take_each_execution_in_order_and_no_options_before_their_failure(
    read: list[tuple[str, str, float, bool]], limit: int
) -> None:
    """And the positions say at any time what was not taken yet."""
    lane, now_s = _lane(limit), 0.0
    left: dict[str, dict[int, bytes]] = defaultdict(dict)
    came: dict[tuple[str, int], int] = {}
    offsets: dict[str, int] = defaultdict(int)

    def take() -> None:
        batch = lane.batch(now_s)
        assert len(batch) <= limit
        for raw in batch:
            of_key = [offset for offset, key in left[raw.topic].items() if key == raw.key]
            assert raw.offset == of_key[0]
            del left[raw.topic][raw.offset]
        for raw in batch:
            failed = [came[FAILURES.name, offset] for offset, key in left[FAILURES.name].items() if key == raw.key]
            assert all(came[raw.topic, raw.offset] < when for when in failed)
        assert lane.positions() == {topic: min(left[topic], default=offset) for topic, offset in offsets.items()}
        keys = {key for waits in left.values() for key in waits.values()}
        assert {key for key in (b"a", b"b", b"c", b"d") if lane.waits(key)} == keys

    for topic, key, after_s, batch_now in read:
        now_s += after_s
        lane.append(_raw(topic, offsets[topic], key), now_s)
        left[topic][offsets[topic]] = key.encode()
        came[topic, offsets[topic]] = len(came)
        offsets[topic] += 1
        if batch_now:
            take()
    for _ in range(sum(offsets.values()) + 1):
        now_s += 2 * LINGER_S
        take()
    assert not any(left.values())


def test_a_brokers_clock_that_goes_back_does_not_turn_the_order_round() -> None:
    early, late = (Raw(FAILURES.name, 0, offset, at_ms, b"a", b"") for offset, at_ms in ((0, 3_600_000), (1, 0)))
    options = Raw(TOPICS[2], 0, 7, 3_600_000, b"a", b"")
    assert in_time([options, late, early]) == [early, late, options]


def test_a_flood_of_one_service_holds_up_no_other() -> None:
    """Neither another tenant's, nor another service's of the same tenant, nor what is said of the flooded runs."""
    lane = _lane(limit=100)
    for n in range(5_000):
        flood = Raw(FAILURES.name, 0, n, 0, f"t/{n}".encode(), b"", ((DEPENDENCY, b"tool:search"),))
        lane.append(flood, now_s=1.0)
    lane.append(Raw(FAILURES.name, 0, 5_000, 0, b"t/other", b"", ((DEPENDENCY, b"tool:mail"),)), now_s=1.0)
    lane.append(_raw(FAILURES.name, 5_001, "u/run"), now_s=1.0)
    lane.append(_raw(OUTCOMES.name, 0, "t/earlier"), now_s=1.0)
    batch = lane.batch(2.0)
    others = [raw for raw in batch if DEPENDENCY not in dict(raw.headers) or raw.offset == 5_000]
    assert {raw.key for raw in others} == {b"t/other", b"u/run", b"t/earlier"}
    assert len(batch) < 30, "while others come the flood has its part, and no more"
    assert lane.positions()[FAILURES.name] == len(batch) - len(others)
    assert len(lane.batch(2.0 + CALM_S)) == 100, "then it has all"


def test_no_more_is_read_than_can_be_kept() -> None:
    lane = _lane()
    value = b"x" * 1024 * 1024
    read = 0
    while not lane.to_pause():
        lane.append(Raw(FAILURES.name, 0, read, 0, f"t/{read}".encode(), value), now_s=1.0)
        read += 1
    assert read * len(value) <= READ_AHEAD_BYTES
    now_s = 1.0
    while lane.batch(now_s := now_s + 1.0):
        """Until nothing waits."""
    assert not lane.to_pause()
    assert lane.positions() == {FAILURES.name: read}


def test_what_is_no_flood_can_fill_the_memory_too() -> None:
    """Then nothing is read any more; before, the words on what runs already go on coming."""
    lane = _lane()
    read = 0
    levels = []
    while (level := lane.to_pause()) < 2:
        levels.append(level)
        lane.append(Raw(CHECKPOINTS.name, 0, read, 0, b"t/run", b"x" * 60_000), now_s=1.0)
        read += 1
    assert set(levels) == {0, 1}
    assert read * 60_000 < 2 * READ_AHEAD_BYTES


def test_a_partition_that_is_only_flooded_does_not_rest_as_a_busy_one() -> None:
    """Others would wait for it, although there is little to do."""
    lane = _lane()
    for n in range(5_000):
        lane.append(Raw(FAILURES.name, 0, n, 0, f"t/{n}".encode(), b"", ((DEPENDENCY, b"tool:search"),)), now_s=1.0)
    lane.append(_raw(OUTCOMES.name, 0, "u/one"), now_s=1.0)
    assert lane.batch(2.0)
    lane.append(_raw(OUTCOMES.name, 1, "u/two"), now_s=2.0)
    assert lane.rests_s(2.0) < REST_S / 2
    assert lane.batch(2.0 + REST_S / 2)[0].key == b"u/two"


def test_a_busy_lane_that_rests_knows_what_it_read() -> None:
    """A deadline would otherwise fire over a success that is here."""
    lane = _lane()
    for n in range(40):
        lane.append(_raw(OUTCOMES.name, n, f"t/{n}"), now_s=1.0 + n / 1000)
    assert lane.batch(1.04)
    lane.append(_raw(OUTCOMES.name, 40, "t/40"), now_s=1.041)
    assert lane.batch(1.041) == []
    assert lane.waits(b"t/40")


def test_what_was_applied_before_its_turn_does_not_wait_again() -> None:
    """After a restart it is read again, behind the flood that it had overtaken: more of it would be another flood."""
    lane = _lane()
    lane.writer.ledger.restore(APPLIED_KEY, orjson.dumps({FAILURES.name: [0, 1, 300]}))
    for n in range(302):
        lane.append(_raw(FAILURES.name, n, f"t/{n}"), now_s=1.0)
    assert [raw.offset for raw in lane.batch(2.0)] == [0, 301]
    assert lane.positions() == {FAILURES.name: 302}
