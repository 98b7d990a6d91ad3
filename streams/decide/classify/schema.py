"""Whole JSON Schemas, drafts 7 and 2020-12: checked before they are compiled, then every error with its path.

The check bounds what a schema can cost: size, depth, the number of subschemas once every `$ref` is expanded, and
references
only within the document and without cycles. Patterns run on a linear-time engine. A schema that is refused is not
applied: what cannot be checked is no violation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

import jsonschema_rs
import orjson

from streams.decide.classify.values import nearest
from streams.decide.classify.violation import MAX_VIOLATIONS, Violation, shown

MAX_SCHEMA_BYTES: Final = 16_384
MAX_DEPTH: Final = 24
MAX_SUBSCHEMAS: Final = 200
MAX_EXPANDED: Final = 1_000
_MAX_WORK: Final = 500_000
"""Bound of (expanded subschemas) x (values in the output): some milliseconds."""

TYPES: Final = frozenset({"object", "array", "string", "number", "integer", "boolean", "null"})
_DRAFT_7: Final = ("http://json-schema.org/draft-07/schema", "https://json-schema.org/draft-07/schema")
_DRAFT_2020: Final = "https://json-schema.org/draft/2020-12/schema"
_KEYWORDS: Final = frozenset(
    [
        "$schema",
        "$ref",
        "$defs",
        "definitions",
        "properties",
        "patternProperties",
        "required",
        "anyOf",
        "oneOf",
        "allOf",
        "not",
        "if",
        "items",
        "prefixItems",
        "enum",
        "const",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "additionalProperties",
    ]
)
_NAMED_SUBSCHEMAS: Final = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_VALUES: Final = frozenset({"enum", "const", "default", "examples", "required"})

_RANGE: Final = frozenset(
    [
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "minProperties",
        "maxProperties",
        "multipleOf",
        "minContains",
        "maxContains",
    ]
)
_BOUND_NAMES: Final = {
    "minimum": "min",
    "maximum": "max",
    "exclusiveMinimum": "exclusive_min",
    "exclusiveMaximum": "exclusive_max",
    "minLength": "min_length",
    "maxLength": "max_length",
    "minItems": "min_items",
    "maxItems": "max_items",
    "multipleOf": "multiple_of",
}


_REFERENCES: Final = frozenset({"$ref", "$dynamicRef", "$recursiveRef"})
_Node = tuple[str, Any, int, str]
"""Path, subschema, depth, and the path of the definition that it is part of."""


class SchemaRefusedError(ValueError):
    """The schema is invalid, of another draft, or could cost too much."""


def is_schema(constraints: Mapping[str, Any]) -> bool:
    """Whether constraints are one JSON Schema: a keyword with a schema's value, not a field with a constraint of its
    own.
    """
    if "$schema" in constraints:
        return True
    kind = constraints.get("type")
    if isinstance(kind, list) or (isinstance(kind, str) and kind in TYPES):
        return True
    properties = constraints.get("properties")
    if isinstance(properties, dict) and not isinstance(properties.get("type"), str):
        return True
    return any(isinstance(constraints.get(word), list) for word in ("required", "anyOf", "oneOf", "allOf", "enum"))


def is_field_schema(constraint: Mapping[str, Any]) -> bool:
    """Whether the constraint of one field is a JSON Schema."""
    kind = constraint.get("type")
    if kind is None or isinstance(kind, list) or (isinstance(kind, str) and kind in TYPES):
        return not _KEYWORDS.isdisjoint(constraint) or kind is not None
    return False


def refusal(schema: Any) -> str | None:
    """Why this schema will not be applied, or None. Linear in its size, and does not recurse."""
    try:
        text = orjson.dumps(schema)
    except (TypeError, ValueError, RecursionError):
        return "no JSON"
    if len(text) > MAX_SCHEMA_BYTES:
        return f"more than {MAX_SCHEMA_BYTES} bytes"
    if isinstance(schema, dict):
        named = str(schema.get("$schema", _DRAFT_2020)).removesuffix("#")
        if named not in (*_DRAFT_7, _DRAFT_2020):
            return f"of a draft that is not supported: {named[:80]}"
    return _shape_refusal(schema)


def _shape_refusal(schema: Any) -> str | None:
    own: dict[str, int] = {}
    references: dict[str, list[str]] = {}
    pending: list[_Node] = [("#", schema, 0, "#")]
    while pending:
        path, node, depth, owner = pending.pop()
        if depth > MAX_DEPTH:
            return f"nested deeper than {MAX_DEPTH}"
        if isinstance(node, list):
            pending.extend((f"{path}/{index}", item, depth + 1, owner) for index, item in enumerate(node))
        elif isinstance(node, dict):
            owner = path if _is_definition(path) else owner
            own[owner] = own.get(owner, 0) + 1
            named = [value for key, value in node.items() if key in _REFERENCES and isinstance(value, str)]
            if any(not reference.startswith("#") for reference in named):
                return "a reference to another document"
            references.setdefault(owner, []).extend(named)
            pending.extend(_below(path, node, depth, owner))
    if sum(own.values()) > MAX_SUBSCHEMAS:
        return f"more than {MAX_SUBSCHEMAS} subschemas"
    expanded = _expanded(own, references)
    if expanded is None:
        return "a cyclic reference, or one that is not found"
    return f"more than {MAX_EXPANDED} subschemas once expanded" if expanded > MAX_EXPANDED else None


def _below(path: str, node: Mapping[str, Any], depth: int, owner: str) -> Iterator[_Node]:
    for key, value in node.items():
        if key in _NAMED_SUBSCHEMAS and isinstance(value, dict):
            yield from ((f"{path}/{key}/{name}", item, depth + 2, owner) for name, item in value.items())
        elif key not in _VALUES and key not in _REFERENCES:
            yield f"{path}/{key}", value, depth + 1, owner


def _is_definition(path: str) -> bool:
    parts = path.split("/")
    return len(parts) == 3 and parts[1] in ("$defs", "definitions")


def _expanded(own: Mapping[str, int], references: Mapping[str, list[str]]) -> int | None:
    """Subschemas once every reference is replaced by what it names; None where that never ends."""
    sizes: dict[str, int] = {}
    for _ in range(len(own) + 1):
        known = len(sizes)
        for owner, size in own.items():
            targets = references.get(owner, [])
            if owner not in sizes and all(target in sizes for target in targets):
                sizes[owner] = min(size + sum(sizes[target] for target in targets), MAX_EXPANDED + 1)
        if len(sizes) == known:
            break
    return sizes.get("#") if len(sizes) == len(own) else None


def validator(schema: Any, registry: Any = None, formats: bool = True) -> jsonschema_rs.Validator:
    """Compiled: nothing is fetched, patterns are linear, formats are asserted. Raises SchemaRefusedError."""
    draft: Any = jsonschema_rs.Draft202012Validator
    if isinstance(schema, dict) and str(schema.get("$schema", "")).removesuffix("#") in _DRAFT_7:
        draft = jsonschema_rs.Draft7Validator
    options: dict[str, Any] = {"validate_formats": formats, "offline": True}
    if registry is not None:
        options["registry"] = registry
    try:
        return draft(schema, pattern_options=jsonschema_rs.RegexOptions(), **options)  # type: ignore[no-any-return]
    except (ValueError, RecursionError, jsonschema_rs.ReferencingError) as error:
        raise SchemaRefusedError(str(error).partition("\n")[0][:200]) from None


@lru_cache(maxsize=512)
def _compiled(text: bytes) -> jsonschema_rs.Validator | str:
    schema = orjson.loads(text)
    if why := refusal(schema):
        return why
    try:
        return validator(schema)
    except SchemaRefusedError as error:
        return str(error)


def schema_violations(value: Any, schema: Any, prefix: str = "") -> tuple[list[Violation], str | None]:
    """Every violation of the schema, or why it was not applied."""
    try:
        compiled = _compiled(orjson.dumps(schema, option=orjson.OPT_SORT_KEYS))
    except (TypeError, ValueError, RecursionError):
        return [], "no JSON"
    if isinstance(compiled, str):
        return [], compiled
    if _size(value) * MAX_SUBSCHEMAS > _MAX_WORK and _size(value) * _size(schema) > _MAX_WORK:
        return [], "the output is too large for it"
    found: list[Violation] = []
    for error in compiled.iter_errors(value):
        found.extend(_violations_of(error, schema, prefix))
        if len(found) >= MAX_VIOLATIONS:
            break
    return found[:MAX_VIOLATIONS], None


def _size(value: Any) -> int:
    count, pending = 0, [value]
    while pending:
        node = pending.pop()
        count += 1
        if isinstance(node, dict):
            pending.extend(node.values())
        elif isinstance(node, list):
            pending.extend(node)
    return count


def _violations_of(error: jsonschema_rs.ValidationError, schema: Any, prefix: str) -> Iterator[Violation]:
    keyword = error.kind.name
    path = _dotted(prefix, [str(part) for part in error.instance_path])
    within = _parent(schema, error.schema_path)
    message = f"{path or 'the output'}: {shown(error.message)}"
    kind = error.kind.as_dict()
    if keyword == "required":
        missing = _dotted(path, [str(kind.get("property", ""))])
        yield Violation("format_violation", missing, "required", None, f"{missing} is missing")
    elif keyword == "additionalProperties":
        for name in kind.get("unexpected", [])[:MAX_VIOLATIONS]:
            extra = _dotted(path, [str(name)])
            yield Violation("format_violation", extra, keyword, None, f"{extra} is not allowed")
    elif keyword in ("enum", "const"):
        allowed = kind.get("options", [kind.get("expected_value")])
        limits: dict[str, Any] = {"allowed_values": allowed}
        if (meant := nearest(error.instance, allowed)) is not None:
            limits["nearest"] = meant
        yield Violation("enum_violation", path, keyword, error.instance, message, limits)
    elif keyword in _RANGE:
        bounds = {name: within[word] for word, name in _BOUND_NAMES.items() if word in within}
        bounds = bounds or {_BOUND_NAMES.get(keyword, keyword): kind.get("limit")}
        yield Violation("range_violation", path, keyword, error.instance, message, {"valid_range": bounds})
    else:
        absent = keyword == "type" and error.instance is None
        limits = {"pattern": kind["pattern"]} if "pattern" in kind else {"schema": _small(within)}
        rule = "null" if absent else keyword
        yield Violation("format_violation", path, rule, error.instance, message, limits)


def _parent(schema: Any, path: list[str | int]) -> Mapping[str, Any]:
    """The subschema whose keyword failed; empty where a reference stands in between."""
    node = schema
    for part in path[:-1]:
        try:
            node = node[part]
        except (KeyError, IndexError, TypeError):
            return {}
    return node if isinstance(node, dict) else {}


def _small(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    return schema if len(orjson.dumps(schema)) <= 1_000 else {"type": schema.get("type", "object")}


def _dotted(prefix: str, parts: list[str]) -> str:
    return ".".join(part for part in (prefix, *parts) if part)
