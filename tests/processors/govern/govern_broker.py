"""An outage on a real broker: runs of two tools that fail, a runtime that obeys, workers as processes."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Producer, TopicPartition

from ops.runtime.child import Child
from ops.runtime.settings import Settings
from schemas import codec
from schemas.records import (
    Category,
    Checkpoint,
    Classification,
    Event,
    FailureEvent,
    Option,
    Origin,
    RecoveryOptions,
    ResumeCommand,
    ResumedBy,
    ResumeOutcome,
    Strategy,
    ToolResponse,
    from_epoch_ms,
)
from schemas.topics import (
    BY_NAME,
    COMMANDS,
    DEAD_LETTERS,
    DEPENDENCIES,
    ESCALATIONS,
    FAILURES,
    INCIDENTS,
    OPTIONS,
    OUTCOMES,
    PERMITS,
    RESULTS,
)

OUTPUTS = (COMMANDS, RESULTS, ESCALATIONS, INCIDENTS, PERMITS, DEPENDENCIES, DEAD_LETTERS)


def eventually(what: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Wait until `what()` is true. Raises AssertionError with its last value."""
    deadline = time.monotonic() + timeout_s
    while not (value := what()):
        assert time.monotonic() < deadline, value
        time.sleep(0.02)


def worker(settings: Settings, name: str, log: Path, policy: Path) -> Child:
    """A worker in a process of its own."""
    env = {
        **os.environ,
        "OMIUM_BOOTSTRAP": settings.bootstrap,
        "OMIUM_APP": settings.app,
        "OMIUM_POLICY_FILE": str(policy),
    }
    return Child([sys.executable, "-m", f"processors.{name}.main"], log=log, env=env)


class Runtime:
    """Runs whose step calls `tool_of(run)`: obeys commands at once, and fails again while that tool is down."""

    def __init__(self, settings: Settings, tenant: str) -> None:
        self.tenant = tenant
        self.down: set[str] = set()
        self.calls: dict[str, list[tuple[float, bool]]] = {}
        """Tool to (time, whether it worked) of each call that a command caused."""
        self.records: dict[str, list[Any]] = {topic.name: [] for topic in OUTPUTS}
        self._producer = Producer(settings.producer())
        self._tools: dict[str, str] = {}
        self._failures = 0
        self._classified: list[RecoveryOptions] = []
        self._obeyed = 0
        self._consumer = Consumer(
            settings.kafka(
                **{
                    "group.id": "runtime",
                    "isolation.level": "read_committed",
                    "enable.auto.commit": False,
                    "fetch.wait.max.ms": 20,
                }
            )
        )
        partitions = range(settings.partitions)
        self._consumer.assign([TopicPartition(t.name, p, OFFSET_BEGINNING) for t in OUTPUTS for p in partitions])

    def fail(self, run: str, tool: str, by: ResumeCommand | None = None) -> None:
        """The run fails at `tool`, and streams knows why."""
        self._tools[run] = tool
        self._failures += 1
        failure_id = f"f{self._failures}"
        record = FailureEvent(
            tenant_id=self.tenant,
            execution_id=run,
            failure_id=failure_id,
            checkpoint=Checkpoint(id="c"),
            # Another call each time: the same remedy may be tried again.
            tool_response=ToolResponse(tool=tool, status_code=429, call_fingerprint=failure_id),
            resumed_by=ResumedBy(recovery_id=by.recovery_id, attempt=by.attempt) if by else None,
        )

        def placed(error: KafkaError | None, message: Any) -> None:
            assert error is None
            origin = Origin(partition=message.partition(), offset=message.offset())
            verdict = Classification(category=Category.TOOL_FAILURE, subtype="rate_limit")
            backoff = Option(
                strategy=Strategy.EXPONENTIAL_BACKOFF, parameters='{"max_attempts":1}', confidence=0.9, prior=0.9
            )
            options = RecoveryOptions(
                tenant_id=self.tenant, execution_id=run, failure_id=failure_id, origin=origin, classification=verdict,
                options=(backoff,), rules_version="r", catalogue_version="c", decided_at=from_epoch_ms(0),
            )  # fmt: skip
            self._classified.append(options)

        message = codec.encode(FAILURES, record, source="test")
        self._producer.produce(message.topic, key=message.key, value=message.value, on_delivery=placed)

    def _send(self, topic: str, record: Event) -> None:
        message = codec.encode(BY_NAME[topic], record, source="test")
        self._producer.produce(message.topic, key=message.key, value=message.value)

    def work(self) -> None:
        """Read what there is, and obey the commands in it."""
        self._producer.poll(0)
        for message in self._consumer.consume(2000, 0.05):
            if message.error() is None and message.value():
                decoded = codec.decode(message.topic() or "", message.value(), None)
                assert isinstance(decoded, codec.Decoded), decoded
                if decoded.record.key.startswith(f"{self.tenant}/"):
                    self.records[message.topic() or ""].append(decoded.record)
        commands: list[ResumeCommand] = self.records[COMMANDS.name]
        for command in commands[self._obeyed :]:
            self._obey(command)
        self._obeyed = len(commands)
        assert self._producer.flush(10) == 0
        for options in self._classified:
            self._send(OPTIONS[Category.TOOL_FAILURE].name, options)
        self._classified.clear()
        assert self._producer.flush(10) == 0

    def _obey(self, command: ResumeCommand) -> None:
        run = command.execution_id
        tool = self._tools[run]
        works = tool not in self.down
        self.calls.setdefault(tool, []).append((time.monotonic(), works))
        if not works:
            return self.fail(run, tool, command)
        outcome = ResumeOutcome(
            command_id=command.command_id, recovery_id=command.recovery_id, attempt=command.attempt,
            tenant_id=self.tenant, execution_id=run, status="succeeded", applied="all",
        )  # fmt: skip
        return self._send(OUTCOMES.name, outcome)

    def work_for(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.work()

    def ended(self, count: int) -> Callable[[], bool]:
        def ended() -> bool:
            self.work()
            return len(self.records[RESULTS.name]) >= count

        return ended

    def close(self) -> None:
        self._consumer.close()
