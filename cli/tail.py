"""`omium-recovery tail`: the records of one topic, decoded."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from rich.console import Console
from rich.text import Text

from cli.context import ExitCode, fail, put_json, say
from ops.runtime.settings import Settings
from schemas.codec import Malformed, decode, to_json
from schemas.topics import BY_NAME

_TIMEOUT_S: Final = 5.0
_VALUE_CHARS: Final = 400


def run(settings: Settings, name: str, *, last: int | None, follow: bool, as_json: bool) -> None:
    """Print until Ctrl-C, or without `follow` to the end. `last`: records back in each partition; None: all."""
    topic = _resolve(name)
    console = Console(soft_wrap=True, highlight=False)
    for message in _messages(settings, topic, last, follow):
        if as_json:
            put_json(_as_document(topic, message))
        else:
            console.print(_as_line(topic, message))


def _resolve(name: str) -> str:
    found = [name] if name in BY_NAME else [topic for topic in BY_NAME if name in topic]
    if len(found) != 1:
        fail(f"{name} names {', '.join(found) if found else 'no topic'}; topics: {', '.join(BY_NAME)}", ExitCode.USAGE)
    return found[0]


def _messages(settings: Settings, topic: str, last: int | None, follow: bool) -> Iterator[Message]:
    config: dict[str, Any] = {
        # Never joined: partitions are assigned by hand.
        "group.id": f"{settings.app}.tail",
        "enable.auto.commit": False,
        "isolation.level": "read_committed",
        "enable.partition.eof": not follow,
    }
    consumer = Consumer(settings.kafka(**config))
    try:
        partitions = _assign(consumer, topic, last)
        say(f"{topic}: {len(partitions)} partitions" + (", Ctrl-C ends" if follow else ""))
        yield from _as_they_come(consumer) if follow else _by_time(consumer, partitions)
    except KeyboardInterrupt:
        return
    finally:
        consumer.close()


def _as_they_come(consumer: Consumer) -> Iterator[Message]:
    while True:
        message = consumer.poll(0.5)
        if message is not None:
            if (error := message.error()) is not None:
                raise KafkaException(error)
            yield message


def _by_time(consumer: Consumer, partitions: list[int]) -> Iterator[Message]:
    """Up to the ends; the partitions, each of which is in order of time, are merged."""
    read: dict[int, deque[Message | None]] = {number: deque() for number in partitions}
    while read:
        message = consumer.poll(0.5)
        if message is None:
            continue
        if (error := message.error()) is not None and error.code() != KafkaError._PARTITION_EOF:
            raise KafkaException(error)
        if (queue := read.get(message.partition() or 0)) is None:
            continue  # it came after what was the end
        queue.append(None if error else message)
        while read and all(read.values()):
            first = min(read, key=lambda number: _appended_ms(read[number][0]))
            if (head := read[first].popleft()) is None:
                del read[first]
            else:
                yield head


def _appended_ms(message: Message | None) -> int:
    """When the broker appended it; of an end: before all, nothing comes after it."""
    return message.timestamp()[1] if message else -1


def _assign(consumer: Consumer, topic: str, last: int | None) -> list[int]:
    partitions = consumer.list_topics(topic, timeout=_TIMEOUT_S).topics[topic].partitions
    if not partitions:
        raise KafkaException(KafkaError(KafkaError._UNKNOWN_TOPIC, f"{topic} does not exist"))
    places = []
    for number in partitions:
        first, end = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=_TIMEOUT_S)
        places.append(TopicPartition(topic, number, first if last is None else max(first, end - last)))
    consumer.assign(places)
    return list(partitions)


def _as_document(topic: str, message: Message) -> dict[str, Any]:
    """The record as agents may send it (free-form fields as plain JSON), or why there is none."""
    key = message.key()
    document: dict[str, Any] = {
        "topic": topic,
        "partition": message.partition(),
        "offset": message.offset(),
        "timestamp_ms": message.timestamp()[1],
        "key": key.decode(errors="replace") if isinstance(key, bytes) else key,
    }
    value = message.value()
    if BY_NAME[topic].record is None:
        return document | {"size_bytes": len(value or b"")}
    decoded = decode(topic, value)
    if isinstance(decoded, Malformed):
        return document | {"reason": decoded.reason, "error": decoded.error}
    return document | {"record": orjson.loads(to_json(decoded.record))}


def _as_line(topic: str, message: Message) -> Text:
    document = _as_document(topic, message)
    at = datetime.fromtimestamp(document["timestamp_ms"] / 1000, UTC)
    line = Text(f"{at:%H:%M:%S}.{at.microsecond // 1000:03} ", style="dim")
    line.append(f"{document['partition']}:{document['offset']} ", style="cyan")
    line.append(f"{document['key']} ", style="bold")
    if "record" in document:
        line.append(_short(document["record"]))
    elif "error" in document:
        line.append(f"{document['reason']}: {document['error']}", style="red")
    else:
        line.append(f"{document['size_bytes']} bytes", style="dim")
    return line


def _short(record: dict[str, Any]) -> str:
    """What is filled in; what the key says already is left out."""
    said = {k: v for k, v in record.items() if v not in (None, "", [], {}) and k not in ("tenant_id", "execution_id")}
    text = " ".join(f"{k}={v if isinstance(v, str) else orjson.dumps(v).decode()}" for k, v in said.items())
    return text if len(text) <= _VALUE_CHARS else f"{text[:_VALUE_CHARS]}… (--json shows all)"
