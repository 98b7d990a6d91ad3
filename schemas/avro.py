"""Avro for one version of a record, compiled from its schema into two straight-line Python functions.

They know only what our own writers write: the smallest form of every number, arrays and maps in one block, the first
or second branch of ["null", T]. What they do not know makes the reader raise, and fastavro is asked (`schemas.codec`):
it judges every odd message. Measured on failures and commands: a third of fastavro's time to read, a fifth to write.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from struct import Struct
from typing import Any, Final

from schemas.records import Event, Record, WireEnum

Reader = Callable[[bytes, int], dict[str, Any]]
"""From the datum that starts at an offset, and ends with the bytes, to a document that the record validates: absent
optional fields are left out, times are epoch ms. Raises any Exception where it is not sure."""
Writer = Callable[[bytearray, Any], None]
"""Appends the datum of a record. Raises where a number does not fit."""

_DOUBLE: Final = Struct("<d")
_SMALL: Final = 64
"""Numbers from 0 up to here take one byte, and twice their value is that byte; 128 times as many take two."""
_YEARS_MS: Final = (-62_135_596_800_000, 253_402_300_800_000)
"""Years 1 to 9999, which a datetime has."""


class UnusualError(ValueError):
    """Not as our writers write it; it may be Avro all the same."""


def _number(data: bytes, at: int) -> tuple[int, int]:
    """(the long at `at`, where it ends)"""
    rest, shift = 0, 0
    while True:
        byte = data[at]
        at += 1
        rest |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (rest >> 1) ^ -(rest & 1), at
        shift += 7
        if shift > 56 and data[at] > 1:
            raise UnusualError


def _length(data: bytes, at: int) -> tuple[int, int]:
    """(a length or count at `at`, where it ends)"""
    first, second = data[at], data[at + 1]
    if first & 0x81 == 0x80 and second < 0x80:
        return (first & 0x7F | second << 7) >> 1, at + 2
    length, at = _number(data, at)
    if length < 0:
        raise UnusualError
    return length, at


def _long(number: int) -> bytes:
    """`number` as a long."""
    if not -(2**63) <= number < 2**63:
        raise OverflowError("a long has 64 bits")
    rest = (number << 1) ^ (number >> 63)
    out = bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


class _Program:
    """The source of a reader and a writer, and the values that it names."""

    def __init__(self, schema: dict[str, Any], event: type[Event]) -> None:
        self.named: dict[str, Any] = {
            "number": _number,
            "length": _length,
            "long": _long,
            "unpack": _DOUBLE.unpack_from,
            "pack": _DOUBLE.pack,
            "epoch": datetime(1970, 1, 1, tzinfo=UTC),
            "ms": timedelta(milliseconds=1),
            "Unusual": UnusualError,
        }
        self._types: dict[str, Any] = {}
        """Schemas by name."""
        self._lines: list[str] = []
        self._depth = 0
        self._count = 0
        with self._block("def read(data, at):"):
            self._read(schema, event, "made")
            self._say("if at != len(data): raise Unusual")
            self._say("return made")
        with self._block("def write(out, value):"):
            self._write(schema, event, "value")

    @property
    def source(self) -> str:
        return "\n".join(self._lines)

    @contextmanager
    def _block(self, head: str) -> Iterator[None]:
        self._say(head)
        self._depth += 1
        yield
        self._depth -= 1

    def _say(self, line: str) -> None:
        self._lines.append("    " * self._depth + line)

    def _name(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}{self._count}"

    def _kind(self, schema: Any) -> tuple[str, Any]:
        """(kind, schema), names resolved."""
        if isinstance(schema, list):
            if len(schema) != 2 or schema[0] != "null":
                raise TypeError(f"no union but with null: {schema}")
            return "optional", schema[1]
        if isinstance(schema, str):
            return (self._types[schema]["type"], self._types[schema]) if schema in self._types else (schema, schema)
        if schema["type"] in ("record", "enum"):
            self._types[schema["name"]] = schema
        return schema.get("logicalType", schema["type"]), schema

    # --- reading

    def _read(self, schema: Any, annotation: Any, into: str) -> None:
        """Say how `into` is read, at `at`, which moves on."""
        kind, schema = self._kind(schema)
        match kind:
            case "record":
                self._read_record(schema, _inner(annotation, Record), into)
            case "optional":
                with self._block("if data[at] == 0:"):
                    self._say("at += 1")
                    self._say(f"{into} = None")
                with self._block("else:"):
                    self._say("if data[at] != 2: raise Unusual")
                    self._say("at += 1")
                    self._read(schema, annotation, into)
            case "array" | "map":
                self._read_items(kind, schema, annotation, into)
            case "enum":
                members, enum = self._name("members"), _inner(annotation, WireEnum)
                self.named[members] = {2 * n: enum(symbol) for n, symbol in enumerate(schema["symbols"][:_SMALL])}
                self._say(f"{into} = {members}[data[at]]")
                self._say("at += 1")
            case "string" | "bytes":
                self._read_length("size")
                self._say("end = at + size")
                self._say(f"{into} = data[at:end]" + (".decode()" if kind == "string" else ""))
                self._say("at = end")
            case "long":
                self._say(f"{into}, at = number(data, at)")
            case "timestamp-millis":
                self._say("time, at = number(data, at)")
                self._say(f"if not {_YEARS_MS[0]} <= time < {_YEARS_MS[1]}: raise Unusual")
                self._say(f"{into} = time")
            case "double":
                self._say(f"({into},) = unpack(data, at)")
                self._say("at += 8")
            case "boolean":
                self._say("if data[at] > 1: raise Unusual")
                self._say(f"{into} = data[at] == 1")
                self._say("at += 1")
            case _:
                raise TypeError(f"no {kind}")

    def _read_record(self, schema: Any, record: type[Record], into: str) -> None:
        made = self._name("made")
        self._say(f"{made} = {{}}")
        for field, (_, info) in _fields(schema, record):
            place = f"{made}[{field['name']!r}]"
            if isinstance(field["type"], list) and field.get("default", 0) is None:
                with self._block("if data[at]:"):
                    self._say("if data[at] != 2: raise Unusual")
                    self._say("at += 1")
                    self._read(field["type"][1], info.annotation, place)
                with self._block("else:"):
                    self._say("at += 1")
            else:
                self._read(field["type"], info.annotation, place)
        self._say(f"{into} = {made}")

    def _read_length(self, name: str) -> None:
        self._say(f"{name} = data[at]")
        with self._block(f"if {name} > 127 or {name} & 1:"):
            self._say(f"{name}, at = length(data, at)")
        with self._block("else:"):
            self._say(f"{name} >>= 1")
            self._say("at += 1")

    def _read_items(self, kind: str, schema: Any, annotation: Any, into: str) -> None:
        items, count, key = self._name("items"), self._name("count"), self._name("key")
        item = f"{items}[{key}]" if kind == "map" else self._name("item")
        self._say(f"{items} = {'{}' if kind == 'map' else '[]'}")
        self._read_length(count)
        with self._block(f"if {count}:"):
            with self._block(f"for _ in range({count}):"):
                if kind == "map":
                    self._read("string", str, key)
                self._read(schema["values" if kind == "map" else "items"], annotation, item)
                if kind == "array":
                    self._say(f"{items}.append({item})")
            self._say("if data[at]: raise Unusual")
            self._say("at += 1")
        self._say(f"{into} = {items}")

    # --- writing

    def _write(self, schema: Any, annotation: Any, value: str) -> None:
        """Say how `value` is appended to `out`."""
        kind, schema = self._kind(schema)
        match kind:
            case "record":
                fields = self._name("fields")
                self._say(f"{fields} = {value}.__dict__")
                for field, (name, info) in _fields(schema, _inner(annotation, Record)):
                    member = self._name("value")
                    self._say(f"{member} = {fields}[{name!r}]")
                    self._write(field["type"], info.annotation, member)
            case "optional":
                with self._block(f"if {value} is None:"):
                    self._say("out.append(0)")
                with self._block("else:"):
                    self._say("out.append(2)")
                    self._write(schema, annotation, value)
            case "array" | "map":
                self._write_items(kind, schema, annotation, value)
            case "enum":
                members, enum = self._name("members"), _inner(annotation, WireEnum)
                self.named[members] = {enum(symbol): _long(n) for n, symbol in enumerate(schema["symbols"])}
                self._say(f"out += {members}[{value}]")
            case "string" | "bytes":
                if kind == "string":
                    self._say(f"text = {value}.encode()")
                    value = "text"
                self._say(f"size = len({value})")
                self._write_number("size")
                self._say(f"out += {value}")
            case "long":
                self._write_number(value)
            case "timestamp-millis":
                self._say(f"out += long(({value} - epoch) // ms)")
            case "double":
                self._say(f"out += pack({value})")
            case "boolean":
                self._say(f"out.append({value})")
            case _:
                raise TypeError(f"no {kind}")

    def _write_number(self, value: str) -> None:
        with self._block(f"if 0 <= {value} < {_SMALL}:"):
            self._say(f"out.append({value} * 2)")
        with self._block(f"elif 0 < {value} < {_SMALL << 7}:"):
            self._say(f"out.append({value} * 2 & 127 | 128)")
            self._say(f"out.append({value} >> 6)")
        with self._block("else:"):
            self._say(f"out += long({value})")

    def _write_items(self, kind: str, schema: Any, annotation: Any, value: str) -> None:
        item, key = self._name("item"), self._name("key")
        with self._block(f"if {value}:"):
            self._say(f"size = len({value})")
            self._write_number("size")
            with self._block(f"for {key}, {item} in {value}.items():" if kind == "map" else f"for {item} in {value}:"):
                if kind == "map":
                    self._write("string", str, key)
                self._write(schema["values" if kind == "map" else "items"], annotation, item)
        self._say("out.append(0)")


def _fields(schema: Any, record: type[Record]) -> Iterator[tuple[dict[str, Any], tuple[str, Any]]]:
    """Each field of the schema with its attribute of the record, and what that one is."""
    known = {info.alias or name: (name, info) for name, info in record.model_fields.items()}
    return ((field, known[field["name"]]) for field in schema["fields"])


def _inner(annotation: Any, kind: type[Any]) -> Any:
    """The class of that kind in an annotation such as `tuple[Option, ...] | None`."""
    if inspect.isclass(annotation) and issubclass(annotation, kind):
        return annotation
    return next((found for arg in typing.get_args(annotation) if (found := _inner(arg, kind)) is not None), None)


def compiled(schema: dict[str, Any], event: type[Event]) -> tuple[Reader, Writer]:
    """The reader and the writer of `event` in this schema, its newest. Raises TypeError, KeyError where it is not."""
    program = _Program(schema, event)
    exec(program.source, program.named)  # noqa: S102  made above, of committed schemas alone
    return program.named["read"], program.named["write"]
