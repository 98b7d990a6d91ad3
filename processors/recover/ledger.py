"""One partition's state, and what a batch of records makes of it. Pure: bytes in, bytes out, no clock, no IO."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import orjson

from processors.recover.applied import unpacked
from processors.recover.events import Broken, Due
from processors.recover.policy import Policies
from processors.recover.staging import APPLIED_KEY, WORKER, Message, Raw, Staged, Staging
from processors.recover.state import header
from processors.recover.view import View

__all__ = ["APPLIED_KEY", "RUNG_TOKENS", "WORKER", "Ledger", "Message", "Raw", "Staged"]

RUNG_TOKENS: Final = 5
"""What the deadline of an open recovery costs; to forget a closed one costs 1."""


def nothing_waits(_: bytes) -> bool:
    """No record was read that is not in the batch."""
    return False


class Ledger:
    """The executions of one partition, as their changelog records, and how far each input was applied."""

    def __init__(self, partition: int, partitions: int, policies: Policies) -> None:
        self.partition = partition
        self.partitions = partitions
        self.policies = policies
        self.states: dict[str, bytes] = {}
        self.applied: dict[str, int] = {}
        """Topic to the first offset that was not applied."""
        self.ahead: dict[str, frozenset[int]] = {}
        """Topic to the offsets beyond it that were."""
        self.open = 0
        self.pending = 0
        self.held = 0
        self._due: list[tuple[int, str]] = []
        self._waiting: dict[str, int] = {}
        """What is due of executions of which records wait: key to when."""

    def __len__(self) -> int:
        return len(self.states)

    # --- the changelog

    def restore(self, key: bytes, value: bytes | None) -> None:
        """Take one record of the changelog. Raises ValueError where it cannot be read."""
        if key == APPLIED_KEY:
            self.applied, self.ahead = unpacked({} if value is None else orjson.loads(value))
        else:
            self._put(key.decode(), value)

    def forget_beyond(self, ends: dict[str, int]) -> list[str]:
        """Drop applied positions beyond the end of their topic: it was made anew. Returns the topics."""
        ahead = {topic: max(offsets) + 1 for topic, offsets in self.ahead.items() if offsets}
        renewed = [topic for topic, end in ends.items() if max(self.applied.get(topic, 0), ahead.get(topic, 0)) > end]
        for topic in renewed:
            self.applied.pop(topic, None)
            self.ahead.pop(topic, None)
        return renewed

    def has_applied(self, topic: str, offset: int) -> bool:
        """Whether that record's step was taken before."""
        return offset < self.applied.get(topic, 0) or self.was_ahead(topic, offset)

    def was_ahead(self, topic: str, offset: int) -> bool:
        """Whether it was taken although one in front of that record was not."""
        return offset in self.ahead.get(topic, ())

    def wake(self) -> None:
        """What deadlines waited for is forgotten, and may not come again."""
        for key, due_ms in self._waiting.items():
            heapq.heappush(self._due, (due_ms, key))
        self._waiting.clear()

    def _put(self, key: str, value: bytes | None) -> None:
        after = None if value is None else header(value)
        before = self.states.get(key)
        if before is not None:
            _, was_open, was_pending, was_held = header(before)
            self.open -= was_open
            self.pending -= was_pending
            self.held -= was_held
        if value is None or after is None:
            self.states.pop(key, None)
            return
        due_ms, is_open, is_pending, is_held = after
        self.states[key] = value
        self.open += is_open
        self.pending += is_pending
        self.held += is_held
        if due_ms and (before is None or header(before)[0] != due_ms):
            heapq.heappush(self._due, (due_ms, key))

    @property
    def next_due_ms(self) -> int | None:
        """When something happens by itself next; None: never."""
        while self._due:
            due_ms, key = self._due[0]
            state = self.states.get(key)
            if state is not None and header(state)[0] == due_ms:
                return due_ms
            heapq.heappop(self._due)
        return None

    # --- batches

    def stage(
        self,
        batch: Sequence[Raw],
        now: int,
        *,
        fire_until: int = 0,
        tokens: int = 500,
        suspects: frozenset[tuple[str, int]] = frozenset(),
        breaks: bool = False,
        view: View | None = None,
        positions: Mapping[str, int] | None = None,
        waits: Callable[[bytes], bool] = nothing_waits,
    ) -> Staged:
        """What `batch`, in its order, then the deadlines up to `fire_until`, make of this state.

        `positions`: per topic of the batch the first offset of which nothing was applied, once the batch is; absent:
        the batch leaves no gaps. `waits`: whether records of an execution were read that come later; its deadline then
        waits for them. `tokens`: what deadlines may cost. `suspects`: (topic, offset) of records whose outputs the
        broker refused: they become dead letters. `breaks`: the same for deadlines, whose recoveries end as internal
        errors.
        """
        view = view or View()
        if self._waiting:
            self._look_again(batch)
        due, cost = self._fired(fire_until, tokens, waits)
        event = Broken("the broker refused what it caused") if breaks else Due()
        try:
            staged = Staging(self, now, suspects, view).all(batch, positions, due, event)
        except Exception:
            # Something does not fit, or cannot be written: what it was is found by trying each step out.
            staged = Staging(self, now, suspects, view, tries=True).all(batch, positions, due, event)
        staged.tokens = cost
        return staged

    def _look_again(self, batch: Sequence[Raw]) -> None:
        for key in {raw.key.decode(errors="replace") for raw in batch if raw.key}:
            if due_ms := self._waiting.pop(key, 0):
                heapq.heappush(self._due, (due_ms, key))

    def _fired(self, until: int, tokens: int, waits: Callable[[bytes], bool]) -> tuple[list[str], int]:
        """The keys that are due, as many as the tokens pay for, and at least one; what they cost."""
        keys: dict[str, None] = {}
        spent = 0
        while (due_ms := self.next_due_ms) is not None and due_ms <= until:
            if waits(self._due[0][1].encode()):
                self._waiting[heapq.heappop(self._due)[1]] = due_ms
                continue
            _, is_open, _, _ = header(self.states[self._due[0][1]])
            cost = RUNG_TOKENS if is_open else 1
            if keys and spent + cost > tokens:
                break
            spent += cost
            keys[heapq.heappop(self._due)[1]] = None
        return list(keys), spent

    def commit(self, staged: Staged) -> None:
        """`staged` is on the broker: from now on it holds."""
        for key, value in staged.changes.items():
            self._put(key, value)
        self.applied.update(staged.applied)
        self.ahead.update(staged.ahead)
