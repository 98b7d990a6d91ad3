"""The agent's output against the constraints of its task: every violation, with its path.

Constraints are one JSON Schema for the whole output, or {field: constraint}. A field is a name or a dotted path, in
which `*` stands for every item. A constraint is one of

- {"type": "range", "min", "max", "exclusive_min", "exclusive_max", "unit"}: bounds are numbers or ISO 8601 dates;
values may be
  text with a unit or a percent sign; with unit "fraction" 5 % is 0.05;
- {"type": "enum", "values"};
- {"type": "format", "pattern"}: RE2, must match in full; or {"type": "format", "format"}: a format of JSON Schema;
- a JSON Schema for the field; bounds and values in the words above count beside it;

each with "required": false or "nullable": true where that is so. Without a type, what a constraint holds tells its
kind; a list stands for the values of an enum. `rules` holds rules between fields (see cross_field).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

import re2

from schemas.records import parse_json_text
from streams.decide.classify.constraint_kinds import (
    allowed_values,
    as_constraint,
    by_field,
    kind_beside,
    kind_of,
    valid_range,
)
from streams.decide.classify.cross_field import RULES_KEYS, cross_field_violations
from streams.decide.classify.extract import fields_in, json_in
from streams.decide.classify.schema import is_field_schema, is_schema, schema_violations
from streams.decide.classify.values import MAX_SUBJECT_CHARS, instant, is_percent, nearest, number
from streams.decide.classify.violation import MAX_VIOLATIONS, Violation, shown

MAX_PATTERN_CHARS: Final = 512
_MAX_FIELDS: Final = 200
_MAX_ITEMS: Final = 1_000
MISSING: Final = object()
"""Stands for a field that the output does not have."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of checking an output."""

    violations: list[Violation]
    refused: list[str] = field(default_factory=list)
    """Constraints that could not be applied, and why."""


def check(output: Any, constraints: Any) -> Checked:
    """All violations, the hard ones first. An output in prose is read for the JSON, or the values, that it holds."""
    if isinstance(constraints, dict) and is_schema(constraints):
        return _check_schema(output, constraints)
    constraints = by_field(constraints)
    fields = {
        str(path): constraint
        for path, given in constraints.items()
        if path not in RULES_KEYS and (constraint := as_constraint(given)) is not None
    }
    found: list[Violation] = []
    output = _structured(output, tuple(fields), found)
    refused: list[str] = []
    if output is not None:
        for path, constraint in list(fields.items())[:_MAX_FIELDS]:
            for concrete, value in _values_at(output, path):
                found.extend(_check_field(concrete, value, constraint, refused))
        for key in RULES_KEYS:
            found.extend(cross_field_violations(constraints.get(key), lambda path: _at(output, path), MISSING))
    found.sort(key=lambda violation: violation.soft)
    return Checked(found[:MAX_VIOLATIONS], refused)


def _check_schema(output: Any, schema: Mapping[str, Any]) -> Checked:
    found, why = schema_violations(output, schema)
    if found and isinstance(output, str) and (meant := json_in(output)) is not None:
        found, why = schema_violations(meant, schema)
        found.extend(_in_prose(output))
    found.sort(key=lambda violation: violation.soft)
    return Checked(found, [f"the schema: {why}"] if why else [])


def _structured(output: Any, fields: tuple[str, ...], found: list[Violation]) -> Any:
    """The output as fields; what had to be dug out of prose is noted in `found`. None where there is nothing to
    check.
    """
    if isinstance(output, dict | list) or not fields:
        return output
    if isinstance(output, str):
        if (meant := json_in(output)) is not None:
            found.extend(_in_prose(output))
            return meant
        if stated := fields_in(output, fields):
            return stated
    if len(fields) == 1 and not isinstance(output, str):
        return {fields[0]: output}
    if len(fields) == 1 and len(output) <= 100 and " " not in output.strip():
        return {fields[0]: output}
    found.append(Violation("format_violation", "", "output", output, f"the output is no JSON object: {shown(output)}"))
    return None


def _in_prose(output: str) -> Iterator[Violation]:
    """JSON that is given as text is JSON all the same; with words or fences around it, it is not."""
    if not isinstance(parse_json_text(output), dict | list):
        text = "the output is JSON within other text"
        yield Violation("format_violation", "", "json_in_prose", shown(output), text)


def _at(output: Any, path: str) -> Any:
    """The value at a field's name or dotted path; MISSING where there is none."""
    if isinstance(output, dict) and path in output:
        return output[path]
    value = output
    for part in path.split("."):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and len(part) < 10 and int(part) < len(value):
            value = value[int(part)]
        else:
            return MISSING
    return value


def _values_at(output: Any, path: str) -> list[tuple[str, Any]]:
    """(concrete path, value) of every place that the path names."""
    if "*" not in path:
        return [(path, _at(output, path))]
    places: list[tuple[str, Any]] = [("", output)]
    for part in path.replace("[*]", ".*").strip(".").split("."):
        below: list[tuple[str, Any]] = []
        for prefix, value in places:
            dot = f"{prefix}." if prefix else ""
            if part != "*":
                below.append((dot + part, _at(value, part)))
            elif isinstance(value, list):
                below.extend((f"{dot}{index}", item) for index, item in enumerate(value[:_MAX_ITEMS]))
            elif isinstance(value, dict):
                below.extend((f"{dot}{name}", item) for name, item in list(value.items())[:_MAX_ITEMS])
        places = below[:_MAX_ITEMS]
    return places


def _check_field(path: str, value: Any, constraint: Mapping[str, Any], refused: list[str]) -> Iterator[Violation]:
    required = constraint.get("required", True) is not False
    if value is MISSING:
        if required:
            yield Violation("format_violation", path, "required", None, f"{path} is missing", _limits(constraint))
        return
    kind = kind_of(constraint)
    if kind is None and is_field_schema(constraint):
        schema = {key: part for key, part in constraint.items() if key != "required" or isinstance(part, list)}
        found, why = schema_violations(value, schema, path)
        yield from found
        refused.extend([f"{path}: {why}"] if why else [])
        if found or value is None:
            return
        kind = kind_beside(constraint)
    if kind is None:
        return
    if value is None:
        if required and constraint.get("nullable") is not True:
            yield Violation("format_violation", path, "null", None, f"{path} is null", _limits(constraint))
        return
    yield from _CHECKERS[kind](path, value, constraint, refused)


def _limits(constraint: Mapping[str, Any]) -> dict[str, Any]:
    match kind_of(constraint) or kind_beside(constraint):
        case "range":
            return {"valid_range": valid_range(constraint)}
        case "enum":
            return {"allowed_values": allowed_values(constraint)}
        case "format" if "pattern" in constraint:
            return {"pattern": constraint["pattern"]}
    return {}


_HOLDS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "min": lambda value, bound: value >= bound,
    "max": lambda value, bound: value <= bound,
    "exclusive_min": lambda value, bound: value > bound,
    "exclusive_max": lambda value, bound: value < bound,
}
_SIGNS: Final = {"min": "at least", "max": "at most", "exclusive_min": "above", "exclusive_max": "below"}


def _check_range(path: str, value: Any, constraint: Mapping[str, Any], refused: list[str]) -> Iterator[Violation]:
    bounds = valid_range(constraint)
    limits = {"valid_range": bounds}
    dated = bool(bounds) and all(number(bound) is None and instant(bound) is not None for bound in bounds.values())
    measured: Any = instant(value) if dated else number(value)
    if measured is None:
        kind = "date" if dated else "number"
        yield Violation("format_violation", path, "type", value, f"{path} is no {kind}: {shown(value)}", limits)
        return
    if not dated and is_percent(value) and constraint.get("unit") in ("fraction", "ratio"):
        measured /= 100
    for name, bound in bounds.items():
        limit: Any = instant(bound) if dated else number(bound)
        if limit is None:
            refused.append(f"{path}: {name} is no bound: {shown(bound)}")
        elif not _HOLDS[name](measured, limit):
            text = f"{path} is {shown(value)}, must be {_SIGNS[name]} {bound}"
            yield Violation("range_violation", path, "range", value, text, limits)
            return


def _check_enum(path: str, value: Any, constraint: Mapping[str, Any], refused: list[str]) -> Iterator[Violation]:
    allowed = allowed_values(constraint)
    if not allowed:
        refused.append(f"{path}: an enum without values")
        return
    if any(value == item and isinstance(value, bool) == isinstance(item, bool) for item in allowed):
        return
    limits: dict[str, Any] = {"allowed_values": allowed}
    meant = nearest(value, allowed)
    if meant is not None:
        limits["nearest"] = meant
    close = f"; the closest allowed value is {shown(meant)}" if meant is not None else ""
    text = f"{path} is {shown(value)}, which is not allowed{close}"
    yield Violation("enum_violation", path, "enum", value, text, limits)


def _check_format(path: str, value: Any, constraint: Mapping[str, Any], refused: list[str]) -> Iterator[Violation]:
    if isinstance(constraint.get("format"), str):
        schema = {"type": "string", "format": constraint["format"]}
        found, why = schema_violations(value, schema, path)
        yield from found
        refused.extend([f"{path}: {why}"] if why else [])
    pattern = constraint.get("pattern")
    if not isinstance(pattern, str):
        return
    limits = {"pattern": pattern}
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        yield Violation("format_violation", path, "type", value, f"{path} is no text: {shown(value)}", limits)
        return
    compiled, subject = _compiled(pattern), str(value)
    if compiled is None:
        refused.append(f"{path}: RE2 refuses the pattern")
        return
    # Without a type it may be JSON Schema's, which matches anywhere: whoever anchors one end means the other as it is.
    anywhere = "type" not in constraint and (pattern.startswith("^") or pattern.endswith("$"))
    match = compiled.search if anywhere else compiled.fullmatch
    if len(subject) > MAX_SUBJECT_CHARS or match(subject) is None:
        text = f"{path} is {shown(value)}, which does not match {pattern}"
        yield Violation("format_violation", path, "pattern", value, text, limits)


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> Any | None:
    """The pattern, or None where it is refused: what cannot be checked is no violation."""
    if len(pattern) > MAX_PATTERN_CHARS:
        return None
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern.encode().decode(), options)
    except (re2.error, UnicodeError):
        return None


_Checker = Callable[[str, Any, Mapping[str, Any], list[str]], Iterator[Violation]]
_CHECKERS: Final[Mapping[str, _Checker]] = {
    "range": _check_range,
    "enum": _check_enum,
    "format": _check_format,
}
