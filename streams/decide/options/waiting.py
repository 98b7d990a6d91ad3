"""How long a service asked us to wait, in every form in which services say it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import Final, NamedTuple

from schemas.records import FailureEvent
from streams.decide.options.durations import NUMBER, UNIT, compact_duration_s, leading_duration_s

_MAX_TEXT: Final = 4096
_MAX_HEADERS: Final = 200
_ASKED: Final = re.compile(
    rf"(?:again|retry|retrying|wait|available|resets?)\b[a-z' ]{{0,20}}:?\s?({NUMBER}\s?{UNIT}(?![a-z]).{{0,40}})",
    re.ASCII | re.IGNORECASE,
)
"""`try again in 174ms`, `Please wait 20 seconds`, `resets in 3 hours`."""
_FIELD: Final = re.compile(
    rf"retry[-_ ]?(?:after|delay)([-_]?ms)?(?:[-_ ]?(?:in[-_ ])?(?:seconds?|secs?))?"
    rf"[\"']?\s?[:=]?\s?[\"']?({NUMBER})\s?({UNIT}(?![a-z]))?",
    re.ASCII | re.IGNORECASE,
)
"""`retry_after: 1.5`, `"retryDelay": "34s"` (Gemini's RetryInfo), `Retry-After: 20`, `retry_after_ms=200`."""
_STRUCTURED_RESET: Final = re.compile(r"\b(?:reset|t)=(\d{1,7})\b", re.ASCII)
"""IETF's RateLimit header, older (`limit=100, remaining=0, reset=30`) and newer (`"default";r=0;t=30`)."""
_DIGITS: Final = "0123456789"
_EPOCH_FROM_S: Final = 1e9
"""A reset above this is a time since 1970 (2001 and later), below it a number of seconds from now."""


Reference = Callable[[], datetime | None]


class Asked(NamedTuple):
    """What the service said about a repeat."""

    wait_s: float | None
    """Seconds to wait first; None: it said nothing."""
    never: bool = False
    """`x-should-retry: false`: a repeat will not help."""


def asked(event: FailureEvent, now: datetime | None = None) -> Asked:
    """What the service said about when to repeat.

    Headers speak before the body, the body before messages. A date is counted from the response's own
    Date header, else from when the failure occurred, else from `now`.
    """
    response, never = event.tool_response, False
    if response is not None and response.headers:
        headers = {key.lower(): value for key, value in islice(response.headers.items(), _MAX_HEADERS)}
        never = headers.get("x-should-retry", "").strip().lower() == "false"
        wait = _from_headers(headers, lambda: _date(headers.get("date", "")) or event.occurred_at or now)
        if wait is not None:
            return Asked(wait, never)
    for text in _texts(event):
        wait = _from_text(text)
        if wait is not None:
            return Asked(wait, never)
    return Asked(None, never)


def _from_headers(headers: Mapping[str, str], reference: Reference) -> float | None:
    milliseconds = _float(headers.get("retry-after-ms") or headers.get("x-ms-retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    for name in ("retry-after", "x-retry-after"):
        if (text := headers.get(name)) and (wait := _moment(text, reference)) is not None:
            return wait
    return _from_resets(headers, reference)


def _from_resets(headers: Mapping[str, str], reference: Reference) -> float | None:
    """The longest reset among the limits that are used up; among all where no header says what remains."""
    used_up: list[float] = []
    unsaid: list[float] = []
    for key, value in headers.items():
        if key == "ratelimit" and (match := _STRUCTURED_RESET.search(value[:256])):
            unsaid.append(float(match.group(1)))
        if "ratelimit" not in key.replace("rate-limit", "ratelimit") or "reset" not in key:
            continue
        wait = _moment(value, reference)
        if wait is None:
            continue
        remaining = _float(headers.get(key.replace("reset", "remaining")))
        if remaining is None:
            unsaid.append(wait)
        elif remaining < 1:
            used_up.append(wait)
    return max(used_up or unsaid, default=None)


def _moment(text: str, reference: Reference) -> float | None:
    """Seconds from the reference to what `text` says: seconds, `6m0s`, time since 1970, HTTP date or ISO 8601."""
    text = text.strip()[:64]
    number = _float(text)
    if number is not None:
        if number < _EPOCH_FROM_S:
            return number
        if number > _EPOCH_FROM_S * 1000:
            number /= 1000
        since = reference()
        return None if since is None else max(0.0, number - since.timestamp())
    if (wait := compact_duration_s(text)) is not None:
        return wait
    moment = _date(text)
    since = reference() if moment is not None else None
    return None if moment is None or since is None else max(0.0, (moment - since).total_seconds())


def _date(text: str) -> datetime | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text) if text[:4].isdigit() else parsedate_to_datetime(text)
        # A date in year 1 with an offset leaves what a datetime can hold.
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _float(text: str | None) -> float | None:
    """A plain non-negative decimal: float() itself would also take `inf`, `nan` and `1_0`."""
    if text is None:
        return None
    text = text.strip()
    if not text.isascii() or len(text) > 20 or not text.replace(".", "", 1).isdigit():
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def _texts(event: FailureEvent) -> Iterator[str]:
    response, error = event.tool_response, event.error
    if response is not None:
        yield from (text[:_MAX_TEXT] for text in (response.body, response.error) if text)
    if error is not None:
        for cause in (*error.cause_chain[-8:][::-1], error):
            if cause.message:
                yield cause.message[:_MAX_TEXT]


def _from_text(text: str) -> float | None:
    lowered = text.lower()
    if "retry" not in lowered and "again" not in lowered and "wait" not in lowered and "reset" not in lowered:
        return None
    if not any(digit in lowered for digit in _DIGITS):
        return None
    if match := _FIELD.search(lowered):
        milliseconds, amount, unit = match.groups()
        if unit:
            return leading_duration_s(lowered[match.start(2) :][:60])
        return float(amount) * (0.001 if milliseconds else 1.0)
    if match := _ASKED.search(lowered):
        return leading_duration_s(match.group(1))
    return None
