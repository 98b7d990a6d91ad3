"""What the reducer is told, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from schemas.records import CheckpointSaved, Event, FailureEvent, OperatorAction, Permit, RecoveryOptions, ResumeOutcome

Trace = tuple[tuple[str, bytes], ...]
Wire = Literal["avro", "json"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a record stood, and since when, by the broker's clock."""

    topic: str
    partition: int
    offset: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class FailureRead:
    record: FailureEvent
    place: Place
    trace: Trace = ()
    wire_format: Wire = "avro"


@dataclass(frozen=True, slots=True)
class OptionsRead:
    record: RecoveryOptions
    place: Place
    early: bool = False
    """Their failure has not been read yet."""
    size_bytes: int | None = None
    """As they came; None: not known."""


@dataclass(frozen=True, slots=True)
class CheckpointRead:
    record: CheckpointSaved
    place: Place


@dataclass(frozen=True, slots=True)
class OutcomeRead:
    record: ResumeOutcome
    place: Place


@dataclass(frozen=True, slots=True)
class OperatorRead:
    record: OperatorAction
    place: Place
    refusal: str = ""
    """Why it is not heard: it is not signed by whom it names, or they may not. Empty: it is."""


@dataclass(frozen=True, slots=True)
class PermitRead:
    record: Permit
    place: Place


@dataclass(frozen=True, slots=True)
class Due:
    """The time at which the state said it changes has passed, and all that was said before then is known."""


@dataclass(frozen=True, slots=True)
class Broken:
    """Our own handler failed on this state's deadline: end it in a way that cannot fail again."""

    error: str


Input = FailureRead | OptionsRead | CheckpointRead | OutcomeRead | OperatorRead | PermitRead
AnyEvent = Input | Due | Broken


@dataclass(frozen=True, slots=True)
class Emit:
    """A record to be written to its topic, in the transaction of the event that caused it."""

    record: Event
    trace: Trace = ()
    wire_format: Wire = "avro"
    since_ms: int = 0
    """Of a command: broker's time of the failure that it answers."""
