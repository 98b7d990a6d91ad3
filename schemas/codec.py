"""Bytes become a record here, and nowhere else; this cannot raise.

Avro values are single-object encoded: C3 01, the CRC-64-AVRO fingerprint of the writer's schema
(little endian), the datum. The writer's schema is always one that is committed here: hostile schemas
(recursive, or with items of no size) let 100 KB of Avro kill a process. Agents may send JSON instead,
told apart by the first bytes. Headers follow CloudEvents' Kafka binary mode;
`traceparent` and `tracestate` travel on unchanged.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

import fastavro
import fastavro.schema
import orjson
from pydantic import ValidationError

from schemas.avro import Reader, Writer, compiled
from schemas.records import EVENTS, NATURAL, DeadLetter, DeadLetterReason, Event, json_bounds_error
from schemas.records.base import MAX_JSON_DEPTH
from schemas.topics import BY_NAME, Topic

AVRO: Final = "application/avro"
JSON: Final = "application/json"
_MAGIC: Final = b"\xc3\x01"
_DATUM: Final = 10
"""Where it begins: after the magic and the fingerprint."""
_FOLDER: Final = Path(__file__).parent / "avsc"
_CARRIED: Final = ("traceparent", "tracestate")
_ERROR_CHARS: Final = 500
_TRACE_BYTES: Final = 512
"""W3C: a tracestate that is longer may be dropped."""

Headers = Sequence[tuple[str, bytes | str | None]]
WireFormat = Literal["avro", "json"]


@dataclass(frozen=True, slots=True)
class Decoded:
    """A record as it came, with what must travel on."""

    record: Event
    format: WireFormat
    trace: tuple[tuple[str, bytes], ...]
    """traceparent and tracestate headers, to be sent with everything this record causes."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """Bytes that are no record of their topic. `error` never quotes them."""

    reason: DeadLetterReason
    error: str


@dataclass(frozen=True, slots=True)
class Encoded:
    """A record ready to be produced."""

    topic: str
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class _Version:
    event: type[Event]
    number: int
    fingerprint: bytes
    writer: Any
    """Parsed schema of this version."""
    reader: Any
    """Parsed newest schema, or None where this is the newest."""


@cache
def _versions() -> dict[bytes, _Version]:
    """Every committed schema version, by fingerprint."""
    found: dict[bytes, _Version] = {}
    for event in EVENTS:
        paths = sorted((_FOLDER / event.type_name).glob("v*.avsc"), key=lambda p: int(p.stem[1:]))
        parsed = [(int(p.stem[1:]), json.loads(p.read_text())) for p in paths]
        newest_number, newest = parsed[-1]
        for number, raw in parsed:
            reader = None if number == newest_number else fastavro.parse_schema(newest)
            print_ = fingerprint(raw)
            # Two versions that differ only in defaults share a fingerprint; the newer one reads both.
            found[print_] = _Version(event, number, print_, fastavro.parse_schema(raw), reader)
    return found


@cache
def _newest() -> dict[type[Event], _Version]:
    newest: dict[type[Event], _Version] = {}
    for version in _versions().values():
        if version.reader is None:
            newest[version.event] = version
    return newest


@cache
def _compiled(event: type[Event]) -> tuple[Reader, Writer]:
    """Reader and writer of the newest version."""
    version = _newest()[event]
    return compiled(version.writer, event)


def fingerprint(schema: dict[str, Any]) -> bytes:
    """CRC-64-AVRO of the schema's parsing canonical form: 8 bytes, little endian as on the wire."""
    canonical = fastavro.schema.to_parsing_canonical_form(schema)
    return bytes.fromhex(fastavro.schema.fingerprint(canonical, "CRC-64-AVRO"))


def decode(topic: str, value: bytes | None, headers: Headers | None = None) -> Decoded | Malformed:
    """The record in `value`, or why there is none. Never raises, whatever the bytes are."""
    spec = BY_NAME[topic]
    if not value:
        return Malformed(DeadLetterReason.EMPTY, "no value")
    if len(value) > spec.max_message_bytes:
        return Malformed(DeadLetterReason.OVERSIZED, f"{len(value)} bytes, {spec.max_message_bytes} allowed")
    result = _decode_avro(spec, value) if value.startswith(_MAGIC) else _decode_json(spec, value)
    if isinstance(result, Malformed):
        return result
    return Decoded(result, "avro" if value.startswith(_MAGIC) else "json", _trace(headers or ()))


def _trace(headers: Headers) -> tuple[tuple[str, bytes], ...]:
    """Each carried header once and bounded: what travels on with every output must not make one too large."""
    found = {}
    for name, value in headers:
        if name in _CARRIED and value:
            found[name] = value if isinstance(value, bytes) else value.encode(errors="replace")
    if not found:
        return ()
    return tuple((name, value) for name, value in found.items() if len(value) <= _TRACE_BYTES)


def _decode_avro(spec: Topic, value: bytes) -> Event | Malformed:
    version = _versions().get(value[2:10])
    if version is None:
        return Malformed(DeadLetterReason.UNKNOWN_SCHEMA, f"fingerprint {value[2:10].hex()}")
    if version.event is not spec.record:
        return Malformed(DeadLetterReason.WRONG_RECORD, f"{version.event.type_name} on {spec.name}")
    datum = _datum(version, value)
    return datum if isinstance(datum, Malformed) else _validate(version.event, datum, None)


def _datum(version: _Version, value: bytes) -> Any | Malformed:
    if version.reader is not None:
        return _any_datum(version, value)
    try:
        return _compiled(version.event)[0](value, _DATUM)
    except Exception:
        return _any_datum(version, value)


def _any_datum(version: _Version, value: bytes) -> Any | Malformed:
    """Of an older version, or not as our own writers write: fastavro judges it."""
    stream = io.BytesIO(value)
    stream.seek(_DATUM)
    try:
        datum = fastavro.schemaless_reader(stream, version.writer, version.reader)
    except Exception as error:  # fastavro raises EOFError, IndexError, UnicodeDecodeError, KeyError, OverflowError ...
        return Malformed(DeadLetterReason.NOT_AVRO, f"{type(error).__name__} at byte {stream.tell()}")
    if stream.tell() != len(value):
        return Malformed(DeadLetterReason.NOT_AVRO, f"{len(value) - stream.tell()} bytes after the record")
    return datum


def _decode_json(spec: Topic, value: bytes) -> Event | Malformed:
    assert spec.record is not None
    try:
        document = orjson.loads(value)
    except (ValueError, RecursionError) as error:
        return _not_json(value, error)
    brackets = value.count(b"[") + value.count(b"{")
    if brackets > MAX_JSON_DEPTH and (problem := json_bounds_error(document)):
        return Malformed(DeadLetterReason.TOO_DEEP, problem)
    return _validate(spec.record, document, NATURAL)


def _not_json(value: bytes, error: Exception) -> Malformed:
    try:
        value.decode()
    except UnicodeDecodeError as problem:
        return Malformed(DeadLetterReason.NOT_UTF8, f"{problem.reason} at byte {problem.start}")
    if isinstance(error, RecursionError) or "depth limit" in str(error):
        return Malformed(DeadLetterReason.TOO_DEEP, "nested beyond the parser's limit")
    return Malformed(DeadLetterReason.NOT_JSON, str(error)[:_ERROR_CHARS])


def _validate(event: type[Event], document: Any, context: Any) -> Event | Malformed:
    try:
        return event.model_validate(document, context=context)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        text = "; ".join(f"{'.'.join(map(str, p['loc'])) or '(record)'}: {p['msg']}" for p in problems[:5])
        return Malformed(DeadLetterReason.INVALID, text[:_ERROR_CHARS])
    except (ValueError, OverflowError, RecursionError) as error:
        return Malformed(DeadLetterReason.INVALID, type(error).__name__)


def encode(
    topic: Topic,
    record: Event,
    *,
    source: str,
    trace: Iterable[tuple[str, bytes]] = (),
    wire_format: WireFormat = "avro",
) -> Encoded:
    """`record` as the message of `topic`. `source` says who speaks, such as `omium/streams`.

    Raises TypeError where `topic` carries another record.
    """
    if type(record) is not topic.record:
        raise TypeError(f"{topic.name} does not carry {type(record).__name__}")
    headers = [("ce_id", record.event_id.encode()), *_headers(type(record), source, wire_format), *trace]
    value = to_avro(record) if wire_format == "avro" else to_json(record)
    return Encoded(topic.name, record.key.encode(), value, headers)


@cache
def _headers(event: type[Event], source: str, wire_format: WireFormat) -> tuple[tuple[str, bytes], ...]:
    return (
        ("ce_specversion", b"1.0"),
        ("ce_type", b"dev.omium." + event.type_name.encode()),
        ("ce_source", source.encode()),
        ("content-type", (AVRO if wire_format == "avro" else JSON).encode()),
    )


def to_avro(record: Event) -> bytes:
    """Single-object encoding of `record` with its newest schema."""
    out = bytearray(_MAGIC + _newest()[type(record)].fingerprint)
    _compiled(type(record))[1](out, record)
    return bytes(out)


def to_json(record: Event) -> bytes:
    """`record` for programs and people that read JSON: free-form fields are plain JSON values."""
    return orjson.dumps(record.model_dump(by_alias=True, context=NATURAL), default=_json_default)


def _json_default(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(type(value).__name__)


def dead_letter(
    problem: Malformed,
    *,
    worker: str,
    topic: str,
    partition: int,
    offset: int,
    key: bytes | None,
    value: bytes | None,
    keep_payload: bool | None = None,
    died_at: datetime | None = None,
) -> DeadLetter:
    """What is left of a record that could not be handled: reason, origin, digest, and where useful the bytes."""
    value = value or b""
    if keep_payload is None:
        keep_payload = problem.reason in (DeadLetterReason.UNKNOWN_SCHEMA, DeadLetterReason.HANDLER_ERROR)
    fits = len(value) <= 768 * 1024
    return DeadLetter(
        reason=problem.reason,
        error=problem.error[:_ERROR_CHARS],
        worker=worker,
        origin_topic=topic,
        origin_partition=partition,
        origin_offset=offset,
        origin_key=key[:1024] if key else None,
        sha256=hashlib.sha256(value).hexdigest(),
        size_bytes=len(value),
        payload=value if keep_payload and fits and value else None,
        content_type=AVRO if value.startswith(_MAGIC) else JSON,
        died_at=died_at or datetime.now(UTC),
    )
