"""The last question before a command: may it lean on what it leans on? And what the governor is told of it all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from processors.recover.choice import Choice, choose
from processors.recover.events import PermitRead
from processors.recover.governed import (
    OUTAGES,
    dependency_of,
    leans_on,
    looked_at_again_ms,
    may_go,
    named_by,
    policy_of,
    standing,
    told_ms,
)
from processors.recover.policy import Policy
from processors.recover.state import Branch, Hold, InFlight, Recovery, replace
from processors.recover.turn import Turn
from schemas.records import (
    Circuit,
    DependencyReport,
    DependencyState,
    DispositionKind,
    Option,
    PermitUse,
    PermitWord,
    RecoveryOptions,
    ResultReason,
    SettledStatus,
    Strategy,
    Unresolved,
    Wanted,
    epoch_ms,
    from_epoch_ms,
)

Ready = list[tuple[Branch, RecoveryOptions]]
_BY_OUTAGE: Final = frozenset({ResultReason.EXHAUSTED, ResultReason.EXPIRED, ResultReason.NEEDS_HUMAN})


def may_pass(
    turn: Turn, recovery: Recovery, ready: Ready, choices: list[Choice], policies: list[Policy]
) -> list[Choice] | None:
    """The choices whose command may go now; None: the recovery is held.

    Where what they lean on is down, others that lean on something else are taken instead, if there are any.
    """
    lacking = _lacking(turn, recovery, ready, choices)
    if lacking is None:
        return choices
    if _is_down(turn, lacking):
        others = [
            choose(recovery, b, o, p, turn.now, _barred(turn, recovery, b))
            for (b, o), p in zip(ready, policies, strict=True)
        ]
        if all(_may_be_done(other, policy) for other, policy in zip(others, policies, strict=True)):
            return others
    _hold(turn, recovery, ready, lacking, policies)
    return None


def _may_be_done(choice: Choice, policy: Policy) -> bool:
    option = choice.option
    return option is not None and option.strategy is not Strategy.ASK_HUMAN and not policy.wants_approval(option)


def _lacking(turn: Turn, recovery: Recovery, ready: Ready, choices: list[Choice]) -> str | None:
    """The first dependency that may not be leaned on without a permit."""
    for (branch, _), choice in zip(ready, choices, strict=True):
        option = choice.option
        dependency = option and _leans_on(turn, branch, option)
        if dependency and not _granted(turn, recovery, dependency):
            return dependency
    return None


def _leans_on(turn: Turn, branch: Branch, option: Option) -> str | None:
    return None if option.strategy is Strategy.ASK_HUMAN else leans_on(turn.state.tenant_id, branch, option)


def _granted(turn: Turn, recovery: Recovery, dependency: str) -> bool:
    policy = policy_of(dependency, turn.policies)
    return _has_permit(turn, recovery, dependency) or may_go(turn.view, dependency, policy, turn.now)


def _has_permit(turn: Turn, recovery: Recovery, dependency: str) -> bool:
    until_ms = max((expires_ms for name, expires_ms in recovery.permits if name == dependency), default=0)
    # It outlives its time while the attempt waits for another: else two that come one by one were never there together.
    return turn.now < until_ms or (until_ms > 0 and not _is_down(turn, dependency))


def _is_down(turn: Turn, dependency: str) -> bool:
    state = standing(turn.view, dependency, turn.now)
    return state is not None and state.circuit in (Circuit.OPEN, Circuit.HALF_OPEN)


def _barred(turn: Turn, recovery: Recovery, branch: Branch) -> Callable[[Option], str | None]:
    def barred(option: Option) -> str | None:
        dependency = _leans_on(turn, branch, option)
        if dependency is None or _granted(turn, recovery, dependency):
            return None
        return f"{dependency} has to be spared"

    return barred


def _hold(turn: Turn, recovery: Recovery, ready: Ready, dependency: str, policies: list[Policy]) -> None:
    limit_ms = min(
        min(recovery.started_ms + round(policy.max_duration_s * 1000), branch.deadline_ms or 2**62)
        for (branch, _), policy in zip(ready, policies, strict=True)
    )
    policy = policy_of(dependency, turn.policies)
    again_ms = looked_at_again_ms(turn.view, dependency, recovery.recovery_id, policy, turn.now)
    held = recovery.hold
    if held is None or (held.kind, held.key) != ("permit", dependency):
        held = Hold(kind="permit", key=dependency, since_ms=turn.now, until_ms=0)
        for branch in recovery.branches:
            turn.dispose_branch(branch, DispositionKind.HELD, f"waits for a permit on {dependency}")
    # At the limit it is looked at once more, and ends.
    held = replace(held, until_ms=min(again_ms, max(limit_ms, turn.now + 1)))
    turn.state = replace(turn.state, recovery=replace(recovery, hold=held, due_ms=held.until_ms))
    _report(
        turn,
        dependency,
        wanted=(
            Wanted(
                execution_id=turn.state.execution_id,
                recovery_id=recovery.recovery_id,
                attempt=recovery.attempt + 1,
                since=from_epoch_ms(held.since_ms),
            ),
        ),
    )


def on_permit(turn: Turn, event: PermitRead) -> bool:
    """Take it, if the recovery waits for it. Whether it did; one that did not gives it back."""
    permit, recovery = event.record, turn.state.recovery
    waits = (
        recovery is not None
        and recovery.command is None
        and recovery.hold is not None
        and recovery.recovery_id == permit.recovery_id
        and recovery.attempt + 1 == permit.attempt
        and recovery.hold.key == permit.dependency
    )
    expires_ms = epoch_ms(permit.expires_at)
    if not waits or turn.now >= expires_ms:
        turn.dispose("permit", permit.recovery_id, DispositionKind.STALE, event.place, "nothing waits for it",
                     permit.recovery_id, permit.attempt)  # fmt: skip
        _word(turn, permit.dependency, permit.recovery_id, permit.attempt, PermitUse.RETURNED)
        return False
    assert recovery
    turn.state = replace(
        turn.state, recovery=replace(recovery, permits=(*recovery.permits, (permit.dependency, expires_ms)))
    )
    return True


# --- what the governor is told


def leans(turn: Turn, ready: Ready, choices: list[Choice]) -> tuple[str, ...]:
    """What the command of these choices leans on."""
    found = [_leans_on(turn, b, c.option) for (b, _), c in zip(ready, choices, strict=True) if c.option]
    return tuple(dict.fromkeys(name for name in found if name))


def report_command(turn: Turn, recovery: Recovery, on: tuple[str, ...]) -> tuple[str, ...]:
    """A command goes out; which of `on` by permit."""
    permitted = tuple(name for name in on if _has_permit(turn, recovery, name))
    attempt = recovery.attempt + 1
    for name in permitted:
        _word(turn, name, recovery.recovery_id, attempt, PermitUse.USED)
    for name in on:
        if name not in permitted:
            _report(turn, name, unpermitted=1)
    give_back(turn, recovery, permitted)
    return permitted


def report_failure(turn: Turn, branch: Branch) -> None:
    """A run failed, and why is known."""
    dependency = dependency_of(turn.state.tenant_id, branch)
    if dependency is None or branch.options is None or branch.options.classification.subtype not in OUTAGES:
        return
    until_ms = told_ms(branch)
    _report(
        turn,
        dependency,
        failures=1,
        told=1 if until_ms else 0,
        retry_after=from_epoch_ms(until_ms) if until_ms else None,
    )


def report_settled(turn: Turn, recovery: Recovery, command: InFlight, status: SettledStatus, by: Branch | None) -> None:
    """An attempt ended. `by`: the failure that ended it; one of something else says nothing of what it leaned on."""
    for name in command.leans:
        use = PermitUse.INCONCLUSIVE
        if status is SettledStatus.SUCCEEDED:
            use = PermitUse.SUCCEEDED
        elif status is SettledStatus.EXPIRED:
            use = PermitUse.EXPIRED
        elif by is not None and named_by(turn.state.tenant_id, by) == name:
            use = PermitUse.FAILED
        if use is not PermitUse.INCONCLUSIVE:
            _report(turn, name, **{use.value: 1})
        if name in command.permitted:
            _word(turn, name, recovery.recovery_id, command.attempt, use)


def blamed(turn: Turn, recovery: Recovery, reason: ResultReason) -> DependencyState | None:
    """The dependency whose outage is why a person is needed, for `reason`."""
    if reason not in _BY_OUTAGE or not recovery.branches:
        return None
    if reason is ResultReason.NEEDS_HUMAN and (not recovery.attempt or any(b.unsafe for b in recovery.branches)):
        return None  # They would be needed without it.
    dependency = dependency_of(turn.state.tenant_id, recovery.branches[0])
    state = standing(turn.view, dependency, turn.now) if dependency else None
    return state if state and state.incident_id else None


def report_end(turn: Turn, recovery: Recovery, reason: ResultReason) -> str | None:
    """The recovery ends with a person needed, for `reason`. The incident because of which it does, if it is one."""
    state = blamed(turn, recovery, reason)
    if state is None:
        return None
    ended = Unresolved(execution_id=turn.state.execution_id, recovery_id=recovery.recovery_id)
    _report(turn, state.dependency, unresolved=(ended,))
    return state.incident_id


def give_back(turn: Turn, recovery: Recovery, used: tuple[str, ...] = ()) -> None:
    """The pending attempt needs no permit but those on `used`: what it has, or waits for, is for others."""
    hold = recovery.hold
    asked = (hold.key,) if hold and hold.kind == "permit" else ()
    for name in dict.fromkeys((*(name for name, _ in recovery.permits), *asked)):
        if name not in used:
            _word(turn, name, recovery.recovery_id, recovery.attempt + 1, PermitUse.RETURNED)


def _word(turn: Turn, dependency: str, recovery_id: str, attempt: int, use: PermitUse) -> None:
    _report(turn, dependency, permits=(PermitWord(recovery_id=recovery_id, attempt=attempt, use=use),))


def _report(turn: Turn, dependency: str, **said: Any) -> None:
    turn.emit(
        DependencyReport(
            tenant_id=turn.state.tenant_id,
            dependency=dependency,
            partition=0,  # that of the ledger, which adds the reports up
            reported_at=from_epoch_ms(turn.now),
            **said,
        )
    )
