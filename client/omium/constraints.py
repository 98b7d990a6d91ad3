"""A first look, in the agent's process, at whether an answer keeps its constraints. Pure.

The orchestrator looks again, and in full: what this does not understand it lets pass.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "object": (dict,),
    "array": (list, tuple),
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "null": (type(None),),
}
_OURS: Final = ("range", "enum", "format")


def violations(output: Any, constraints: Mapping[str, Any]) -> list[str]:
    """One sentence for each way in which `output` breaks `constraints`; none where it keeps them.

    `constraints` is {field: {"type": "range", "min", "max"} | {"type": "enum", "values"} |
    {"type": "format", "pattern"}}, or a JSON Schema (type, enum, const, required, properties, items,
    minimum, maximum, exclusiveMinimum, exclusiveMaximum, pattern; the rest is ignored here).
    A text `output` is read as JSON. A format must match in full.
    """
    if isinstance(output, str):
        try:
            output = json.loads(output)
        except (ValueError, RecursionError):
            return ["the output is no JSON"] if _wants_object(constraints) else _schema(output, constraints, "output")
    if not _is_fields(constraints):
        return _schema(output, constraints, "output")
    if not isinstance(output, Mapping):
        return ["the output is no object"]
    found = []
    for field, rule in constraints.items():
        if field not in output:
            found.append(f"{field} is missing")
        elif problem := _field(output[field], rule):
            found.append(f"{field} {problem}")
    return found


def _is_fields(constraints: Mapping[str, Any]) -> bool:
    return bool(constraints) and all(isinstance(r, Mapping) and r.get("type") in _OURS for r in constraints.values())


def _wants_object(constraints: Mapping[str, Any]) -> bool:
    return _is_fields(constraints) or constraints.get("type") == "object" or "properties" in constraints


def _field(value: Any, rule: Mapping[str, Any]) -> str | None:
    match rule["type"]:
        case "range":
            return _range(value, rule.get("min"), rule.get("max"))
        case "enum":
            allowed = rule.get("values") or rule.get("allowed_values") or ()
            return None if value in allowed else "is not one of the allowed values"
        case _:
            return None if _matches(rule.get("pattern"), str(value)) else "does not have the format"


def _range(value: Any, low: Any, high: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "is no number"
    # Written so that NaN, which compares false with everything, is out of range.
    inside = (low is None or value >= low) and (high is None or value <= high) and value == value
    return None if inside else f"is outside {low}-{high}"


def _matches(pattern: Any, text: str) -> bool:
    try:
        return re.fullmatch(pattern, text) is not None
    except (re.error, TypeError, RecursionError):
        return True


def _schema(value: Any, schema: Any, path: str, depth: int = 0) -> list[str]:
    if not isinstance(schema, Mapping) or depth > 32:
        return []
    wanted = schema.get("type")
    kinds = [wanted] if isinstance(wanted, str) else wanted if isinstance(wanted, list) else []
    if kinds and not any(_is(value, kind) for kind in kinds):
        return [f"{path} is not of type {' or '.join(map(str, kinds))}"]
    found = []
    if isinstance(schema.get("enum"), list | tuple) and value not in schema["enum"]:
        found.append(f"{path} is not one of the allowed values")
    if "const" in schema and value != schema["const"]:
        found.append(f"{path} is not the allowed value")
    if isinstance(value, int | float) and not isinstance(value, bool):
        found += _number(value, schema, path)
    if isinstance(value, str) and isinstance(pattern := schema.get("pattern"), str) and not _found(pattern, value):
        found.append(f"{path} does not have the format")
    if isinstance(value, Mapping):
        found += [f"{path}.{name} is missing" for name in schema.get("required") or () if name not in value]
        for name, inner in (schema.get("properties") or {}).items():
            if name in value:
                found += _schema(value[name], inner, f"{path}.{name}", depth + 1)
    if isinstance(value, list | tuple):
        for n, item in enumerate(value):
            found += _schema(item, schema.get("items"), f"{path}[{n}]", depth + 1)
    return found


def _is(value: Any, kind: Any) -> bool:
    if isinstance(value, bool):
        return bool(kind == "boolean")
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES.get(kind, (object,)))


def _number(value: float, schema: Mapping[str, Any], path: str) -> list[str]:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    bad = (
        (isinstance(low, int | float) and not value >= low)
        or (isinstance(high, int | float) and not value <= high)
        or (isinstance(above, int | float) and not value > above)
        or (isinstance(below, int | float) and not value < below)
    )
    return [f"{path} is out of range"] if bad else []


def _found(pattern: str, text: str) -> bool:
    """JSON Schema's patterns are not anchored."""
    try:
        return re.search(pattern, text) is not None
    except (re.error, RecursionError):
        return True
