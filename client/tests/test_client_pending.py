"""Parallel branches of one execution, in every order in which they may look and end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from omium import Acceptor, Command, FenceStore, MemoryFences, codec
from omium.clock import BrokerClock
from omium.inbox import Inbox
from omium.pending import Pending
from orchestrator import command

from schemas import codec as theirs
from schemas import topics

KEY = "acme/run"


def pending_with(*failures: str, store: FenceStore | None = None) -> Pending:
    """Failures that are waited for."""
    clock = BrokerClock()
    pending = Pending(Inbox({}, clock, lambda: None), Acceptor(store or MemoryFences()), clock, 60)
    for failure_id in failures:
        pending.expect(KEY, failure_id).active += 1
    return pending


def read(failure_id: str, attempt: int = 1) -> Command:
    given = command(failure_id=failure_id, attempt=attempt)
    return codec.decode_command(theirs.encode(topics.COMMANDS, given, source="t").value)


def test_the_first_may_be_through_before_the_second_has_looked() -> None:
    pending, given = pending_with("a", "b"), read("a")
    assert pending.take(KEY, "a", given) is not None
    assert pending.ended(given, well=True) is False, "b has still to run"
    taken = pending.take(KEY, "b", read("a"))
    assert taken is not None
    assert taken[0] is given, "the same object: it knows what either of them used"
    assert pending.ended(given, well=True) is True


def test_a_failure_that_nobody_waits_for_holds_nothing_up() -> None:
    pending, given = pending_with("a"), read("a")
    pending.expect(KEY, "only reported")
    assert pending.take(KEY, "a", given) is not None
    assert pending.ended(given, well=True) is True


@given(st.lists(st.booleans(), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_one_end_is_told(well: list[bool], random: object) -> None:
    """Whoever looks and ends in whatever order: told once; as a success only if all went well."""
    names = [f"f{n}" for n in range(len(well))]
    pending, given = pending_with(*names), read("f0")
    todo = [(name, act) for name in names for act in ("take", "end")]
    random.shuffle(todo)  # type: ignore[attr-defined]
    taken: set[str] = set()
    told: list[bool] = []
    while todo:
        name, act = todo.pop(0)
        if act == "take":
            assert pending.take(KEY, name, given) is not None
            taken.add(name)
        elif name not in taken:
            todo.append((name, act))
        elif pending.ended(given, well=well[names.index(name)]):
            told.append(well[names.index(name)])
    assert told == [all(well)]
