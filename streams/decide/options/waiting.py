"""How long a service asked us to wait, in every form in which services say it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from schemas.records import FailureEvent

_MAX_TEXT: Final = 4096
_SECONDS: Final = {"ms": 0.001, "m": 60.0, "s": 1.0, "h": 3600.0, "d": 86400.0}
_UNIT: Final = r"(?:milliseconds?|msecs?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d)"
_NUMBER: Final = r"\d{1,12}(?:\.\d{1,9})?"
_DURATION: Final = re.compile(rf"({_NUMBER})\s?({_UNIT})(?![a-z])", re.ASCII | re.IGNORECASE)
"""One part of `6m0s`, `1h 2 minutes`, `174ms`."""
_COMPACT: Final = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)(ms|s|m|h|d)", re.ASCII)
_ASKED: Final = re.compile(
    rf"(?:again|retry|retrying|wait|available|resets?)\b[a-z' ]{{0,20}}:?\s?({_NUMBER}\s?{_UNIT}(?![a-z]).{{0,40}})",
    re.ASCII | re.IGNORECASE,
)
"""`try again in 174ms`, `Please wait 20 seconds`, `resets in 3 hours`."""
_FIELD: Final = re.compile(
    rf"retry[-_ ]?(?:after|delay)([-_]?ms)?[\"']?\s?[:=]?\s?[\"']?({_NUMBER})\s?({_UNIT}(?![a-z]))?",
    re.ASCII | re.IGNORECASE,
)
"""`retry_after: 1.5`, `"retryDelay": "34s"` (Gemini's RetryInfo), `Retry-After: 20`, `retry_after_ms=200`."""
_EPOCH_FROM_S: Final = 1e9
"""A reset above this is a time since 1970 (2001 and later), below it a number of seconds from now."""


def asked_wait_s(event: FailureEvent, now: datetime | None = None) -> float | None:
    """Seconds the service asked us to wait, or None where it said nothing.

    Headers speak before the body, the body before messages. A date is counted from the response's own
    Date header, else from when the failure occurred, else from `now`.
    """
    response = event.tool_response
    if response is not None and response.headers:
        headers = {key.lower(): value for key, value in response.headers.items()}
        wait = _from_headers(headers, _reference(headers, event, now))
        if wait is not None:
            return wait
    for text in _texts(event):
        wait = _from_text(text)
        if wait is not None:
            return wait
    return None


def forbids_retry(event: FailureEvent) -> bool:
    """True where the service said itself that a retry will not help (`x-should-retry: false`)."""
    response = event.tool_response
    return response is not None and any(
        key.lower() == "x-should-retry" and value.strip().lower() == "false" for key, value in response.headers.items()
    )


def _reference(headers: Mapping[str, str], event: FailureEvent, now: datetime | None) -> datetime | None:
    return _date(headers.get("date", "")) or event.occurred_at or now


def _from_headers(headers: Mapping[str, str], reference: datetime | None) -> float | None:
    milliseconds = _float(headers.get("retry-after-ms") or headers.get("x-ms-retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    if (text := headers.get("retry-after")) and (wait := _moment(text, reference)) is not None:
        return wait
    return _from_resets(headers, reference)


def _from_resets(headers: Mapping[str, str], reference: datetime | None) -> float | None:
    """The longest reset among the limits that are used up; among all where no header says what remains."""
    used_up: list[float] = []
    unsaid: list[float] = []
    for key, value in headers.items():
        if "ratelimit" not in key or "reset" not in key:
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


def _moment(text: str, reference: datetime | None) -> float | None:
    """Seconds from `reference` to what `text` says: seconds, `6m0s`, time since 1970, HTTP date or ISO 8601."""
    text = text.strip()[:64]
    number = _float(text)
    if number is not None:
        if number < _EPOCH_FROM_S:
            return number
        if reference is None:
            return None
        if number > _EPOCH_FROM_S * 1000:
            number /= 1000
        return max(0.0, number - reference.timestamp())
    if text[:1].isdigit() and (parts := _COMPACT.findall(text)) and "".join(a + b for a, b in parts) == text:
        return sum(float(amount) * _SECONDS[unit] for amount, unit in parts)
    moment = _date(text)
    if moment is None or reference is None:
        return None
    return max(0.0, (moment - reference).total_seconds())


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
    if match := _FIELD.search(lowered):
        milliseconds, amount, unit = match.groups()
        return float(amount) * (0.001 if milliseconds else _seconds(unit or "s"))
    if match := _ASKED.search(lowered):
        return _leading_duration(match.group(1))
    return None


def _leading_duration(text: str) -> float:
    """The sum of the parts that stand together at the start: `1 minute and 30 seconds.` is 90."""
    total, position = 0.0, 0
    for match in _DURATION.finditer(text):
        if text[position : match.start()].strip(" ,") not in {"", "and"}:
            break
        total += float(match.group(1)) * _seconds(match.group(2))
        position = match.end()
    return total


def _seconds(unit: str) -> float:
    """Of any spelling of a unit."""
    unit = unit.lower()
    if unit.startswith(("ms", "milli")):
        return _SECONDS["ms"]
    return _SECONDS[unit[0]]
