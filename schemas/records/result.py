"""How things ended: attempts, recoveries, what was done with each input, and what could not be read."""

from __future__ import annotations

from pydantic import Field

from schemas.records.base import (
    Amount,
    Bytes,
    Count,
    Event,
    Id,
    JsonText,
    Lenient,
    Many,
    MicroUsd,
    Probability,
    Record,
    TenantId,
    UtcMs,
    WireEnum,
    execution_key,
)
from schemas.records.command import Candidate, Modification
from schemas.records.failure import Checkpoint
from schemas.records.options import Category, Classification, Severity, Strategy, stratum_key


class ResultStatus(WireEnum):
    """How a recovery ended."""

    UNKNOWN = "unknown"
    SUCCESS = "success"
    PARTIAL = "partial"
    """At least one command was issued, none succeeded."""
    FAILED = "failed"
    """No command was issued."""


class ResultReason(WireEnum):
    """Why it ended so."""

    UNKNOWN = "unknown"
    RECOVERED = "recovered"
    NO_CHECKPOINT = "no_checkpoint"
    UNCLASSIFIED = "unclassified"
    NO_OPTIONS = "no_options"
    EXHAUSTED = "exhausted"
    """Every allowed rung was tried."""
    EXPIRED = "expired"
    """Its time ran out."""
    OVER_BUDGET = "over_budget"
    REJECTED = "rejected"
    ABANDONED = "abandoned"
    NOT_A_FAILURE = "not_a_failure"
    NEEDS_HUMAN = "needs_human"
    """What is left only a person may decide."""
    INTERNAL_ERROR = "internal_error"


class RecoveryResult(Event):
    """A recovery ended."""

    type_name = "recovery_result"

    recovery_id: Id
    failure_id: Id
    """The failure that opened it."""
    tenant_id: TenantId
    execution_id: Id
    failure_type: Lenient[Category]
    subtype: str = ""
    status: Lenient[ResultStatus]
    reason: Lenient[ResultReason]
    error: str = ""
    options_considered: Many[Candidate] = ()
    selected_option: Lenient[Strategy] | None = None
    """The strategy of the last command."""
    attempts: Count = 0
    retry_success: bool = False
    final_output: JsonText | None = None
    total_cost_microusd: MicroUsd = 0
    total_duration_s: Amount = 0.0
    """From the broker's time of the failure to this result."""
    started_at: UtcMs
    ended_at: UtcMs
    incident_id: Id | None = None
    """The outage because of which a person is needed: it speaks for all its recoveries, instead of escalations."""

    @property
    def event_id(self) -> str:
        return f"{self.recovery_id}:result"

    @property
    def key(self) -> str:
        return execution_key(self.tenant_id, self.execution_id)


class Proposal(Record):
    """One answer that a person may give."""

    strategy: Lenient[Strategy]
    confidence: Probability
    cost_microusd: MicroUsd = 0
    latency_s: Amount = 0.0
    modifications: Many[Modification]
    """As the command would carry them."""
    why: str = ""
    """Why it is offered or, where it was refused, what forbade it without a person."""
    refused: bool = False


class Escalation(Event):
    """A person is needed; holds what they need to decide."""

    type_name = "escalation"

    recovery_id: Id
    failure_id: Id
    tenant_id: TenantId
    execution_id: Id
    reason: Lenient[ResultReason]
    summary: str
    """One sentence: what failed, what was tried, what is asked."""
    classification: Classification | None = None
    checkpoint: Checkpoint | None = None
    options: Many[Candidate] = ()
    attempts: Count = 0
    escalated_at: UtcMs
    attempt: Count = 0
    """The attempt that is asked about; 0: nothing can be decided here, the recovery has ended."""
    approval_hash: str = ""
    """Of the question; an operator's action counts for the question that it names."""
    proposals: Many[Proposal] = ()
    """What may be answered; approve means the first."""
    unsafe_effects: bool = False
    """The run says that running again would repeat an effect that must not be repeated."""
    expires_at: UtcMs | None = None
    """Without an answer by then the recovery ends."""

    @property
    def event_id(self) -> str:
        return ":".join(filter(None, (self.recovery_id, "escalation", self.approval_hash[:16])))

    @property
    def key(self) -> str:
        return execution_key(self.tenant_id, self.execution_id)


class SettledStatus(WireEnum):
    """How one attempt ended, for learning."""

    UNKNOWN = "unknown"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    EXPIRED = "expired"
    """No word by its deadline; counts as a failure."""
    NOT_APPLIED = "not_applied"
    """Teaches nothing about the strategy."""


class SettledAttempt(Event):
    """One attempt ended. Keyed by what is counted, so that each count has one writer."""

    type_name = "settled_attempt"

    recovery_id: Id
    command_id: Id
    attempt: int = Field(ge=1, le=1000)
    tenant_id: TenantId
    execution_id: Id
    category: Lenient[Category]
    subtype: str
    severity: Lenient[Severity]
    strategy: Lenient[Strategy]
    status: Lenient[SettledStatus]
    cost_microusd: MicroUsd = 0
    duration_s: Amount = 0.0
    settled_at: UtcMs

    @property
    def attempt_class(self) -> str:
        return "1" if self.attempt == 1 else "2+"

    @property
    def event_id(self) -> str:
        return f"{self.command_id}:settled"

    @property
    def key(self) -> str:
        return stratum_key(self.subtype, self.severity, self.attempt_class, self.strategy)


class DispositionKind(WireEnum):
    """What recover did with one input record."""

    UNKNOWN = "unknown"
    OPENED = "opened"
    """The failure opened a recovery; left out where the same transaction says what became of it."""
    JOINED = "joined"
    """The failure belongs to a recovery that is open."""
    COMMANDED = "commanded"
    HELD = "held"
    ESCALATED = "escalated"
    ENDED = "ended"
    """Ended its recovery without a command or an escalation."""
    DUPLICATE = "duplicate"
    EXPIRED = "expired"
    """Older than the memory of duplicates: too late to act on."""
    IGNORED = "ignored"
    """Control flow: no failure."""
    PHANTOM = "phantom"
    """An outcome for a command that this log does not hold."""
    STALE = "stale"
    """An outcome, or a repeated failure, of an older attempt."""
    FORWARDED = "forwarded"
    """Found in the wrong partition, passed on to the right one."""
    REFUSED = "refused"
    """An operator's action that must not be carried out."""


class Disposition(Event):
    """What became of one failure or outcome. Each acknowledged failure has one that is not `opened`."""

    type_name = "disposition"

    tenant_id: TenantId
    execution_id: Id
    subject: str = Field(pattern=r"^(failure|outcome|options|checkpoint|operator|permit)$")
    subject_id: Id
    kind: Lenient[DispositionKind]
    reason: str = ""
    recovery_id: Id | None = None
    attempt: Count = 0
    origin_topic: str
    origin_partition: Count
    origin_offset: Count
    decided_at: UtcMs

    @property
    def event_id(self) -> str:
        return f"{self.origin_topic}:{self.origin_partition}:{self.origin_offset}:{self.kind}"

    @property
    def key(self) -> str:
        return execution_key(self.tenant_id, self.execution_id)


class DeadLetterReason(WireEnum):
    """Why a record could not be handled."""

    UNKNOWN = "unknown"
    EMPTY = "empty"
    OVERSIZED = "oversized"
    NOT_UTF8 = "not_utf8"
    NOT_JSON = "not_json"
    TOO_DEEP = "too_deep"
    INVALID = "invalid"
    """Well formed, but not the record of this topic; the error names the field."""
    NOT_AVRO = "not_avro"
    UNKNOWN_SCHEMA = "unknown_schema"
    """A newer writer's: kept whole, for replay after the upgrade."""
    WRONG_RECORD = "wrong_record"
    HANDLER_ERROR = "handler_error"
    """Our own handler failed on it, repeatedly."""
    OUTPUT_OVERSIZED = "output_oversized"


class DeadLetter(Event):
    """An input that nobody could act on."""

    type_name = "dead_letter"

    reason: Lenient[DeadLetterReason]
    error: str = ""
    """For a person; never holds the input's text."""
    worker: str
    origin_topic: str
    origin_partition: Count
    origin_offset: Count
    origin_key: Bytes | None = None
    sha256: str
    size_bytes: Count
    payload: Bytes | None = None
    """Kept where a replay makes sense (unknown_schema, handler_error)."""
    content_type: str | None = None
    died_at: UtcMs

    @property
    def event_id(self) -> str:
        return self.key

    @property
    def key(self) -> str:
        return f"{self.origin_topic}:{self.origin_partition}:{self.origin_offset}"
