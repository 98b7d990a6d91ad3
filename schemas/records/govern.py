"""What recover and the governor tell each other about what recoveries lean on: a tenant's tools and models."""

from __future__ import annotations

from pydantic import Field

from schemas.records.base import (
    Count,
    Event,
    Id,
    Lenient,
    Many,
    Record,
    TenantId,
    UtcMs,
    WireEnum,
    epoch_ms,
    execution_key,
)


class Circuit(WireEnum):
    """Whether recoveries may lean on a dependency."""

    UNKNOWN = "unknown"
    CLOSED = "closed"
    """Freely, within each partition's own allowance."""
    OPEN = "open"
    """Not before `until`."""
    HALF_OPEN = "half_open"
    """One of them, whose permit is out, finds out."""
    THROTTLED = "throttled"
    """With a permit each: those that were held are let go at a growing rate."""


class DependencyState(Event):
    """What the governor says of one dependency. Compacted: the newest counts; none: nothing is wrong with it."""

    type_name = "dependency_state"

    tenant_id: TenantId
    dependency: Id
    """`tenant_id/tool:NAME` or `tenant_id/model:NAME`."""
    circuit: Lenient[Circuit]
    until: UtcMs | None = None
    """While open: when the next probe may go."""
    incident_id: Id | None = None
    epoch: Count = 0
    """Changes of the circuit so far."""
    said_at: UtcMs
    memory: str = ""
    """The governor's own; another release's is forgotten."""

    @property
    def event_id(self) -> str:
        return f"{self.dependency}@{epoch_ms(self.said_at)}"

    @property
    def key(self) -> str:
        return self.dependency


class Wanted(Record):
    """A recovery that waits for a permit."""

    execution_id: Id
    recovery_id: Id
    attempt: int = Field(ge=1, le=1000)
    since: UtcMs


class PermitUse(WireEnum):
    """What became of a permit."""

    UNKNOWN = "unknown"
    USED = "used"
    """Its command is out."""
    RETURNED = "returned"
    """The recovery no longer needs it, or it came too late."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    EXPIRED = "expired"
    INCONCLUSIVE = "inconclusive"
    """The attempt ended without a word on the dependency: not applied, or failed by something else."""


class PermitWord(Record):
    """A word on one permit, or on the attempt that it allowed."""

    recovery_id: Id
    attempt: int = Field(ge=1, le=1000)
    use: Lenient[PermitUse]


class Unresolved(Record):
    """A recovery that ended with a person needed."""

    execution_id: Id
    recovery_id: Id


class DependencyReport(Event):
    """What one transaction of recover did with one dependency, in sums: thousands of failures are few records."""

    type_name = "dependency_report"

    tenant_id: TenantId
    dependency: Id
    partition: Count
    """Of recover."""
    failures: Count = 0
    """Runs that failed by it, resumed ones too."""
    retry_after: UtcMs | None = None
    """The latest time before which it wants no call, by what it told them; broker's time."""
    told: Count = 0
    """Failures to which it told such a time."""
    succeeded: Count = 0
    """Attempts on it that recovered their run."""
    failed: Count = 0
    """Attempts on it that failed by it again."""
    expired: Count = 0
    """Attempts on it of which no word came."""
    unpermitted: Count = 0
    """Commands that leaned on it by the partition's own allowance."""
    wanted: Many[Wanted] = ()
    permits: Many[PermitWord] = ()
    unresolved: Many[Unresolved] = ()
    reported_at: UtcMs

    @property
    def event_id(self) -> str:
        return f"{self.dependency}@{self.partition}:{epoch_ms(self.reported_at)}"

    @property
    def key(self) -> str:
        # All of a tenant's dependencies have one governor: so its budget over all of them is kept too.
        return self.tenant_id


class Permit(Event):
    """This attempt may lean on this dependency. Late, repeated or unasked for, it does nothing."""

    type_name = "permit"

    tenant_id: TenantId
    execution_id: Id
    recovery_id: Id
    attempt: int = Field(ge=1, le=1000)
    dependency: Id
    probe: bool = False
    """It finds out whether the dependency works again."""
    issued_at: UtcMs
    expires_at: UtcMs
    """Without a command by then it is void."""

    @property
    def event_id(self) -> str:
        return f"{self.recovery_id}:{self.attempt}:{epoch_ms(self.issued_at)}"

    @property
    def key(self) -> str:
        return execution_key(self.tenant_id, self.execution_id)


class IncidentStatus(WireEnum):
    """Where an outage stands."""

    UNKNOWN = "unknown"
    OPENED = "opened"
    ONGOING = "ongoing"
    CLOSED = "closed"


class Incident(Event):
    """One outage of one dependency: one word to people instead of one for each run."""

    type_name = "incident"

    incident_id: Id
    tenant_id: TenantId
    dependency: Id
    status: Lenient[IncidentStatus]
    reason: str = ""
    """Why the circuit opened, in one sentence."""
    opened_at: UtcMs
    updated_at: UtcMs
    closed_at: UtcMs | None = None
    failures: Count = 0
    """Runs that failed by it since it opened."""
    held: Count = 0
    """Recoveries that asked for a permit."""
    released: Count = 0
    recovered: Count = 0
    """Attempts that recovered their run."""
    unresolved: Count = 0
    """Recoveries that ended with a person needed; they have no escalation of their own."""
    recovery_ids: Many[Id] = ()
    """The first of the unresolved; `v_incident_recoveries` has all."""

    @property
    def event_id(self) -> str:
        return f"{self.incident_id}@{epoch_ms(self.updated_at)}"

    @property
    def key(self) -> str:
        return self.dependency
