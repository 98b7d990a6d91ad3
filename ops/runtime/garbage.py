"""Garbage collection of a worker."""

from __future__ import annotations

import gc
from typing import Final

_MANY: Final = 1_000
_HOLD_EVERY_S: Final = 0.2
_CALM_S: Final = 10.0
"""Then a full collection follows, which takes 100 ms: not after every burst."""
_THRESHOLDS: Final = (20_000, 20, 20)
"""Python's own first is 700: a batch of a hundred records makes as many objects before it is done with any."""


def settle() -> None:
    """What was loaded at start stays for good: collections pass over it, and come seldom. Call it once, when ready."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)


class Backlog:
    """What was read and waits is many objects and no garbage. Collections would look at all of it again and again, for
    up to 160 ms each time; those who are in front of it would wait as long."""

    def __init__(self) -> None:
        self._held_s = float("-inf")
        self._holds = False

    def tell(self, records: int, now_s: float) -> None:
        """So many records wait, at `now_s` of a monotonic clock: while they are many, nothing is looked at twice."""
        if records >= _MANY:
            if now_s - self._held_s >= _HOLD_EVERY_S:
                gc.freeze()
                self._held_s, self._holds = now_s, True
        elif self._holds and now_s - self._held_s >= _CALM_S:
            gc.unfreeze()
            settle()
            self._holds = False
