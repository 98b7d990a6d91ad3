"""Topics that every worker reads whole, from their beginning, before it does anything, and follows from then on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from ops.runtime.settings import Settings
from schemas.topics import Topic

log = logging.getLogger("omium.recover")

_BATCH: Final = 1000
_TIMEOUT_S: Final = 30.0

Take = Callable[[bytes, bytes | None, int], None]
"""(key, value, broker's time in epoch ms) of one record, as it was read. Each partition in order; must not raise."""


class Broadcast:
    """Reader of `takers`' topics: no group, no commits. Used by one thread, which `poll` never blocks for long."""

    def __init__(self, settings: Settings, client_id: str, takers: Mapping[Topic, Take]) -> None:
        """Raises KafkaException where the broker does not tell the topics' partitions."""
        names = [topic.name for topic in takers]
        self._consumer = Consumer(
            settings.kafka(
                **{
                    "client.id": client_id,
                    "group.id": client_id,
                    "enable.auto.commit": False,
                    "enable.partition.eof": True,
                    "isolation.level": "read_committed",
                    "auto.offset.reset": "earliest",
                }
            )
        )
        known = {name: self._consumer.list_topics(name, timeout=_TIMEOUT_S).topics[name] for name in names}
        if missing := next((topic for topic in known.values() if not topic.partitions), None):
            raise KafkaException(missing.error)
        self._places = frozenset((name, number) for name, topic in known.items() for number in topic.partitions)
        self.begin(takers)

    def begin(self, takers: Mapping[Topic, Take]) -> None:
        """Read the same topics from their beginning, for these takers alone from now on."""
        self._takers = {topic.name: take for topic, take in takers.items()}
        self._unread = set(self._places)
        self._consumer.assign([TopicPartition(name, number, OFFSET_BEGINNING) for name, number in self._places])

    @property
    def caught_up(self) -> bool:
        """Whether everything was read that was there when reading began."""
        return not self._unread

    def poll(self, timeout_s: float = 0.0) -> None:
        """Take what has come, waiting for the first of it up to `timeout_s`."""
        for message in self._consumer.consume(_BATCH, timeout_s):
            error, topic, partition = message.error(), message.topic() or "", message.partition()
            if error is None:
                self._takers[topic](message.key() or b"", message.value(), message.timestamp()[1])
            elif error.code() == KafkaError._PARTITION_EOF:
                if partition is not None:
                    self._unread.discard((topic, partition))
            elif error.fatal():
                raise KafkaException(error)
            else:
                log.warning("broadcast: %s", error)

    def close(self) -> None:
        self._consumer.close()
