"""The arithmetic of learning: a fold over settled attempts, its sum, and what of the sum is shared. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final, Self

from schemas.records import SettledStatus

HOUR_S: Final = 3600
KEPT_S: Final = 7 * 24 * HOUR_S
"""How long an hour is counted after its end."""
TOLD_APART: Final = 32
"""Tenants of one row that are counted each by itself: it then takes 2 KB."""
FLOOR: Final = 30
"""Attempts that each tenant may count whatever its share: else the first ones would wait for each other's."""

Tally = tuple[int, int]
"""(attempts, successes)."""

_DIGEST_BYTES: Final = 6
_EVERY_DIGEST: Final = (1 << 8 * _DIGEST_BYTES) - 1
_TEACHES: Final = {SettledStatus.SUCCEEDED: 1, SettledStatus.FAILED: 0, SettledStatus.EXPIRED: 0}
"""What was not applied says nothing about the strategy, nor does a status of a newer writer."""


@dataclass(frozen=True, slots=True)
class Count:
    """Attempts of one stratum, and those of each tenant that is told apart. Whose it is not is of the rest.

    Of more than `TOLD_APART` tenants those with the smallest digests are told apart: each with all its attempts, and
    whoever came first.
    """

    offset: int = -1
    """Of the last attempt in it: what comes at or before it is a replay."""
    attempts: int = 0
    successes: int = 0
    tenants: Mapping[int, Tally] = field(default_factory=dict)
    """By digest."""
    limit: int = _EVERY_DIGEST
    """No attempt of a tenant up to this digest is in the rest, except what came without tenants."""

    @classmethod
    def of_row(cls, row: tuple[int, ...] | None) -> Self:
        """The count in a row of the table. One of three numbers, without tenants, is all rest."""
        if row is None:
            return cls()
        offset, attempts, successes, *rest = row
        tenants = dict(zip(rest[::3], zip(rest[1::3], rest[2::3], strict=True), strict=True))
        crowded = len(tenants) == TOLD_APART and attempts > sum(rest[1::3])
        return cls(offset, attempts, successes, tenants, max(tenants) if crowded else _EVERY_DIGEST)

    def row(self) -> tuple[int, ...]:
        """Offset, attempts, successes; then digest, attempts and successes of each tenant that is told apart."""
        told_apart = (number for digest, tally in self.tenants.items() for number in (digest, *tally))
        return self.offset, self.attempts, self.successes, *told_apart


def hour_of(timestamp_ms: int) -> int:
    """Start of the hour, in seconds since 1970 UTC, of a broker's timestamp."""
    return timestamp_ms // 1000 // HOUR_S * HOUR_S


def is_over(hour: int, now_s: float) -> bool:
    """The hour is too old to be counted."""
    return hour + HOUR_S + KEPT_S <= now_s


def digest_of(stratum: str, tenant: str) -> int:
    """Stands for a tenant's name. Another one in each stratum, so that nobody is of the rest in all of them."""
    return int.from_bytes(blake2b(f"{stratum}|{tenant}".encode(), digest_size=_DIGEST_BYTES).digest(), "big")


def settle(count: Count, status: SettledStatus, offset: int, digest: int) -> Count | None:
    """`count` with one attempt more. None: nothing to change, by its status or because it is counted already."""
    success = _TEACHES.get(status)
    if success is None or offset <= count.offset:
        return None
    attempts, successes = count.tenants.get(digest, (0, 0))
    tenants, limit = {**count.tenants, digest: (attempts + 1, successes + success)}, count.limit
    if len(tenants) > TOLD_APART:
        del tenants[max(tenants)]
        limit = max(tenants)
    return Count(offset, count.attempts + 1, count.successes + success, tenants, limit)


def merged(counts: Iterable[Count]) -> Count:
    """Their sum. Who may be of the rest in one of them is of the rest in all: no tenant is in two parts."""
    counts = list(counts)
    limit = min((count.limit for count in counts), default=_EVERY_DIGEST)
    tenants: dict[int, Tally] = {}
    for count in counts:
        for digest, (attempts, successes) in count.tenants.items():
            if digest <= limit:
                before = tenants.get(digest, (0, 0))
                tenants[digest] = before[0] + attempts, before[1] + successes
    attempts, successes = sum(count.attempts for count in counts), sum(count.successes for count in counts)
    return Count(max((count.offset for count in counts), default=-1), attempts, successes, tenants, limit)


def shared(count: Count, share: int, left_out: Collection[int] = ()) -> Tally:
    """What of a count all tenants may learn from: without those of the digests `left_out`, and as `capped`."""
    attempts = count.attempts - sum(n for n, _ in count.tenants.values())
    successes = count.successes - sum(s for _, s in count.tenants.values())
    told_apart = [tally for digest, tally in count.tenants.items() if digest not in left_out]
    return capped([*told_apart, (attempts, successes)], share)


def capped(tallies: Iterable[Tally], share: int) -> Tally:
    """The sum of `tallies`, none of which counts with more attempts than are `share` thousandths of the sum.

    Of few, each may be an equal part (one alone: all), and each has its FLOOR. One with more counts with fewer, of the
    same rate, rounded half up. It is the part in what is counted that is bounded: who comes can but make the other
    parts smaller, so it moves the rate by no more than its own part.
    """
    tallies = [tally for tally in tallies if tally[0]]

    def fits(most: int) -> bool:
        counted = sum(min(attempts, most) for attempts, _ in tallies)
        return most <= FLOOR or most * 1000 <= share * counted or most * len(tallies) <= counted

    # What fits has no gaps: the sum is concave in `most`.
    largest = max((attempts for attempts, _ in tallies), default=0)
    most = bisect_left(range(1, largest + 1), True, key=lambda attempts: not fits(attempts))
    parts = [(n, s) if n <= most else (most, (2 * s * most + n) // (2 * n)) for n, s in tallies]
    return sum(n for n, _ in parts), sum(s for _, s in parts)
