"""The topics as an operator's commands use them: what is asked, and what became of an answer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from ops.runtime.delivery import delivery_error
from ops.runtime.settings import Settings
from schemas import codec
from schemas.records import Disposition, Escalation, Event, OperatorAction, Pause
from schemas.topics import DISPOSITIONS, ESCALATIONS, OPERATOR_ACTIONS, OPERATOR_PAUSES, Topic

_TIMEOUT_S: Final = 10.0
_ASKED_FOR: Final = timedelta(hours=25)
"""No policy gives a person longer than a day."""
_SOURCE: Final = "omium/operator"


def asked(settings: Settings) -> list[Escalation]:
    """The newest escalation of each recovery, of the last day; newest first."""
    newest: dict[str, Escalation] = {}
    for record in _read(settings, ESCALATIONS, datetime.now(UTC) - _ASKED_FOR):
        if isinstance(record, Escalation):
            # Of one execution they stand in one partition, in order.
            newest[record.recovery_id] = record
    return sorted(newest.values(), key=lambda record: record.escalated_at, reverse=True)


def answered(settings: Settings) -> dict[str, OperatorAction]:
    """By the hash of the question: the newest answer that was sent, whatever became of it."""
    since = datetime.now(UTC) - _ASKED_FOR
    return {r.approval_hash: r for r in _read(settings, OPERATOR_ACTIONS, since) if isinstance(r, OperatorAction)}


def pauses(settings: Settings) -> list[Pause]:
    """Every pause and resumption that was ever said, oldest first in each scope."""
    return [record for record in _read(settings, OPERATOR_PAUSES, None) if isinstance(record, Pause)]


def _consumer(settings: Settings) -> Consumer:
    return Consumer(
        settings.kafka(
            **{
                # Never joined: partitions are assigned by hand.
                "group.id": f"{settings.app}.operate",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 50,
            }
        )
    )


def _partitions(consumer: Consumer, topic: Topic) -> list[TopicPartition]:
    found = consumer.list_topics(topic.name, timeout=_TIMEOUT_S).topics[topic.name]
    if not found.partitions:
        raise KafkaException(KafkaError(KafkaError._UNKNOWN_TOPIC, f"{topic.name} does not exist"))
    return [TopicPartition(topic.name, number) for number in found.partitions]


def _read(settings: Settings, topic: Topic, since: datetime | None) -> Iterator[Event]:
    """The records from `since` (None: from the first) to the present end."""
    consumer = _consumer(settings)
    try:
        places = _partitions(consumer, topic)
        if since is None:
            starts = [TopicPartition(tp.topic, tp.partition, 0) for tp in places]
        else:
            at_ms = round(since.timestamp() * 1000)
            asked_for = [TopicPartition(tp.topic, tp.partition, at_ms) for tp in places]
            starts = consumer.offsets_for_times(asked_for, timeout=_TIMEOUT_S)
        consumer.assign(starts)
        waiting = len(starts)
        while waiting:
            message = consumer.poll(0.5)
            if message is None:
                continue
            if (error := message.error()) is None:
                decoded = codec.decode(topic.name, message.value())
                if isinstance(decoded, codec.Decoded):
                    yield decoded.record
            elif error.code() == KafkaError._PARTITION_EOF:
                waiting -= 1
            else:
                raise KafkaException(error)
    finally:
        consumer.close()


def send(settings: Settings, topic: Topic, record: Event) -> None:
    """Produce `record`; when this returns, it is in its log. Raises KafkaException."""
    reports: list[tuple[KafkaError | None, Message]] = []
    producer = Producer(settings.producer(**{"message.timeout.ms": round(_TIMEOUT_S * 1000)}))
    encoded = codec.encode(topic, record, source=_SOURCE)
    producer.produce(
        encoded.topic,
        encoded.value,
        key=encoded.key,
        headers=list(encoded.headers),
        on_delivery=lambda error, message: reports.append((error, message)),
    )
    producer.flush(2 * _TIMEOUT_S)
    problem = delivery_error(*reports[0]) if reports else KafkaError(KafkaError._TIMED_OUT)
    if problem is not None:
        raise KafkaException(problem)


def send_action(settings: Settings, action: OperatorAction, wait_s: float) -> Disposition | None:
    """Send an answer, and wait for what recover makes of it; None where it says nothing in time."""
    consumer = _consumer(settings)
    try:
        places = _partitions(consumer, DISPOSITIONS)
        ends = [
            TopicPartition(tp.topic, tp.partition, consumer.get_watermark_offsets(tp, timeout=_TIMEOUT_S)[1])
            for tp in places
        ]
        consumer.assign(ends)
        send(settings, OPERATOR_ACTIONS, action)
        signed, deadline_s = action.signature[:16].hex(), time.monotonic() + wait_s
        while time.monotonic() < deadline_s:
            message = consumer.poll(0.2)
            if message is None or message.error() is not None:
                continue
            decoded = codec.decode(DISPOSITIONS.name, message.value())
            record = decoded.record if isinstance(decoded, codec.Decoded) else None
            if isinstance(record, Disposition) and record.subject == "operator" and record.subject_id == signed:
                return record
        return None
    finally:
        consumer.close()
