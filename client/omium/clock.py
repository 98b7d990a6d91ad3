"""The broker's clock, as far as it can be known here: commands expire by it, not by the agent's."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta


class BrokerClock:
    """The local clock, corrected by the broker's append times.

    A record of ours that was sent at local time `a` and acknowledged at `b` with append time `t` says
    that the local clock is ahead by at least `a - t` and at most `b - t`. A record that was received at
    `c` with append time `t` says: at most `c - t`. The tightest bounds are kept for as long as they
    agree; where they no longer do, a clock has been set, and the newest bound counts. Without any bound
    the local clock is taken as right. It then runs on the monotonic clock: setting the local one later
    changes nothing.
    """

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._wall_s = wall() - monotonic()
        # How far the local clock is ahead of the broker's, in seconds.
        self._least_s = float("-inf")
        self._most_s = float("inf")
        self._lock = threading.Lock()

    def local_s(self) -> float:
        """Seconds since 1970 by the local clock, as it was at the start and has run since."""
        return self._monotonic() + self._wall_s

    def acknowledged(self, sent_s: float, appended_ms: int) -> None:
        """A record handed over at `sent_s` (by `local_s`) and acknowledged just now was appended at `appended_ms`."""
        now_s = self.local_s()
        with self._lock:
            self._at_least(sent_s - appended_ms / 1000 - 0.001)
            self._at_most(now_s - appended_ms / 1000)

    def received(self, appended_ms: int) -> None:
        """A record appended at `appended_ms` was received just now."""
        now_s = self.local_s()
        with self._lock:
            self._at_most(now_s - appended_ms / 1000)

    def _at_least(self, ahead_s: float) -> None:
        self._least_s = max(self._least_s, ahead_s)
        if self._least_s > self._most_s:
            self._most_s = float("inf")

    def _at_most(self, ahead_s: float) -> None:
        self._most_s = min(self._most_s, ahead_s)
        if self._least_s > self._most_s:
            self._least_s = float("-inf")

    @property
    def checked(self) -> bool:
        """Whether a record of ours was acknowledged: only that can tell that the local clock is ahead."""
        with self._lock:
            return self._least_s > float("-inf")

    @property
    def ahead_s(self) -> float:
        """Best guess of how far the local clock is ahead of the broker's."""
        with self._lock:
            return min(max(0.0, self._least_s), self._most_s)

    def now(self) -> datetime:
        """The broker's time now, UTC."""
        return datetime.fromtimestamp(0, UTC) + timedelta(seconds=self.local_s() - self.ahead_s)
