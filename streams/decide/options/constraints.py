"""Constraints as people write them, said again: as a sentence for a prompt, as a JSON Schema, as a suggestion."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from schemas.records import parse_json_text
from streams.decide.classify.constraints import allowed_values, valid_range
from streams.decide.options.context import Context, dumps
from streams.decide.options.quoting import listed, name, quoted

MAX_FIELDS: Final = 20
MAX_SCHEMA_CHARS: Final = 16_384
_NUMBER: Final = r"-?\d{1,15}(?:\.\d{1,15})?"
_SPAN: Final = re.compile(rf"\s*({_NUMBER})\s*(?:-|\u2013|\.\.|to|,)\s*({_NUMBER})\s*", re.ASCII)
_ENDS: Final = {"min": "at least", "exclusive_min": "more than", "max": "at most", "exclusive_max": "less than"}
_KEYWORDS: Final = {
    "min": "minimum",
    "exclusive_min": "exclusiveMinimum",
    "max": "maximum",
    "exclusive_max": "exclusiveMaximum",
}
_NAMES_OF_SCHEMAS: Final = frozenset({"properties", "$defs", "definitions", "patternProperties", "dependentSchemas"})
_ANNOTATIONS: Final = frozenset({"title", "description", "$comment", "examples", "default", "deprecated"})
"""Free text of a schema: it would speak to the model with the voice of the orchestrator."""


class Rule(NamedTuple):
    """What one field must be."""

    field: str
    must: str
    """`must be between 2.5 and 8.5`"""
    never: str
    """`Never output apr outside this range.`"""
    schema: dict[str, Any]
    suggestion: str


class Demand(NamedTuple):
    """What an output must be."""

    rules: tuple[Rule, ...]
    """Of the violated fields, at most MAX_FIELDS; of all constrained fields where the verdict names none."""
    schema: dict[str, Any] | None
    """Of the whole output, all constrained fields together; None where no constraint is known."""


def demand(context: Context) -> Demand:
    """What the output must be, from the event's constraints and the violations that were found."""
    known = context.memo.get("demand")
    if known is None:
        known = context.memo["demand"] = _demand(context)
    return known


def _demand(context: Context) -> Demand:
    given = parse_json_text(context.event.constraints) if context.event.constraints else None
    constraints = given if isinstance(given, dict) else {}
    whole = is_schema(constraints)
    fields = {} if whole else {key: value for key, value in constraints.items() if isinstance(value, dict)}
    rules: dict[str, Rule] = {}
    for violation in _violations(context):
        field = violation.get("field") or violation.get("path")
        if isinstance(field, str) and field and field not in rules and len(rules) < MAX_FIELDS:
            rules[field] = _rule(field, {**_of_violation(violation), **fields.get(field, {})})
    rules = rules or {field: _rule(field, fields[field]) for field in list(fields)[:MAX_FIELDS]}
    schema = without_annotations(constraints) if whole else _object_schema(fields, rules)
    if schema is not None and len(dumps(schema)) > MAX_SCHEMA_CHARS:
        schema = None
    return Demand(tuple(rules.values()), schema)


def is_schema(constraints: Mapping[str, Any]) -> bool:
    """True where `constraints` is one JSON Schema for the whole output, not a table of fields."""
    if any(isinstance(constraints.get(key), str) for key in ("$schema", "$ref", "type")):
        return True
    return isinstance(constraints.get("properties"), dict) and not isinstance(
        constraints["properties"].get("type"), str
    )


def without_annotations(schema: Any) -> Any:
    """The schema without its free text. Depth is bounded by the codec."""
    if isinstance(schema, list):
        return [without_annotations(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: {k: without_annotations(v) for k, v in value.items()}
        if key in _NAMES_OF_SCHEMAS and isinstance(value, dict)
        else value
        if key in {"enum", "const"}
        else without_annotations(value)
        for key, value in schema.items()
        if key not in _ANNOTATIONS
    }


def _violations(context: Context) -> list[Mapping[str, Any]]:
    found = context.details.get("violations")
    if isinstance(found, list) and found:
        return [violation for violation in found if isinstance(violation, dict)]
    return [context.details] if context.details.get("field") else []


def _of_violation(violation: Mapping[str, Any]) -> dict[str, Any]:
    """The constraint that a violation names, in the words of `constraints`."""
    if isinstance(violation.get("allowed_values"), list):
        return {"type": "enum", "values": violation["allowed_values"]}
    if isinstance(violation.get("pattern"), str):
        return {"type": "format", "pattern": violation["pattern"]}
    span = violation.get("valid_range")
    if isinstance(span, str) and (match := _SPAN.fullmatch(span[:80])):
        return {"type": "range", "min": float(match[1]), "max": float(match[2])}
    if isinstance(span, dict):
        return {"type": "range", **span}
    if isinstance(violation.get("schema"), dict):
        return dict(violation["schema"])
    return {}


def _rule(field: str, constraint: Mapping[str, Any]) -> Rule:
    values = allowed_values(dict(constraint))
    if values:
        return _enum(field, values)
    bounds = {end: bound for end, bound in valid_range(constraint).items() if _is_bound(bound)}
    if bounds:
        return _range(field, bounds)
    if isinstance(constraint.get("pattern"), str):
        return _pattern(field, constraint["pattern"])
    never = f"Never output {name(field)} in any other form."
    if isinstance(constraint.get("format"), str):
        kind = constraint["format"][:40]
        text = f"must be in the format {quoted(kind, 40)}"
        return Rule(field, text, never, {"type": "string", "format": kind}, f"Give {name(field)} in that format.")
    if constraint.get("type") in {"range", "enum", "format", None}:
        return Rule(field, "must be present and valid", never, {}, f"Give a valid {name(field)}.")
    schema = without_annotations(dict(constraint))
    return Rule(field, f"must fit the schema {quoted(schema, 400)}", never, schema, f"Give a valid {name(field)}.")


def _is_bound(value: Any) -> bool:
    """A number or a short text (a date, `2.5 %`)."""
    if isinstance(value, str):
        return len(value) <= 40
    return isinstance(value, int | float) and math.isfinite(value)


def _range(field: str, bounds: Mapping[str, Any]) -> Rule:
    shown = {end: quoted(bound, 40) for end, bound in bounds.items()}
    if shown.keys() == {"min", "max"}:
        must = f"must be between {shown['min']} and {shown['max']}"
    else:
        must = "must be " + " and ".join(f"{word} {shown[end]}" for end, word in _ENDS.items() if end in shown)
    schema: dict[str, Any] = {}
    if all(isinstance(bound, int | float) for bound in bounds.values()):
        schema = {"type": "number"} | {_KEYWORDS[end]: bound for end, bound in bounds.items()}
    suggestion = f"Use a value that {must.replace('must be', 'is', 1)}."
    return Rule(field, must, f"Never output {name(field)} outside this range.", schema, suggestion)


def _enum(field: str, values: list[Any]) -> Rule:
    schema: dict[str, Any] = {"enum": values}
    if all(isinstance(value, str) for value in values):
        schema["type"] = "string"
    allowed = listed(values)
    never = f"Never output any other value for {name(field)}."
    return Rule(field, f"must be one of {allowed}", never, schema, f"Use one of {allowed}.")


def _pattern(field: str, pattern: str) -> Rule:
    # A format must match in full; a JSON Schema pattern matches anywhere unless it is anchored.
    anchored = pattern if pattern.startswith("^") and pattern.endswith("$") else f"^(?:{pattern})$"
    text = f"must match the pattern {quoted(pattern)} in full"
    never = f"Never output {name(field)} in any other form."
    return Rule(field, text, never, {"type": "string", "pattern": anchored}, f"Make {name(field)} match the pattern.")


def _object_schema(fields: Mapping[str, Any], known: Mapping[str, Rule]) -> dict[str, Any] | None:
    """The schema of an object with all constrained fields, nested where their names are paths."""
    others = [field for field in list(fields)[: MAX_FIELDS * 5] if field not in known]
    rules = {**known, **{field: _rule(field, fields[field]) for field in others}}
    if not any(rule.schema for rule in rules.values()):
        return None
    root: dict[str, Any] = {"type": "object", "properties": {}, "required": []}
    for field, rule in rules.items():
        path = _path(field)
        if not path:
            continue
        node = root
        required = fields.get(field, {}).get("required") is not False
        *parents, last = path
        for parent in parents:
            _require(node, parent, required)
            node = node["properties"].setdefault(parent, {})
            for key, empty in (("type", "object"), ("properties", {}), ("required", [])):
                node.setdefault(key, empty)
        _require(node, last, required)
        node["properties"][last] = {**node["properties"].get(last, {}), **rule.schema}
    return root if root["properties"] else None


def _require(node: dict[str, Any], key: str, required: bool) -> None:
    if required and key not in node["required"]:
        node["required"].append(key)


def _path(field: str) -> list[str]:
    """`$.loan.apr` and `loan.apr` are nested; empty for a path through a list: a schema of objects cannot say it."""
    parts = field.removeprefix("$.").split(".")
    if len(parts) == 1 and "[" not in field and "/" not in field:
        return [field]
    return parts if all(part.isidentifier() for part in parts) and len(parts) <= 8 else []
