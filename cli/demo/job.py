"""One run of one agent: what it works with, and how it fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from omium import Modifications, Violation

Json = Any
"""A JSON value."""
Ending = Literal["recovered", "escalated", "not_a_failure"]
"""How the recovery of a work must end."""


class RunFailed(Violation):
    """A run ended without a result, and says what it knows of why."""


@dataclass(slots=True, kw_only=True)
class Job:
    """What one attempt works with."""

    execution_id: str
    modifications: Modifications = field(default_factory=Modifications)
    """What the resume command asks to change; empty in a run that nobody resumed."""
    state: dict[str, Json] = field(default_factory=dict)
    """What the run has so far: its checkpoint when it fails, given back when it resumes."""
    failures: int = 0
    """How often it has failed."""
    services_port: int = 0
    token: str = "expired-last-year"  # noqa: S105


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A kind of work that fails in one way."""

    name: str
    agent: str
    failing: str
    """What goes wrong, for people."""
    run: Callable[[Job], Json]
    """Raises RunFailed."""
    right: Callable[[Json], bool]
    """Whether the output is what the work was for. The demo checks it; agent, model and recovery do not know it."""
    cures: frozenset[str]
    """Kinds of modification that can help. Tests try all the others, and see them fail."""
    capabilities: tuple[str, ...]
    """Kinds of modification that this agent's runtime honours."""
    model: str | None = None
    ends: Ending = "recovered"
    step: str = "work"
