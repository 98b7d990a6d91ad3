"""What a command asks to change, offered so that a step reads the same with and without a command.

Each accessor takes what the step would use anyway and gives back what it shall use now. It also notes
that the change was used: the outcome then tells truthfully whether all, some or none took effect.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

T = TypeVar("T")
_log = logging.getLogger("omium")


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True, validate_by_name=True)


def _parse(value: Any) -> Any:
    """Parameters are JSON text in Avro and plain JSON in JSON commands."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return {}


class Modification(_Value):
    """One change: its kind, and parameters that depend on the kind."""

    kind: str
    parameters: Annotated[dict[str, Any], BeforeValidator(_parse)] = Field(default_factory=dict)


class OutputSchema(_Value):
    """Demand structured output that fits this JSON Schema."""

    name: str
    json_schema: dict[str, Any] = Field(alias="schema")


class Tool(_Value):
    """A checking tool that the model must call before it answers."""

    name: str
    description: str = ""
    input_schema: dict[str, Any] = Field(default_factory=dict)
    suggestion: str = ""

    def check(self, arguments: Any) -> dict[str, Any]:
        """The tool's answer: {"valid": true}, or {"valid": false, "error": ..., "suggestion": ...}."""
        from omium.constraints import violations

        if found := violations(arguments, self.input_schema):
            return {"valid": False, "error": "; ".join(found), "suggestion": self.suggestion}
        return {"valid": True}


class Rubric(_Value):
    """Decide by this text."""

    name: str
    text: str


class Retry(_Value):
    """Repeat a failed call: delay n is min(base * multiplier**n, max), varied by +- jitter."""

    max_attempts: int = Field(default=1, ge=1, le=20)
    """Repeats, not counting the call that failed before the command."""
    initial_delay_s: float = Field(default=0.0, ge=0)
    """Before the first repeat, where the service asked for it (Retry-After)."""
    base_delay_s: float = Field(default=1.0, ge=0)
    multiplier: float = Field(default=2.0, ge=1)
    max_delay_s: float = Field(default=60.0, ge=0)
    jitter: float = Field(default=0.2, ge=0, le=1)
    sdk_retries: int | None = None

    def delays_s(self) -> Iterator[float]:
        """Seconds to wait before each repeat."""
        for n in range(self.max_attempts):
            if n == 0 and self.initial_delay_s:
                # Asked for by the service: later is polite, earlier is refused again.
                yield self.initial_delay_s * (1 + random.random() * self.jitter)  # noqa: S311
                continue
            delay_s = min(self.base_delay_s * self.multiplier**n, self.max_delay_s)
            yield delay_s * (1 + random.uniform(-self.jitter, self.jitter))  # noqa: S311


class Polling(_Value):
    """Submit the call, then ask for its result at this pace."""

    poll_interval_s: float = Field(default=10.0, ge=0)
    max_polls: int = Field(default=30, ge=1)


# Kinds that a sentence in the prompt carries out in full. The others need an act of the runtime.
_BY_PROMPT: Final = (
    "append_prompt",
    "provide_context",
    "add_rubric",
    "reduce_complexity",
    "repair_arguments",
    "set_identifier",
)
_Model = TypeVar("_Model", bound=_Value)


class Modifications:
    """The changes of one command; without a command, none: every accessor gives back its argument."""

    def __init__(self, changes: Iterable[Modification] = ()) -> None:
        self._changes = tuple(changes)
        self._used: set[int] = set()
        self.retry_count = 0
        """Repeats made by `retrying`."""
        self.stop_at: float = float("inf")
        """Monotonic time at which the command's outcome is due: `retrying` does not wait beyond it."""

    def __iter__(self) -> Iterator[Modification]:
        return iter(self._changes)

    def __len__(self) -> int:
        return len(self._changes)

    def __repr__(self) -> str:
        return f"Modifications({', '.join(change.kind for change in self._changes)})"

    # -- what was used ------------------------------------------------------------------------------

    @property
    def applied(self) -> Literal["all", "some", "none"]:
        """Which of the changes were asked for by the step. None to make: all were made."""
        if len(self._used) == len(self._changes):
            return "all"
        return "some" if self._used else "none"

    @property
    def unused(self) -> tuple[str, ...]:
        """Kinds of the changes that nothing has asked for."""
        return tuple(change.kind for n, change in enumerate(self._changes) if n not in self._used)

    def get(self, kind: str) -> dict[str, Any] | None:
        """Parameters of the change of this kind, or None. Counts as used."""
        for n, change in enumerate(self._changes):
            if change.kind == kind:
                self._used.add(n)
                return change.parameters
        return None

    def _as(self, kind: str, model: type[_Model]) -> _Model | None:
        parameters = self.get(kind)
        if parameters is None:
            return None
        try:
            return model.model_validate(parameters)
        except ValidationError as error:
            _log.warning("omium: %s cannot be followed: %s", kind, error.errors(include_input=False)[0]["msg"])
            self._used -= {n for n, change in enumerate(self._changes) if change.kind == kind}
            return None

    def _item(self, kind: str, name: str, expected: type | tuple[type, ...], default: Any, *, use: bool = True) -> Any:
        """One parameter; `default` where there is none such, or of another type: then nothing counts as used."""
        for n, change in enumerate(self._changes):
            value = change.parameters.get(name)
            if change.kind == kind and isinstance(value, expected) and not isinstance(value, bool):
                if use:
                    self._used.add(n)
                return value
        return default

    # -- the model ----------------------------------------------------------------------------------

    def prompt(self, base: str = "") -> str:
        """`base` and, each in a paragraph of its own, every text that the command has for the model."""
        texts = [base] if base else []
        for n, change in enumerate(self._changes):
            text = change.parameters.get("text")
            if not isinstance(text, str) or not text or change.kind == "summarize_trajectory":
                continue
            texts.append(text)
            if change.kind in _BY_PROMPT:
                self._used.add(n)
        return "\n\n".join(texts)

    def model(self, default: str) -> str:
        """Name of the model to run with."""
        return str(self._item("set_model", "model", str, default))

    def provider(self, default: str | None = None) -> str | None:
        """Provider of the model to run with."""
        provider = self._item("set_model", "provider", str, default, use=False)
        return None if provider is None else str(provider)

    def output_schema(self) -> OutputSchema | None:
        """Structured output (function calling) to demand, or None."""
        return self._as("set_output_schema", OutputSchema)

    def tools(self) -> tuple[Tool, ...]:
        """Checking tools to give to the model, beside its own."""
        tool = self._as("add_tool", Tool)
        return () if tool is None else (tool,)

    def rubric(self) -> Rubric | None:
        """The rubric to decide by, or None. `prompt` has its text as well."""
        return self._as("add_rubric", Rubric)

    def facts(self) -> dict[str, Any]:
        """Facts to believe, by name. `prompt` has them as text as well."""
        facts: dict[str, Any] = self._item("provide_context", "facts", dict, {})
        return facts

    def max_reasoning_steps(self, default: int | None = None) -> int | None:
        """Reasoning steps to allow."""
        steps: int | None = self._item("reduce_complexity", "max_reasoning_steps", int, default)
        return steps

    # -- the context --------------------------------------------------------------------------------

    def context_tokens(self, current: int) -> int:
        """Tokens to bring the context down to, of the `current` ones."""
        parameters = self.get("compress_context")
        if parameters is None:
            return current
        target = parameters.get("target_tokens")
        return min(target, current) if isinstance(target, int) else current // 2

    def trajectory(self) -> str | None:
        """What shall stand in the context instead of the failed trajectory, or None: leave it as it is."""
        text = self._item("summarize_trajectory", "text", str, None)
        return None if text is None else str(text)

    def history_problem(self) -> str | None:
        """Why the message history is invalid (drop or complete what makes it so), or None."""
        problem = self._item("repair_history", "problem", str, None)
        return None if problem is None else str(problem)

    # -- calls and tools ----------------------------------------------------------------------------

    def timeout_s(self, default: float) -> float:
        """Seconds to allow the call."""
        return float(self._item("set_timeout", "timeout_s", (int, float), default))

    def service(self, default: str) -> str:
        """Registered name of the service to call where `default` would be called."""
        for change in self._changes:
            if change.kind == "use_fallback" and change.parameters.get("instead_of") in (None, default):
                return str(self._item("use_fallback", "service", str, default))
        return default

    def stale_credentials(self) -> str | None:
        """Service whose credentials are to be fetched anew before the call, or None."""
        service = self._item("refresh_credentials", "service", str, None)
        return None if service is None else str(service)

    def sdk_retries(self, default: int) -> int:
        """How often your SDK may itself retry a call: one party owns the retries."""
        return int(self._item("set_retry", "sdk_retries", int, default, use=False))

    def polling(self) -> Polling | None:
        """Submit the call and poll for its result, at this pace; None: call as usual."""
        return self._as("run_async", Polling)

    def argument_problem(self) -> str | None:
        """What was wrong with the call's arguments: have the model make them again. `prompt` says it too."""
        text = self._item("repair_arguments", "text", str, None)
        return None if text is None else str(text)

    def identifier(self, named: str) -> str:
        """The identifier to use where `named` was named."""
        for change in self._changes:
            parameters = change.parameters
            if change.kind == "set_identifier" and parameters.get("wrong") == named:
                return str(self._item("set_identifier", "right", str, named))
        return named

    def forbids(self, tool: str, call_fingerprint: str | None = None) -> bool:
        """Whether this call is the one that went round in circles, and must not be made."""
        parameters = self.get("break_loop")
        if parameters is None:
            return False
        wanted = (parameters.get("tool"), parameters.get("call_fingerprint"))
        return wanted != (None, None) and wanted[0] in (None, tool) and wanted[1] in (None, call_fingerprint)

    def step_limit(self, default: int) -> int:
        """Steps to allow the run."""
        return int(self._item("set_step_limit", "step_limit", int, default))

    def batch_size(self, default: int) -> int:
        """Items to work through at once."""
        return max(1, int(self._item("set_batch_size", "batch_size", int, default)))

    def batches(self, items: Sequence[T]) -> Iterator[Sequence[T]]:
        """`items` in batches of the commanded size; all at once without a command."""
        size = self.batch_size(len(items) or 1)
        for start in range(0, len(items), size):
            yield items[start : start + size]

    # -- repeating ----------------------------------------------------------------------------------

    def _delays_s(self) -> Iterator[float]:
        retry = self._as("set_retry", Retry)
        for delay_s in retry.delays_s() if retry is not None else ():
            if time.monotonic() + delay_s > self.stop_at:
                return
            yield delay_s

    def retrying(
        self,
        call: Callable[[], T],
        *,
        on: type[BaseException] | tuple[type[BaseException], ...] = Exception,
        sleep: Callable[[float], Any] = time.sleep,
    ) -> T:
        """The result of `call`, repeated with the delays of the command while it raises one of `on`.

        Without a command that asks for it: one call, at once. Raises what the last call raised.
        """
        delays_s = self._delays_s()
        delay_s = next(delays_s, None)
        while delay_s is not None:
            sleep(delay_s)
            self.retry_count += 1
            try:
                return call()
            except on:
                delay_s = next(delays_s, None)
                if delay_s is None:
                    raise
        return call()

    async def retrying_async(
        self,
        call: Callable[[], Awaitable[T]],
        *,
        on: type[BaseException] | tuple[type[BaseException], ...] = Exception,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    ) -> T:
        """As `retrying`, for a call that is awaited."""
        delays_s = self._delays_s()
        delay_s = next(delays_s, None)
        while delay_s is not None:
            await sleep(delay_s)
            self.retry_count += 1
            try:
                return await call()
            except on:
                delay_s = next(delays_s, None)
                if delay_s is None:
                    raise
        return await call()


NONE: Final = Modifications()
"""What a step runs with at first: no change. The default of its `mods` parameter."""
_current: ContextVar[Modifications | None] = ContextVar("omium_modifications", default=None)


def current() -> Modifications:
    """The modifications that the step running here shall make: none outside a resumed step."""
    return _current.get() or Modifications()


@contextmanager
def using(modifications: Modifications) -> Iterator[Modifications]:
    """Make `modifications` the current ones."""
    token = _current.set(modifications)
    try:
        yield modifications
    finally:
        _current.reset(token)
