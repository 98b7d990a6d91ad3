"""Counts from the topics alone what became of each failure and attempt. Shares no code with the worker but .avsc."""

from __future__ import annotations

import io
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import fastavro
from confluent_kafka import Consumer, TopicPartition

AVSC = Path(__file__).parents[3] / "schemas" / "avsc"
OPTIONS = [f"recovery.options.{c}.v1" for c in ("hallucination", "tool-failure", "logical-error", "performance")]
OPTIONS.append("recovery.options.unclassified.v1")


def read(bootstrap: str, *topics: str, isolation: str = "read_committed") -> list[tuple[str, int, int, bytes | None]]:
    """(topic, partition, offset, value) of every record up to the end of each partition."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "checker",
            "enable.partition.eof": True,
            "isolation.level": isolation,
        }
    )
    known = consumer.list_topics(timeout=10).topics
    parts = [TopicPartition(t, p, 0) for t in topics for p in known[t].partitions]
    consumer.assign(parts)
    found, open_ = [], len(parts)
    deadline = time.monotonic() + 60
    while open_:
        assert time.monotonic() < deadline, "the topics have no end"
        message = consumer.poll(1)
        if message is None:
            continue
        if message.error() is None:
            found.append((message.topic(), message.partition(), message.offset(), message.value()))
        else:
            open_ -= 1
    consumer.close()
    return found


def avro(record: str, value: bytes) -> dict[str, Any]:
    """A datum of the newest committed schema of `record`."""
    schema = fastavro.parse_schema(json.loads(max((AVSC / record).glob("v*.avsc")).read_text()))
    assert value[:2] == b"\xc3\x01"
    datum = fastavro.schemaless_reader(io.BytesIO(value[10:]), schema, None)
    assert isinstance(datum, dict)
    return datum


def unanswered(bootstrap: str) -> set[tuple[int, int]]:
    """Places in agent.failures that have neither options nor a dead letter."""
    places = {(p, o) for _, p, o, _ in read(bootstrap, "agent.failures.v1")}
    return places - set(answers(bootstrap))


def answers(bootstrap: str) -> Counter[tuple[int, int]]:
    """How many answers each place in agent.failures got."""
    found: Counter[tuple[int, int]] = Counter()
    for _, _, _, value in read(bootstrap, *OPTIONS):
        origin = avro("recovery_options", value or b"")["origin"]
        found[origin["partition"], origin["offset"]] += 1
    for letter in dead_letters(bootstrap):
        if letter["origin_topic"] == "agent.failures.v1":
            found[letter["origin_partition"], letter["origin_offset"]] += 1
    return found


def dead_letters(bootstrap: str) -> list[dict[str, Any]]:
    return [avro("dead_letter", v or b"") for *_, v in read(bootstrap, "recovery.dead-letters.v1")]


def settled(bootstrap: str) -> dict[str, tuple[int, int]]:
    """(attempts, successes) of each stratum, folded from the committed attempts."""
    counts: dict[str, tuple[int, int]] = {}
    for *_, value in read(bootstrap, "recovery.settled.v1"):
        datum = avro("settled_attempt", value or b"")
        if datum["status"] not in ("succeeded", "failed", "expired"):
            continue
        key = stratum(datum, "1" if datum["attempt"] == 1 else "2+")
        samples, successes = counts.get(key, (0, 0))
        counts[key] = samples + 1, successes + (datum["status"] == "succeeded")
    return counts


def confidence(bootstrap: str) -> dict[str, tuple[int, int]]:
    """The newest published (samples, successes) of each stratum."""
    rows = [avro("confidence_row", v or b"") for *_, v in read(bootstrap, "recovery.confidence.v1")]
    return {stratum(r, r["attempt_class"]): (r["samples"], r["successes"]) for r in rows}


def stratum(datum: dict[str, Any], attempt_class: str) -> str:
    return f"{datum['subtype']}|{datum['severity']}|{attempt_class}|{datum['strategy']}"
