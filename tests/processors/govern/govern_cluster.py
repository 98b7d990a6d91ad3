"""Four partitions of recover and a governor, as their ledgers, with news that travel slowly and runs that obey.

All of it is simulated in steps of time: reports, the governor's broadcast and its permits arrive `news_ms` late.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from processors.govern.book import Book
from processors.recover.ledger import Ledger, Message, Raw
from processors.recover.partitioner import partition_of
from processors.recover.policy import Policies
from processors.recover.view import Allowance, Standings, View
from schemas import codec
from schemas.records import (
    Category,
    Checkpoint,
    Classification,
    DependencyReport,
    Event,
    FailureEvent,
    Incident,
    Option,
    Origin,
    RecoveryOptions,
    RecoveryResult,
    ResumeCommand,
    ResumedBy,
    ResumeOutcome,
    Strategy,
    ToolResponse,
    from_epoch_ms,
)
from schemas.topics import (
    DEPENDENCIES,
    DEPENDENCY_REPORTS,
    FAILURES,
    OPTIONS,
    OUTCOMES,
    PERMITS,
)

START_MS = 1_800_000_000_000
STEP_MS = 100
PARTITIONS = 4
RUN_MS = 300
"""A resumed run takes so long to fail or to succeed."""
_OPTIONS = OPTIONS[Category.TOOL_FAILURE].name
_BACKOFF = Option(strategy=Strategy.EXPONENTIAL_BACKOFF, parameters='{"max_attempts":1}', confidence=0.9, prior=0.9)


@dataclass
class Cluster:
    """`down`: tools that fail. Records of what was said are kept by type."""

    policies: Policies
    news_ms: int
    now: int = START_MS
    down: set[str] = field(default_factory=set)
    said: dict[type, list[Any]] = field(default_factory=lambda: defaultdict(list))
    commands: list[tuple[int, str, ResumeCommand]] = field(default_factory=list)
    """(time, tool, command)"""
    unpermitted: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.ledgers = [Ledger(n, PARTITIONS, self.policies) for n in range(PARTITIONS)]
        self.views: list[tuple[Standings, dict[str, Allowance]]] = [
            (Standings(lambda: self.now), {}) for _ in range(PARTITIONS)
        ]
        self.book = Book(0, 1, self.policies)
        self.broadcast: dict[bytes, bytes | None] = {}
        self._inboxes: list[list[Raw]] = [[] for _ in range(PARTITIONS)]
        self._reports: list[Raw] = []
        self._offsets: Counter[tuple[str, int]] = Counter()
        self._later: list[tuple[int, int, Callable[[], None]]] = []
        self._order = count()
        self._tools: dict[str, str] = {}
        self._failures = 0

    # --- what happens later

    def later(self, ms: int, what: Callable[[], None]) -> None:
        heapq.heappush(self._later, (self.now + ms, next(self._order), what))

    def _raw(self, topic: str, partition: int, key: bytes, value: bytes | None) -> Raw:
        offset = self._offsets[topic, partition]
        self._offsets[topic, partition] += 1
        return Raw(topic, partition, offset, self.now, key, value)

    def _tell(self, topic: str, record: Event) -> Raw:
        key = record.key.encode()
        partition = partition_of(key, PARTITIONS)
        raw = self._raw(topic, partition, key, codec.to_avro(record))
        self._inboxes[partition].append(raw)
        return raw

    # --- runs

    def fail(self, run: str, tool: str, by: ResumeCommand | None = None) -> None:
        self._failures += 1
        self._tools[run] = tool
        failure_id = f"f{self._failures}"
        raw = self._tell(
            FAILURES.name,
            FailureEvent(
                tenant_id="acme", execution_id=run, failure_id=failure_id, checkpoint=Checkpoint(id="c"),
                tool_response=ToolResponse(tool=tool, call_fingerprint=failure_id),
                resumed_by=ResumedBy(recovery_id=by.recovery_id, attempt=by.attempt) if by else None,
            ),
        )  # fmt: skip
        self._tell(
            _OPTIONS,
            RecoveryOptions(
                tenant_id="acme", execution_id=run, failure_id=failure_id,
                origin=Origin(partition=raw.partition, offset=raw.offset),
                classification=Classification(category=Category.TOOL_FAILURE, subtype="service_unavailable"),
                options=(_BACKOFF,), rules_version="r", catalogue_version="c", decided_at=from_epoch_ms(0),
            ),
        )  # fmt: skip

    def _obey(self, command: ResumeCommand) -> None:
        run = command.execution_id
        tool = self._tools[run]
        self.commands.append((self.now, tool, command))
        if tool in self.down:
            self.later(RUN_MS, lambda: self.fail(run, tool, command))
            return
        outcome = ResumeOutcome(
            command_id=command.command_id, recovery_id=command.recovery_id, attempt=command.attempt,
            tenant_id="acme", execution_id=run, status="succeeded", applied="all",
        )  # fmt: skip
        self.later(RUN_MS, lambda: self._tell(OUTCOMES.name, outcome) and None)

    # --- workers

    def pass_time(self, ms: int, each: Callable[[], None] = lambda: None) -> None:
        """Everything that is due until then, in steps; `each` is called in every step."""
        for _ in range(ms // STEP_MS):
            self.now += STEP_MS
            each()
            while self._later and self._later[0][0] <= self.now:
                heapq.heappop(self._later)[2]()
            for number in range(PARTITIONS):
                self._recover(number)
            self._govern()

    def _recover(self, number: int) -> None:
        ledger, (standings, allowances) = self.ledgers[number], self.views[number]
        batch, self._inboxes[number] = self._inboxes[number], []
        view = View(dependencies=standings.known, allowances=allowances)
        staged = ledger.stage(batch, self.now, fire_until=self.now, tokens=10_000, view=view)
        ledger.commit(staged)
        for record in staged.emitted:
            self.said[type(record)].append(record)
            if isinstance(record, ResumeCommand):
                self._obey(record)
            elif isinstance(record, DependencyReport):
                self.unpermitted[record.dependency] += record.unpermitted
        for message in staged.messages:
            if message.topic == DEPENDENCY_REPORTS.name:
                self.later(self.news_ms, lambda message=message: self._report(message))  # type: ignore[misc]

    def _report(self, message: Message) -> None:
        self._reports.append(self._raw(message.topic, 0, message.key or b"", message.value))

    def _govern(self) -> None:
        batch, self._reports = self._reports, []
        turned = self.book.stage(batch, self.now, fire_until=self.now)
        self.book.commit(turned)
        for record in turned.emitted:
            self.said[type(record)].append(record)
        for message in turned.messages:
            if message.topic == DEPENDENCIES.name:
                self.broadcast[message.key or b""] = message.value
                self.later(self.news_ms, lambda message=message: self._hear(message))  # type: ignore[misc]
            elif message.topic == PERMITS.name:
                self.later(self.news_ms, lambda message=message: self._permit(message))  # type: ignore[misc]

    def _hear(self, message: Message) -> None:
        for standings, _ in self.views:
            standings.take(message.key or b"", message.value, self.now)

    def _permit(self, message: Message) -> None:
        key = message.key or b""
        partition = partition_of(key, PARTITIONS)
        self._inboxes[partition].append(self._raw(message.topic, partition, key, message.value))

    def kill_governor(self) -> None:
        """What was under way to it is read by its successor, which knows no more than what it broadcast."""
        self.book = Book(0, 1, self.policies)
        for key, value in self.broadcast.items():
            self.book.restore(key, value)
        self.book.forget_beyond({})

    @property
    def results(self) -> list[RecoveryResult]:
        return self.said[RecoveryResult]

    @property
    def incidents(self) -> list[Incident]:
        return self.said[Incident]
