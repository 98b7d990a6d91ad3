"""Executions that take turns: what was applied before its turn counts once, and deadlines know what waits."""

from __future__ import annotations

import random
from collections import defaultdict

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recover_log import EXECUTIONS, NOW, Log, busy_log, by_execution, ledger, restored

from processors.recover.applied import packed, unpacked
from processors.recover.ledger import APPLIED_KEY
from schemas.records import (
    RecoveryResult,
    Strategy,
)
from schemas.topics import FAILURES


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_executions_that_take_turns_change_nothing(seed: int) -> None:
    """Some are applied long before records that stand in front of theirs; restarts and replays meanwhile too."""
    rng = random.Random(seed)
    records = busy_log(rng).records
    in_order, plain = [], ledger()
    for raw in records:
        in_order.append(plain.stage([raw], NOW))
        plain.commit(in_order[-1])

    turned, other, taken = [], ledger(), []
    left = defaultdict(list)
    for raw in records:
        left[raw.key].append(raw)
    while left:
        batch = []
        for _ in range(rng.randint(1, 8)):
            if left:
                key = rng.choice(sorted(left))
                batch.append(left[key].pop(0))
                if not left[key]:
                    del left[key]
        if rng.random() < 0.3:
            other = restored(turned)
        waiting = [raw for waits in left.values() for raw in waits]
        first = {t: min((r.offset for r in waiting if r.topic == t), default=None) for t in {r.topic for r in records}}
        ends = {t: 1 + max(r.offset for r in records if r.topic == t) for t in first}
        positions = {topic: ends[topic] if offset is None else offset for topic, offset in first.items()}
        replay = [raw for raw in taken if rng.random() < 0.1] if rng.random() < 0.3 else []
        turned.append(other.stage([*replay, *batch], NOW, positions=positions))
        other.commit(turned[-1])
        taken += batch
    assert by_execution(turned) == by_execution(in_order)
    assert other.states == plain.states == restored(turned).states
    assert other.applied == plain.applied == restored(turned).applied
    assert not any(other.ahead.values())
    assert not restored(turned).ahead


offsets = st.frozensets(st.integers(0, 200), max_size=60)


@given(st.dictionaries(st.sampled_from(["a", "b"]), st.tuples(st.integers(0, 50), offsets)))
def test_what_was_applied_is_kept_as_it_was(kept: dict[str, tuple[int, frozenset[int]]]) -> None:
    applied = {topic: at for topic, (at, _) in kept.items()}
    ahead = {topic: frozenset(o for o in beyond if o >= at) for topic, (at, beyond) in kept.items()}
    said = orjson.loads(orjson.dumps(packed(applied, ahead)))
    assert unpacked(said) == (applied, {topic: beyond for topic, beyond in ahead.items() if beyond})


@pytest.mark.parametrize("value", [b"[]", b"3", b'{"t": "x"}', b'{"t": [1, 2]}', b'{"t": [null]}', b'{"t": {}}'])
def test_what_says_no_positions_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  the takeover begins anew, whatever it says
        ledger().restore(APPLIED_KEY, value)


def test_a_deadline_waits_for_the_records_of_its_execution() -> None:
    """A success may be among them. The others' deadlines do not wait."""
    log, held = Log(), ledger()
    for run in EXECUTIONS[:2]:
        log.offer(run, log.fail(run), Strategy.INCREASE_TIMEOUT)
    held.commit(held.stage(log.records, NOW))
    due = held.next_due_ms or 0
    waits = "/".join(EXECUTIONS[0]).encode()
    later = held.stage([], due + 10**7, fire_until=due + 10**7, waits=lambda key: key == waits)
    assert {record.execution_id for record in later.emitted} == {EXECUTIONS[1][1]}  # type: ignore[attr-defined]
    held.commit(later)
    success = log.succeed(EXECUTIONS[0])
    ended = held.stage([success], due + 10**7, fire_until=due + 10**7)
    assert [r.status for r in ended.emitted if isinstance(r, RecoveryResult)] == ["success"]


def test_a_deadline_whose_records_will_not_come_is_looked_at_again() -> None:
    """The partition moved, and what waited is gone from the log."""
    log, held = Log(), ledger()
    log.offer(EXECUTIONS[0], log.fail(EXECUTIONS[0]), Strategy.INCREASE_TIMEOUT)
    held.commit(held.stage(log.records, NOW))
    due = (held.next_due_ms or 0) + 10**7
    held.commit(held.stage([], due, fire_until=due, waits=lambda _: True))
    assert held.next_due_ms is None
    held.wake()
    assert held.stage([], due, fire_until=due).emitted


def test_a_topic_that_was_made_anew_up_to_what_was_ahead() -> None:
    held = ledger()
    held.restore(APPLIED_KEY, orjson.dumps({FAILURES.name: [3, 7, 1]}))
    assert held.forget_beyond({FAILURES.name: 11}) == []
    assert held.forget_beyond({FAILURES.name: 10}) == [FAILURES.name]
