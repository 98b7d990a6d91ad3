"""Reads the topics while the demo runs, as any program with access to them could."""

from __future__ import annotations

import threading
from typing import Final

from confluent_kafka import Consumer, TopicPartition

from cli.demo.board import Board
from ops.runtime.settings import Settings
from schemas.codec import Decoded, decode
from schemas.topics import COMMANDS, ESCALATIONS, FAILURES, OPTION_TOPICS, RESULTS

WATCHED: Final = (FAILURES, *OPTION_TOPICS, COMMANDS, RESULTS, ESCALATIONS)
_POLL_S: Final = 0.1


class Watch:
    """A thread that feeds a board, from the first record on, committed records only. A context manager."""

    def __init__(self, settings: Settings) -> None:
        self.board = Board()
        self.lock = threading.Lock()
        """Held while the board changes."""
        self._stopping = threading.Event()
        self._consumer = Consumer(
            settings.kafka(
                **{
                    "group.id": f"{settings.app}-demo-watch",
                    "enable.auto.commit": False,
                    "isolation.level": "read_committed",
                    "fetch.wait.max.ms": 50,
                }
            )
        )
        places = [TopicPartition(t.name, p, 0) for t in WATCHED for p in range(settings.partitions)]
        self._consumer.assign(places)
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        self._consumer.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            for message in self._consumer.consume(200, _POLL_S):
                if message.error() is not None:
                    continue
                found = decode(message.topic() or "", message.value())
                if isinstance(found, Decoded):
                    with self.lock:
                        self.board.take(found.record, message.timestamp()[1])
