"""What the governor knows of one tenant's dependencies. All but who waits is in its broadcast, which is its changelog:
those who wait ask again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final

from pydantic import TypeAdapter

from schemas.records import Circuit, DependencyState, Incident, IncidentStatus, Wanted, from_epoch_ms

SLOT_MS: Final = 1000
HORIZON_S: Final = 121
"""The longest window that policy allows, and the slot that has begun."""
MAX_RECOVERIES: Final = 50
"""Of an incident, by name; all are counted."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Counts of one second."""

    number: int
    """Of the second since 1970, broker's time."""
    failures: int = 0
    told: int = 0
    failed: int = 0
    """Attempts, or without a word."""
    succeeded: int = 0
    commands: int = 0

    def plus(self, other: Slot) -> Slot:
        return Slot(
            self.number,
            self.failures + other.failures,
            self.told + other.told,
            self.failed + other.failed,
            self.succeeded + other.succeeded,
            self.commands + other.commands,
        )


Window = tuple[Slot, ...]
"""Oldest first."""


def counted(window: Window, more: Slot) -> Window:
    """`window` with `more`, without what is past the horizon. What is late counts in the newest slot."""
    last = window[-1].number if window else more.number
    if window and last >= more.number:
        return (*window[:-1], window[-1].plus(more))
    return (*(slot for slot in window if slot.number > more.number - HORIZON_S), Slot(more.number).plus(more))


def total(window: Window, now: int, span_s: int, since_ms: int = 0) -> Slot:
    """The sum over at least the last `span_s` seconds, of the slots that began after `since_ms`."""
    first = max(now // SLOT_MS - span_s, -(-since_ms // SLOT_MS))
    sums = Slot(0)
    for slot in window:
        if slot.number >= first:
            sums = sums.plus(slot)
    return sums


def added(windows: Iterable[Window]) -> Window:
    """Several windows as one."""
    slots: dict[int, Slot] = {}
    for slot in (slot for window in windows for slot in window):
        slots[slot.number] = slots[slot.number].plus(slot) if slot.number in slots else slot
    return tuple(slots[number] for number in sorted(slots))


@dataclass(frozen=True, slots=True)
class Probe:
    """The one recovery that finds out whether a dependency works again."""

    recovery_id: str
    attempt: int
    until_ms: int
    """Without a word by then it is lost."""
    used: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """The incident under way."""

    incident_id: str
    opened_ms: int
    reason: str
    failures: int = 0
    held: int = 0
    released: int = 0
    recovered: int = 0
    unresolved: int = 0
    recovery_ids: tuple[str, ...] = ()
    said_ms: int = 0
    news: bool = False
    """Something changed since it was last said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependency:
    """One dependency."""

    name: str
    circuit: Circuit = Circuit.CLOSED
    epoch: int = 0
    since_ms: int = 0
    """Of the circuit as it is."""
    until_ms: int = 0
    """While open."""
    opened: int = 0
    """How often since it was last well: each doubles the wait."""
    ramp: bool = False
    """While throttled: those that were held are let go, ever faster. Else the budget is used up."""
    credit: float = 0.0
    """While throttled: permits that may be given at once."""
    paid_ms: int = 0
    """Up to when credit was given."""
    window: Window = ()
    probe: Probe | None = None
    outage: Outage | None = None
    heard_ms: int = 0
    said_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """All of one tenant's dependencies that something was heard of lately."""

    tenant_id: str
    dependencies: Mapping[str, Dependency] = field(default_factory=dict)
    waiting: Mapping[str, Mapping[str, Wanted]] = field(default_factory=dict)
    """Dependency to recovery id to what it waits for."""
    window: Window = ()
    """Of all dependencies together."""
    due_ms: int = 0
    """When something happens by itself next; 0: never."""


def moved(window: Window, now: int) -> Window:
    """`window`, which may be of a clock that was set back since."""
    ahead = window[-1].number - now // SLOT_MS if window else 0
    return tuple(replace(slot, number=slot.number - ahead) for slot in window) if ahead > 0 else window


def as_of(dependency: Dependency, now: int) -> Dependency:
    """`dependency`, whose times may be of a clock that was set back since: all of them go back with it."""
    ahead_ms = max(dependency.since_ms, dependency.paid_ms, dependency.heard_ms, dependency.said_ms) - now
    if ahead_ms <= 0:
        return dependency
    probe, outage = dependency.probe, dependency.outage
    return replace(
        dependency,
        since_ms=dependency.since_ms - ahead_ms,
        until_ms=dependency.until_ms - ahead_ms,
        paid_ms=dependency.paid_ms - ahead_ms,
        heard_ms=dependency.heard_ms - ahead_ms,
        said_ms=dependency.said_ms - ahead_ms,
        window=moved(dependency.window, now),
        probe=probe and replace(probe, until_ms=probe.until_ms - ahead_ms),
        outage=outage and replace(outage, said_ms=outage.said_ms - ahead_ms),
    )


_MEMORY: Final = TypeAdapter(Dependency)


def said(tenant_id: str, dependency: Dependency, now: int) -> DependencyState:
    """What everybody is told of it; holds all that a successor needs."""
    return DependencyState(
        tenant_id=tenant_id,
        dependency=dependency.name,
        circuit=dependency.circuit,
        until=from_epoch_ms(dependency.until_ms) if dependency.circuit is Circuit.OPEN else None,
        incident_id=dependency.outage.incident_id if dependency.outage else None,
        epoch=dependency.epoch,
        said_at=from_epoch_ms(now),
        memory=_MEMORY.dump_json(dependency, exclude_defaults=True).decode(),
    )


def remembered(state: DependencyState) -> Dependency:
    """What `said` was told. Memory that this release cannot read is made of what everybody can."""
    with suppress(ValueError):
        known = _MEMORY.validate_json(state.memory)
        if known.circuit is not Circuit.UNKNOWN:
            return known
    circuit = state.circuit if state.circuit is not Circuit.UNKNOWN else Circuit.CLOSED
    return Dependency(name=state.dependency, circuit=circuit, epoch=state.epoch)


def restored(tenant_id: str, states: Iterable[DependencyState]) -> Tenant:
    """A tenant as its dependencies were last said."""
    dependencies = {state.dependency: remembered(state) for state in states}
    window = added(dependency.window for dependency in dependencies.values())
    return Tenant(tenant_id=tenant_id, dependencies=dependencies, window=window, due_ms=1 if dependencies else 0)


def incident(tenant_id: str, name: str, outage: Outage, status: IncidentStatus, now: int) -> Incident:
    """What people are told of an outage."""
    return Incident(
        incident_id=outage.incident_id,
        tenant_id=tenant_id,
        dependency=name,
        status=status,
        reason=outage.reason,
        opened_at=from_epoch_ms(outage.opened_ms),
        updated_at=from_epoch_ms(now),
        closed_at=from_epoch_ms(now) if status is IncidentStatus.CLOSED else None,
        failures=outage.failures,
        held=outage.held,
        released=outage.released,
        recovered=outage.recovered,
        unresolved=outage.unresolved,
        recovery_ids=outage.recovery_ids,
    )


def with_words(outage: Outage, **more: int) -> Outage:
    """`outage` with more of what is counted."""
    if not any(more.values()):
        return outage
    return replace(outage, news=True, **{name: getattr(outage, name) + count for name, count in more.items()})
