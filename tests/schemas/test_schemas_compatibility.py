"""Any version of a schema reads what any other wrote: workers and agents are upgraded one by one, for years."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import avro.compatibility as avro_compatibility
import avro.schema
import pytest

from schemas import codec
from schemas.generate import FOLDER, avro_schema
from schemas.records import EVENTS, Event, FailureEvent, RecoveryOptions
from schemas.topics import RECOVER_INPUTS, TOPICS

Schema = dict[str, Any]
_COMPATIBLE = avro_compatibility.SchemaCompatibilityType.compatible


def _problems(reader: Schema, writer: Schema) -> list[str]:
    """Why a reader with one schema cannot read what was written with the other."""
    parse = avro.schema.parse
    checker = avro_compatibility.ReaderWriterCompatibilityChecker()
    result = checker.get_compatibility(parse(json.dumps(reader)), parse(json.dumps(writer)))
    return [] if result.compatibility is _COMPATIBLE else sorted(result.messages)


def _versions(event: type[Event]) -> list[Path]:
    return sorted((FOLDER / event.type_name).glob("v*.avsc"), key=lambda path: int(path.stem[1:]))


_PAIRS = [pair for event in EVENTS for pair in itertools.product(_versions(event), repeat=2)]


@pytest.mark.parametrize(("reader", "writer"), _PAIRS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_each_version_reads_each_other(reader: Path, writer: Path) -> None:
    assert _problems(json.loads(reader.read_text()), json.loads(writer.read_text())) == []


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.type_name)
def test_the_newest_version_is_what_the_record_says(event: type[Event]) -> None:
    assert json.loads(_versions(event)[-1].read_text()) == avro_schema(event)


def _field(schema: Schema, name: str) -> Schema:
    return next(field for field in schema["fields"] if field["name"] == name)


def _required_field(schema: Schema) -> None:
    schema["fields"].append({"name": "new", "type": "string"})


def _lost_field(schema: Schema) -> None:
    schema["fields"].remove(_field(schema, "tenant_id"))


def _renamed_field(schema: Schema) -> None:
    _field(schema, "tenant_id")["name"] = "tenant"


def _other_type(schema: Schema) -> None:
    _field(schema, "tenant_id")["type"] = "long"


def _no_longer_optional(schema: Schema) -> None:
    _field(schema, "failure_id").update(type="string", default="")


def _renamed_record(schema: Schema) -> None:
    schema["name"] = "Failure"


def _nested_required_field(schema: Schema) -> None:
    _field(schema, "agent")["type"]["fields"].append({"name": "new", "type": "string"})


@pytest.mark.parametrize(
    "change",
    [
        _required_field,
        _lost_field,
        _renamed_field,
        _other_type,
        _no_longer_optional,
        _renamed_record,
        _nested_required_field,
    ],
)
def test_a_breaking_change_is_caught(change: Callable[[Schema], None]) -> None:
    """In one direction at least: that is why every pair is looked at both ways."""
    before = avro_schema(FailureEvent)
    after = copy.deepcopy(before)
    change(after)
    assert _problems(after, before) + _problems(before, after)


def _optional_field(schema: Schema) -> None:
    schema["fields"].append({"name": "new", "type": ["null", "string"], "default": None})


def _new_list(schema: Schema) -> None:
    schema["fields"].insert(0, {"name": "new", "type": {"type": "array", "items": "string"}, "default": []})


def _new_symbol(schema: Schema) -> None:
    _field(schema, "origin")["type"]["symbols"].append("plugin")


@pytest.mark.parametrize("change", [_optional_field, _new_list, _new_symbol])
def test_a_harmless_change_is_allowed(change: Callable[[Schema], None]) -> None:
    before = avro_schema(FailureEvent)
    after = copy.deepcopy(before)
    change(after)
    assert _problems(after, before) + _problems(before, after) == []


def test_a_symbol_of_tomorrow_reads_as_the_default() -> None:
    """An enum may grow at its end: who does not know the symbol yet takes the first."""
    import io

    import fastavro

    newer = copy.deepcopy(avro_schema(FailureEvent))
    _field(newer, "origin")["type"]["symbols"].append("plugin")
    document = {"tenant_id": "t", "execution_id": "e", "origin": "plugin"}
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(newer), document)
    stream.seek(0)
    reader = fastavro.parse_schema(avro_schema(FailureEvent))
    assert fastavro.schemaless_reader(stream, fastavro.parse_schema(newer), reader)["origin"] == "unknown"


def _types(schema: Any) -> Iterator[Schema]:
    if isinstance(schema, list):
        for branch in schema:
            yield from _types(branch)
    elif isinstance(schema, dict):
        yield schema
        for field in schema.get("fields", ()):
            yield from _types(field["type"])
        for inner in ("items", "values"):
            yield from _types(schema.get(inner))


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.type_name)
def test_what_makes_avro_dangerous_is_not_in_a_schema(event: type[Event]) -> None:
    """Items of no size make a hundred million of nothing out of five bytes; recursion makes a stack overflow."""
    schema = avro_schema(event)
    named = {each["name"]: each for each in _types(schema) if "name" in each}

    def least(kind: Any, inside: tuple[str, ...] = ()) -> int:
        """Bytes that a value takes at least; fails where it holds itself."""
        if isinstance(kind, list):
            return 1 + min(least(branch, inside) for branch in kind)
        kind = named[kind] if isinstance(kind, str) and kind in named else kind
        if isinstance(kind, dict) and kind["type"] == "record":
            assert kind["name"] not in inside, "recursive"
            return sum(least(field["type"], (*inside, kind["name"])) for field in kind["fields"])
        if isinstance(kind, dict) and kind["type"] in ("array", "map"):
            assert least(kind.get("items", kind.get("values")), inside) > 0
        return 0 if kind == "null" else 1

    assert least(schema) > 0
    for each in _types(schema):
        if each.get("type") == "enum":
            assert each["default"] == each["symbols"][0]


def test_every_fingerprint_is_known_and_its_own() -> None:
    files = [path for event in EVENTS for path in _versions(event)]
    assert len(codec._versions()) == len(files)
    assert {path.parent.name for path in files} == {path.name for path in FOLDER.iterdir()}


def test_a_recover_partition_has_one_writer() -> None:
    """Everything about one execution has one key, and its topics are created with one number of partitions."""
    assert {topic.key for topic in RECOVER_INPUTS} == {"tenant_id/execution_id"}
    failure = FailureEvent(tenant_id="t", execution_id="e")
    for topic in RECOVER_INPUTS:
        assert topic.record is not None
        assert topic in TOPICS
        fields = {"tenant_id", "execution_id"}
        assert fields <= topic.record.model_fields.keys()
    assert failure.key == RecoveryOptions.key.fget(failure) == "t/e"  # type: ignore[attr-defined]
