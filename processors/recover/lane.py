"""One assigned partition as the worker's polling thread sees it."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from typing import Final

from processors.recover.ledger import Raw
from processors.recover.writer import Writer

_TOKENS_PER_S: Final = 500
"""A hundred next rungs, or five hundred closed recoveries forgotten."""


class Lane:
    """One assigned partition: its writer, what was read for it, and how far its inputs are read."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.read: dict[str, deque[Raw]] = defaultdict(deque)
        self._seen: dict[str, int] = {}
        """Topic to the offset after the last record that was delivered, whatever became of it."""
        self._ends: dict[str, tuple[int, int]] = {}
        """Topic to (what had been delivered, the offset) when it was seen to be at its end. Kept over a doubt:
        what had no record then has none, whether or not the end is told again."""
        self.asked: tuple[int, dict[str, int]] | None = None
        """(broker's time, ends of the inputs taken after it)"""
        self.barrier_ms = 0
        """All that was appended before then has been applied."""
        self.doubts = 0
        self.retry_at_s = 0.0
        self._tokens = float(_TOKENS_PER_S)
        self._refilled_s = time.monotonic()

    def tokens(self) -> int:
        """What deadlines may cost now: after an outage they drain at a ramp, not as a herd."""
        now_s = time.monotonic()
        self._tokens = min(_TOKENS_PER_S, self._tokens + (now_s - self._refilled_s) * _TOKENS_PER_S)
        self._refilled_s = now_s
        return int(self._tokens)

    def spend(self, tokens: int) -> None:
        self._tokens -= tokens

    def forget_read(self) -> None:
        self.read.clear()
        self.asked = None
        self.barrier_ms = 0

    def batch(self) -> list[Raw]:
        """The oldest records of all inputs, an equal share of each: a flood of one holds up no other."""
        waiting = [queue for queue in self.read.values() if queue]
        taken: list[Raw] = []
        while waiting and len(taken) < self.writer.limit:
            share = max(1, (self.writer.limit - len(taken)) // len(waiting))
            for queue in waiting:
                taken += [queue.popleft() for _ in range(min(share, len(queue), self.writer.limit - len(taken)))]
            waiting = [queue for queue in waiting if queue]
        return taken

    def delivered(self, topic: str, offset: int) -> None:
        """The consumer gave us the record at `offset`."""
        self._seen[topic] = max(offset + 1, self._seen.get(topic, 0))

    def at_end(self, topic: str, offset: int) -> None:
        """The consumer found nothing more before `offset`, the end."""
        self._ends[topic] = self._seen.get(topic, 0), offset

    def _reached(self, topic: str) -> int:
        """The offset before which all was applied, or is no record."""
        applied = self.writer.positions.get(topic, 0)
        delivered, end = self._ends.get(topic, (0, 0))
        return max(applied, end) if applied >= delivered else applied

    def pass_barrier(self) -> None:
        """Whether all that was there when the ends were taken has been applied."""
        if self.asked and not any(self.read.values()):
            asked_ms, at = self.asked
            if all(self._reached(topic) >= end for topic, end in at.items()):
                self.barrier_ms, self.asked = asked_ms, None
