"""Derives the Avro schemas from the records: `python -m schemas.generate [--check]`.

Ours rather than dataclasses-avroschema's: that one cannot give an enum a default without a class inside
the enum, writes a field's alias as `aliases` instead of as its name, and makes every record inherit
twenty methods and 0.4 s of imports.
"""

from __future__ import annotations

import inspect
import json
import sys
import types
import typing
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from pydantic.fields import FieldInfo

from schemas.records import EVENTS, Event, Record, WireEnum

NAMESPACE: Final = "dev.omium.recovery.v1"
FOLDER: Final = Path(__file__).parent / "avsc"
_PRIMITIVES: Final[dict[type, Any]] = {
    bool: "boolean",
    int: "long",
    float: "double",
    str: "string",
    bytes: "bytes",
    datetime: {"type": "long", "logicalType": "timestamp-millis"},
}


def avro_schema(event: type[Event]) -> dict[str, Any]:
    """The Avro schema of `event`: a named type is spelled out where it first occurs, then named."""
    schema: dict[str, Any] = _record(event, seen=set())
    return schema | {"namespace": NAMESPACE}


def _record(record: type[Record], seen: set[type]) -> Any:
    if record in seen:
        return record.__name__
    seen.add(record)
    fields = [_field(name, info, seen) for name, info in record.model_fields.items()]
    return {"type": "record", "name": record.__name__, "doc": inspect.getdoc(record), "fields": fields}


def _field(name: str, info: FieldInfo, seen: set[type]) -> dict[str, Any]:
    field: dict[str, Any] = {"name": info.alias or name, "type": _type(info.annotation, seen)}
    if info.description:
        field["doc"] = info.description
    if not info.is_required():
        field["default"] = _default(info.get_default(call_default_factory=True, validated_data={}))
    return field


def _default(value: Any) -> Any:
    if isinstance(value, Record):
        return {f.alias or n: _default(getattr(value, n)) for n, f in type(value).model_fields.items()}
    return list(value) if isinstance(value, tuple) else value


def _type(annotation: Any, seen: set[type]) -> Any:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(args[0], seen)
    if origin in (typing.Union, types.UnionType):
        # Null stands first: the default of every optional field is null.
        return ["null", *(_type(arg, seen) for arg in args if arg is not type(None))]
    if origin is tuple:
        return {"type": "array", "items": _type(args[0], seen)}
    if origin is dict:
        return {"type": "map", "values": _type(args[1], seen)}
    if inspect.isclass(annotation) and issubclass(annotation, Record):
        return _record(annotation, seen)
    if inspect.isclass(annotation) and issubclass(annotation, WireEnum):
        return _enum(annotation, seen)
    return _PRIMITIVES[annotation]


def _enum(enum: type[WireEnum], seen: set[type]) -> Any:
    if enum in seen:
        return enum.__name__
    seen.add(enum)
    symbols = [str(member) for member in enum]
    return {
        "type": "enum",
        "name": enum.__name__,
        "doc": inspect.getdoc(enum),
        "symbols": symbols,
        "default": symbols[0],
    }


def main() -> int:
    """Write the schemas, or with --check say which committed one is not what the records say."""
    check = "--check" in sys.argv[1:]
    stale = []
    for event in EVENTS:
        path = FOLDER / event.type_name / "v1.avsc"
        text = json.dumps(avro_schema(event), indent=2, ensure_ascii=False) + "\n"
        if path.exists() and path.read_text() == text:
            continue
        stale.append(event.type_name)
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    if check and stale:
        sys.stderr.write(f"stale schemas: {', '.join(stale)}; run `python -m schemas.generate`\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
