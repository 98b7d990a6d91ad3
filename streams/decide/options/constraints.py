"""Constraints as people write them, said again: as a sentence for a prompt, as a JSON Schema, as a suggestion."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any, Final, NamedTuple

import orjson

from schemas.records import parse_json_text
from streams.decide.classify.constraint_kinds import (
    allowed_values,
    as_constraint,
    by_field,
    kind_beside,
    kind_of,
    valid_range,
)
from streams.decide.classify.cross_field import RULES_KEYS
from streams.decide.classify.schema import is_field_schema, is_schema
from streams.decide.classify.values import is_date
from streams.decide.options.context import Context, dumps
from streams.decide.options.quoting import listed, name, quoted

MAX_FIELDS: Final = 20
_MAX_CONSTRAINTS: Final = 200
"""As many as the classifier checks."""
_MAX_SCHEMA_FIELDS: Final = 100
_MAX_REMEMBERED: Final = 4_096
"""Characters of constraints and violations up to which what follows from them is kept: 256 times at most some MB."""
_OF_THE_VALUE: Final = frozenset({"actual_value", "message", "nearest", "values", "severity"})
MAX_SCHEMA_CHARS: Final = 16_384
_NUMBER: Final = r"-?\d{1,15}(?:\.\d{1,15})?"
_SPAN: Final = re.compile(rf"\s*({_NUMBER})\s*(?:-|\u2013|\.\.|to|,)\s*({_NUMBER})\s*", re.ASCII)
_INDEX: Final = re.compile(r"(?<=\.)\d+(?=\.|$)", re.ASCII)
"""An item's number in a path: what holds of one item of a list holds of each."""

_BOUNDS: Final[Mapping[str, tuple[str, str]]] = {
    "min": ("minimum", "at least {}"),
    "exclusive_min": ("exclusiveMinimum", "more than {}"),
    "max": ("maximum", "at most {}"),
    "exclusive_max": ("exclusiveMaximum", "less than {}"),
    "multiple_of": ("multipleOf", "a multiple of {}"),
    "min_length": ("minLength", "at least {} characters long"),
    "max_length": ("maxLength", "at most {} characters long"),
    "min_items": ("minItems", "a list of at least {} items"),
    "max_items": ("maxItems", "a list of at most {} items"),
}
"""What a bound is called in JSON Schema, and in a sentence."""
_OF_NUMBERS: Final = frozenset({"min", "exclusive_min", "max", "exclusive_max", "multiple_of"})
_NAMES_OF_SCHEMAS: Final = frozenset({"properties", "$defs", "definitions", "patternProperties", "dependentSchemas"})
_ANNOTATIONS: Final = frozenset({"title", "description", "$comment", "examples", "default", "deprecated"})
"""Free text of a schema: it would speak to the model with the voice of the orchestrator."""


class Rule(NamedTuple):
    """What one field must be, or the output as a whole."""

    field: str
    """Empty: the output as a whole."""
    must: str
    """`must be between 2.5 and 8.5`"""
    never: str
    """`Never output apr outside this range.`"""
    schema: dict[str, Any]
    """Empty where JSON Schema cannot say it of this field alone."""

    @property
    def shown(self) -> str:
        """The field's name in a sentence."""
        return name(self.field) if self.field else "the output"


class Demand(NamedTuple):
    """What an output must be."""

    rules: tuple[Rule, ...]
    """Of what is violated, at most MAX_FIELDS; of all constrained fields where the verdict names none."""
    schema: dict[str, Any] | None
    """Of the whole output, all constrained fields together; None where no constraint is known."""


def demand(context: Context) -> Demand:
    """What the output must be, from the event's constraints and the violations that were found."""
    known = context.memo.get("demand")
    if known is None:
        constraints, violations = context.event.constraints or "", _broken(context)
        small = len(constraints) + len(violations) <= _MAX_REMEMBERED
        make = _demand if small else _demand.__wrapped__
        known = context.memo["demand"] = make(constraints, violations)
    return known


def _broken(context: Context) -> bytes:
    """The violations without the values that broke them: an agent's constraints recur, its values do not."""
    found = context.details.get("violations")
    violations = found if isinstance(found, list) and found else [context.details]
    return orjson.dumps(
        [
            {key: value for key, value in violation.items() if key not in _OF_THE_VALUE}
            for violation in violations[:_MAX_CONSTRAINTS]
            if isinstance(violation, dict)
        ]
    )


@lru_cache(maxsize=256)
def _demand(constraints_text: str, violations_text: bytes) -> Demand:
    given = parse_json_text(constraints_text) if constraints_text else None
    whole = isinstance(given, dict) and is_schema(given)
    constraints: Mapping[str, Any] = given if whole and isinstance(given, dict) else by_field(given)
    fields = {
        _generic(field): constraint
        for field, said in islice(constraints.items(), _MAX_CONSTRAINTS)
        if field not in RULES_KEYS and not whole and (constraint := as_constraint(said)) is not None
    }
    said = _properties(constraints) if whole else fields
    violated = _violated(orjson.loads(violations_text), said)
    rules = violated or tuple(_rule(field, said[field]) for field in list(said)[:MAX_FIELDS])
    schema = without_annotations(constraints) if whole else _output_schema(fields, rules)
    if schema is not None and len(dumps(schema)) > MAX_SCHEMA_CHARS:
        schema = None
    return Demand(rules, schema)


def _properties(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an object's schema, as far as each can be said without the rest of it."""
    properties = schema.get("properties")
    fields = properties.items() if isinstance(properties, dict) else ()
    return {field: part for field, part in fields if isinstance(part, dict) and "$ref" not in part}


def _violated(violations: Sequence[dict[str, Any]], fields: Mapping[str, Any]) -> tuple[Rule, ...]:
    rules: dict[tuple[str, str], Rule] = {}
    for violation in violations:
        rule = _of_violation(violation, fields)
        if rule is not None:
            rules.setdefault((rule.field, rule.must), rule)
        if len(rules) == MAX_FIELDS:
            break
    return tuple(rules.values())


def _of_violation(violation: Mapping[str, Any], fields: Mapping[str, Any]) -> Rule | None:
    path, broken = violation.get("path", violation.get("field")), violation.get("rule")
    if not isinstance(path, str):
        return None
    field = _generic(path)
    if broken == "cross_field" and isinstance(text := violation.get("cross_field"), str):
        return Rule("", f"must fulfil the rule {quoted(text)}", "Never output values that break it.", {})
    if not field:
        return Rule("", "must be one JSON value in the required form", "Never output any text around it.", {})
    if broken == "additionalProperties":
        return Rule(field, "must not be in the output", "Never output a field that was not asked for.", {})
    rule = _rule(field, {**_named(violation), **fields.get(field, {})})
    return rule._replace(must=f"must be given, and {rule.must}") if broken in {"required", "null"} else rule


def _generic(path: str) -> str:
    """`items.0.price` as `items.*.price`."""
    return _INDEX.sub("*", f".{path}")[1:]


def _named(violation: Mapping[str, Any]) -> dict[str, Any]:
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
    return dict(violation["schema"]) if isinstance(violation.get("schema"), dict) else {}


def _rule(field: str, constraint: Mapping[str, Any]) -> Rule:
    own = _own_schema(constraint)
    never = f"Never output {name(field)} in any other form."
    if values := allowed_values(dict(constraint)):
        texts = {"type": "string"} if all(isinstance(value, str) for value in values) else {}
        never = f"Never output any other value for {name(field)}."
        return Rule(field, f"must be one of {listed(values)}", never, own or {**texts, "enum": values})
    if bounds := _bounds_of(constraint):
        if not bounds.keys() - _OF_NUMBERS:
            never = f"Never output {name(field)} outside this range."
        return Rule(field, _within(bounds), never, own or _schema_of(bounds))
    if isinstance(pattern := constraint.get("pattern"), str):
        # A format must match in full; a JSON Schema's pattern matches anywhere unless it is anchored.
        anchored = pattern if pattern.startswith("^") and pattern.endswith("$") else f"^(?:{pattern})$"
        must = f"must match the pattern {quoted(pattern)} in full"
        return Rule(field, must, never, own or {"type": "string", "pattern": anchored})
    if isinstance(kind := constraint.get("format"), str):
        must = f"must be in the format {quoted(kind, 40)}"
        return Rule(field, must, never, own or {"type": "string", "format": kind[:40]})
    return Rule(field, f"must fit the schema {quoted(own, 400)}" if own else "must be valid", never, own)


def _own_schema(constraint: Mapping[str, Any]) -> dict[str, Any]:
    """The constraint itself where it is a JSON Schema, else empty."""
    if kind_of(constraint) or kind_beside(constraint) or not is_field_schema(constraint):
        return {}
    keywords = {key: value for key, value in constraint.items() if key not in {"required", "nullable"}}
    schema: dict[str, Any] = without_annotations(keywords)
    return schema


def _bounds_of(constraint: Mapping[str, Any]) -> dict[str, Any]:
    bounds = valid_range(constraint)
    for bound in ("multiple_of", "min_length", "max_length", "min_items", "max_items"):
        bounds[bound] = constraint.get(bound, constraint.get(_BOUNDS[bound][0]))
    return {bound: value for bound, value in bounds.items() if _is_bound(value)}


def _is_bound(value: Any) -> bool:
    """A number or a short text (a date, `2.5 %`)."""
    if isinstance(value, str):
        return len(value) <= 40
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _within(bounds: Mapping[str, Any]) -> str:
    shown = {bound: quoted(value, 40) for bound, value in bounds.items()}
    if shown.keys() == {"min", "max"}:
        return f"must be between {shown['min']} and {shown['max']}"
    return "must be " + " and ".join(say.format(shown[bound]) for bound, (_, say) in _BOUNDS.items() if bound in shown)


def _schema_of(bounds: Mapping[str, Any]) -> dict[str, Any]:
    if any(isinstance(value, str) for value in bounds.values()):
        return {"type": "string", "format": "date"} if all(map(is_date, bounds.values())) else {}
    kind = (
        "number" if bounds.keys() <= _OF_NUMBERS else "array" if any("items" in bound for bound in bounds) else "string"
    )
    return {"type": kind} | {_BOUNDS[bound][0]: value for bound, value in bounds.items()}


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


def _output_schema(fields: Mapping[str, Any], violated: Sequence[Rule]) -> dict[str, Any] | None:
    """The schema of the whole output: all constrained fields, nested where their names are paths."""
    known = {rule.field for rule in violated}
    others = (_rule(field, fields[field]) for field in list(fields)[:_MAX_SCHEMA_FIELDS] if field not in known)
    root: dict[str, Any] = {"type": "object", "properties": {}}
    for rule in (*violated, *others):
        if rule.field and rule.schema:
            required = fields.get(rule.field, {}).get("required") is not False
            _place(root, _parts(rule.field), rule.schema, required)
    return root if root["properties"] else None


def _place(node: dict[str, Any], parts: Sequence[str], schema: Mapping[str, Any], required: bool) -> None:
    for part in parts:
        if part == "*":
            node["type"] = "array"
            node = node.setdefault("items", {})
            continue
        node["type"] = "object"
        names = node.setdefault("required", []) if required else []
        if part not in names:
            names.append(part)
        node = node.setdefault("properties", {}).setdefault(part, {})
    node.update(schema)


def _parts(field: str) -> list[str]:
    """`loan.apr` and `$.items[*].price` are paths; what is no plain path is one name."""
    parts = field.removeprefix("$.").replace("[*]", ".*").split(".")
    plain = len(parts) <= 8 and parts[0] != "*" and all(part == "*" or part.isidentifier() for part in parts)
    return parts if plain else [field]
