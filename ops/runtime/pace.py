"""How many records come, lately: what tells a busy reader from one that others wait for."""

from __future__ import annotations

import math
from typing import Final

_OVER_S: Final = 0.1


class Pace:
    """Records a second over the last tenth of a second. Times are of a monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._count, self._last_s = 0.0, 0.0
        """Each worth less the longer ago it was; when the last came."""

    def count(self, records: int, now_s: float) -> None:
        """So many came now."""
        self._count = self._count * math.exp((self._last_s - now_s) / _OVER_S) + records
        self._last_s = now_s

    @property
    def per_s(self) -> float:
        """As of the last count."""
        return self._count / _OVER_S
