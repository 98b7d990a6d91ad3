"""What was learned about success, as one frozen view: the ranking's only knowledge of the past."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import blake2b
from types import MappingProxyType
from typing import Self

from schemas.records import ConfidenceRow, Severity, Strategy

WINDOW = timedelta(days=7)
"""A row counts the seven days before its `updated_at`: one that was not renewed since then says nothing any more."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Learned attempts and successes by (subtype, severity, attempt class, strategy). `with_row` copies."""

    rows: Mapping[str, ConfidenceRow] = field(default_factory=dict)
    """Newest row of each stratum, by its key."""
    snapshot: str = ""
    """Names this knowledge in a decision's record: equal rows give the same name, in whatever order they came."""
    _by_remedy: Mapping[tuple[str, Strategy], tuple[ConfidenceRow, ...]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, rows: Iterable[ConfidenceRow]) -> Self:
        """The view of these rows; of one stratum the newest counts."""
        newest: dict[str, ConfidenceRow] = {}
        for row in rows:
            known = newest.get(row.key)
            if known is None or row.updated_at >= known.updated_at:
                newest[row.key] = row
        return cls._build(newest, _digest(newest.values()))

    def with_row(self, row: ConfidenceRow) -> Self:
        """This view with one row more, or a newer one in its place."""
        known = self.rows.get(row.key)
        if known is not None and row.updated_at < known.updated_at:
            return self
        digest = (int(self.snapshot, 16) if self.snapshot else 0) ^ _fingerprint(row)
        if known is not None:
            digest ^= _fingerprint(known)
        return self._build({**self.rows, row.key: row}, digest)

    @classmethod
    def _build(cls, rows: dict[str, ConfidenceRow], digest: int) -> Self:
        by_remedy: dict[tuple[str, Strategy], tuple[ConfidenceRow, ...]] = {}
        for row in rows.values():
            remedy = (row.subtype, row.strategy)
            by_remedy[remedy] = (*by_remedy.get(remedy, ()), row)
        return cls(MappingProxyType(rows), f"{digest:016x}" if rows else "", MappingProxyType(by_remedy))

    def rate(
        self, subtype: str, severity: Severity | None, strategy: Strategy, now: datetime | None = None
    ) -> tuple[int, int]:
        """(samples, successes) of a strategy on a subtype.

        `severity` None counts every severity; `now` leaves out rows whose seven days have passed.
        """
        samples = successes = 0
        for row in self._by_remedy.get((subtype, strategy), ()):
            if severity is not None and row.severity is not severity:
                continue
            if now is not None and row.updated_at + WINDOW <= now:
                continue
            samples += row.samples
            # A row is a claim from a topic: more successes than samples must not become a rate above 1.
            successes += min(row.successes, row.samples)
        return samples, successes


def _fingerprint(row: ConfidenceRow) -> int:
    text = f"{row.key}|{row.samples}|{row.successes}|{row.updated_at.isoformat()}"
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def _digest(rows: Iterable[ConfidenceRow]) -> int:
    digest = 0
    for row in rows:
        digest ^= _fingerprint(row)
    return digest
