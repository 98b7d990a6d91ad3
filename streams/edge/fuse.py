"""When failing handlers must stop the worker. Pure."""

from __future__ import annotations

from collections import deque
from typing import Final

MAX_CONSECUTIVE: Final = 20
MAX_RATIO: Final = 0.5
WINDOW: Final = 200
"""Records over which the ratio is taken; it is not judged before half of them were seen."""


class FuseBlown(Exception):  # noqa: N818  says what happened
    """Our own handler fails on so many records that going on would empty the topic into the dead letters."""


class Fuse:
    """Counts what a handler raised, never what was malformed: strangers must not be able to stop a worker."""

    def __init__(
        self, max_consecutive: int = MAX_CONSECUTIVE, max_ratio: float = MAX_RATIO, window: int = WINDOW
    ) -> None:
        self._max_consecutive = max_consecutive
        self._max_ratio = max_ratio
        self._recent: deque[bool] = deque(maxlen=window)
        self._failed = 0
        self._consecutive = 0

    def handled(self) -> None:
        """A record was handled."""
        self._consecutive = 0
        # Of a full window without a failure one more success changes nothing.
        if self._failed or len(self._recent) != self._recent.maxlen:
            self._push(False)

    def failed(self) -> None:
        """A record made the handler raise, repeatedly. Raises FuseBlown where it is one too many."""
        self._consecutive += 1
        self._push(True)
        if self._consecutive >= self._max_consecutive:
            raise FuseBlown(f"the handler raised on {self._consecutive} records in a row")
        seen = len(self._recent)
        if seen * 2 >= (self._recent.maxlen or 0) and self._failed > seen * self._max_ratio:
            raise FuseBlown(f"the handler raised on {self._failed} of the last {seen} records")

    def _push(self, failed: bool) -> None:
        if len(self._recent) == self._recent.maxlen:
            self._failed -= self._recent[0]
        self._recent.append(failed)
        self._failed += failed
