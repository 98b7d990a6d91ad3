"""What recover tells a runtime, and what the runtime says back."""

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
from schemas.records.options import Strategy


class ModificationKind(WireEnum):
    """What a runtime can be asked to change before it runs again; each has a schema of parameters."""

    UNKNOWN = "unknown"
    APPEND_PROMPT = "append_prompt"
    SET_OUTPUT_SCHEMA = "set_output_schema"
    ADD_TOOL = "add_tool"
    SET_MODEL = "set_model"
    SET_RETRY = "set_retry"
    SET_TIMEOUT = "set_timeout"
    RUN_ASYNC = "run_async"
    REFRESH_CREDENTIALS = "refresh_credentials"
    USE_FALLBACK = "use_fallback"
    PROVIDE_CONTEXT = "provide_context"
    ADD_RUBRIC = "add_rubric"
    REDUCE_COMPLEXITY = "reduce_complexity"
    SET_BATCH_SIZE = "set_batch_size"
    COMPRESS_CONTEXT = "compress_context"
    REPAIR_ARGUMENTS = "repair_arguments"
    SET_IDENTIFIER = "set_identifier"
    BREAK_LOOP = "break_loop"
    REPAIR_HISTORY = "repair_history"
    SET_STEP_LIMIT = "set_step_limit"
    SUMMARIZE_TRAJECTORY = "summarize_trajectory"


class Modification(Record):
    """One change to the run."""

    kind: Lenient[ModificationKind]
    parameters: JsonText = "{}"


class Fence(Record):
    """Rises per execution: (offset of the failure, attempt). A runtime refuses what is not above the last."""

    offset: Count
    attempt: int = Field(ge=1, le=1000)


class ChoiceMode(WireEnum):
    """How one option is chosen from those that are allowed."""

    UNKNOWN = "unknown"
    STATIC = "static"
    GREEDY = "greedy"
    COST_AWARE = "cost_aware"


class Candidate(Record):
    """One option as recover weighed it."""

    strategy: Lenient[Strategy]
    confidence: Probability
    prior: Probability
    samples: Count = 0
    cost_microusd: MicroUsd = 0
    latency_s: Amount = 0.0
    eligible: bool
    why: str = ""
    """Why it is offered or, where not eligible, what forbids it."""


class Decision(Record):
    """Why this command: enough to choose again, and to get the same."""

    mode: Lenient[ChoiceMode]
    policy_version: str
    rules_version: str
    catalogue_version: str
    confidence_snapshot: str = ""
    candidates: Many[Candidate]
    chosen: int = Field(ge=0)
    """Index into candidates."""
    probability: Probability = 1.0
    """With which the mode chose it; 1 where it draws nothing."""
    operator: str = ""
    """Who decided; empty: the mode did."""
    approval_hash: str = ""
    """Of the question that the operator answered."""


class ResumeCommand(Event):
    """Resume this execution from this checkpoint, changed so. At most one per (recovery, attempt) is committed."""

    type_name = "resume_command"

    command_id: Id
    recovery_id: Id
    failure_id: Id
    attempt: int = Field(ge=1, le=1000)
    fence: Fence
    tenant_id: TenantId
    execution_id: Id
    agent_id: Id | None = None
    checkpoint: Checkpoint
    category: str = ""
    subtype: str = ""
    strategy: Lenient[Strategy]
    modifications: Many[Modification]
    not_before: UtcMs
    expires_at: UtcMs
    """A runtime that has not begun by then must not begin."""
    outcome_deadline: UtcMs
    """Without an outcome or a new failure by then, the next rung follows."""
    idempotency_key: Id
    """Goes with the calls of the resumed run, so that a repeat has no second effect."""
    issued_at: UtcMs
    decision: Decision

    @property
    def event_id(self) -> str:
        return self.command_id

    @property
    def key(self) -> str:
        return execution_key(self.tenant_id, self.execution_id)


class OutcomeStatus(WireEnum):
    """How a resumed run ended. A run that failed again is told by a FailureEvent with resumed_by instead."""

    UNKNOWN = "unknown"
    SUCCEEDED = "succeeded"
    NOT_APPLIED = "not_applied"
    ABANDONED = "abandoned"
    RUNNING = "running"
    """A heartbeat: still at work; the outcome deadline moves on."""


class Applied(WireEnum):
    """Which of the modifications took effect."""

    UNKNOWN = "unknown"
    ALL = "all"
    SOME = "some"
    NONE = "none"


class ResumeOutcome(Event):
    """The runtime's word on one command."""

    type_name = "resume_outcome"

    command_id: Id
    recovery_id: Id
    attempt: int = Field(ge=1, le=1000)
    tenant_id: TenantId
    execution_id: Id
    status: Lenient[OutcomeStatus]
    applied: Lenient[Applied] = Applied.UNKNOWN
    applied_why: str = ""
    """What was not applied, and why."""
    final_output: JsonText | None = None
    retry_count: Count = 0
    """Repeats inside the attempt, as set_retry allowed."""
    duration_s: Amount | None = None
    cost_microusd: MicroUsd | None = None
    finished_at: UtcMs | None = None

    @property
    def event_id(self) -> str:
        return f"{self.command_id}:{self.status}"

    @property
    def key(self) -> str:
        return execution_key(self.tenant_id, self.execution_id)
