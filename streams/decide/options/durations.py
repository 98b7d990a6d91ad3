"""Durations as services and exceptions write them: `30s`, `6m0s`, `1 minute and 30 seconds`, `174ms`."""

from __future__ import annotations

import re
from typing import Final

NUMBER: Final = r"\d{1,12}(?:\.\d{1,9})?"
UNIT: Final = r"(?:milliseconds?|msecs?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d)"
_SECONDS: Final = {"m": 60.0, "s": 1.0, "h": 3600.0, "d": 86400.0}
_PART: Final = re.compile(rf"({NUMBER})\s?({UNIT})(?![a-z])", re.ASCII | re.IGNORECASE)
_COMPACT: Final = re.compile(rf"(?:{NUMBER}(?:ms|[smhd]))+", re.ASCII)
_TIMEOUT: Final = re.compile(
    rf"(?:time[d\s-]{{0,3}}out|deadline|exceeded|after)\b[^\d\n]{{0,24}}?({NUMBER})\s?({UNIT}(?![a-z]))?",
    re.ASCII | re.IGNORECASE,
)
"""`timed out after 30s`, `(read timeout=5)`, `Timeout of 30000ms exceeded`: without a unit, seconds."""


def unit_s(unit: str) -> float:
    """Seconds in one of any spelling of a unit."""
    unit = unit.lower()
    return 0.001 if unit.startswith(("ms", "milli")) else _SECONDS[unit[0]]


def leading_duration_s(text: str) -> float:
    """The sum of the parts that stand together at the start: `1 minute and 30 seconds.` is 90."""
    total, position = 0.0, 0
    for match in _PART.finditer(text):
        if text[position : match.start()].strip(" ,") not in {"", "and"}:
            break
        total += float(match.group(1)) * unit_s(match.group(2))
        position = match.end()
    return total


def compact_duration_s(text: str) -> float | None:
    """`6m0s`, `20ms`; None for anything else."""
    return leading_duration_s(text) if _COMPACT.fullmatch(text) else None


def timeout_said_s(text: str) -> float | None:
    """The time that was allowed, where a timeout's message says it."""
    match = _TIMEOUT.search(text[:2048])
    if match is None:
        return None
    return float(match.group(1)) * unit_s(match.group(2) or "s")
