"""What constraints are, in all the ways in which people write them: fields, kinds, bounds, allowed values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from streams.decide.classify.schema import TYPES

KINDS: Final = ("range", "enum", "format")
_FIELD_KEYS: Final = ("field", "path", "name")
_MAX_LISTED: Final = 200


def by_field(constraints: Any) -> Mapping[str, Any]:
    """{field: constraint} of a mapping, of one constraint that names its field, or of a list of such; else empty."""
    if isinstance(constraints, list):
        named = ((_named_field(entry), entry) for entry in constraints[:_MAX_LISTED] if isinstance(entry, dict))
        return {field: _without_name(entry) for field, entry in named if field is not None}
    if not isinstance(constraints, dict):
        return {}
    field = _named_field(constraints)
    return {field: _without_name(constraints)} if field is not None and kind_of(constraints) else constraints


def _named_field(constraint: Mapping[str, Any]) -> str | None:
    return next((name for key in _FIELD_KEYS if isinstance(name := constraint.get(key), str)), None)


def _without_name(constraint: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in constraint.items() if key not in _FIELD_KEYS}


def as_constraint(given: Any) -> Mapping[str, Any] | None:
    """What is said of one field, or None where it is no constraint."""
    if isinstance(given, list) and given and not any(isinstance(value, dict | list) for value in given):
        return {"type": "enum", "values": given}
    return given if isinstance(given, dict) else None


def kind_of(constraint: Mapping[str, Any]) -> str | None:
    """range, enum or format: as the type says, else as the content tells. None: a JSON Schema, or nothing known."""
    given = constraint.get("type")
    if isinstance(given, str) and given in KINDS:
        return given
    if (
        (given is not None and not isinstance(given, str))
        or given in TYPES
        or not _MORE_THAN_BOUNDS.isdisjoint(constraint)
    ):
        return None
    if allowed_values(constraint):
        return "enum"
    if valid_range(constraint):
        return "range"
    return "format" if isinstance(constraint.get("pattern", constraint.get("format")), str) else None


def kind_beside(constraint: Mapping[str, Any]) -> str | None:
    """What a JSON Schema for a field says in words that are none of JSON Schema: {"type": "number", "min": 1}."""
    if isinstance(constraint.get("values", constraint.get("allowed_values")), list):
        return "enum"
    return (
        "range" if not _OWN_BOUNDS.isdisjoint(constraint) and constraint.get("type") in ("number", "integer") else None
    )


def allowed_values(constraint: Mapping[str, Any]) -> list[Any]:
    """The values of an enum, however they are called."""
    values = constraint.get("values", constraint.get("allowed_values", constraint.get("enum")))
    return values if isinstance(values, list) else []


def valid_range(constraint: Mapping[str, Any]) -> dict[str, Any]:
    """The bounds in one form: min, max, exclusive_min, exclusive_max, as far as given."""
    bounds: dict[str, Any] = {}
    flagged = False
    for key, bound in constraint.items():
        name = _SPELLINGS.get(key)
        if isinstance(bound, bool):
            flagged = flagged or bound
        elif name is not None and bound is not None:
            bounds[name] = bound
    for end in ("min", "max") if flagged else ():
        exclusive = constraint.get(f"exclusive_{end}", constraint.get(f"exclusive{end.capitalize()}imum"))
        if end in bounds and (exclusive is True or constraint.get("exclusive") is True):
            bounds[f"exclusive_{end}"] = bounds.pop(end)
    return bounds


_SPELLINGS: Final = {
    **dict.fromkeys(("min", "minimum", "ge", "gte"), "min"),
    **dict.fromkeys(("max", "maximum", "le", "lte"), "max"),
    **dict.fromkeys(("exclusive_min", "exclusiveMinimum", "gt"), "exclusive_min"),
    **dict.fromkeys(("exclusive_max", "exclusiveMaximum", "lt"), "exclusive_max"),
}
_OWN_BOUNDS: Final = frozenset({"min", "max", "ge", "gte", "le", "lte", "gt", "lt", "exclusive_min", "exclusive_max"})
_MORE_THAN_BOUNDS: Final = frozenset(
    ["$ref", "allOf", "anyOf", "oneOf", "not", "if", "const", "properties", "items", "additionalProperties"]
)
"""Keywords that make a constraint without a type a JSON Schema."""
