"""The agent's output against the constraints of its task: every violation, with its path."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

import re2

from schemas.records import Severity
from streams.decide.classify.values import (
    MAX_SUBJECT_CHARS,
    instant,
    is_percent,
    nearest,
    number,
)

MAX_PATTERN_CHARS: Final = 512
MAX_VIOLATIONS: Final = 50
_MAX_FIELDS: Final = 200
MISSING: Final = object()
"""Stands for a field that the output does not have."""

_SEVERITY: Final = {"range_violation": Severity.HIGH, "enum_violation": Severity.HIGH}


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that is wrong with the output."""

    subtype: str
    path: str
    rule: str
    actual: Any
    message: str
    limits: Mapping[str, Any] = field(default_factory=dict)
    """valid_range, allowed_values, pattern or schema; nearest where one is known."""

    @property
    def absent(self) -> bool:
        """Whether a value is missing, rather than wrong."""
        return self.rule in ("required", "null", "output")

    @property
    def severity(self) -> Severity:
        return _SEVERITY.get(self.subtype, Severity.MEDIUM)


def field_violations(output: Any, constraints: Mapping[str, Any]) -> list[Violation]:
    """Violations of {field: {"type": "range" | "enum" | "format", ...}}."""
    found: list[Violation] = []
    for path, constraint in list(constraints.items())[:_MAX_FIELDS]:
        if isinstance(constraint, dict):
            found.extend(_check_field(str(path), _at(output, str(path)), constraint))
    return found[:MAX_VIOLATIONS]


def _at(output: Any, path: str) -> Any:
    """The value at a field's name or dotted path; MISSING where there is none."""
    if isinstance(output, dict) and path in output:
        return output[path]
    value = output
    for part in path.split("."):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return MISSING
    return value


def _check_field(path: str, value: Any, constraint: Mapping[str, Any]) -> Iterator[Violation]:
    required = constraint.get("required", True) is not False
    if value is MISSING:
        if required:
            yield Violation("format_violation", path, "required", None, f"{path} is missing", _limits(constraint))
        return
    if value is None:
        if required and constraint.get("nullable") is not True:
            yield Violation("format_violation", path, "null", None, f"{path} is null", _limits(constraint))
        return
    checker = _CHECKERS.get(str(constraint.get("type")))
    if checker is not None:
        yield from checker(path, value, constraint)


def _limits(constraint: Mapping[str, Any]) -> dict[str, Any]:
    match constraint.get("type"):
        case "range":
            return {"valid_range": valid_range(constraint)}
        case "enum":
            return {"allowed_values": allowed_values(constraint)}
        case "format" if "pattern" in constraint:
            return {"pattern": constraint["pattern"]}
    return {}


def allowed_values(constraint: Mapping[str, Any]) -> list[Any]:
    values = constraint.get("values", constraint.get("allowed_values", constraint.get("enum")))
    return values if isinstance(values, list) else []


def valid_range(constraint: Mapping[str, Any]) -> dict[str, Any]:
    """The bounds in one form: min, max, exclusive_min, exclusive_max, as far as given."""
    bounds: dict[str, Any] = {}
    for name, spellings in _BOUNDS.items():
        for spelling in spellings:
            bound = constraint.get(spelling)
            if bound is not None and not isinstance(bound, bool):
                bounds[name] = bound
    for end in ("min", "max"):
        exclusive = constraint.get(f"exclusive_{end}", constraint.get(f"exclusive{end.capitalize()}imum"))
        if end in bounds and (exclusive is True or constraint.get("exclusive") is True):
            bounds[f"exclusive_{end}"] = bounds.pop(end)
    return bounds


_BOUNDS: Final = {
    "min": ("min", "minimum", "ge", "gte"),
    "max": ("max", "maximum", "le", "lte"),
    "exclusive_min": ("exclusive_min", "exclusiveMinimum", "gt"),
    "exclusive_max": ("exclusive_max", "exclusiveMaximum", "lt"),
}
_HOLDS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "min": lambda value, bound: value >= bound,
    "max": lambda value, bound: value <= bound,
    "exclusive_min": lambda value, bound: value > bound,
    "exclusive_max": lambda value, bound: value < bound,
}
_SIGNS: Final = {"min": ">=", "max": "<=", "exclusive_min": ">", "exclusive_max": "<"}


def _check_range(path: str, value: Any, constraint: Mapping[str, Any]) -> Iterator[Violation]:
    bounds = valid_range(constraint)
    limits = {"valid_range": bounds}
    dated = any(instant(bound) is not None for bound in bounds.values())
    measured = instant(value) if dated else number(value)
    if measured is None:
        kind = "date" if dated else "number"
        yield Violation("format_violation", path, "type", value, f"{path} is no {kind}: {_shown(value)}", limits)
        return
    scale = _scale(value, constraint)
    for name, bound in bounds.items():
        limit = instant(bound) if dated else number(bound)
        if limit is None:
            continue
        compared: Any = measured * scale if isinstance(measured, float) else measured
        if not _HOLDS[name](compared, limit):
            text = f"{path} is {_shown(value)}, must be {_SIGNS[name]} {bound}"
            yield Violation("range_violation", path, "range", value, text, limits)
            return


def _scale(value: Any, constraint: Mapping[str, Any]) -> float:
    """A percentage measured against a range of fractions: 5 % is 0.05 where the constraint's unit says so."""
    return 0.01 if is_percent(value) and constraint.get("unit") in ("fraction", "ratio") else 1.0


def _check_enum(path: str, value: Any, constraint: Mapping[str, Any]) -> Iterator[Violation]:
    allowed = allowed_values(constraint)
    if any(value == item and isinstance(value, bool) == isinstance(item, bool) for item in allowed):
        return
    limits: dict[str, Any] = {"allowed_values": allowed}
    meant = nearest(value, allowed)
    if meant is not None:
        limits["nearest"] = meant
    yield Violation("enum_violation", path, "enum", value, f"{path} is {_shown(value)}, which is not allowed", limits)


def _check_format(path: str, value: Any, constraint: Mapping[str, Any]) -> Iterator[Violation]:
    pattern = constraint.get("pattern")
    if not isinstance(pattern, str):
        return
    limits = {"pattern": pattern}
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        yield Violation("format_violation", path, "type", value, f"{path} is no text: {_shown(value)}", limits)
        return
    compiled = _compiled(pattern)
    subject = str(value)
    if compiled is None:
        return
    if len(subject) > MAX_SUBJECT_CHARS or compiled.fullmatch(subject) is None:
        text = f"{path} is {_shown(value)}, which does not match {pattern}"
        yield Violation("format_violation", path, "pattern", value, text, limits)


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> Any | None:
    """The pattern, or None where RE2 refuses it: what cannot be checked is no violation."""
    if len(pattern) > MAX_PATTERN_CHARS:
        return None
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error:
        return None


_CHECKERS: Final[Mapping[str, Callable[[str, Any, Mapping[str, Any]], Iterator[Violation]]]] = {
    "range": _check_range,
    "enum": _check_enum,
    "format": _check_format,
}


def _shown(value: Any) -> str:
    text = value.isoformat() if isinstance(value, datetime) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."
