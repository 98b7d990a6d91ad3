"""Records to and from the bytes of a message. The schemas in `avsc/` are copies of the committed contract.

Avro values are single-object encoded: C3 01, the CRC-64-AVRO fingerprint of the writer's schema (little
endian), the datum. Commands are asked for as JSON, since JSON can be read whatever version wrote it; an
Avro command is read where its schema is the one known here.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

import fastavro
import fastavro.schema
from pydantic import ValidationError

from omium.records import Command

FAILURES: Final = "agent.failures.v1"
CHECKPOINTS: Final = "agent.checkpoints.v1"
OUTCOMES: Final = "agent.outcomes.v1"
COMMANDS: Final = "recovery.commands.v1"
RECORDS: Final = {FAILURES: "failure_event", CHECKPOINTS: "checkpoint_saved", OUTCOMES: "resume_outcome"}
_MAGIC: Final = b"\xc3\x01"

Headers = list[tuple[str, bytes]]
Read = Iterable[tuple[str, bytes | str | None]] | Mapping[str, bytes | str | None] | None


@dataclass(frozen=True, slots=True)
class Message:
    """A record ready to be sent."""

    topic: str
    key: bytes
    value: bytes
    headers: Headers
    event_id: str


def tenant(tenant_id: str) -> str:
    """`tenant_id`, where it may be one. Raises ValueError otherwise."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", tenant_id):
        raise ValueError("tenant_id: 1 to 64 of letters, digits, '.', '_', '-'")
    return tenant_id


class UndecodableError(ValueError):
    """The bytes are no command that this version can read."""


@cache
def schema(name: str) -> tuple[bytes, Any]:
    """Fingerprint and parsed schema of the record called `name`."""
    raw = json.loads((files("omium") / "avsc" / f"{name}.avsc").read_text(encoding="utf-8"))
    canonical = fastavro.schema.to_parsing_canonical_form(raw)
    return bytes.fromhex(fastavro.schema.fingerprint(canonical, "CRC-64-AVRO")), fastavro.parse_schema(raw)


def encode(topic: str, record: Mapping[str, Any], *, event_id: str, source: str, trace: Headers) -> Message:
    """`record` as a message of `topic`. Fields that it leaves out have the schema's defaults."""
    name = RECORDS[topic]
    print_, parsed = schema(name)
    out = io.BytesIO()
    out.write(_MAGIC + print_)
    # A list may be a tuple, which fastavro would take for (branch of the union, value).
    fastavro.schemaless_writer(out, parsed, record, disable_tuple_notation=True)
    headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", event_id.encode()),
        ("ce_type", b"dev.omium." + name.encode()),
        ("ce_source", source.encode()),
        ("content-type", b"application/avro"),
        *_dependency(record),
        *trace,
    ]
    key = f"{record['tenant_id']}/{record['execution_id']}".encode()
    return Message(topic, key, out.getvalue(), headers, event_id)


def _dependency(record: Mapping[str, Any]) -> Headers:
    """What failed, where it is a service: a flood of its failures then is told from its others."""
    kind, field = ("agent", "model") if record.get("origin") == "model" else ("tool_response", "tool")
    name = (record.get(kind) or {}).get(field)
    return [("ce_dependency", f"{field}:{name[:128]}".encode(errors="replace"))] if name else []


def decode_command(value: bytes | None, headers: Read = None) -> Command:
    """The command in `value`. Raises UndecodableError, and nothing else."""
    document = _avro(value) if (value or b"").startswith(_MAGIC) else _json(value)
    for name, content in headers.items() if isinstance(headers, Mapping) else headers or ():
        if name == "traceparent" and content:
            document["traceparent"] = content.decode("ascii", "replace") if isinstance(content, bytes) else content
    try:
        return Command.model_validate(document)
    except (ValidationError, ValueError, OverflowError, RecursionError) as error:
        raise UndecodableError(f"no command: {type(error).__name__}") from error


def _avro(value: bytes | None) -> dict[str, Any]:
    print_, parsed = schema("resume_command")
    assert value is not None
    if value[2:10] != print_:
        raise UndecodableError(f"schema {value[2:10].hex()} is not known here")
    try:
        document: Any = fastavro.schemaless_reader(io.BytesIO(value[10:]), parsed, None)
    except Exception as error:
        raise UndecodableError(f"no Avro: {type(error).__name__}") from error
    checkpoint = document["checkpoint"]
    if isinstance(checkpoint.get("data"), str):
        # Free-form values are JSON text in Avro.
        checkpoint["data"] = _value(checkpoint["data"])
    return dict(document)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _json(value: bytes | None) -> dict[str, Any]:
    try:
        document = json.loads(value or b"")
    except (ValueError, RecursionError) as error:
        raise UndecodableError("no JSON") from error
    if not isinstance(document, dict):
        raise UndecodableError("no JSON object")
    return document
