"""One tenant's dependencies as one pure function: circuits, budgets, permits, incidents; time and policy are arguments.

CLOSED ──error rate, or told to wait──► OPEN ──its time is over──► HALF_OPEN ──the probe succeeded──► THROTTLED
  ▲ │                                    ▲ ▲                          │                                 │ │
  │ └────────────the budget is used up───┼─┼──────────────────────────┼────────► (at the budget's pace) │ │
  │                                      │ └─────the probe failed─────┘                                 │ │
  │                                      └────────────────────────error rate────────────────────────────┘ │
  └──────────────────────────────nobody waits any more, and the budget has room───────────────────────────┘
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from heapq import nsmallest
from itertools import chain, zip_longest
from typing import Final

from processors.govern.state import (
    MAX_RECOVERIES,
    SLOT_MS,
    Dependency,
    Outage,
    Probe,
    Slot,
    Tenant,
    as_of,
    counted,
    incident,
    moved,
    total,
    with_words,
)
from processors.recover.governed import tool_of
from processors.recover.ids import digest
from processors.recover.policy import Policies, Policy
from schemas.records import (
    Circuit,
    DependencyReport,
    Event,
    IncidentStatus,
    Permit,
    PermitUse,
    PermitWord,
    Wanted,
    epoch_ms,
    from_epoch_ms,
)

MAX_DEPENDENCIES: Final = 1000
"""Of one tenant: names are text of strangers. Of more, recover's own allowances hold."""
MAX_WAITING: Final = 10_000
"""On one dependency; the others ask again."""
TURN_MS: Final = 100
HEARTBEAT_MS: Final = 5_000
ONGOING_MS: Final = 10_000
QUIET_MS: Final = 600_000
"""What is well and was not heard of for so long is forgotten; a probe that nobody asks for is not waited for."""
DOUBLE_MS: Final = 5_000
"""The ramp's rate doubles in it."""


@dataclass(frozen=True, slots=True)
class TimePassed:
    """Nothing was said."""


def govern(
    tenant: Tenant, event: DependencyReport | TimePassed, now: int, policies: Policies
) -> tuple[Tenant, tuple[Event, ...]]:
    """What `event` makes of `tenant`, and the permits and incidents that it causes.

    `now` is the broker's time in epoch ms. `tenant` is left as it is.
    """
    turn = _Turn(tenant, now, policies)
    if isinstance(event, DependencyReport):
        turn.hear(event)
        turn.pass_time(event.dependency)
    else:
        for name in tuple(turn.dependencies):
            turn.pass_time(name)
    turn.release()
    return turn.result(), tuple(turn.effects)


class _Turn:
    """One call of `govern` under way."""

    def __init__(self, tenant: Tenant, now: int, policies: Policies) -> None:
        self._tenant = tenant
        self._now = now
        self._policies = policies
        self.dependencies = dict(tenant.dependencies)
        self.waiting: dict[str, dict[str, Wanted]] = dict(tenant.waiting)  # type: ignore[arg-type]
        self._own: set[str] = set()
        """Names in `waiting` whose value is this call's own."""
        self.window = moved(tenant.window, now)
        self.effects: list[Event] = []

    def result(self) -> Tenant:
        waiting = {name: those for name, those in self.waiting.items() if those}
        due = [_due_ms(d, bool(waiting.get(d.name)), self._now) for d in self.dependencies.values()]
        return Tenant(
            tenant_id=self._tenant.tenant_id,
            dependencies=self.dependencies,
            waiting=waiting,
            window=self.window,
            due_ms=min(due, default=0),
        )

    def policy(self, name: str) -> Policy:
        return self._policies.of(self._tenant.tenant_id, None, tool_of(name))

    # --- what is heard

    def hear(self, report: DependencyReport) -> None:
        policy, now = self.policy(report.dependency), self._now
        if epoch_ms(report.reported_at) < now - policy.retry_budget_window_s * 1000:
            return  # A replay: what it counted is past, and who waited then asks again.
        dependency = self.dependencies.get(report.dependency) or self._make_room(report.dependency)
        if dependency is None:
            return
        dependency = as_of(dependency, now)
        counts = Slot(
            now // SLOT_MS,
            failures=report.failures + report.expired,
            told=report.told,
            failed=report.failed + report.expired,
            succeeded=report.succeeded,
            # Permits counted when they were given: one that comes back may be of a window that is past.
            commands=report.unpermitted,
        )
        self.window = counted(self.window, counts)
        dependency = replace(dependency, heard_ms=now, window=counted(dependency.window, counts))
        dependency = self._ask(dependency, report)
        dependency = _note(dependency, report)
        for word in report.permits:
            dependency = self._hear_of(dependency, word, policy)
        told_ms = min(epoch_ms(report.retry_after), now + _ms(policy.breaker_max_open_s)) if report.retry_after else 0
        self.dependencies[report.dependency] = self._judge(dependency, policy, told_ms)

    def _make_room(self, name: str) -> Dependency | None:
        if len(self.dependencies) >= MAX_DEPENDENCIES:
            well = [
                d for d in self.dependencies.values() if d.circuit is Circuit.CLOSED and not self.waiting.get(d.name)
            ]
            if not well:
                return None
            del self.dependencies[min(well, key=lambda d: d.heard_ms).name]
        return Dependency(name=name)

    def _ask(self, dependency: Dependency, report: DependencyReport) -> Dependency:
        if not report.wanted:
            return dependency
        waiting = self._waiting(dependency.name)
        for wanted in report.wanted:
            if wanted.recovery_id in waiting or len(waiting) < MAX_WAITING:
                waiting[wanted.recovery_id] = wanted
        return dependency

    def _waiting(self, name: str) -> dict[str, Wanted]:
        """Who waits for `name`, to be changed."""
        if name not in self._own:
            self._own.add(name)
            self.waiting[name] = dict(self.waiting.get(name, {}))
        return self.waiting[name]

    def _hear_of(self, dependency: Dependency, word: PermitWord, policy: Policy) -> Dependency:
        """A word on a permit: of a probe's, the circuit may follow it."""
        waits = self.waiting.get(dependency.name, {}).get(word.recovery_id)
        if word.use is PermitUse.RETURNED and waits and waits.attempt <= word.attempt:
            # After a long outage most of those that began to wait in it may have ended.
            del self._waiting(dependency.name)[word.recovery_id]
        probe = dependency.probe
        if probe is None or (probe.recovery_id, probe.attempt) != (word.recovery_id, word.attempt):
            return dependency
        match word.use:
            case PermitUse.USED:
                until_ms = self._now + _ms(policy.probe_wait_s)
                return replace(dependency, probe=replace(probe, used=True, until_ms=until_ms))
            case PermitUse.SUCCEEDED:
                return self._turned(dependency, Circuit.THROTTLED, ramp=True, credit=1.0, paid_ms=self._now)
            case PermitUse.FAILED | PermitUse.EXPIRED:
                return self._opened(dependency, policy, "the probe failed", 0)
            case PermitUse.RETURNED if probe.used:
                return dependency  # of a second permit
            case _:
                return replace(dependency, probe=None)

    # --- the circuit

    def _judge(self, dependency: Dependency, policy: Policy, told_ms: int) -> Dependency:
        """Open where too much fails; while open, honour what the service asks for."""
        if dependency.circuit is Circuit.OPEN:
            # What it asks for counts from when it opened: else those who go on calling it keep it open for ever.
            told_ms = min(told_ms, dependency.since_ms + _ms(policy.breaker_max_open_s))
            return replace(dependency, until_ms=max(dependency.until_ms, told_ms))
        if dependency.circuit is Circuit.HALF_OPEN:
            return dependency
        seen = total(dependency.window, self._now, policy.breaker_window_s, dependency.since_ms)
        # Where it was down a moment ago a quarter tells as much.
        share = 0.25 if dependency.ramp else 1.0
        enough = (
            seen.failures >= policy.breaker_min_failures * share and seen.failed >= policy.breaker_min_failed * share
        )
        enough = enough or seen.told >= policy.breaker_min_told
        if not enough or seen.failures < policy.breaker_error_rate * (seen.failures + seen.succeeded):
            return dependency
        of = seen.failures + seen.succeeded
        reason = f"{seen.failures} of {of} runs on it failed within {policy.breaker_window_s} s"
        return self._opened(dependency, policy, reason, told_ms)

    def _opened(self, dependency: Dependency, policy: Policy, reason: str, told_ms: int) -> Dependency:
        wait_s = min(policy.breaker_open_s * 2.0 ** min(dependency.opened, 32), policy.breaker_max_open_s)
        until_ms = self._now + _ms(wait_s)
        if told_ms > self._now:
            # Nobody knows better than the service, until it was wrong.
            until_ms = max(until_ms, told_ms) if dependency.opened else told_ms
        outage = dependency.outage
        if outage is None:
            name = digest("incident", dependency.name, str(dependency.epoch), str(self._now))
            outage = Outage(incident_id=name, opened_ms=self._now, reason=reason, said_ms=self._now)
            self._say(dependency.name, outage, IncidentStatus.OPENED)
        return self._turned(
            dependency, Circuit.OPEN, until_ms=until_ms, opened=dependency.opened + 1, ramp=False, outage=outage
        )

    def _turned(self, dependency: Dependency, circuit: Circuit, **more: object) -> Dependency:
        turned = replace(
            dependency, circuit=circuit, epoch=dependency.epoch + 1, since_ms=self._now, said_ms=self._now, probe=None
        )
        return replace(turned, **more)  # type: ignore[arg-type]

    def _closed(self, dependency: Dependency) -> Dependency:
        if dependency.outage:
            self._say(dependency.name, dependency.outage, IncidentStatus.CLOSED)
        return self._turned(dependency, Circuit.CLOSED, opened=0, ramp=False, credit=0.0, outage=None)

    def _say(self, name: str, outage: Outage, status: IncidentStatus) -> None:
        self.effects.append(incident(self._tenant.tenant_id, name, outage, status, self._now))

    # --- time

    def pass_time(self, name: str) -> None:
        """What follows for `name` from the time alone."""
        dependency, now = self.dependencies.get(name), self._now
        if dependency is None:
            return
        dependency = as_of(dependency, now)
        waits, policy = bool(self.waiting.get(name)), self.policy(name)
        quiet = now - dependency.heard_ms >= QUIET_MS and not waits
        if dependency.probe and now >= dependency.probe.until_ms:
            dependency = replace(dependency, probe=None)
        match dependency.circuit:
            case Circuit.OPEN if now >= dependency.until_ms:
                dependency = self._turned(dependency, Circuit.HALF_OPEN)
            case Circuit.HALF_OPEN if quiet:
                dependency = self._closed(dependency)
            case Circuit.THROTTLED:
                dependency = self._paid(dependency, policy)
                ramped = not dependency.ramp or now - dependency.since_ms >= 2 * DOUBLE_MS
                if not waits and ramped and self._room(dependency, policy) >= self._limit(dependency, policy) / 2:
                    dependency = self._closed(dependency)
            case Circuit.CLOSED if self._room(dependency, policy) < 1:
                dependency = self._turned(dependency, Circuit.THROTTLED, credit=1.0, paid_ms=now)
            case Circuit.CLOSED if quiet:
                del self.dependencies[name]
                return
        if dependency.circuit is not Circuit.CLOSED and now - dependency.said_ms >= HEARTBEAT_MS:
            dependency = replace(dependency, said_ms=now)
        outage = dependency.outage
        if outage and outage.news and now - outage.said_ms >= ONGOING_MS:
            self._say(name, outage, IncidentStatus.ONGOING)
            dependency = replace(dependency, outage=replace(outage, said_ms=now, news=False))
        self.dependencies[name] = dependency

    def _paid(self, dependency: Dependency, policy: Policy) -> Dependency:
        per_s = policy.release_max_per_s
        if dependency.ramp:
            doubled = min((self._now - dependency.since_ms) / DOUBLE_MS, 32.0)
            per_s = min(policy.release_per_s * 2.0**doubled, per_s)
        credit = dependency.credit + per_s * max(0, self._now - dependency.paid_ms) / 1000
        return replace(dependency, credit=min(credit, max(1.0, per_s)), paid_ms=self._now)

    # --- budgets

    def _limit(self, dependency: Dependency, policy: Policy) -> float:
        seen = total(dependency.window, self._now, policy.retry_budget_window_s)
        return policy.retry_budget_floor + policy.retry_budget_share * seen.succeeded

    def _room(self, dependency: Dependency, policy: Policy) -> float:
        """Commands that the dependency's budget has left."""
        seen = total(dependency.window, self._now, policy.retry_budget_window_s)
        return policy.retry_budget_floor + policy.retry_budget_share * seen.succeeded - seen.commands

    def _tenants_room(self) -> float:
        policy = self._policies.of(self._tenant.tenant_id, None, None)
        seen = total(self.window, self._now, policy.retry_budget_window_s)
        return policy.tenant_budget_floor + policy.retry_budget_share * seen.succeeded - seen.commands

    # --- permits

    def release(self) -> None:
        """Give the permits that circuits and budgets allow: to who has waited longest, dependencies in turn."""
        turns = [self._next(name) for name, those in self.waiting.items() if those]
        if not any(turns):
            return
        room = int(self._tenants_room())
        for name, wanted in (pair for pair in chain.from_iterable(zip_longest(*turns)) if pair):
            if room < 1:
                return
            room -= 1
            self._permit(name, wanted)

    def _next(self, name: str) -> list[tuple[str, Wanted]]:
        dependency, policy, waiting = self.dependencies[name], self.policy(name), self.waiting[name]
        count = int(self._room(dependency, policy))
        match dependency.circuit:
            case Circuit.OPEN:
                count = 0
            case Circuit.HALF_OPEN:
                count = min(count, 0 if dependency.probe else 1)
            case Circuit.THROTTLED:
                count = min(count, int(dependency.credit))
        if count < 1:
            return []
        oldest = nsmallest(count, waiting.values(), key=lambda wanted: (wanted.since, wanted.recovery_id))
        return [(name, wanted) for wanted in oldest]

    def _permit(self, name: str, wanted: Wanted) -> None:
        dependency, policy, now = self.dependencies[name], self.policy(name), self._now
        probes = dependency.circuit is Circuit.HALF_OPEN
        expires_ms = now + _ms(policy.permit_valid_s)
        self.effects.append(
            Permit(
                tenant_id=self._tenant.tenant_id,
                execution_id=wanted.execution_id,
                recovery_id=wanted.recovery_id,
                attempt=wanted.attempt,
                dependency=name,
                probe=probes,
                issued_at=from_epoch_ms(now),
                expires_at=from_epoch_ms(expires_ms),
            )
        )
        del self._waiting(name)[wanted.recovery_id]
        command = Slot(now // SLOT_MS, commands=1)
        self.window = counted(self.window, command)
        self.dependencies[name] = replace(
            dependency,
            window=counted(dependency.window, command),
            credit=dependency.credit - 1 if dependency.circuit is Circuit.THROTTLED else dependency.credit,
            probe=Probe(wanted.recovery_id, wanted.attempt, expires_ms) if probes else dependency.probe,
            outage=dependency.outage and with_words(dependency.outage, released=1),
        )


def _note(dependency: Dependency, report: DependencyReport) -> Dependency:
    """What `report` adds to the incident."""
    outage = dependency.outage
    if outage is None:
        return dependency
    names = tuple(each.recovery_id for each in report.unresolved[: MAX_RECOVERIES - len(outage.recovery_ids)])
    outage = with_words(
        replace(outage, recovery_ids=(*outage.recovery_ids, *names)),
        failures=report.failures,
        # Who asks again was counted when it was held.
        held=sum(wanted.since >= report.reported_at for wanted in report.wanted),
        recovered=report.succeeded,
        unresolved=len(report.unresolved),
    )
    return replace(dependency, outage=outage)


def _due_ms(dependency: Dependency, waits: bool, now: int) -> int:
    beats_ms = dependency.said_ms + HEARTBEAT_MS
    match dependency.circuit:
        case Circuit.OPEN:
            due_ms = min(dependency.until_ms, beats_ms)
        case Circuit.HALF_OPEN if dependency.probe:
            due_ms = min(dependency.probe.until_ms, beats_ms)
        case _ if waits:
            due_ms = now + TURN_MS
        case Circuit.CLOSED:
            due_ms = dependency.heard_ms + QUIET_MS
        case Circuit.THROTTLED:
            due_ms = min(beats_ms, now + 10 * TURN_MS)
        case _:
            due_ms = beats_ms
    if dependency.outage and dependency.outage.news:
        due_ms = min(due_ms, dependency.outage.said_ms + ONGOING_MS)
    return max(due_ms, now + 1)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
