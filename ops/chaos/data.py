"""What faults do to data: offsets moved back, records repeated, stores held, limits lowered."""

from __future__ import annotations

import fcntl
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

COMMANDS: Final = "recovery.commands.v1"
LETTERS: Final = "recovery.dead-letters.v1"
OPTIONS: Final = "recovery.options.tool-failure.v1"
_TIMEOUT_S: Final = 60.0


def rewind(bootstrap: str, group: str, records: int | None) -> int:
    """Move a group without members back by `records` a partition (None: to the beginning).

    Returns how many offsets it will see again; 0 where the group has members still.
    """
    # As a consumer that never joins: an admin client is killed by a coordinator that moves meanwhile.
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "enable.auto.commit": False})
    try:
        topics = consumer.list_topics(timeout=_TIMEOUT_S).topics.values()
        places = [TopicPartition(topic.topic, number) for topic in topics for number in topic.partitions]
        moved, targets = 0, []
        for tp in consumer.committed(places, _TIMEOUT_S):
            if tp.offset > 0:
                target = 0 if records is None else max(0, tp.offset - records)
                moved += tp.offset - target
                targets.append(TopicPartition(tp.topic, tp.partition, target))
        if not targets:
            return 0
        answer = consumer.commit(offsets=targets, asynchronous=False)
        return 0 if any(tp.error for tp in answer or ()) else moved
    except KafkaException as error:
        if error.args[0].code() == KafkaError.UNKNOWN_MEMBER_ID:
            return 0
        raise
    finally:
        consumer.close()


def repeat(bootstrap: str, topic: str, count: int, rng: random.Random) -> int:
    """Produce some of the topic's newest records again, shuffled. Returns how many."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "omium-chaos-repeat", "enable.auto.commit": False})
    producer = Producer({"bootstrap.servers": bootstrap, "partitioner": "murmur2_random", "linger.ms": 5})
    try:
        starts = []
        partitions = consumer.list_topics(topic, timeout=_TIMEOUT_S).topics[topic].partitions
        for number in partitions:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=_TIMEOUT_S)
            starts.append(TopicPartition(topic, number, max(low, high - count // len(partitions))))
        consumer.assign(starts)
        messages = [message for message in consumer.consume(count, 3) if message.error() is None]
        rng.shuffle(messages)
        for message in messages:
            headers = message.headers()
            producer.produce(topic, message.value(), message.key(), headers=headers)
        producer.flush(_TIMEOUT_S)
        return len(messages) - len(producer)
    finally:
        consumer.close()


class Letters:
    """Follows the dead letters that come from now on."""

    def __init__(self, bootstrap: str) -> None:
        self._consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "omium-chaos-letters"})

    def __enter__(self) -> Letters:
        partitions = self._consumer.list_topics(LETTERS, timeout=_TIMEOUT_S).topics[LETTERS].partitions
        self._consumer.assign([TopicPartition(LETTERS, number, OFFSET_END) for number in partitions])
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def come(self, error: str, timeout_s: float) -> bool:
        """Whether one that says `error` comes within `timeout_s`."""
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s:
            message = self._consumer.poll(0.2)
            if message is not None and message.error() is None and error.encode() in (message.value() or b""):
                return True
        return False


@contextmanager
def limited(bootstrap: str, topic: str, *, max_bytes: int) -> Iterator[None]:
    """The broker refuses larger records of `topic` meanwhile."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    resource = ConfigResource(ResourceType.TOPIC, topic)
    before = admin.describe_configs([resource])[resource].result(_TIMEOUT_S)["max.message.bytes"].value
    _set(admin, topic, str(max_bytes))
    try:
        yield
    finally:
        _set(admin, topic, str(before))


def _set(admin: AdminClient, topic: str, value: str) -> None:
    entry = ConfigEntry("max.message.bytes", value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    for left in reversed(range(5)):
        try:
            admin.incremental_alter_configs([resource])[resource].result(_TIMEOUT_S)
            return
        except (KafkaException, TimeoutError):
            # Left as it is, it would poison the rest of the run.
            if not left:
                raise


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """The embedded ClickHouse in `folder` belongs to this process, which does nothing with it."""
    with (folder / "omium-owner.json").open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        yield
