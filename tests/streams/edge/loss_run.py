"""One worker process over topics of its own, and what the topics say became of their records.

A record is lost where its group has committed past it, and it was neither handled nor became a dead letter.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from schemas.codec import Decoded, decode
from schemas.records import DeadLetter
from schemas.topics import DEAD_LETTERS

SCRIPTS = {"stock": "loss_stock.py", "ours": "loss_worker.py"}
DEADLINE_S = 60.0


@dataclass
class Run:
    """One worker process and its topics."""

    kind: str
    bootstrap: str
    cases: tuple[str, ...]
    group: str = field(default_factory=lambda: f"loss-{uuid.uuid4().hex[:8]}")
    lines: list[str] = field(default_factory=list)
    log: Path | None = None
    """Its stderr, while it runs."""
    process: subprocess.Popen[str] | None = None

    @property
    def consumer_group(self) -> str:
        return self.group if self.kind == "stock" else f"{self.group}-ours"

    def create(self, **config: str) -> None:
        """`config` is that of the cases' topics, with `_` for `.`."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        small = {"max.message.bytes": "1000"}
        own = {name.replace("_", "."): value for name, value in config.items()}
        topics = [NewTopic(f"{self.group}.{case}", 1, 1, config=own) for case in self.cases]
        topics.append(NewTopic(f"{self.group}.small", 1, 1, config=small))
        if "changelog" in self.cases:
            tiny = {"max.message.bytes": "80"}
            topics.append(NewTopic(f"{self.group}-{self.group}-rows-changelog", 1, 1, config=tiny))
            topics.append(NewTopic(f"{self.group}-ours-rows-changelog", 1, 1, config=tiny))
        topics.append(NewTopic(DEAD_LETTERS.name, 4, 1))
        for future in admin.create_topics(topics).values():
            # The dead letters may exist already.
            future.exception(30)

    def fill(self) -> None:
        producer = Producer({"bootstrap.servers": self.bootstrap})
        for case in self.cases:
            for number in range(10):
                value = b"{" if case == "decode" and number == 5 else str(number).encode()
                producer.produce(f"{self.group}.{case}", value, b"k")
        assert producer.flush(30) == 0

    def produce(self, case: str, value: bytes) -> None:
        producer = Producer({"bootstrap.servers": self.bootstrap})
        producer.produce(f"{self.group}.{case}", value, b"k")
        assert producer.flush(30) == 0

    @contextmanager
    def running(self) -> Iterator[None]:
        script = str(Path(__file__).parent / SCRIPTS[self.kind])
        command = [sys.executable, script, self.bootstrap, self.group, ",".join(self.cases)]
        with (
            # Faust makes its data folder in the working directory.
            TemporaryDirectory() as folder,
            (Path(folder) / "log").open("w+") as log,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True, cwd=folder
            ) as process,
        ):
            self.log = Path(folder) / "log"
            self.process = process
            assert process.stdout is not None
            os.set_blocking(process.stdout.fileno(), False)
            try:
                yield
            finally:
                if process.poll() is None:
                    process.kill()
                process.wait()
                self._read()

    def stop(self) -> None:
        """SIGTERM, and wait for its end."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        self.until(lambda: self.process is not None and self.process.poll() is not None, "did not stop")

    def _read(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            self.lines.append(line.strip())

    def until(self, what: Callable[[], bool], why: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not what():
            assert time.monotonic() < deadline, f"{self.kind}: {why}; {self.handled()} {self.committed()}"
            time.sleep(0.05)
            if self.process is not None and self.process.poll() is None:
                self._read()

    def handled(self) -> dict[str, set[int]]:
        found: dict[str, set[int]] = defaultdict(set)
        for line in self.lines:
            case, _, number = line.partition(" ")
            if number.isdigit():
                found[case].add(int(number))
        return found

    def committed(self) -> dict[str, int]:
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": self.consumer_group})
        try:
            wanted = [TopicPartition(f"{self.group}.{case}", 0) for case in self.cases]
            return {p.topic.rpartition(".")[2]: max(p.offset, 0) for p in consumer.committed(wanted, 10)}
        finally:
            consumer.close()

    def dead(self) -> dict[str, set[int]]:
        found: dict[str, set[int]] = defaultdict(set)
        for value in read_all(self.bootstrap, DEAD_LETTERS.name, 4):
            letter = decode(DEAD_LETTERS.name, value)
            assert isinstance(letter, Decoded)
            assert isinstance(letter.record, DeadLetter)
            topic, _, case = letter.record.origin_topic.rpartition(".")
            if topic == self.group:
                found[case].add(letter.record.origin_offset)
        return found

    def lost(self, case: str) -> list[int]:
        handled, dead = self.handled()[case], self.dead()[case]
        if case in ("delivery", "changelog"):
            # What was said to be handled counts only where its output is in the topic.
            handled = self.written(case)
        return [n for n in range(self.committed()[case]) if n not in handled | dead]

    def written(self, case: str) -> set[int]:
        if case == "delivery":
            return {int(value) for value in read_all(self.bootstrap, f"{self.group}.small", 1) if len(value) < 5}
        rows = f"{self.group}-rows" if self.kind == "stock" else "rows"
        prefix = self.group if self.kind == "stock" else f"{self.group}-ours"
        return {json.loads(v) for v in read_all(self.bootstrap, f"{prefix}-{rows}-changelog", 1)}


def read_all(bootstrap: str, topic: str, partitions: int) -> list[bytes]:
    """Every committed value of a topic."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "check", "enable.partition.eof": True})
    consumer.assign([TopicPartition(topic, p, 0) for p in range(partitions)])
    values, ended = [], 0
    deadline = time.monotonic() + DEADLINE_S
    try:
        while ended < partitions:
            assert time.monotonic() < deadline
            message = consumer.poll(1)
            if message is None:
                continue
            if message.error() is None:
                values.append(message.value() or b"")
            else:
                ended += 1
    finally:
        consumer.close()
    return values
