"""What an agent says, and what it is told. The field names are those of the wire contract (`avsc/`)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypedDict

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr

from omium.modifications import Modification, Modifications

Origin = Literal["unknown", "model", "tool", "runtime"]
Protocol = Literal["none", "http", "mcp", "a2a", "grpc"]
SideEffects = Literal["unknown", "none", "idempotent", "unsafe"]
Complexity = Literal["unknown", "simple", "complex"]
Applied = Literal["all", "some", "none"]


def _to_utc_ms(value: Any) -> Any:
    """Wire times are UTC milliseconds; a time without an offset is taken as local."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if isinstance(value, datetime):
        value = value.astimezone(UTC)
        return value.replace(microsecond=value.microsecond // 1000 * 1000)
    return value


def _to_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


UtcMs = Annotated[datetime, BeforeValidator(_to_utc_ms)]
Code = Annotated[str, BeforeValidator(_to_text)]
Id = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")]
Count = Annotated[int, Field(ge=0, le=2**53)]
Status = Annotated[int, Field(ge=0, le=2**31 - 1)]
Seconds = Annotated[float, Field(ge=0)]


class Value(BaseModel):
    """An immutable value. Unknown fields are ignored."""

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_by_alias=True,
        validate_by_name=True,
        serialize_by_alias=True,
        hide_input_in_errors=True,
    )


class Agent(Value):
    """Who runs, and which modifications the runtime can honour."""

    id: Id | None = None
    version: str | None = None
    framework: str | None = None
    model: str | None = None
    capabilities: tuple[str, ...] | None = None
    """Kinds of modification, such as `append_prompt`, `set_model`. Absent: not declared, all may be asked for."""


class ToolResponse(Value):
    """The answer of a tool or service, as far as there was one."""

    tool: str | None = None
    status_code: Status | None = None
    """HTTP status; absent where no answer came."""
    error: str | None = None
    headers: dict[str, str] = Field(default_factory=dict)
    body: Any = None
    """Any JSON value."""
    call_fingerprint: str | None = None
    """Equal for equal calls: a digest of tool and arguments."""
    idempotency_key: str | None = None
    supports_async: bool = False
    fallbacks: tuple[str, ...] = ()
    """Names (never addresses) of services that can stand in."""


class Metrics(Value):
    """What the run used, against what it was allowed."""

    duration_s: Seconds | None = None
    timeout_s: Seconds | None = None
    memory_bytes: Count | None = None
    memory_limit_bytes: Count | None = None
    tokens: Count | None = None
    token_limit: Count | None = None
    steps: Count | None = None
    step_limit: Count | None = None


class Cause(Value):
    """One link of an exception's cause chain."""

    class_name: str | None = Field(default=None, alias="class")
    message: str | None = None
    code: Code | None = None
    http_status: Status | None = None


class ErrorInfo(Cause):
    """The exception that ended the step."""

    exit_code: Annotated[int, Field(ge=-(2**31), le=2**31 - 1)] | None = None
    cause_chain: tuple[Cause, ...] = ()
    """From the direct cause to the innermost."""


class ToolCall(Value):
    """One call of a tool, for the detection of loops."""

    tool: str
    call_fingerprint: str
    succeeded: bool = True


class Checkpoint(Value):
    """A claim on a saved state: its data where it fits 16 KiB, else its address and digest."""

    id: Id
    created_at: UtcMs | None = None
    data: Any = None
    """Any JSON value of at most 16 KiB; larger ones are not sent."""
    uri: str | None = None
    sha256: str | None = None
    size_bytes: Count | None = None


class Execution(Value):
    """How the run was set up, as far as you share it."""

    prompt: str | None = None
    model: str | None = None
    tools: tuple[str, ...] = ()
    timeout_s: Seconds | None = None
    sdk_retries: Count | None = None
    """How often your SDK itself retries a call."""
    complexity: Complexity = "unknown"


class Budget(Value):
    """What recovering this execution may use."""

    max_cost_microusd: Count | None = None
    deadline: UtcMs | None = None


class ResumedBy(Value):
    """The attempt whose run failed again."""

    recovery_id: Id
    attempt: Annotated[int, Field(ge=1, le=1000)]


class Fence(Value):
    """Rises per execution: (offset of the failure, attempt)."""

    offset: Count
    attempt: Annotated[int, Field(ge=1, le=1000)]

    def __gt__(self, other: Fence) -> bool:
        return (self.offset, self.attempt) > (other.offset, other.attempt)


class Evidence(TypedDict, total=False):
    """All that may be said of a failure beside the exception. Each may be given as a dict instead of its model.

    What does not fit (a wrong type, a text too long) is left out or cut, and logged: it never raises.
    """

    output: Any
    """What the step answered: any JSON value."""
    constraints: Mapping[str, Any]
    """{field: {"type": "range" | "enum" | "format", ...}} or a JSON Schema for the whole output."""
    tool_response: ToolResponse | Mapping[str, Any]
    reasoning: Any
    """Text, or a list of steps: text or {"step", "assumptions", ...}."""
    conclusion: Any
    expected_output: Any
    facts: Mapping[str, Any]
    required_steps: Sequence[str]
    calls: Sequence[ToolCall | Mapping[str, Any]]
    """The latest tool calls, oldest first."""
    metrics: Metrics | Mapping[str, Any]
    execution: Execution | Mapping[str, Any]
    checkpoint: Checkpoint | Mapping[str, Any] | str
    """Absent: the last one that the run saved."""
    origin: Origin
    protocol: Protocol
    side_effects: SideEffects
    """What the run did to the world since its checkpoint."""
    budget: Budget | Mapping[str, Any]
    subject_ids: Sequence[str]
    """Whose personal data the evidence holds."""
    step: str
    occurred_at: datetime


class Command(Value):
    """Resume this execution from this checkpoint, changed so."""

    command_id: Id
    recovery_id: Id
    failure_id: Id
    attempt: Annotated[int, Field(ge=1, le=1000)]
    fence: Fence
    tenant_id: Id
    execution_id: Id
    agent_id: Id | None = None
    checkpoint: Checkpoint
    category: str = ""
    subtype: str = ""
    strategy: str
    changes: tuple[Modification, ...] = Field(alias="modifications")
    not_before: UtcMs
    """Begin no earlier, by the broker's clock."""
    expires_at: UtcMs
    """Not begun by then: do not begin."""
    outcome_deadline: UtcMs
    """Without an outcome or a new failure by then, the next attempt is commanded."""
    idempotency_key: Id
    """Send it with the calls of the resumed run, so that a repeat has no second effect."""
    issued_at: UtcMs
    traceparent: str | None = None

    _modifications: Modifications = PrivateAttr()
    _begun_at: float | None = PrivateAttr(default=None)

    def model_post_init(self, _context: Any) -> None:
        self._modifications = Modifications(self.changes)

    def begin(self, now: datetime) -> None:
        """Note that its run begins now, `now` being the broker's time."""
        self._begun_at = time.monotonic()
        self._modifications.stop_at = self._begun_at + (self.outcome_deadline - now).total_seconds()

    @property
    def begun_at(self) -> float | None:
        """Monotonic time at which its run began, or None."""
        return self._begun_at

    @property
    def modifications(self) -> Modifications:
        """The changes to make. The same object each time: it remembers which of them were used."""
        return self._modifications

    @property
    def key(self) -> str:
        """`tenant_id/execution_id`: the message key of everything about one execution."""
        return f"{self.tenant_id}/{self.execution_id}"

    @property
    def resumed_by(self) -> ResumedBy:
        """Names this attempt in the report of a run that failed again."""
        return ResumedBy(recovery_id=self.recovery_id, attempt=self.attempt)


class Outcome(Value):
    """How a resumed run ended: what a `serve` handler returns. A run that failed again raises instead."""

    status: Literal["succeeded", "not_applied", "abandoned"]
    applied: Applied | None = None
    """Absent: as the command's `modifications` recorded their use."""
    why: str = ""
    """What was not applied, and why."""
    final_output: Any = None
    """Any JSON value."""
    retry_count: Count | None = None
    """Repeats inside the attempt. Absent: as `modifications.retrying` counted them."""
    cost_microusd: Count | None = None

    @classmethod
    def succeeded(
        cls,
        final_output: Any = None,
        *,
        applied: Applied | None = None,
        retry_count: int | None = None,
        cost_microusd: int | None = None,
    ) -> Outcome:
        """The run went on and ended well."""
        return cls(
            status="succeeded",
            final_output=final_output,
            applied=applied,
            retry_count=retry_count,
            cost_microusd=cost_microusd,
        )

    @classmethod
    def not_applied(cls, why: str) -> Outcome:
        """The command could not be followed: another strategy may be commanded."""
        return cls(status="not_applied", applied="none", why=why)

    @classmethod
    def abandoned(cls, why: str) -> Outcome:
        """This execution will not be resumed: send no more commands for it."""
        return cls(status="abandoned", applied="none", why=why)
