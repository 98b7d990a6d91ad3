"""What an agent runtime says when a run fails, and the checkpoints that it saves on the way."""

from __future__ import annotations

from typing import Any

from pydantic import Field, ValidationInfo, model_validator

from schemas.records.base import (
    Amount,
    Code,
    Count,
    Event,
    Id,
    JsonText,
    Lenient,
    Many,
    MicroUsd,
    Record,
    TenantId,
    UtcMs,
    WireEnum,
    execution_key,
)
from schemas.records.lenient import coerced


class FailureOrigin(WireEnum):
    """Which part of the run raised the failure."""

    UNKNOWN = "unknown"
    MODEL = "model"
    TOOL = "tool"
    RUNTIME = "runtime"


class Protocol(WireEnum):
    """The protocol whose codes the evidence speaks: -32001 is a timeout in MCP, a missing task in A2A."""

    NONE = "none"
    HTTP = "http"
    MCP = "mcp"
    A2A = "a2a"
    GRPC = "grpc"


class SideEffects(WireEnum):
    """What the run did to the world since its checkpoint: decides whether it may simply run again."""

    UNKNOWN = "unknown"
    NONE = "none"
    IDEMPOTENT = "idempotent"
    UNSAFE = "unsafe"


class Encoding(WireEnum):
    """How a runtime wants its commands."""

    SAME = "same"
    """As the failure came."""
    AVRO = "avro"
    JSON = "json"


class Complexity(WireEnum):
    """How hard the task is for its model, as the runtime marks it."""

    UNKNOWN = "unknown"
    SIMPLE = "simple"
    COMPLEX = "complex"


class Agent(Record):
    """Who failed, and which modifications its runtime can honour."""

    id: Id | None = None
    version: str | None = None
    framework: str | None = None
    model: str | None = None
    capabilities: Many[str] | None = None
    """Kinds of modification the runtime honours (`ModificationKind`). Absent: not declared, all are offered."""


class ToolResponse(Record):
    """The answer of a tool or service, as far as there was one."""

    tool: str | None = None
    status_code: int | None = Field(default=None, ge=0, le=2**31 - 1)
    """HTTP status; absent where no answer came."""
    error: str | None = None
    headers: dict[str, str] = Field(default_factory=dict)
    body: JsonText | None = None
    call_fingerprint: str | None = None
    """Equal for equal calls: a digest of tool and arguments."""
    idempotency_key: str | None = None
    supports_async: bool = False
    fallbacks: Many[str] = ()
    """Names (never addresses) of services that can stand in, as the tool's registration lists them."""


class Metrics(Record):
    """What the run used, against what it was allowed."""

    duration_s: Amount | None = None
    timeout_s: Amount | None = None
    memory_bytes: Count | None = None
    memory_limit_bytes: Count | None = None
    tokens: Count | None = None
    token_limit: Count | None = None
    steps: Count | None = None
    step_limit: Count | None = None


class Cause(Record):
    """One link of an exception's cause chain."""

    class_name: str | None = Field(default=None, alias="class")
    message: str | None = None
    code: Code | None = None
    http_status: int | None = Field(default=None, ge=0, le=2**31 - 1)


class ErrorInfo(Cause):
    """The exception that ended the run."""

    exit_code: int | None = Field(default=None, ge=-(2**31), le=2**31 - 1)
    cause_chain: Many[Cause] = ()
    """From the exception's direct cause to the innermost."""


class ToolCall(Record):
    """One call of a tool, for the detection of loops."""

    tool: str
    call_fingerprint: str
    succeeded: bool = True


class Checkpoint(Record):
    """A claim on a saved state: inline up to 16 KiB, else by address and digest."""

    id: Id
    created_at: UtcMs | None = None
    data: JsonText | None = None
    uri: str | None = None
    sha256: str | None = None
    size_bytes: Count | None = None


class Execution(Record):
    """How the run was set up, as far as the runtime shares it."""

    prompt: str | None = None
    model: str | None = None
    tools: Many[str] = ()
    timeout_s: Amount | None = None
    sdk_retries: Count | None = None
    """How often the runtime's own SDK retries a call: one of the two owners is switched off."""
    complexity: Lenient[Complexity] = Complexity.UNKNOWN


class Budget(Record):
    """What the caller allows this execution's recovery to use."""

    max_cost_microusd: MicroUsd | None = None
    deadline: UtcMs | None = None


class ResumedBy(Record):
    """The attempt whose run failed again."""

    recovery_id: Id
    attempt: int = Field(ge=1, le=1000)


class FailureEvent(Event):
    """A run failed. Only tenant_id, execution_id and error.message are needed; all else makes a better verdict."""

    type_name = "failure_event"

    tenant_id: TenantId
    execution_id: Id
    failure_id: Id | None = None
    """Unique for this failure; absent: taken from the record's place in the topic."""
    environment: str | None = None
    occurred_at: UtcMs | None = None
    step: str | None = None
    agent: Agent = Agent()
    origin: Lenient[FailureOrigin] = FailureOrigin.UNKNOWN
    protocol: Lenient[Protocol] = Protocol.NONE
    error: ErrorInfo | None = None
    output: JsonText | None = None
    constraints: JsonText | None = None
    """{field: {"type": "range" | "enum" | "format", ...}} or a JSON Schema for the whole output."""
    tool_response: ToolResponse | None = None
    reasoning: JsonText | None = None
    """Text, or a list of steps: text or {"step", "assumption" | "assumptions", ...}."""
    conclusion: JsonText | None = None
    expected_output: JsonText | None = None
    """What a right answer must say; {"correct_conclusion": ...} for reasoning."""
    facts: JsonText | None = None
    required_steps: Many[str] = ()
    calls: Many[ToolCall] = ()
    """The latest tool calls of the run, oldest first."""
    metrics: Metrics | None = None
    checkpoint: Checkpoint | None = None
    execution: Execution | None = None
    side_effects_since_checkpoint: Lenient[SideEffects] = SideEffects.UNKNOWN
    subject_ids: Many[str] = ()
    """Whose personal data the event holds: erasure needs to find it."""
    budget: Budget | None = None
    resumed_by: ResumedBy | None = None
    reply_format: Lenient[Encoding] = Encoding.SAME

    @model_validator(mode="before")
    @classmethod
    def _coerced(cls, document: Any, info: ValidationInfo) -> Any:
        natural = info.context and info.context.get("natural_json")
        return coerced(document) if natural and isinstance(document, dict) else document

    def identity(self, partition: int, offset: int) -> str:
        """The failure's id; where the runtime gave none, its place in agent.failures."""
        return self.failure_id or f"{partition}-{offset}"

    @property
    def event_id(self) -> str:
        return self.failure_id or ""

    @property
    def key(self) -> str:
        return execution_key(self.tenant_id, self.execution_id)


class CheckpointSaved(Event):
    """A run saved a state from which it can resume."""

    type_name = "checkpoint_saved"

    tenant_id: TenantId
    execution_id: Id
    agent_id: Id | None = None
    step: str | None = None
    checkpoint: Checkpoint

    @property
    def event_id(self) -> str:
        return self.checkpoint.id

    @property
    def key(self) -> str:
        return execution_key(self.tenant_id, self.execution_id)
