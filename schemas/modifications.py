"""What each kind of modification takes, and which kind carries out which strategy.

A command's `Modification.parameters` is the JSON text of the model here; an option's `parameters` are
those of its strategy's kind. A union of records could never grow under FULL_TRANSITIVE: JSON text can.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, ClassVar, Final

from pydantic import Field, JsonValue

from schemas.records.base import Amount, Many, Record
from schemas.records.command import Modification, ModificationKind
from schemas.records.options import Strategy


class Parameters(Record):
    """Parameters of one kind of modification."""

    kind: ClassVar[ModificationKind]

    def modification(self) -> Modification:
        """This change, as a command carries it."""
        return Modification(kind=self.kind, parameters=self.model_dump_json(exclude_none=True))


class AppendPrompt(Parameters):
    """Add `text` to the end of the system prompt, for this run only."""

    kind = ModificationKind.APPEND_PROMPT
    text: str


class SetOutputSchema(Parameters):
    """Demand structured output (function calling) that fits `schema`."""

    kind = ModificationKind.SET_OUTPUT_SCHEMA
    name: str
    json_schema: dict[str, JsonValue] = Field(alias="schema")


class AddTool(Parameters):
    """Give the model a checking tool, which it must call before it answers.

    The tool validates its input against `input_schema`: `{"valid": true}`, or
    `{"valid": false, "error": ..., "suggestion": ...}`.
    """

    kind = ModificationKind.ADD_TOOL
    name: str
    description: str
    input_schema: dict[str, JsonValue]
    suggestion: str = ""


class SetModel(Parameters):
    """Run with `model` instead."""

    kind = ModificationKind.SET_MODEL
    model: str
    provider: str | None = None


class SetRetry(Parameters):
    """Repeat the failed call up to `max_attempts` times: delay n is min(base * multiplier**n, max), +- jitter."""

    kind = ModificationKind.SET_RETRY
    max_attempts: int = Field(ge=1, le=20)
    initial_delay_s: Amount = 0.0
    """Before the first repeat: what the service asked for (Retry-After)."""
    base_delay_s: Amount = 1.0
    multiplier: float = Field(default=2.0, ge=1)
    max_delay_s: Amount = 60.0
    jitter: float = Field(default=0.2, ge=0, le=1)
    """Share of a delay by which it varies at random."""
    sdk_retries: int | None = Field(default=None, ge=0)
    """0: switch the SDK's own retries off, so that one party owns them."""


class SetTimeout(Parameters):
    """Allow the failed call `timeout_s`."""

    kind = ModificationKind.SET_TIMEOUT
    timeout_s: Amount


class RunAsync(Parameters):
    """Submit the call, then poll for its result."""

    kind = ModificationKind.RUN_ASYNC
    poll_interval_s: Amount = 10.0
    max_polls: int = Field(default=30, ge=1)


class RefreshCredentials(Parameters):
    """Fetch new credentials for `service` before running again."""

    kind = ModificationKind.REFRESH_CREDENTIALS
    service: str


class UseFallback(Parameters):
    """Call `service`, by its registered name, instead of `instead_of`."""

    kind = ModificationKind.USE_FALLBACK
    service: str
    instead_of: str | None = None


class ProvideContext(Parameters):
    """Add facts to the context. `text` renders them for a prompt; `facts` are the same as data."""

    kind = ModificationKind.PROVIDE_CONTEXT
    text: str
    facts: dict[str, JsonValue] = Field(default_factory=dict)


class AddRubric(Parameters):
    """Decide by this rubric."""

    kind = ModificationKind.ADD_RUBRIC
    name: str
    text: str


class ReduceComplexity(Parameters):
    """Do less: `text` says so to the model."""

    kind = ModificationKind.REDUCE_COMPLEXITY
    text: str
    max_reasoning_steps: int = Field(default=2, ge=1)


class SetBatchSize(Parameters):
    """Work through the data in batches of `batch_size` items."""

    kind = ModificationKind.SET_BATCH_SIZE
    batch_size: int = Field(ge=1)


class CompressContext(Parameters):
    """Sum up or trim the context to `target_tokens` before running again."""

    kind = ModificationKind.COMPRESS_CONTEXT
    target_tokens: int | None = Field(default=None, ge=1)
    """Absent: the limit is not known; halve it."""


class RepairArguments(Parameters):
    """Have the model make the call's arguments again; `text` tells it what was wrong."""

    kind = ModificationKind.REPAIR_ARGUMENTS
    tool: str | None = None
    text: str


class SetIdentifier(Parameters):
    """Use `right` where `wrong` was named. Without `right`, have the model choose among `known`."""

    kind = ModificationKind.SET_IDENTIFIER
    wrong: str
    right: str | None = None
    known: Many[str] = ()
    text: str = ""


class BreakLoop(Parameters):
    """Forbid the repeated call and say so to the model."""

    kind = ModificationKind.BREAK_LOOP
    tool: str | None = None
    call_fingerprint: str | None = None
    text: str


class RepairHistory(Parameters):
    """Drop or complete the messages that make the history invalid."""

    kind = ModificationKind.REPAIR_HISTORY
    problem: str


class SetStepLimit(Parameters):
    """Allow the run `step_limit` steps."""

    kind = ModificationKind.SET_STEP_LIMIT
    step_limit: int = Field(ge=1)


class SummarizeTrajectory(Parameters):
    """Replace the failed trajectory in the context by `text`: left there, it misleads the model."""

    kind = ModificationKind.SUMMARIZE_TRAJECTORY
    text: str


PARAMETERS: Final[dict[Strategy, type[Parameters]]] = {
    Strategy.FUNCTION_CALLING: SetOutputSchema,
    Strategy.MODEL_UPGRADE: SetModel,
    Strategy.CONSTRAINT_INJECTION: AppendPrompt,
    Strategy.VALIDATION_TOOL: AddTool,
    Strategy.EXPONENTIAL_BACKOFF: SetRetry,
    Strategy.ASYNC_EXECUTION: RunAsync,
    Strategy.INCREASE_TIMEOUT: SetTimeout,
    Strategy.REFRESH_CREDENTIALS: RefreshCredentials,
    Strategy.FALLBACK_SERVICE: UseFallback,
    Strategy.CORRECT_CONTEXT: ProvideContext,
    Strategy.DECISION_RUBRIC: AddRubric,
    Strategy.REDUCE_COMPLEXITY: ReduceComplexity,
    Strategy.FASTER_MODEL: SetModel,
    Strategy.PROCESS_IN_BATCHES: SetBatchSize,
    Strategy.COMPRESS_CONTEXT: CompressContext,
    Strategy.LARGER_CONTEXT_MODEL: SetModel,
    Strategy.REPAIR_ARGUMENTS: RepairArguments,
    Strategy.CORRECT_IDENTIFIER: SetIdentifier,
    Strategy.BREAK_LOOP: BreakLoop,
    Strategy.REPAIR_HISTORY: RepairHistory,
    Strategy.REPHRASE_REQUEST: AppendPrompt,
    Strategy.EXTEND_STEP_LIMIT: SetStepLimit,
    Strategy.RETRY_ONCE: SetRetry,
}
"""The modification that carries out each strategy. ask_human has none: it escalates."""


@lru_cache(maxsize=256)
def parameters(strategy: Strategy, text: str) -> Parameters:
    """The typed parameters of an option. Raises pydantic.ValidationError where they do not fit the strategy."""
    return PARAMETERS[strategy].model_validate_json(text)


def json_schemas() -> dict[str, Any]:
    """JSON Schema of the parameters of every kind, for runtimes in other languages."""
    kinds = {cls.kind: cls for cls in Parameters.__subclasses__()}
    return {str(kind): cls.model_json_schema(by_alias=True) for kind, cls in kinds.items()}
