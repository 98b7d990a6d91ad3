"""A governor's core with a recover around it that asks, uses, loses and reports; a plain count of what it gave."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from processors.govern.core import TimePassed, govern
from processors.govern.state import Tenant, restored, said
from processors.recover.ids import digest
from processors.recover.policy import Policies
from schemas.records import (
    Circuit,
    DependencyReport,
    Event,
    Incident,
    Permit,
    PermitUse,
    PermitWord,
    Wanted,
    epoch_ms,
    from_epoch_ms,
)

START_MS = 1_800_000_000_000
CRM = "acme/tool:crm"
SMALL = {
    "breaker_min_failures": 4,
    "breaker_min_failed": 2,
    "breaker_min_told": 2,
    "breaker_window_s": 10,
    "breaker_open_s": 2,
    "breaker_max_open_s": 20,
    "probe_wait_s": 10,
    "permit_valid_s": 5,
    "retry_budget_window_s": 10,
    "retry_budget_floor": 6,
    "retry_budget_share": 1,
    "tenant_budget_floor": 9,
}
POLICIES = Policies({"default": SMALL})


def report(dependency: str = CRM, at_ms: int = START_MS, **fields: Any) -> DependencyReport:
    return DependencyReport(
        tenant_id="acme", dependency=dependency, partition=0, reported_at=from_epoch_ms(at_ms), **fields
    )


def wanted(number: int, since_ms: int, attempt: int = 1) -> Wanted:
    return Wanted(
        execution_id=f"run-{number}",
        recovery_id=digest("recovery", str(number)),
        attempt=attempt,
        since=from_epoch_ms(since_ms),
    )


@dataclass
class World:
    """One tenant; `said` is all that the governor ever said."""

    policies: Policies = POLICIES
    now: int = START_MS
    tenant: Tenant = field(default_factory=lambda: Tenant(tenant_id="acme"))
    said: list[Event] = field(default_factory=list)

    def hear(self, dependency: str = CRM, **fields: Any) -> list[Event]:
        return self.step(report(dependency, self.now, **fields))

    def word(self, permit: Permit, use: PermitUse, **fields: Any) -> list[Event]:
        """What recover says of a permit."""
        word = PermitWord(recovery_id=permit.recovery_id, attempt=permit.attempt, use=use)
        return self.hear(permit.dependency, permits=(word,), **fields)

    def step(self, event: DependencyReport | TimePassed) -> list[Event]:
        self.tenant, effects = govern(self.tenant, event, self.now, self.policies)
        self.said += effects
        return list(effects)

    def pass_time(self, ms: int) -> list[Event]:
        """All that is due on the way happens on its time."""
        until, effects = self.now + ms, []
        while self.tenant.due_ms and self.tenant.due_ms <= until:
            assert self.tenant.due_ms > self.now
            self.now = self.tenant.due_ms
            effects += self.step(TimePassed())
        self.now = until
        return effects

    def restart(self) -> None:
        """The governor dies; what it broadcast is all that its successor knows."""
        states = [said("acme", dependency, self.now) for dependency in self.tenant.dependencies.values()]
        self.tenant = restored("acme", states)
        self.tenant = replace(self.tenant, due_ms=max(self.tenant.due_ms and self.now + 1, 0))

    def circuit(self, dependency: str = CRM) -> Circuit:
        known = self.tenant.dependencies.get(dependency)
        return known.circuit if known else Circuit.CLOSED

    @property
    def permits(self) -> list[Permit]:
        return [event for event in self.said if isinstance(event, Permit)]

    @property
    def incidents(self) -> list[Incident]:
        return [event for event in self.said if isinstance(event, Incident)]

    def issued_ms(self) -> list[int]:
        return [epoch_ms(permit.issued_at) for permit in self.permits]
