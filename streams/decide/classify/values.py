"""Values as a model writes them: numbers with units and separators, dates, near misses of allowed words."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any, Final

import re2

MAX_SUBJECT_CHARS: Final = 65_536
"""RE2 reads this in well under a millisecond."""
_NUMBER = re2.compile(
    r"^(?:[$\x{20ac}\x{a3}\x{a5}\x{20b9}~\x{2248}]|[A-Z][A-Z][A-Z]?\$?)?\s*([+-]?)\s*[$\x{20ac}\x{a3}\x{a5}]?\s*"
    r"((?:\d\d?\d?(?:[,'_ \x{a0}\x{202f}]\d\d\d)+|\d+)?(?:\.\d+)?(?:[eE][+-]?\d+)?)"
    r"\s*(?:[%\x{2030}]|[A-Za-z\x{b0}$\x{20ac}\x{a3}/. ]*)\.?$"
)
_MAX_NUMBER_CHARS: Final = 80
_MAX_ALLOWED: Final = 1_000
_EDIT_CHARS: Final = 64


def number(value: Any) -> float | None:
    """The number in `value`: 5, "5.2", "5.2 %", "$1,250.00", "30 days". None where there is none, or more than one.

    >>> number("5.2 %"), number("$1,250"), number("two"), number(True)
    (5.2, 1250.0, None, None)
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value) if math.isfinite(value) else None
    if not isinstance(value, str) or len(value) > _MAX_NUMBER_CHARS:
        return None
    match = _NUMBER.match(value.strip().replace("\u2212", "-"))
    if match is None or not any(character.isdigit() for character in match.group(2)):
        return None
    digits = match.group(2)
    for separator in ",'_ \u00a0\u202f":
        digits = digits.replace(separator, "")
    try:
        found = float(match.group(1) + digits)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def is_percent(value: Any) -> bool:
    """Whether the text writes its number as a percentage."""
    return isinstance(value, str) and value.rstrip(" .").endswith("%")


def instant(value: Any) -> datetime | None:
    """The time in an ISO 8601 date or date-time; a date is its midnight, a time without offset is UTC."""
    if not isinstance(value, str) or not 8 <= len(value) <= 40:
        return None
    try:
        moment = datetime.fromisoformat(value.strip())
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def is_date(value: Any) -> bool:
    """Whether `value` is an ISO 8601 calendar date."""
    try:
        return isinstance(value, str) and date.fromisoformat(value) is not None
    except ValueError:
        return False


def folded(text: str) -> str:
    """`text` without what people overlook: case, accents' encoding, separators."""
    folded_text = unicodedata.normalize("NFKC", text[:MAX_SUBJECT_CHARS]).casefold()
    return "".join(character for character in folded_text if character.isalnum())


def nearest(value: Any, allowed: Sequence[Any]) -> Any | None:
    """The allowed value that `value` most likely meant, or None: equal but for case, spaces and separators, else
    closest.
    """
    if not isinstance(value, str):
        return next((item for item in allowed[:_MAX_ALLOWED] if str(item) == str(value)), None)
    words = [item for item in allowed[:_MAX_ALLOWED] if isinstance(item, str)]
    wanted = folded(value)
    for item in words:
        if folded(item) == wanted:
            return item
    best, best_distance = None, len(wanted) // 2 + 1
    for item in words:
        distance = _edits(wanted[:_EDIT_CHARS], folded(item)[:_EDIT_CHARS], best_distance)
        if distance < best_distance and distance <= max(len(folded(item)), 1) // 2:
            best, best_distance = item, distance
    if best is None and len(wanted) <= MAX_SUBJECT_CHARS:
        contained = [item for item in words if folded(item) and folded(item) in wanted]
        return contained[0] if len(contained) == 1 else None
    return best


def _edits(left: str, right: str, limit: int) -> int:
    """Levenshtein distance, or `limit` where it is at least that."""
    if abs(len(left) - len(right)) >= limit:
        return limit
    row = list(range(len(right) + 1))
    for index, character in enumerate(left, 1):
        diagonal, row[0] = row[0], index
        for column, other in enumerate(right, 1):
            diagonal, row[column] = (
                row[column],
                min(row[column] + 1, row[column - 1] + 1, diagonal + (character != other)),
            )
        if min(row) >= limit:
            return limit
    return row[-1]


def same(left: Any, right: Any) -> bool:
    """Whether two values say the same: numbers by value, text without case and separators, else by equality."""
    if isinstance(left, bool) or isinstance(right, bool):
        return _truth(left) is not None and _truth(left) == _truth(right)
    left_number, right_number = number(left), number(right)
    if left_number is not None and right_number is not None:
        return math.isclose(left_number, right_number, rel_tol=1e-9, abs_tol=1e-12)
    if isinstance(left, str) and isinstance(right, str):
        return left == right or (folded(left) != "" and folded(left) == folded(right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    return bool(left == right)


_TRUE: Final = frozenset({"true", "yes", "y", "on"})
_FALSE: Final = frozenset({"false", "no", "n", "off"})


def _truth(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        word = value.strip().casefold()
        return True if word in _TRUE else False if word in _FALSE else None
    return None
