"""The state of one execution, and its bytes: what memory holds is the changelog record itself.

A record is a header (version, flags, when it is due), which a restore reads without parsing the rest,
and a JSON body, packed. Fields may be added with a default; anything else needs a new version.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import ConfigDict, TypeAdapter

from processors.recover.packing import packed, unpacked
from schemas.records import (
    Candidate,
    Category,
    Checkpoint,
    RecoveryOptions,
    ResultStatus,
    Severity,
    Strategy,
)

MEMORY_MS: Final = 24 * 3600 * 1000
"""How long failure ids and closed recoveries are remembered; an older failure is not acted on."""
MAX_SEEN: Final = 256
"""Failure ids remembered per execution; the oldest go first."""
MAX_CLOSED: Final = 8
MAX_BRANCHES: Final = 8
"""Parallel failures that one attempt answers; more are joined to it without remedies of their own."""
MAX_EARLY: Final = MAX_BRANCHES
"""Options kept that overtook their failures."""

VERSION: Final = 1
_HEADER: Final = struct.Struct(">BBQ")
HEADER_BYTES: Final = _HEADER.size
_OPEN: Final = 1
_PENDING: Final = 2
_HELD: Final = 4

if TYPE_CHECKING:
    from dataclasses import replace as replace
else:

    def replace(state: Any, /, **changes: Any) -> Any:
        """As of dataclasses, for the classes below alone, in an eighth of the time: they have no slots and check
        nothing when they are made."""
        made = object.__new__(type(state))
        made.__dict__.update(state.__dict__, **changes)
        return made


@dataclass(frozen=True, kw_only=True)
class Branch:
    """One failure that the recovery answers: the part of it that a command needs."""

    # Trace headers are bytes of strangers; JSON text cannot hold them as they are.
    __pydantic_config__ = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    failure_id: str
    partition: int
    offset: int
    at_ms: int
    """Broker's time of the failure."""
    checkpoint: Checkpoint | None = None
    agent_id: str | None = None
    tool: str | None = None
    model: str | None = None
    """Where its provider is what failed."""
    call_fingerprint: str | None = None
    idempotency_key: str | None = None
    trace: tuple[tuple[str, bytes], ...] = ()
    wire_format: Literal["avro", "json"] = "avro"
    sdk_retries: int = 0
    call_timeout_s: float | None = None
    summarizes: bool = False
    """The runtime shares its context and can replace the failed trajectory in it."""
    unsafe: bool = False
    """Running again from the checkpoint would repeat an effect that must not be repeated."""
    max_cost_microusd: int | None = None
    deadline_ms: int | None = None
    options: RecoveryOptions | None = None


@dataclass(frozen=True, kw_only=True)
class InFlight:
    """The attempt whose command is out."""

    attempt: int
    strategy: Strategy
    category: Category
    subtype: str
    severity: Severity
    cost_microusd: int
    issued_ms: int
    not_before_ms: int
    outcome_deadline_ms: int
    leans: tuple[str, ...] = ()
    """The dependencies that the resumed run calls."""
    permitted: tuple[str, ...] = ()
    """Those among them on which it has a permit."""


@dataclass(frozen=True, kw_only=True)
class Hold:
    """Why the pending attempt waits although its command could go."""

    kind: Literal["permit", "pause", "person"]
    key: str
    """What is waited for: a dependency, a pause's scope, or the hash of the question."""
    since_ms: int
    until_ms: int
    """When it is looked at again."""


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """An open recovery. `command` absent: the attempt after `attempt` is pending."""

    recovery_id: str
    failure_id: str
    """The failure that opened it."""
    started_ms: int
    branches: tuple[Branch, ...]
    attempt: int = 0
    """Commands issued."""
    command: InFlight | None = None
    tried: tuple[str, ...] = ()
    """Digests of what was done already; see `choice.action`."""
    cost_microusd: int = 0
    options_until_ms: int = 0
    checkpoint_until_ms: int = 0
    merge_until_ms: int = 0
    """0: no branch has options yet."""
    category: Category = Category.UNCLASSIFIED
    """Of the first verdict."""
    subtype: str = ""
    strategies: tuple[Strategy, ...] = ()
    """Of the commands issued, in order."""
    due_ms: int = 0
    """While pending: when the wait ends."""
    considered: tuple[Candidate, ...] = ()
    hold: Hold | None = None
    left_out_offset: int = 0
    """Of the newest branch that turned out to be no failure: a fence that has risen to it must not fall."""
    permits: tuple[tuple[str, int], ...] = ()
    """(dependency, when it expires) of the permits that the pending attempt has."""


@dataclass(frozen=True, kw_only=True)
class Closed:
    """What is remembered of a recovery that ended."""

    recovery_id: str
    attempts: int
    status: ResultStatus
    ended_ms: int


@dataclass(frozen=True, kw_only=True)
class Early:
    """Options that overtook their failure."""

    options: RecoveryOptions
    until_ms: int


@dataclass(frozen=True, kw_only=True)
class Execution:
    """All that is known of one execution."""

    tenant_id: str
    execution_id: str
    checkpoint: Checkpoint | None = None
    """The latest that the run saved."""
    checkpoint_ms: int = 0
    recovery: Recovery | None = None
    closed: tuple[Closed, ...] = ()
    seen: tuple[tuple[str, int], ...] = ()
    """(digest of the failure id, broker's time), oldest first."""
    early: tuple[Early, ...] = ()

    @property
    def empty(self) -> bool:
        return not (self.checkpoint or self.recovery or self.closed or self.seen or self.early)

    @property
    def due_ms(self) -> int:
        """When this state changes by itself next; 0: never."""
        times = [early.until_ms for early in self.early]
        if self.recovery:
            command = self.recovery.command
            times.append(command.outcome_deadline_ms if command else self.recovery.due_ms)
        else:
            # What is only forgotten can wait for the end of the recovery.
            times += [seen_ms + MEMORY_MS for _, seen_ms in self.seen[:1]]
            times += [closed.ended_ms + MEMORY_MS for closed in self.closed[:1]]
            times += [self.checkpoint_ms + MEMORY_MS] if self.checkpoint else []
        return min(times, default=0)


_ADAPTER: Final = TypeAdapter(Execution)


def encode(state: Execution) -> bytes:
    """The changelog record of `state`."""
    recovery = state.recovery
    flags = _OPEN if recovery else 0
    if recovery and recovery.command is None:
        flags |= _HELD if recovery.hold else _PENDING
    body = _ADAPTER.dump_json(state, exclude_defaults=True)
    return _HEADER.pack(VERSION, flags, state.due_ms) + packed(body)


def decode(data: bytes) -> Execution:
    """The state in a changelog record. Raises ValueError where this release cannot read it."""
    version, _, _ = _HEADER.unpack_from(data)
    if version != VERSION:
        raise ValueError(f"state of version {version}, {VERSION} known")
    return _ADAPTER.validate_json(unpacked(data[_HEADER.size :]))


def header(data: bytes) -> tuple[int, bool, bool, bool]:
    """(due_ms, open, pending, held) of a changelog record, without parsing it. Raises ValueError where it has none."""
    if len(data) < _HEADER.size:
        raise ValueError(f"a state of {len(data)} bytes")
    _, flags, due_ms = _HEADER.unpack_from(data)
    return due_ms, bool(flags & _OPEN), bool(flags & _PENDING), bool(flags & _HELD)
