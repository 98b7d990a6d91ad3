"""The arithmetic of learning: a fold over settled attempts, and its sum over seven days. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from schemas.records import SettledStatus

HOUR_S: Final = 3600
KEPT_S: Final = 7 * 24 * HOUR_S
"""How long an hour is counted after its end."""

Count = tuple[int, int, int]
"""(offset of the last settled attempt in it, attempts, successes)."""

_TEACHES: Final = {SettledStatus.SUCCEEDED: 1, SettledStatus.FAILED: 0, SettledStatus.EXPIRED: 0}
"""What was not applied says nothing about the strategy, nor does a status of a newer writer."""


def hour_of(timestamp_ms: int) -> int:
    """Start of the hour, in seconds since 1970 UTC, of a broker's timestamp."""
    return timestamp_ms // 1000 // HOUR_S * HOUR_S


def is_over(hour: int, now_s: float) -> bool:
    """The hour is too old to be counted."""
    return hour + HOUR_S + KEPT_S <= now_s


def settle(count: Count | None, status: SettledStatus, offset: int) -> Count | None:
    """`count` with one attempt more. None: nothing to change, by its status or because it is counted already."""
    success = _TEACHES.get(status)
    if success is None or (count is not None and offset <= count[0]):
        return None
    _, samples, successes = count or (0, 0, 0)
    return offset, samples + 1, successes + success


def total(counts: Mapping[int, Count], now_s: float) -> tuple[int, int, int]:
    """(attempts, successes, start of the oldest hour counted) of the hours that are not over."""
    counted = {hour: count for hour, count in counts.items() if not is_over(hour, now_s)}
    oldest = min(counted, default=hour_of(int(now_s * 1000)))
    return sum(c[1] for c in counted.values()), sum(c[2] for c in counted.values()), oldest
