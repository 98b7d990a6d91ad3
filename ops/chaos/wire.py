"""Reading topics without the product's codec: a checker that shares code shares its mistakes."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

import fastavro
import fastavro.schema
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

_SCHEMAS: Final = Path(__file__).parents[2] / "schemas" / "avsc"


@dataclass(frozen=True, slots=True)
class Row:
    """One committed record of a topic. `value` is None where the bytes are no record."""

    topic: str
    partition: int
    offset: int
    at_ms: int
    value: dict[str, Any] | None


@cache
def _schemas() -> dict[bytes, Any]:
    found = {}
    for path in _SCHEMAS.glob("*/v*.avsc"):
        raw = json.loads(path.read_text())
        canonical = fastavro.schema.to_parsing_canonical_form(raw)
        found[bytes.fromhex(fastavro.schema.fingerprint(canonical, "CRC-64-AVRO"))] = fastavro.parse_schema(raw)
    return found


def read(value: bytes | None) -> dict[str, Any] | None:
    """The record in `value`, Avro or JSON; None where it is neither."""
    try:
        if value and value[:2] == b"\xc3\x01":
            datum: Any = fastavro.schemaless_reader(io.BytesIO(value[10:]), _schemas()[value[2:10]], None)
        else:
            datum = json.loads(value or b"")
    except Exception:
        return None
    return datum if isinstance(datum, dict) else None


def ms(value: object) -> int:
    """Epoch milliseconds of a time as Avro or JSON gives it."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    return round(value.timestamp() * 1000) if isinstance(value, datetime) else int(str(value))


def follower(bootstrap: str, *topics: str) -> tuple[Consumer, set[tuple[str, int]]]:
    """A consumer of all committed records of `topics` from their beginning, and their partitions."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "omium-chaos-checker",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 100,
            "queued.max.messages.kbytes": 16 * 1024,
        }
    )
    known = consumer.list_topics(timeout=60).topics
    partitions = {(topic, number) for topic in topics for number in known[topic].partitions}
    consumer.assign([TopicPartition(topic, number, 0) for topic, number in partitions])
    return consumer, partitions


def dump(
    bootstrap: str, *topics: str, kept: Mapping[str, tuple[str, ...]] | None = None, timeout_s: float = 60.0
) -> Iterator[Row]:
    """Every committed record of `topics`, up to their ends as of now. Raises TimeoutError if the ends are not reached.

    `kept`: the fields that are kept of a topic's records, as far as they have them; absent: all.
    """
    for message in raw(bootstrap, *topics, timeout_s=timeout_s):
        topic, value = message.topic() or "", read(message.value())
        if kept is not None and value is not None:
            value = {name: value[name] for name in kept[topic] if name in value}
        yield Row(topic, message.partition() or 0, message.offset() or 0, message.timestamp()[1], value)


def raw(bootstrap: str, *topics: str, timeout_s: float = 60.0) -> Iterator[Message]:
    """The same, as bytes."""
    consumer, left = follower(bootstrap, *topics)
    try:
        silent_s = 0.0
        while left:
            messages = consumer.consume(1000, 1.0)
            silent_s = 0.0 if messages else silent_s + 1
            if silent_s > timeout_s:
                raise TimeoutError(f"the ends of {sorted(left)} were not reached: is a transaction open?")
            for message in messages:
                error = message.error()
                if error is None:
                    yield message
                elif error.code() == KafkaError._PARTITION_EOF:
                    left.discard((message.topic() or "", message.partition() or 0))
                elif error.fatal():
                    raise KafkaException(error)
    finally:
        consumer.close()


def overtaken(bootstrap: str) -> int:
    """States that keep options whose failure was still to be read, by the changelog of recover."""
    return sum(b'"early":[{' in (message.value() or b"") for message in raw(bootstrap, "recovery.state.v1"))
