"""A load on a real broker, workers as processes, and a reader that shares no code with them but the codec."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import orjson
from confluent_kafka import OFFSET_BEGINNING, Consumer, IsolationLevel, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from recover_world import option

from ops.runtime.child import Child
from ops.runtime.settings import Settings
from schemas import codec
from schemas.records import (
    Category,
    Checkpoint,
    Classification,
    ErrorInfo,
    Event,
    FailureEvent,
    Option,
    Origin,
    RecoveryOptions,
    ResumeCommand,
    ResumeOutcome,
    Strategy,
    from_epoch_ms,
)
from schemas.topics import (
    BY_NAME,
    COMMANDS,
    DEAD_LETTERS,
    DISPOSITIONS,
    ESCALATIONS,
    FAILURES,
    OPTIONS,
    OUTCOMES,
    RESULTS,
    SETTLED,
)

OUTPUTS = (COMMANDS, RESULTS, ESCALATIONS, SETTLED, DISPOSITIONS, DEAD_LETTERS)
LADDER = (Strategy.FALLBACK_SERVICE, Strategy.EXPONENTIAL_BACKOFF, Strategy.INCREASE_TIMEOUT)


def eventually(what: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Wait until `what()` is true. Raises AssertionError with its last value."""
    deadline = time.monotonic() + timeout_s
    while not (value := what()):
        assert time.monotonic() < deadline, value
        time.sleep(0.05)


class Load:
    """Failures and options for executions of one tenant, and the answers of their runtime."""

    def __init__(self, settings: Settings, tenant: str) -> None:
        self.settings = settings
        self.tenant = tenant
        self.producer = Producer(settings.producer())
        self.failed: dict[str, tuple[int, int]] = {}
        self.answered: set[str] = set()
        self.text: dict[int, str] = {}
        """Prompts that some runs get."""

    def run(self, n: int) -> str:
        return f"run-{n}"

    def fail(self, runs: range, *, partition: int | None = None, offer: bool = True, text: str = "") -> None:
        """One failure for each run, which says `text`, and options for it."""
        for n in runs:
            record = FailureEvent(
                tenant_id=self.tenant,
                execution_id=self.run(n),
                failure_id="f1",
                checkpoint=Checkpoint(id="c"),
                error=ErrorInfo(message=text),
            )
            message = codec.encode(FAILURES, record, source="test")
            extra = {} if partition is None else {"partition": partition}
            self.producer.produce(
                message.topic, key=message.key, value=message.value, on_delivery=self._placed(self.run(n)), **extra
            )
        assert self.producer.flush(30) == 0
        for n in runs if offer else ():
            self.offer(n)
        assert self.producer.flush(30) == 0

    def _placed(self, run: str) -> Callable[..., None]:
        def placed(error: object, message: object) -> None:
            assert error is None
            self.failed[run] = (message.partition(), message.offset())  # type: ignore[attr-defined]

        return placed

    def offer(self, n: int, place: tuple[int, int] | None = None) -> None:
        partition, offset = place or self.failed[self.run(n)]
        record = RecoveryOptions(
            tenant_id=self.tenant, execution_id=self.run(n), failure_id="f1",
            origin=Origin(partition=partition, offset=offset),
            classification=Classification(category=Category.TOOL_FAILURE, subtype="timeout"),
            options=self._options(n),
            rules_version="r", catalogue_version="c", decided_at=from_epoch_ms(0),
        )  # fmt: skip
        self.send(OPTIONS[Category.TOOL_FAILURE].name, record)

    def _options(self, n: int) -> tuple[Option, ...]:
        if text := self.text.get(n):
            return (option(Strategy.CONSTRAINT_INJECTION, parameters=orjson.dumps({"text": text}).decode()),)
        return tuple(option(strategy) for strategy in LADDER)

    def send(self, topic: str, record: Event, times: int = 1) -> None:
        message = codec.encode(BY_NAME[topic], record, source="test")
        for _ in range(times):
            self.producer.produce(message.topic, key=message.key, value=message.value)

    def answer(self, commands: list[ResumeCommand], times: int = 1) -> None:
        """Each command succeeded; said `times` times."""
        for command in commands:
            if command.command_id in self.answered:
                continue
            self.answered.add(command.command_id)
            outcome = ResumeOutcome(
                command_id=command.command_id, recovery_id=command.recovery_id, attempt=command.attempt,
                tenant_id=command.tenant_id, execution_id=command.execution_id, status="succeeded",
            )  # fmt: skip
            self.send(OUTCOMES.name, outcome, times)
        assert self.producer.flush(30) == 0


class Reader:
    """All committed records of the output topics, of one tenant."""

    def __init__(self, settings: Settings, tenant: str) -> None:
        self._settings = settings
        self._tenant = tenant
        self._admin = AdminClient(settings.kafka())
        self._consumer = Consumer(
            settings.kafka(
                **{
                    "group.id": "reader",
                    "isolation.level": "read_committed",
                    "enable.partition.eof": True,
                    "enable.auto.commit": False,
                    "fetch.wait.max.ms": 20,
                }
            )
        )
        self.partitions = [TopicPartition(t.name, p) for t in OUTPUTS for p in range(settings.partitions)]
        self._consumer.assign([TopicPartition(tp.topic, tp.partition, OFFSET_BEGINNING) for tp in self.partitions])
        self.records: dict[str, list[Event]] = {topic.name: [] for topic in OUTPUTS}

    def poll(self) -> None:
        """Take what can be read within a moment."""
        for message in self._consumer.consume(2000, 0.05):
            if message.error() is not None:
                assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
                continue
            decoded = codec.decode(message.topic(), message.value(), message.headers())
            assert isinstance(decoded, codec.Decoded), decoded
            if getattr(decoded.record, "tenant_id", self._tenant) == self._tenant:
                self.records[message.topic()].append(decoded.record)

    @property
    def commands(self) -> list[ResumeCommand]:
        return [r for r in self.records[COMMANDS.name] if isinstance(r, ResumeCommand)]

    def of(self, topic: str) -> list:  # type: ignore[type-arg]
        self.poll()
        return self.records[topic]

    def has(self, topic: str, count: int) -> Callable[[], bool]:
        return lambda: len(self.of(topic)) >= count

    def transactions_have_ended(self) -> bool:
        ends = []
        for isolation in (IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED):
            asked = {TopicPartition(tp.topic, tp.partition): OffsetSpec.latest() for tp in self.partitions}
            futures = self._admin.list_offsets(asked, isolation_level=isolation)
            ends.append({(tp.topic, tp.partition): f.result(10).offset for tp, f in futures.items()})
        return ends[0] == ends[1]

    def check_once(self, runs: int, attempts: int = 1) -> None:
        """One command per attempt, one result and one settled attempt per recovery, for every run; nothing open."""
        eventually(self.transactions_have_ended)
        for _ in range(5):
            self.poll()
        commands = Counter((c.execution_id, c.attempt) for c in self.commands)
        assert set(commands.values()) == {1}, [key for key, n in commands.items() if n > 1]
        assert len(commands) == runs * attempts
        assert len({c.command_id for c in self.commands}) == len(commands)
        results = Counter(r.execution_id for r in self.records[RESULTS.name])  # type: ignore[attr-defined]
        assert results == Counter({c.execution_id: 1 for c in self.commands})
        settled = Counter(s.command_id for s in self.records[SETTLED.name])  # type: ignore[attr-defined]
        assert settled == Counter(c.command_id for c in self.commands)

    def close(self) -> None:
        self._consumer.close()


def finish(load: Load, reader: Reader, runs: int) -> None:
    """Every command is answered until every run has its result."""

    def ended() -> bool:
        reader.poll()
        load.answer(reader.commands, times=2)
        return len(reader.records[RESULTS.name]) >= runs

    eventually(ended, 90)


def worker(settings: Settings, log: Path, *, failpoints: str = "", policy: Path | None = None) -> Child:
    """A recover worker in a process of its own."""
    env = {
        **os.environ,
        "OMIUM_BOOTSTRAP": settings.bootstrap,
        "OMIUM_APP": settings.app,
        "OMIUM_FAILPOINTS": failpoints,
        "OMIUM_LOG_LEVEL": "INFO",
    }
    if policy:
        env["OMIUM_POLICY_FILE"] = str(policy)
    return Child([sys.executable, "-m", "processors.recover.main"], log=log, env=env)
