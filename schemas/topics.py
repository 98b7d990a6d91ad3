"""Every topic: its record, key, partitions, retention and size limit.

Topic names go through `topic()` alone, so that a tenant prefix can come later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from schemas.records import (
    Category,
    CheckpointSaved,
    ConfidenceRow,
    DeadLetter,
    DependencyReport,
    DependencyState,
    Disposition,
    Escalation,
    Event,
    FailureEvent,
    Incident,
    OperatorAction,
    Pause,
    Permit,
    RecoveryOptions,
    RecoveryResult,
    ResumeCommand,
    ResumeOutcome,
    SettledAttempt,
)

DEFAULT_PARTITIONS: Final = 4
_KIB: Final = 1024
_DAY_MS: Final = 24 * 3600 * 1000
MAX_BATCH_BYTES: Final = 1024 * _KIB
"""Of records that a worker writes at once to one partition of a topic that is not the agents'."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """One topic of the contract."""

    name: str
    record: type[Event] | None
    """None: the value is state of a worker, in that worker's own encoding."""
    key: str
    """What the message key is, for people."""
    retention_ms: int | None
    """None: compacted, kept for ever. -1: every record, for ever."""
    max_message_bytes: int
    audited: bool = True
    from_agents: bool = False
    """Written by runtimes, or by people's tools: untrusted bytes, Avro or JSON."""

    @property
    def compacted(self) -> bool:
        return self.retention_ms is None

    @property
    def max_batch_bytes(self) -> int:
        """What the broker takes at once: it measures nothing else. The size of one record of ours the workers check."""
        return self.max_message_bytes if self.from_agents else max(self.max_message_bytes, MAX_BATCH_BYTES)

    @property
    def config(self) -> dict[str, str]:
        """Topic configuration, as CreateTopics takes it."""
        config = {
            "max.message.bytes": str(self.max_batch_bytes),
            # Deadlines and order are by the broker's clock: an agent's clock may be off by hours.
            "message.timestamp.type": "LogAppendTime",
        }
        if self.from_agents:
            # Makes the broker unpack and measure each batch: 13 KB of zstd can hold 300 MB of zeros,
            # and would stall every librdkafka consumer of the partition for good.
            config["compression.type"] = "uncompressed"
        if self.retention_ms is None:
            config["cleanup.policy"] = "compact"
            # A tombstone must outlive the longest restore, else a restore resurrects what was deleted.
            config["delete.retention.ms"] = str(_DAY_MS)
            config["min.cleanable.dirty.ratio"] = "0.1"
            config["segment.ms"] = str(3600 * 1000)
        else:
            config["cleanup.policy"] = "delete"
            config["retention.ms"] = str(self.retention_ms)
        return config


def topic(name: str) -> str:
    """The name on the broker of the topic called `name` here."""
    return name


_EXECUTION = "tenant_id/execution_id"
_STRATUM = "subtype|severity|attempt_class|strategy"

FAILURES: Final = Topic(
    name=topic("agent.failures.v1"),
    record=FailureEvent,
    key=_EXECUTION,
    retention_ms=7 * _DAY_MS,
    max_message_bytes=256 * _KIB,
    from_agents=True,
)
CHECKPOINTS: Final = Topic(
    name=topic("agent.checkpoints.v1"),
    record=CheckpointSaved,
    key=_EXECUTION,
    retention_ms=7 * _DAY_MS,
    max_message_bytes=64 * _KIB,
    from_agents=True,
)
OUTCOMES: Final = Topic(
    name=topic("agent.outcomes.v1"),
    record=ResumeOutcome,
    key=_EXECUTION,
    retention_ms=7 * _DAY_MS,
    max_message_bytes=256 * _KIB,
    from_agents=True,
)

OPERATOR_ACTIONS: Final = Topic(
    name=topic("operator.actions.v1"),
    record=OperatorAction,
    key=_EXECUTION,
    retention_ms=30 * _DAY_MS,
    max_message_bytes=64 * _KIB,
    from_agents=True,
)
OPERATOR_PAUSES: Final = Topic(
    name=topic("operator.pauses.v1"),
    record=Pause,
    key="scope:target",
    # Not compacted: an old pause, sent once more, would be the last record of its key, and outlive the newer word.
    retention_ms=-1,
    max_message_bytes=64 * _KIB,
    from_agents=True,
)


def _options(category: str) -> Topic:
    return Topic(
        name=topic(f"recovery.options.{category}.v1"),
        record=RecoveryOptions,
        key=_EXECUTION,
        retention_ms=7 * _DAY_MS,
        max_message_bytes=512 * _KIB,
    )


OPTIONS: Final[dict[Category, Topic]] = {
    Category.HALLUCINATION: _options("hallucination"),
    Category.TOOL_FAILURE: _options("tool-failure"),
    Category.LOGICAL_ERROR: _options("logical-error"),
    Category.PERFORMANCE: _options("performance"),
    Category.UNCLASSIFIED: (_unclassified := _options("unclassified")),
    # Control flow is no failure: recover ends it, whatever the topic.
    Category.NONE: _unclassified,
}
COMMANDS: Final = Topic(
    name=topic("recovery.commands.v1"),
    record=ResumeCommand,
    key=_EXECUTION,
    retention_ms=7 * _DAY_MS,
    max_message_bytes=512 * _KIB,
)
RESULTS: Final = Topic(
    name=topic("recovery.results.v1"),
    record=RecoveryResult,
    key=_EXECUTION,
    retention_ms=30 * _DAY_MS,
    max_message_bytes=512 * _KIB,
)
ESCALATIONS: Final = Topic(
    name=topic("recovery.escalations.v1"),
    record=Escalation,
    key=_EXECUTION,
    retention_ms=30 * _DAY_MS,
    max_message_bytes=512 * _KIB,
)
SETTLED: Final = Topic(
    name=topic("recovery.settled.v1"),
    record=SettledAttempt,
    key=_STRATUM,
    retention_ms=14 * _DAY_MS,
    max_message_bytes=64 * _KIB,
)
DISPOSITIONS: Final = Topic(
    name=topic("recovery.dispositions.v1"),
    record=Disposition,
    key=_EXECUTION,
    retention_ms=7 * _DAY_MS,
    max_message_bytes=64 * _KIB,
)
DEAD_LETTERS: Final = Topic(
    name=topic("recovery.dead-letters.v1"),
    record=DeadLetter,
    key="origin topic:partition:offset",
    retention_ms=30 * _DAY_MS,
    max_message_bytes=1024 * _KIB,
)
CONFIDENCE: Final = Topic(
    name=topic("recovery.confidence.v1"),
    record=ConfidenceRow,
    key=_STRATUM,
    retention_ms=None,
    max_message_bytes=64 * _KIB,
    audited=False,
)
RECOVER_STATE: Final = Topic(
    name=topic("recovery.state.v1"),
    record=None,
    key="tenant_id/execution_id, or the input whose applied offset it is",
    retention_ms=None,
    max_message_bytes=1024 * _KIB,
    audited=False,
)
_DEPENDENCY: Final = "tenant_id/tool:NAME or tenant_id/model:NAME"
DEPENDENCY_REPORTS: Final = Topic(
    name=topic("recovery.dependency-reports.v1"),
    record=DependencyReport,
    key="tenant_id",
    retention_ms=_DAY_MS,
    max_message_bytes=512 * _KIB,
    # Sums of what the audited topics say one by one.
    audited=False,
)
DEPENDENCIES: Final = Topic(
    name=topic("recovery.dependencies.v1"),
    record=DependencyState,
    key=f"{_DEPENDENCY}, in the partition of the tenant",
    retention_ms=None,
    max_message_bytes=64 * _KIB,
    audited=False,
)
PERMITS: Final = Topic(
    name=topic("recovery.permits.v1"),
    record=Permit,
    key=_EXECUTION,
    retention_ms=7 * _DAY_MS,
    max_message_bytes=64 * _KIB,
)
INCIDENTS: Final = Topic(
    name=topic("recovery.incidents.v1"),
    record=Incident,
    key=_DEPENDENCY,
    retention_ms=30 * _DAY_MS,
    max_message_bytes=64 * _KIB,
)
TICKS: Final = Topic(
    name=topic("recovery.ticks.v1"),
    record=None,
    key="none: an empty record a second in each of the first partitions, whose append times are the brokers' clocks",
    retention_ms=3600 * 1000,
    max_message_bytes=_KIB,
    audited=False,
)

OPTION_TOPICS: Final = tuple(dict.fromkeys(OPTIONS.values()))
RECOVER_INPUTS: Final = (FAILURES, CHECKPOINTS, OUTCOMES, *OPTION_TOPICS, OPERATOR_ACTIONS, PERMITS)
"""What recover reads: one partition number of all of them has one writer, so their counts must be equal."""
TOPICS: Final = (
    FAILURES,
    CHECKPOINTS,
    OUTCOMES,
    *OPTION_TOPICS,
    OPERATOR_ACTIONS,
    OPERATOR_PAUSES,
    COMMANDS,
    RESULTS,
    ESCALATIONS,
    SETTLED,
    DISPOSITIONS,
    DEAD_LETTERS,
    CONFIDENCE,
    DEPENDENCY_REPORTS,
    DEPENDENCIES,
    PERMITS,
    INCIDENTS,
    RECOVER_STATE,
    TICKS,
)
BY_NAME: Final = {t.name: t for t in TOPICS}
AUDITED: Final = tuple(t for t in TOPICS if t.audited)
