"""What streams says of a failure: the verdict, and every option that the evidence allows."""

from __future__ import annotations

from pydantic import Field

from schemas.records.base import (
    Amount,
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
from schemas.records.failure import Checkpoint


class Category(WireEnum):
    """The kind of failure: `failure_type` in every label and column."""

    UNCLASSIFIED = "unclassified"
    HALLUCINATION = "hallucination"
    TOOL_FAILURE = "tool_failure"
    LOGICAL_ERROR = "logical_error"
    PERFORMANCE = "performance"
    NONE = "none"
    """No failure: an interrupt, an approval, a cancellation."""


class Severity(WireEnum):
    """How much harm the failure does if it is acted on."""

    UNKNOWN = "unknown"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


class Strategy(WireEnum):
    """The remedies. Each becomes one or more modifications of the run."""

    UNKNOWN = "unknown"
    FUNCTION_CALLING = "function_calling"
    MODEL_UPGRADE = "model_upgrade"
    CONSTRAINT_INJECTION = "constraint_injection"
    VALIDATION_TOOL = "validation_tool"
    EXPONENTIAL_BACKOFF = "exponential_backoff"
    ASYNC_EXECUTION = "async_execution"
    INCREASE_TIMEOUT = "increase_timeout"
    REFRESH_CREDENTIALS = "refresh_credentials"
    FALLBACK_SERVICE = "fallback_service"
    CORRECT_CONTEXT = "correct_context"
    DECISION_RUBRIC = "decision_rubric"
    REDUCE_COMPLEXITY = "reduce_complexity"
    FASTER_MODEL = "faster_model"
    PROCESS_IN_BATCHES = "process_in_batches"
    COMPRESS_CONTEXT = "compress_context"
    LARGER_CONTEXT_MODEL = "larger_context_model"
    REPAIR_ARGUMENTS = "repair_arguments"
    CORRECT_IDENTIFIER = "correct_identifier"
    BREAK_LOOP = "break_loop"
    REPAIR_HISTORY = "repair_history"
    REPHRASE_REQUEST = "rephrase_request"
    EXTEND_STEP_LIMIT = "extend_step_limit"
    RETRY_ONCE = "retry_once"
    ASK_HUMAN = "ask_human"
    """The last rung of every ladder: escalates. As a command: a person has mended the cause, run again unchanged."""


class EvidenceSource(WireEnum):
    """Where a piece of evidence was found, in falling order of weight."""

    UNKNOWN = "unknown"
    STRUCTURED = "structured"
    CLASS_NAME = "class_name"
    MESSAGE = "message"


class Evidence(Record):
    """One observation that spoke for the verdict."""

    source: Lenient[EvidenceSource]
    path: str
    """Where in the FailureEvent it stood, such as `tool_response.status_code`."""
    rule: str
    """Name of the rule that read it."""
    text: str
    """What was seen, masked and cut."""


class Classification(Record):
    """The verdict."""

    category: Lenient[Category]
    subtype: str
    severity: Lenient[Severity] = Severity.UNKNOWN
    confidence: Probability = 0.0
    """How sure: of verdicts said with 0.9, nine in ten are right."""
    rule: str = ""
    """Name of the rule that decided."""
    details: JsonText = "{}"
    """Depends on the category; see streams/decide."""
    evidence: Many[Evidence] = ()
    """In falling order of weight."""
    explanation: str = ""
    """One sentence for a person."""
    counterfactual: str = ""
    """What would have changed the verdict."""


class Option(Record):
    """One remedy, with the numbers that ranked it."""

    strategy: Lenient[Strategy]
    parameters: JsonText = "{}"
    """Depends on the strategy; made from the evidence. See streams/decide/options."""
    confidence: Probability
    """What ranks it: the posterior where enough was learned, else the prior."""
    prior: Probability
    """The published confidence, adjusted to the evidence."""
    posterior: Probability | None = None
    samples: Count = 0
    cost_microusd: MicroUsd = 0
    """Expected extra cost of one attempt."""
    latency_s: Amount = 0.0
    """Expected extra time of one attempt."""
    why: str = ""


class Origin(Record):
    """The place of the failure in agent.failures: only the failure that stands there accepts the options."""

    partition: Count
    offset: Count


class RecoveryOptions(Event):
    """The verdict on one failure, and what could be done, best first."""

    type_name = "recovery_options"

    tenant_id: TenantId
    execution_id: Id
    failure_id: Id
    origin: Origin
    classification: Classification
    checkpoint: Checkpoint | None = None
    call_fingerprint: str | None = None
    options: Many[Option] = ()
    value_microusd: MicroUsd = 0
    """What recovering this run is worth: an option whose cost exceeds confidence x value does not pay. 0: not said."""
    rules_version: str
    catalogue_version: str
    confidence_snapshot: str = ""
    """Which learned rates ranked the options; empty where none were known."""
    decided_at: UtcMs

    @property
    def event_id(self) -> str:
        return f"{self.failure_id}:{self.origin.partition}:{self.origin.offset}"

    @property
    def key(self) -> str:
        return execution_key(self.tenant_id, self.execution_id)


class ConfidenceRow(Event):
    """Learned success of one strategy in one stratum over the last seven days. Compacted: the newest counts."""

    type_name = "confidence_row"

    subtype: str
    severity: Lenient[Severity]
    attempt_class: str = Field(pattern=r"^(1|2\+)$")
    """`1` for first attempts, `2+` for later rungs: hard failures gather there."""
    strategy: Lenient[Strategy]
    samples: Count
    successes: Count
    window_start: UtcMs
    """Start of the oldest hour counted."""
    updated_at: UtcMs

    @property
    def event_id(self) -> str:
        return f"{self.key}@{self.updated_at.isoformat()}"

    @property
    def key(self) -> str:
        return stratum_key(self.subtype, self.severity, self.attempt_class, self.strategy)


def stratum_key(subtype: str, severity: Severity, attempt_class: str, strategy: Strategy) -> str:
    """Key of everything counted together. One key, one partition, one writer of the count."""
    return f"{subtype}|{severity}|{attempt_class}|{strategy}"
