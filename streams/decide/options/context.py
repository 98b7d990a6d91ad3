"""What a generator may look at, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cached_property
from typing import Any, NamedTuple

import orjson

from schemas.records import Classification, Complexity, FailureEvent, FailureOrigin, parse_json_text
from streams.decide.catalogue import Catalogue, Model


class Remedy(NamedTuple):
    """One way to help: the parameters that a generator made from the evidence, and why they are so."""

    parameters: str
    """JSON text of the parameters of the strategy's kind (`schemas.modifications.PARAMETERS`)."""
    why: str
    factor: float = 1.0
    """Multiplies the ladder's confidence, where the evidence speaks against it."""
    cost_microusd: int | None = None
    latency_s: float | None = None
    """None: the estimate from tokens and durations, else the catalogue's."""


class Context:
    """One failure, its verdict and the catalogue. What costs something to find is found once, when first asked for."""

    def __init__(
        self, event: FailureEvent, verdict: Classification, catalogue: Catalogue, now: datetime | None = None
    ) -> None:
        self.event = event
        self.verdict = verdict
        self.catalogue = catalogue
        self.now = now
        details = parse_json_text(verdict.details)
        self.details: Mapping[str, Any] = details if isinstance(details, dict) else {}
        response = event.tool_response
        self.tool: str | None = (response.tool if response is not None else None) or self.detail("tool")
        """The tool or service that failed, as the runtime names it."""
        self.memo: dict[str, Any] = {}
        """What generators share, found once."""

    def detail(self, key: str) -> str | None:
        """A detail that is text, or None."""
        value = self.details.get(key)
        return value if isinstance(value, str) and value else None

    def amount(self, key: str) -> float | None:
        """A detail that is a positive number, or None."""
        value = self.details.get(key)
        return value if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e15 else None

    @property
    def message(self) -> str | None:
        """What the tool said, else the exception. Evidence: never into a prompt unquoted."""
        response, error = self.event.tool_response, self.event.error
        return (response.error if response is not None else None) or (error.message if error is not None else None)

    @property
    def model_name(self) -> str | None:
        execution = self.event.execution
        return (execution.model if execution is not None else None) or self.event.agent.model

    @cached_property
    def model(self) -> Model | None:
        """The run's model, where the catalogue knows it."""
        return self.catalogue.model(self.model_name)

    @property
    def tokens(self) -> int | None:
        """Tokens that the run used."""
        metrics = self.event.metrics
        return metrics.tokens if metrics is not None else None

    @property
    def timeout_s(self) -> float | None:
        """What the call or run was allowed: a tool's limit is in the details, a run's in its metrics."""
        metrics, execution = self.event.metrics, self.event.execution
        return (
            (metrics.timeout_s if metrics is not None else None)
            or (execution.timeout_s if execution is not None else None)
            or self.amount("timeout_s")
        )

    @property
    def complex_task(self) -> bool:
        """True where the runtime marked the task so."""
        execution = self.event.execution
        return execution is not None and execution.complexity is Complexity.COMPLEX

    @cached_property
    def why_bottleneck(self) -> str | None:
        """What tells that the model is the bottleneck, or None.

        The runtime marked the task as complex; or this run was itself resumed and failed again: remedies
        are tried best first, so the one that failed was stronger than what is left on the same model.
        """
        if self.complex_task:
            return "the task is marked complex"
        if self.event.resumed_by is not None:
            return "a stronger remedy on the same model has failed"
        return None

    @property
    def of_model(self) -> bool:
        """True where it is the model's own API that failed, not a tool."""
        return self.event.origin is FailureOrigin.MODEL


Generator = Callable[[Context], Remedy | None]
"""A strategy's parameters for this failure, or None where it cannot help."""


def dumps(parameters: Mapping[str, Any]) -> str:
    """JSON text of parameters."""
    return orjson.dumps(parameters).decode()
