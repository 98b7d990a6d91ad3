"""One partition's state, and what a batch of records makes of it. Pure: bytes in, bytes out, no clock, no IO."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Final

import orjson

from processors.recover.events import Broken, Due
from processors.recover.policy import Policies
from processors.recover.staging import APPLIED_KEY, WORKER, Message, Raw, Staged, Staging, turns
from processors.recover.state import header
from processors.recover.view import View

__all__ = ["APPLIED_KEY", "RUNG_TOKENS", "WORKER", "Ledger", "Message", "Raw", "Staged", "turns"]

RUNG_TOKENS: Final = 5
"""What the deadline of an open recovery costs; to forget a closed one costs 1."""


class Ledger:
    """The executions of one partition, as their changelog records, and how far each input was applied."""

    def __init__(self, partition: int, partitions: int, policies: Policies) -> None:
        self.partition = partition
        self.partitions = partitions
        self.policies = policies
        self.states: dict[str, bytes] = {}
        self.applied: dict[str, int] = {}
        """Topic to the next offset."""
        self.open = 0
        self.pending = 0
        self.held = 0
        self._due: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self.states)

    # --- the changelog

    def restore(self, key: bytes, value: bytes | None) -> None:
        """Take one record of the changelog. Raises ValueError where it cannot be read."""
        if key == APPLIED_KEY:
            applied = {} if value is None else orjson.loads(value)
            if not isinstance(applied, dict):
                raise ValueError("no positions")
            self.applied = applied
        else:
            self._put(key.decode(), value)

    def forget_beyond(self, ends: dict[str, int]) -> list[str]:
        """Drop applied positions beyond the end of their topic: it was made anew. Returns the topics."""
        renewed = [topic for topic, end in ends.items() if self.applied.get(topic, 0) > end]
        for topic in renewed:
            del self.applied[topic]
        return renewed

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
    ) -> Staged:
        """What `batch`, then the deadlines up to `fire_until`, make of this state.

        Per topic the batch is a run of offsets without gaps. `tokens`: what deadlines may cost. `suspects`: (topic,
        offset) of records whose outputs the broker refused: they become dead letters. `breaks`: the same for
        deadlines, whose recoveries end as internal errors.
        """
        view = view or View()
        due, cost = self._fired(fire_until, tokens)
        event = Broken("the broker refused what it caused") if breaks else Due()
        try:
            staged = Staging(self, now, suspects, view).all(batch, due, event)
        except Exception:
            # Something does not fit, or cannot be written: what it was is found by trying each step out.
            staged = Staging(self, now, suspects, view, tries=True).all(batch, due, event)
        staged.tokens = cost
        return staged

    def _fired(self, until: int, tokens: int) -> tuple[list[str], int]:
        """The keys that are due, as many as the tokens pay for, and at least one; what they cost."""
        keys: dict[str, None] = {}
        spent = 0
        while (due_ms := self.next_due_ms) is not None and due_ms <= until:
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
