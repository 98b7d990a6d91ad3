"""What the run used against what it was allowed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from schemas.records import Category, FailureEvent, Severity


@dataclass(frozen=True, slots=True)
class Overrun:
    """A limit that was exceeded."""

    category: Category
    subtype: str
    severity: Severity
    path: str
    limit: float
    measured: float
    unit: str

    @property
    def overshoot(self) -> float:
        """How far over, as a fraction of the limit; 0.5 is half again as much as allowed."""
        return self.measured / self.limit - 1 if self.limit else 0.0


_LIMITS: Final = (
    ("memory_bytes", "memory_limit_bytes", Category.PERFORMANCE, "out_of_memory", Severity.HIGH, "bytes"),
    ("tokens", "token_limit", Category.PERFORMANCE, "token_limit_exceeded", Severity.MEDIUM, "tokens"),
    ("duration_s", "timeout_s", Category.PERFORMANCE, "timeout", Severity.MEDIUM, "s"),
    ("steps", "step_limit", Category.LOGICAL_ERROR, "loop", Severity.MEDIUM, "steps"),
)


def overruns(event: FailureEvent) -> list[Overrun]:
    """Limits exceeded, hard ones first: what ran out of memory was slow as well. Reaching the step limit is
    exceeding it.
    """
    metrics = event.metrics
    if metrics is None:
        return []
    found: list[Overrun] = []
    for measured_name, limit_name, category, subtype, severity, unit in _LIMITS:
        measured, limit = getattr(metrics, measured_name), getattr(metrics, limit_name)
        if measured is None or limit is None:
            continue
        if measured > limit or (unit == "steps" and limit and measured >= limit):
            found.append(Overrun(category, subtype, severity, f"metrics.{measured_name}", limit, measured, unit))
    return found
