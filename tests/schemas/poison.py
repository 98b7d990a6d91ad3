"""The corpus of bad messages. Run as a program, it decodes all of it in little memory; see test_schemas_poison."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterator
from typing import Any

from schemas import codec
from schemas.codec import Malformed, decode
from schemas.records import CheckpointSaved, FailureEvent
from schemas.topics import TOPICS, Topic

CARRIERS = tuple(topic for topic in TOPICS if topic.record is not None)
MEMORY_BYTES = 256 * 1024 * 1024
"""More than any one message may cost: the largest has 1 MiB."""
CPU_S = 120
HUGE_COUNTS = (10**8, 2**31, 2**40, 2**62, 2**63 - 1)


def zigzag(number: int) -> bytes:
    """Avro's long."""
    rest = (number << 1) ^ (number >> 63)
    out = bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def headed(topic: Topic, datum: bytes) -> bytes:
    """`datum` as if it were of the topic's newest schema."""
    assert topic.record is not None
    return codec._MAGIC + codec._newest()[topic.record].fingerprint + datum


_ATTACKS = (
    # Counts and lengths far beyond the message; a negative count is followed by a size in bytes.
    *(zigzag(count) for count in HUGE_COUNTS),
    *(zigzag(count) + b"\x00" * 5 for count in HUGE_COUNTS),
    *(
        zigzag(-count) + size
        for count in HUGE_COUNTS
        for size in (b"\x02", zigzag(2**62), zigzag(-1), zigzag(-(2**63)))
    ),
    zigzag(-1),
    zigzag(-(2**63)),
    # A number that does not end, and one that is too long.
    b"\xff" * 5,
    b"\xff" * 9 + b"\x01",
    b"\xff" * 1000,
    # Blocks that never end: one item each.
    b"\x02\x00" * 20_000,
    b"\x01\x02\x00" * 20_000,
)


def avro_bombs(topic: Topic) -> Iterator[bytes]:
    """At each field of the record: a true beginning, then the attack."""
    assert topic.record is not None
    for before in _beginnings(codec._newest()[topic.record].writer):
        for attack in _ATTACKS:
            yield headed(topic, before + attack)
            # Most fields are optional: the branch first.
            yield headed(topic, before + b"\x02" + attack)


def _beginnings(schema: dict[str, Any]) -> Iterator[bytes]:
    """The least that can stand before each field of a record."""
    written = b""
    for field in schema["fields"]:
        yield written
        written += _least(field["type"])


def _least(schema: Any) -> bytes:
    kind = schema if isinstance(schema, str | list) else schema["type"]
    if isinstance(kind, list):
        return b"\x00"
    if kind == "record":
        return b"".join(_least(field["type"]) for field in schema["fields"])
    if isinstance(kind, str) and "." in kind:  # a named type, spelled out before
        return b"\x00"
    return b"\x00" * 8 if kind == "double" else b"\x00"


def _json_bombs(topic: Topic) -> Iterator[bytes]:
    for depth in (33, 1_000, 100_000):
        yield b"[" * depth
        yield b'{"a":' * depth
        yield b"[" * depth + b"]" * depth
        yield b'{"tenant_id":"t","execution_id":"e","output":' + b"[" * depth + b"]" * depth + b"}"
        yield b'{"tenant_id":"t","execution_id":"e","unknown":' + b'{"a":' * depth + b"1" + b"}" * depth + b"}"
    yield b'{"tenant_id":"t","execution_id":"e","output":[' + b"0," * 60_000 + b"0]}"
    yield b'{"tenant_id":"t","execution_id":"e","required_steps":[' + b'"",' * 60_000 + b'""]}'
    for number in (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"9" * 30_000, b"-" + b"9" * 400, b"1e-999"):
        yield number
        yield b'{"tenant_id":"t","execution_id":"e","output":' + number + b"}"
        yield b'{"tenant_id":"t","execution_id":"e","metrics":{"tokens":' + number + b',"duration_s":' + number + b"}}"
        yield b'{"tenant_id":"t","execution_id":"e","occurred_at":' + number + b"}"
    for text in (
        b'"\\ud800"',
        b'"\\udfff\\ud800"',
        b'"\xed\xa0\x80"',
        b'"\\u0000"',
        b'"\xff"',
        b'"' + b"\\\\" * 60_000 + b'"',
    ):
        yield text
        yield b'{"tenant_id":' + text + b',"execution_id":"e"}'
        yield b'{"tenant_id":"t","execution_id":' + text + b',"error":{"message":' + text + b"}}"
        yield b'{"tenant_id":"t","execution_id":"e","occurred_at":' + text + b"}"
    for times in (
        "0000-00-00T00:00:00Z",
        "9999-12-31T23:59:59-23:59",
        "0001-01-01T00:00:00+23:59",
        2**62,
        -(2**62),
        1.5,
    ):
        yield json.dumps({"tenant_id": "t", "execution_id": "e", "occurred_at": times}).encode()
    yield b"\xef\xbb\xbf{}"
    yield '{"tenant_id":"t"}'.encode("utf-16")
    yield b'{"tenant_id":"t","tenant_id":"u","execution_id":"e"}'


def corpus(topic: Topic) -> Iterator[bytes | None]:
    """Everything bad that we know, for one topic."""
    yield from (
        None,
        b"",
        b"\x00",
        b"{}",
        b"[]",
        b"null",
        b"0",
        b'""',
        b"{",
        b"\xc3",
        b"\xc3\x01",
        b"\xff\xfe",
        b" ",
        b"\n",
    )
    for fingerprint in (b"", b"\x00" * 7, b"\x00" * 8, b"\xff" * 8):
        yield codec._MAGIC + fingerprint
        yield codec._MAGIC + fingerprint + b"\x00" * 100
    for other in CARRIERS:
        yield headed(other, b"\x00" * 200)
    yield b"{" + b" " * topic.max_message_bytes + b"}"
    yield headed(topic, b"\x00" * topic.max_message_bytes)
    yield from _json_bombs(topic)
    yield from avro_bombs(topic)
    yield from _deep_text()


def _deep_text() -> Iterator[bytes]:
    """Free-form content is text in Avro: whoever parses it meets the depth."""
    deep = "[" * 100_000
    yield codec.to_avro(FailureEvent(tenant_id="t", execution_id="e", output=deep, reasoning='{"a":' * 20_000))
    saved = {"tenant_id": "t", "execution_id": "e", "checkpoint": {"id": "c", "data": deep}}
    yield codec.to_avro(CheckpointSaved.model_validate(saved))


def main() -> None:
    """Decode everything, in bounded memory and time; print how many were judged."""
    decode(CARRIERS[0].name, b"{}")  # imports and schemas come first: they are no message's cost
    size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()  # noqa: SIM115, PTH123
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY_BYTES, size + MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    count = 0
    for topic in CARRIERS:
        for value in corpus(topic):
            result = decode(topic.name, value)
            count += 1
            if isinstance(result, Malformed) and "MemoryError" in result.error:
                sys.exit(f"{topic.name}: out of memory on {(value or b'')[:60]!r}")
    print(count)


if __name__ == "__main__":
    main()
