"""The other side of the contract, played by hand: reads what agents say, commands what a test tells it to.

It speaks through the orchestrator's own codec, so each test is also one of the wire.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from schemas import codec, topics
from schemas.codec import Decoded, WireFormat
from schemas.records import (
    Checkpoint,
    CheckpointSaved,
    ChoiceMode,
    Decision,
    Event,
    FailureEvent,
    Fence,
    Modification,
    ModificationKind,
    ResumeCommand,
    ResumeOutcome,
    Strategy,
)

E = TypeVar("E", bound=Event)
Answer = Callable[["Heard"], ResumeCommand | Iterable[ResumeCommand] | None]
_DEADLINE_S = 15.0


class Heard:
    """One failure as the orchestrator sees it."""

    def __init__(self, decoded: Decoded, partition: int, offset: int) -> None:
        assert isinstance(decoded.record, FailureEvent)
        self.failure = decoded.record
        self.trace = decoded.trace
        self.partition = partition
        self.offset = offset

    def command(self, *changes: tuple[str, str], attempt: int = 1, **fields: Any) -> ResumeCommand:
        """A command that answers it; `changes` are (kind, parameters as JSON text)."""
        failure = self.failure
        values = {
            "tenant_id": failure.tenant_id,
            "execution_id": failure.execution_id,
            "failure_id": failure.failure_id or "",
            "agent_id": failure.agent.id,
            "checkpoint": failure.checkpoint or Checkpoint(id="none"),
            "offset": self.offset,
            "attempt": attempt,
        }
        return command(*changes, **values | fields)


def command(
    *changes: tuple[str, str],
    tenant_id: str = "acme",
    execution_id: str = "run",
    failure_id: str = "f",
    offset: int = 0,
    attempt: int = 1,
    recovery_id: str | None = None,
    starts_in_s: float = 0,
    lives_s: float = 60,
    **fields: Any,
) -> ResumeCommand:
    """A command as recover would write it."""
    now = datetime.now(UTC)
    recovery_id = recovery_id or f"r-{execution_id}"
    values: dict[str, Any] = {
        "command_id": f"{recovery_id}-{offset}-{attempt}",
        "recovery_id": recovery_id,
        "failure_id": failure_id,
        "attempt": attempt,
        "fence": Fence(offset=offset, attempt=attempt),
        "tenant_id": tenant_id,
        "execution_id": execution_id,
        "checkpoint": Checkpoint(id="c"),
        "strategy": Strategy.CONSTRAINT_INJECTION,
        "modifications": tuple(Modification(kind=ModificationKind(k), parameters=p) for k, p in changes),
        "not_before": now + timedelta(seconds=starts_in_s),
        "expires_at": now + timedelta(seconds=lives_s),
        "outcome_deadline": now + timedelta(seconds=lives_s + 60),
        "idempotency_key": "once",
        "issued_at": now,
        "decision": Decision(
            mode=ChoiceMode.STATIC,
            policy_version="1",
            rules_version="1",
            catalogue_version="1",
            candidates=(),
            chosen=0,
        ),
    }
    return ResumeCommand(**values | fields)


class Orchestrator:
    """Reads what the agents of one tenant say from now on, and keeps all of it."""

    def __init__(
        self, bootstrap: str, tenant: str, answer: Answer = lambda _: None, wire_format: WireFormat = "json"
    ) -> None:
        self.tenant = tenant
        self.answer = answer
        self.wire_format = wire_format
        self.heard: list[Decoded] = []
        self.errors: list[BaseException] = []
        self._new = threading.Condition()
        self._stop = threading.Event()
        self._producer = Producer(
            {"bootstrap.servers": bootstrap, "partitioner": "murmur2_random", "linger.ms": 0, "log_level": 2}
        )
        self._consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "orchestrator", "log_level": 2})
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        ends = []
        for topic in (topics.FAILURES, topics.OUTCOMES, topics.CHECKPOINTS):
            for partition in range(topics.DEFAULT_PARTITIONS):
                ends.append(TopicPartition(topic.name, partition, self._end(topic.name, partition)))
        self._consumer.assign(ends)
        self._thread.start()
        return self

    def _end(self, topic: str, partition: int) -> int:
        until = time.monotonic() + _DEADLINE_S
        while True:
            try:
                return int(self._consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=1)[1])
            except KafkaException:  # a topic of this moment may have no leader yet
                assert time.monotonic() < until

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._consumer.close()
        if error is None and self.errors:
            raise self.errors[0]

    def command(self, command: ResumeCommand, trace: Iterable[tuple[str, bytes]] = ()) -> None:
        """Write a command and wait until it is there."""
        encoded = codec.encode(topics.COMMANDS, command, source="test", trace=trace, wire_format=self.wire_format)
        self._producer.produce(encoded.topic, encoded.value, encoded.key, headers=encoded.headers)
        assert self._producer.flush(_DEADLINE_S) == 0

    def all(self, kind: type[E]) -> list[E]:
        """Everything heard of this kind, in order."""
        with self._new:
            return [each.record for each in self.heard if isinstance(each.record, kind)]

    def wait_for(self, kind: type[E], count: int = 1) -> list[E]:
        """As `all`, once there are `count`."""
        with self._new:
            self._new.wait_for(lambda: self.errors or len(self.all(kind)) >= count, _DEADLINE_S)
        found = self.all(kind)
        assert len(found) >= count, f"{len(found)} of {count} {kind.__name__}"
        return found

    def failures(self, count: int = 1) -> list[FailureEvent]:
        return self.wait_for(FailureEvent, count)

    def outcomes(self, count: int = 1) -> list[ResumeOutcome]:
        return self.wait_for(ResumeOutcome, count)

    def checkpoints(self, count: int = 1) -> list[CheckpointSaved]:
        return self.wait_for(CheckpointSaved, count)

    def _run(self) -> None:
        while not self._stop.is_set():
            message = self._consumer.poll(0.05)
            if message is None or message.error() is not None:
                continue
            try:
                self._hear(message)
            except BaseException as error:
                self.errors.append(error)

    def _hear(self, message: Any) -> None:
        if not message.key().startswith(f"{self.tenant}/".encode()):
            return
        decoded = codec.decode(message.topic(), message.value(), message.headers())
        if not isinstance(decoded, Decoded):
            raise AssertionError(f"{message.topic()}: {decoded}")
        assert message.key() == decoded.record.key.encode()
        with self._new:
            self.heard.append(decoded)
            self._new.notify_all()
        if isinstance(decoded.record, FailureEvent):
            heard = Heard(decoded, message.partition(), message.offset())
            answer = self.answer(heard)
            answers = [] if answer is None else [answer] if isinstance(answer, ResumeCommand) else list(answer)
            for each in answers:
                self.command(each, heard.trace)


def eventually(holds: Callable[[], bool], deadline_s: float = _DEADLINE_S) -> None:
    """Poll until `holds`; fail at the deadline."""
    until = time.monotonic() + deadline_s
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)
