"""What a recovery leans on, and whether its command may go at once: so that an outage is not answered with a storm.

A dependency is a tool or a model of one tenant. While nothing is wrong with it, a command needs nobody's leave: each
partition has an allowance of its own. Beyond it, or where the governor says that the dependency is down, the recovery
is held and asks the governor for a permit. Where no governor lives, the allowance alone lets it go, later.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import orjson

from processors.recover.events import Emit
from processors.recover.ids import digest
from processors.recover.policy import Policies, Policy
from processors.recover.state import Branch
from processors.recover.strategies import remedy
from processors.recover.view import Allowance, View
from schemas.modifications import PARAMETERS, SetModel, SetRetry, UseFallback
from schemas.records import Category, Circuit, DependencyReport, DependencyState, Option

NEWS_MS: Final = 15_000
"""Of a governor that said nothing for so long nobody knows whether it lives: it says something every five seconds
about what is not well."""
REASKS_PER_S: Final = 50
"""Held recoveries of one partition that are looked at again: more of them ask less often."""
OUTAGES: Final = frozenset(
    {"rate_limit", "timeout", "service_unavailable", "network_error", "quota_exhausted", "retries_exhausted"}
)
"""What tells of the dependency rather than of the call: the other subtypes fail however well it works."""
_HELD: Final = frozenset({Circuit.OPEN, Circuit.HALF_OPEN, Circuit.THROTTLED})
_ELSEWHERE: Final = (UseFallback, SetModel)
_NAME_CHARS: Final = 128
_MAX_ALLOWANCES: Final = 10_000
"""Those that are whole again are forgotten beyond it."""


def dependency_of(tenant_id: str, branch: Branch) -> str | None:
    """What a repeat of the failed call leans on; None: on nothing that others share."""
    verdict = branch.options.classification if branch.options else None
    if verdict is None or verdict.category is not Category.TOOL_FAILURE:
        return None
    return named_by(tenant_id, branch)


def named_by(tenant_id: str, branch: Branch) -> str | None:
    """What the failure itself names, before there is a verdict."""
    if branch.model is not None:
        return _named(tenant_id, "model", branch.model)
    return None if branch.tool is None else _named(tenant_id, "tool", branch.tool)


def leans_on(tenant_id: str, branch: Branch, option: Option) -> str | None:
    """The same for the run that `option` changes: another service, or another model, is another dependency."""
    dependency = dependency_of(tenant_id, branch)
    if dependency is None or PARAMETERS.get(option.strategy) not in _ELSEWHERE:
        return dependency
    change = remedy(option)
    if isinstance(change, UseFallback):
        return _named(tenant_id, "tool" if branch.model is None else "model", change.service)
    if isinstance(change, SetModel) and branch.model is not None:
        return _named(tenant_id, "model", change.model)
    return dependency


def _named(tenant_id: str, kind: str, name: str) -> str:
    # Names are text of strangers; the whole is a key, and an id of at most 256 characters.
    if len(name) > _NAME_CHARS or not name.isprintable():
        readable = "".join(char if char.isprintable() else "?" for char in name[: _NAME_CHARS // 2])
        name = f"{readable}~{digest('dependency', name)[:16]}"
    return f"{tenant_id}/{kind}:{name}"


def tool_of(dependency: str) -> str | None:
    """The tool in the name of a dependency, as policies name it; None: it is a model."""
    _, _, named = dependency.partition("/")
    kind, _, name = named.partition(":")
    return name if kind == "tool" else None


def policy_of(dependency: str, policies: Policies) -> Policy:
    """What holds for it, whichever agent leans on it."""
    tenant_id, _, _ = dependency.partition("/")
    return policies.of(tenant_id, None, tool_of(dependency))


def told_ms(branch: Branch) -> int:
    """The broker's time before which the service wants no call (Retry-After); 0: it said nothing."""
    options = branch.options
    assert options
    waits: list[float] = []
    for option in options.options:
        if PARAMETERS.get(option.strategy) is not SetRetry:
            continue
        with suppress(ValueError):
            change = remedy(option)
            assert isinstance(change, SetRetry)
            waits.append(change.initial_delay_s)
    if "retry_after_s" in options.classification.details:
        waits.append(_detail(options.classification.details))
    longest_s = max(waits, default=0.0)
    return branch.at_ms + math.ceil(min(longest_s, 86_400.0) * 1000) if longest_s > 0 else 0


def _detail(details: str) -> float:
    try:
        value = orjson.loads(details)["retry_after_s"]
        return max(0.0, float(value))
    except (ValueError, TypeError, KeyError):
        return 0.0


# --- whether it may go


def standing(view: View, dependency: str, now: int) -> DependencyState | None:
    """What holds of it by the governor's word; None: nothing does, or the governor is silent."""
    said = view.dependencies.get(dependency)
    if said is None or said.state.circuit not in _HELD or now - said.at_ms > NEWS_MS:
        return None
    return said.state


def may_go(view: View, dependency: str, policy: Policy, now: int) -> bool:
    """Whether a command may lean on it at once, without a permit."""
    if standing(view, dependency, now):
        return False
    allowance = view.allowances.get(dependency)
    return allowance is None or allowance.sent_ms <= now + (policy.dependency_burst - 1) * _each_ms(policy)


def looked_at_again_ms(view: View, dependency: str, recovery_id: str, policy: Policy, now: int) -> int:
    """Until when a recovery is held. With a governor that is only in case it forgot; without one, its turn."""
    longest_ms = max(policy.permit_reask_s, view.held / REASKS_PER_S) * 1000
    wait_ms = longest_ms
    if standing(view, dependency, now) is None and (allowance := view.allowances.get(dependency)):
        turn_ms = max(allowance.sent_ms - (policy.dependency_burst - 1) * _each_ms(policy), allowance.queued_ms)
        wait_ms = min(max(turn_ms - now, 0.0), longest_ms)
    # Spread by its id, so that what was held at once does not come back at once.
    share = int(recovery_id[:8], 16) / 2**32
    return now + max(1, math.ceil(wait_ms * (1 + 0.2 * share)))


def _each_ms(policy: Policy) -> float:
    return 1000 / policy.dependency_per_s


def charged(allowance: Allowance | None, report: DependencyReport, policy: Policy, now: int) -> Allowance:
    """The allowance after what `report` says was done with it."""
    allowance = allowance or Allowance()
    each_ms = _each_ms(policy)
    sent_ms, queued_ms = allowance.sent_ms, allowance.queued_ms
    if report.unpermitted:
        sent_ms = max(sent_ms, float(now)) + report.unpermitted * each_ms
    if report.wanted:
        turn_ms = max(sent_ms - (policy.dependency_burst - 1) * each_ms, queued_ms, float(now))
        queued_ms = turn_ms + len(report.wanted) * each_ms
    return Allowance(sent_ms, queued_ms)


# --- what the governor is told


class Reports:
    """What the steps of one transaction say of dependencies, added up: a storm of thousands is a few records."""

    def __init__(self, partition: int, allowances: dict[str, Allowance]) -> None:
        self._partition = partition
        self._allowances = allowances
        self._said: dict[str, list[DependencyReport]] = {}

    def taken(self, effects: Iterable[Emit], policies: Policies, now: int) -> list[Emit]:
        """Keep the reports among the effects of a step; returns the others."""
        others = []
        for effect in effects:
            if isinstance(effect.record, DependencyReport):
                self._add(effect.record, policies, now)
            else:
                others.append(effect)
        return others

    def _add(self, report: DependencyReport, policies: Policies, now: int) -> None:
        """Kept even if the transaction is not: then less may go than might, never more."""
        self._said.setdefault(report.dependency, []).append(report)
        policy = policy_of(report.dependency, policies)
        if report.unpermitted or report.wanted:
            before = self._allowances.get(report.dependency)
            self._allowances[report.dependency] = charged(before, report, policy, now)
        if len(self._allowances) > _MAX_ALLOWANCES:
            for name in [name for name, allowance in self._allowances.items() if allowance.sent_ms <= now]:
                del self._allowances[name]

    def added_up(self) -> list[DependencyReport]:
        return [merged(said, self._partition) for said in self._said.values()]


def merged(said: Iterable[DependencyReport], partition: int) -> DependencyReport:
    """Reports on one dependency as one."""
    said = tuple(said)
    told = [report.retry_after for report in said if report.retry_after]
    return said[-1].model_copy(
        update={
            "partition": partition,
            "failures": sum(report.failures for report in said),
            "retry_after": max(told, default=None),
            "told": sum(report.told for report in said),
            "succeeded": sum(report.succeeded for report in said),
            "failed": sum(report.failed for report in said),
            "expired": sum(report.expired for report in said),
            "unpermitted": sum(report.unpermitted for report in said),
            "wanted": tuple(each for report in said for each in report.wanted),
            "permits": tuple(each for report in said for each in report.permits),
            "unresolved": tuple(each for report in said for each in report.unresolved),
        }
    )
