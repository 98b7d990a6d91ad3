"""Numbers, limits, ranges and allowed values that an error's message states: what a remedy's parameters are made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import re2

_MAX_TEXT: Final = 2_048
_MAX_NUMBERS: Final = 16
_MOST_TIMES: Final = 1_000
"""A number that is more times the limit than this measures something else."""
_QUANTITY: Final = re2.compile(
    r"(?i)(\d(?:[\d,_]{0,18}\d)?(?:\.\d{1,9})?)\s?"
    r"(k(?:[^a-z]|$)|tokens?|[kmgt]i?b?(?:[^a-z]|$)|bytes?|ms(?:[^a-z]|$)|milliseconds?|s(?:[^a-z]|$)|secs?|seconds?"
    r"|min(?:s|utes?)?|hours?|h(?:[^a-z]|$)|steps?|turns?|iterations?)?"
)
_BYTES: Final = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SECONDS: Final = {"ms": 0.001, "mi": 60.0, "h": 3600.0, "s": 1.0}
_LIMIT_BEFORE: Final = re2.compile(
    r"(?i)(?:limit|max(?:imum)?|allowed|permitted|budget|cap|timeout|up to|at most|supports?|n_ctx|window|allows?|"
    r"context length|"
    r"total capacity)\b[^\d;,.]*$|(?:exceed(?:s|ed|ing)?|over|above|beyond|than)(?: the| its| a)?\s*$|[>/]\s*$|=?> *$"
)
_LIMIT_AFTER: Final = re2.compile(
    r"(?i)^[ )\]]*(?:(?:tokens?|time|memory|context|input|output|[kmgt]i?b|m?s|seconds?|bytes?) ){0,2}"
    r"(?:maximum|max|limit|allowed|permitted|cap|context window)\b"
)


class Overstepped(NamedTuple):
    """A limit, and what was used of it; None where the message does not say."""

    measured: float | None
    limit: float
    unit: str


_UNITS: Final[Mapping[str, str]] = {"token_limit_exceeded": "tokens", "out_of_memory": "bytes", "timeout": "s"}


def overstepped(text: str, subtype: str) -> Overstepped | None:
    """The limit that a message says was exceeded, and by how much; None where it says none.

    >>> overstepped("Memory usage 3 GB exceeds limit 2 GB", "out_of_memory")
    Overstepped(measured=3221225472.0, limit=2147483648.0, unit='bytes')
    """
    unit = _UNITS.get(subtype)
    if unit is None:
        return None
    limit: float | None = None
    others: list[float] = []
    for value, is_limit in _amounts(text[:_MAX_TEXT], unit):
        if is_limit and limit is None:
            limit = value
        else:
            others.append(value)
    if limit is None:
        return None
    return Overstepped(next((value for value in others if limit < value < _MOST_TIMES * limit), None), limit, unit)


def amount(value: float, unit: str) -> str:
    """An amount for a sentence: 3.0 GiB, 12,000 tokens, 95 s."""
    if unit != "bytes":
        return f"{value:,.10g} {unit}"
    prefixes = iter(("", "Ki", "Mi", "Gi", "Ti"))
    prefix = next(prefixes)
    while value >= 1024 and prefix != "Ti":
        value, prefix = value / 1024, next(prefixes)
    return f"{value:.1f} {prefix}B" if prefix else f"{value:g} bytes"


def _amounts(text: str, unit: str) -> Iterator[tuple[float, bool]]:
    """The amounts in this unit, and whether the words around each call it a limit."""
    found = [match for match, _ in zip(_QUANTITY.finditer(text), range(_MAX_NUMBERS), strict=False)]
    for index, match in enumerate(found):
        value = _in_unit(match.group(1), (match.group(2) or "").lower(), unit)
        if value is None or value <= 0:
            continue
        before = text[found[index - 1].end() if index else 0 : match.start()]
        after = text[match.end(1) : found[index + 1].start() if index + 1 < len(found) else len(text)]
        yield value, bool(_LIMIT_BEFORE.search(before[-64:]) or _LIMIT_AFTER.search(after[:48]))


def _in_unit(digits: str, suffix: str, unit: str) -> float | None:
    amount = float(digits.replace(",", "").replace("_", ""))
    if unit == "tokens":
        thousands = suffix.startswith("k")
        return amount * (1000 if thousands else 1) if thousands or suffix in ("", "token", "tokens") else None
    if unit == "bytes":
        if suffix.startswith("byte"):
            return amount
        letter = suffix[:1]
        known = letter in _BYTES and not suffix.startswith(("token", "turn", "min", "ms", "milli"))
        return amount * _BYTES[letter] if known else None
    if suffix.startswith(("step", "byte")):
        return None
    return next((amount * seconds for start, seconds in _SECONDS.items() if suffix.startswith(start)), None)


_SIGNED: Final = r"(-?\d{1,15}(?:\.\d{1,9})?)"
_BETWEEN: Final = re2.compile(
    rf"(?i)(?:range|between|from|bounds|interval|in|within)\b[^\d\n-]{{0,16}}[\[(]?{_SIGNED} ?%?"
    r"(?: ?, ?| ?- ?| to | and | ?\.\. ?|\x{2013})"
    rf"{_SIGNED}"
)
_NAMED_VALUE: Final = re2.compile(
    rf"(?i)^\W*(?:(?:value|field|the|parameter|output) )*[`'\"]?([a-z][\w.-]{{0,40}})[`'\"]?(?: is| was| =|=|:| of)? ?"
    rf"[`'\"]?{_SIGNED}[`'\"]? ?%?"
    r" (?:is |was )?(?:out of|outside|not (?:with)?in|above|below|exceeds|less|greater|over|under)"
)
_MUST: Final = re2.compile(r"(?i)^\W*[`'\"]?([a-z][\w.-]{0,40})[`'\"]? (?:must|should|has to) be")
_GOT: Final = re2.compile(rf"(?i)(?:got|was|received|found|given|input_value=)[ :]?[`'\"]?{_SIGNED}")
_BOUND: Final = re2.compile(
    rf"(?i)(greater|less|more|larger|smaller|higher|lower) than( or equal to)?"
    rf"(?: the)?(?: maximum| minimum)?(?: of)? {_SIGNED}"
)
_BEYOND: Final = re2.compile(
    rf"(?i)(exceeds?|above|over|below|under) (?:the )?(?:max(?:imum)?|min(?:imum)?|limit)(?: of)? {_SIGNED}"
)
_COMPARED_TO_MINIMUM: Final = re2.compile(rf"(?i)(?:less|smaller|lower) than the minimum(?: of)? {_SIGNED}")
_COMPARED_TO_MAXIMUM: Final = re2.compile(rf"(?i)(?:greater|larger|more|higher) than the maximum(?: of)? {_SIGNED}")
_PYDANTIC: Final = re2.compile(
    r"(?m)^([A-Za-z_][\w.-]{0,80})\n  (.+?) \[type=\w+(?:, input_value=(.{1,100}?), input_type)?"
)
_CHOICES: Final = re2.compile(
    r"(?:should be|must be one of|is not one of|one of|permitted:|allowed values(?: are)?:?|expected) "
    r"[\[(]?((?:['\"][^'\"\n]+['\"](?:, | or |, or )?)+)"
)
_QUOTED: Final = re2.compile(r"['\"]([^'\"\n]{1,80})['\"]")


def constraint_said(text: str) -> dict[str, Any]:
    """field, actual_value, valid_range or allowed_values, as far as a validator's message says them."""
    text = text[:_MAX_TEXT]
    said: dict[str, Any] = {}
    if match := _PYDANTIC.search(text):
        said["field"] = match.group(1)
        if match.group(3):
            said["actual_value"] = match.group(3).strip("'\"")
        text = match.group(2)
    elif match := _NAMED_VALUE.search(text):
        said["field"], said["actual_value"] = match.group(1), float(match.group(2))
    elif match := _MUST.search(text):
        said["field"] = match.group(1)
    if match := _CHOICES.search(text):
        said["allowed_values"] = _QUOTED.findall(match.group(1))
    elif bounds := _bounds(text):
        said["valid_range"] = bounds
        if "actual_value" not in said and (match := _GOT.search(text)):
            said["actual_value"] = float(match.group(1))
    return said if len(said.keys() - {"field", "actual_value"}) else {}


def _bounds(text: str) -> dict[str, float]:
    if match := _BETWEEN.search(text):
        low, high = float(match.group(1)), float(match.group(2))
        return {"min": low, "max": high} if low <= high else {}
    if match := _BEYOND.search(text):
        return {"min" if match.group(1).lower() in ("below", "under") else "max": float(match.group(2))}
    if match := _COMPARED_TO_MINIMUM.search(text):
        return {"min": float(match.group(1))}
    if match := _COMPARED_TO_MAXIMUM.search(text):
        return {"max": float(match.group(1))}
    if match := _BOUND.search(text):
        end = "min" if match.group(1).lower() in ("greater", "more", "larger", "higher") else "max"
        return {end if match.group(2) else f"exclusive_{end}": float(match.group(3))}
    return {}
