"""What may be committed: never past a record that is not done."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ops.runtime.progress import Progress

_RUN = st.lists(st.integers(1, 5), min_size=1, max_size=60)


@given(_RUN, st.data())
def test_position_is_the_first_delivered_record_that_is_not_done(steps: list[int], data: st.DataObject) -> None:
    """In any order of completion, with holes between the offsets, against the plain definition."""
    progress = Progress()
    delivered: list[int] = []
    offset = data.draw(st.integers(0, 1000))
    finished: set[int] = set()
    for step in steps:
        assert progress.deliver(offset)
        delivered.append(offset)
        offset += step
        for done in data.draw(st.lists(st.sampled_from(delivered), max_size=3)):
            progress.done(done)
            finished.add(done)
        waiting = [o for o in delivered if o not in finished]
        assert progress.position == (waiting[0] if waiting else delivered[-1] + 1)
        assert len(progress) == (len(delivered) - delivered.index(waiting[0]) if waiting else 0)


@given(_RUN)
def test_memory_is_only_what_is_not_done(steps: list[int]) -> None:
    """A long partition leaves nothing behind."""
    progress = Progress()
    offsets = [sum(steps[:i]) for i in range(1, len(steps) + 1)]
    for offset in offsets:
        progress.deliver(offset)
    for offset in reversed(offsets):
        progress.done(offset)
    assert (len(progress._pending), len(progress._left)) == (0, 0)


def test_a_record_fetched_twice_is_begun_once() -> None:
    progress = Progress()
    assert [progress.deliver(o) for o in (3, 4, 3, 4, 5)] == [True, True, False, False, True]


def test_nothing_delivered_commits_nothing() -> None:
    assert Progress().position is None
