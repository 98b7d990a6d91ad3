"""The rungs: from a pending attempt to its command, from an ended attempt to the next, or to the end."""

from __future__ import annotations

from typing import Final

from processors.recover import ids
from processors.recover.choice import Choice, changes, choose
from processors.recover.policy import Policy
from processors.recover.state import MAX_CLOSED, Branch, Closed, InFlight, Recovery, replace
from processors.recover.strategies import changes_arguments, merge, modifications, work_s
from processors.recover.turn import Turn
from schemas.records import (
    Category,
    Checkpoint,
    Decision,
    DispositionKind,
    Escalation,
    Fence,
    RecoveryOptions,
    RecoveryResult,
    ResultReason,
    ResultStatus,
    ResumeCommand,
    ResumeOutcome,
    SettledAttempt,
    SettledStatus,
    Strategy,
    from_epoch_ms,
)

_NO_PERSON: Final = frozenset({ResultReason.RECOVERED, ResultReason.NOT_A_FAILURE, ResultReason.ABANDONED})


def advance(turn: Turn) -> None:
    """Command the pending attempt, if all it waits for is there; end the recovery, if nothing may be done."""
    recovery = turn.state.recovery
    if recovery is None or recovery.command:
        return None
    recovery = _without_control_flow(turn, recovery)
    if not recovery.branches:
        return close(turn, ResultReason.NOT_A_FAILURE)
    ready = [(branch, branch.options) for branch in recovery.branches if branch.options]
    if not ready:
        if turn.now >= recovery.options_until_ms:
            return close(turn, ResultReason.EXPIRED)
        return _wait(turn, recovery.options_until_ms)
    if len(ready) < len(recovery.branches) and turn.now < recovery.merge_until_ms:
        return _wait(turn, recovery.merge_until_ms)
    ready = [(b, o) for b, o in ready if o.classification.category is not Category.UNCLASSIFIED] or ready
    options = ready[0][1]
    verdict = options.classification
    if not recovery.subtype:
        recovery = replace(recovery, category=verdict.category, subtype=verdict.subtype[:256])
    policies = [_policy(turn, branch) for branch, _ in ready]
    choices = [choose(recovery, b, o, p, turn.now) for (b, o), p in zip(ready, policies, strict=True)]
    recovery = replace(recovery, considered=choices[0].candidates)
    turn.state = replace(turn.state, recovery=recovery)
    # The resumed run repeats what every branch did: what forbids one of them forbids it.
    for (b, o), choice, p in zip(ready, choices, policies, strict=True):
        if reason := _impasse(recovery, b, o, choice, p, turn.now):
            return close(turn, reason)
    if any(branch.unsafe and not _policy(turn, branch).allow_unsafe_effects for branch in recovery.branches):
        return close(turn, ResultReason.NEEDS_HUMAN)
    policy = policies[0]
    checkpoint = next((c for b, o in ready if (c := b.checkpoint or o.checkpoint)), None) or turn.state.checkpoint
    if checkpoint:
        return _command(turn, recovery, ready, choices, checkpoint, policy)
    if turn.now >= recovery.checkpoint_until_ms:
        return close(turn, ResultReason.NO_CHECKPOINT)
    return _wait(turn, recovery.checkpoint_until_ms)


def _policy(turn: Turn, branch: Branch) -> Policy:
    return turn.policies.of(turn.state.tenant_id, branch.agent_id, branch.tool)


def _wait(turn: Turn, until_ms: int) -> None:
    assert turn.state.recovery
    turn.state = replace(turn.state, recovery=replace(turn.state.recovery, due_ms=until_ms))


def _without_control_flow(turn: Turn, recovery: Recovery) -> Recovery:
    """An interrupt among the branches is no failure: it is said so, and left out."""
    verdicts = [branch.options.classification if branch.options else None for branch in recovery.branches]
    interrupts = [verdict for verdict in verdicts if verdict and verdict.category is Category.NONE]
    if not interrupts:
        return recovery
    left = []
    for branch, verdict in zip(recovery.branches, verdicts, strict=True):
        if verdict and verdict.category is Category.NONE:
            turn.dispose_branch(branch, DispositionKind.IGNORED, verdict.subtype[:256])
        else:
            left.append(branch)
    recovery = replace(recovery, branches=tuple(left))
    if not left and not recovery.subtype:
        recovery = replace(recovery, category=Category.NONE, subtype=interrupts[0].subtype[:256])
    turn.state = replace(turn.state, recovery=recovery)
    return recovery


def _impasse(
    recovery: Recovery, branch: Branch, options: RecoveryOptions, choice: Choice, policy: Policy, now: int
) -> ResultReason | None:
    """Why no command may follow, or None."""
    if options.classification.category is Category.UNCLASSIFIED:
        return ResultReason.UNCLASSIFIED
    if not options.options:
        return ResultReason.NO_OPTIONS
    if choice.option and choice.option.strategy is not Strategy.ASK_HUMAN:
        return None
    if now >= recovery.started_ms + policy.max_duration_s * 1000 or (branch.deadline_ms and now >= branch.deadline_ms):
        return ResultReason.EXPIRED
    if recovery.attempt >= policy.max_attempts:
        return ResultReason.EXHAUSTED
    if choice.only_money_forbids:
        return ResultReason.OVER_BUDGET
    if choice.option or (branch.unsafe and not policy.allow_unsafe_effects):
        return ResultReason.NEEDS_HUMAN
    return ResultReason.EXHAUSTED


def _command(
    turn: Turn,
    recovery: Recovery,
    ready: list[tuple[Branch, RecoveryOptions]],
    choices: list[Choice],
    checkpoint: Checkpoint,
    policy: Policy,
) -> None:
    branch, options = ready[0]
    option = choices[0].option
    assert option
    changed, tried = changes(ready, choices)
    merged = merge(changed)
    attempt = recovery.attempt + 1
    command_id = ids.command_id(recovery.recovery_id, attempt)
    call_s = policy.call_s if branch.call_timeout_s is None else branch.call_timeout_s
    wait_s = policy.start_within_s + min(policy.attempt_s + work_s(merged, call_s), policy.max_outcome_wait_s)
    deadline_ms = turn.now + round(wait_s * 1000)
    verdict = options.classification
    command = ResumeCommand(
        command_id=command_id,
        recovery_id=recovery.recovery_id,
        failure_id=branch.failure_id,
        attempt=attempt,
        fence=Fence(offset=max(b.offset for b in recovery.branches), attempt=attempt),
        tenant_id=turn.state.tenant_id,
        execution_id=turn.state.execution_id,
        agent_id=branch.agent_id,
        checkpoint=checkpoint,
        category=verdict.category,
        subtype=verdict.subtype[:256],
        strategy=option.strategy,
        modifications=modifications(merged),
        not_before=from_epoch_ms(turn.now),
        expires_at=from_epoch_ms(turn.now + round(policy.start_within_s * 1000)),
        outcome_deadline=from_epoch_ms(deadline_ms),
        idempotency_key=_idempotency_key(recovery, branch, checkpoint, attempt if changes_arguments(merged) else 0),
        issued_at=from_epoch_ms(turn.now),
        decision=_decision(turn, options, choices, policy),
    )
    turn.emit(command, branch.trace, branch.wire_format, max(b.at_ms for b in recovery.branches))
    in_flight = InFlight(
        attempt=attempt,
        strategy=option.strategy,
        category=verdict.category,
        subtype=verdict.subtype[:256],
        severity=verdict.severity,
        cost_microusd=option.cost_microusd,
        issued_ms=turn.now,
        not_before_ms=turn.now,
        outcome_deadline_ms=deadline_ms,
    )
    recovery = replace(
        recovery,
        attempt=attempt,
        command=in_flight,
        tried=tuple(dict.fromkeys((*recovery.tried, *tried))),
        strategies=(*recovery.strategies, option.strategy),
    )
    turn.state = replace(turn.state, recovery=recovery)
    for answered in recovery.branches:
        turn.dispose_branch(answered, DispositionKind.COMMANDED)


def _decision(turn: Turn, options: RecoveryOptions, choices: list[Choice], policy: Policy) -> Decision:
    assert choices[0].chosen is not None
    return Decision(
        mode=policy.mode,
        policy_version=turn.policies.version,
        rules_version=options.rules_version[:256],
        catalogue_version=options.catalogue_version[:256],
        confidence_snapshot=options.confidence_snapshot[:256],
        candidates=choices[0].candidates,
        chosen=choices[0].chosen,
    )


def _idempotency_key(recovery: Recovery, branch: Branch, checkpoint: Checkpoint, variant: int) -> str:
    """The failed call's own key, so that the service knows the repeat; a new one where the call itself changes."""
    if branch.idempotency_key and not variant:
        return branch.idempotency_key
    return ids.digest("idempotency", recovery.recovery_id, checkpoint.id, str(variant))


def settle(turn: Turn, status: SettledStatus, outcome: ResumeOutcome | None = None) -> None:
    """End the attempt whose command is out; the recovery stays, with the next attempt pending."""
    recovery = turn.state.recovery
    assert recovery
    assert recovery.command
    command = recovery.command
    cost = command.cost_microusd
    duration_s = max(turn.now - command.issued_ms, 0) / 1000
    if outcome and outcome.cost_microusd is not None:
        cost = outcome.cost_microusd
    if outcome and outcome.duration_s is not None:
        duration_s = outcome.duration_s
    turn.emit(
        SettledAttempt(
            recovery_id=recovery.recovery_id,
            command_id=ids.command_id(recovery.recovery_id, command.attempt),
            attempt=command.attempt,
            tenant_id=turn.state.tenant_id,
            execution_id=turn.state.execution_id,
            category=command.category,
            subtype=command.subtype,
            severity=command.severity,
            strategy=command.strategy,
            status=status,
            cost_microusd=cost,
            duration_s=duration_s,
            settled_at=from_epoch_ms(turn.now),
        ),
        recovery.branches[0].trace,
    )
    total = min(recovery.cost_microusd + cost, 2**53)
    turn.state = replace(turn.state, recovery=replace(recovery, command=None, cost_microusd=total))


def close(turn: Turn, reason: ResultReason, *, final_output: str | None = None, error: str = "") -> None:
    """End the recovery: its result, an escalation where a person is needed, and what became of its failures."""
    recovery = turn.state.recovery
    assert recovery
    status = ResultStatus.PARTIAL if recovery.attempt else ResultStatus.FAILED
    if reason is ResultReason.RECOVERED:
        status = ResultStatus.SUCCESS
    trace = recovery.branches[0].trace if recovery.branches else ()
    turn.emit(_result(turn, recovery, status, reason, final_output, error), trace)
    if reason not in _NO_PERSON:
        turn.emit(_escalation(turn, recovery, reason), trace)
        for branch in recovery.branches:
            turn.dispose_branch(branch, DispositionKind.ESCALATED, reason)
    ended = Closed(recovery_id=recovery.recovery_id, attempts=recovery.attempt, status=status, ended_ms=turn.now)
    turn.state = replace(turn.state, recovery=None, closed=(*turn.state.closed, ended)[-MAX_CLOSED:])


def _result(
    turn: Turn, recovery: Recovery, status: ResultStatus, reason: ResultReason, final_output: str | None, error: str
) -> RecoveryResult:
    return RecoveryResult(
        recovery_id=recovery.recovery_id,
        failure_id=recovery.failure_id,
        tenant_id=turn.state.tenant_id,
        execution_id=turn.state.execution_id,
        failure_type=recovery.category,
        subtype=recovery.subtype,
        status=status,
        reason=reason,
        error=error,
        options_considered=recovery.considered,
        selected_option=recovery.strategies[-1] if recovery.strategies else None,
        attempts=recovery.attempt,
        retry_success=status is ResultStatus.SUCCESS,
        final_output=final_output,
        total_cost_microusd=recovery.cost_microusd,
        total_duration_s=max(turn.now - recovery.started_ms, 0) / 1000,
        started_at=from_epoch_ms(recovery.started_ms),
        ended_at=from_epoch_ms(turn.now),
    )


def _escalation(turn: Turn, recovery: Recovery, reason: ResultReason) -> Escalation:
    branch = recovery.branches[0]
    options = branch.options
    return Escalation(
        recovery_id=recovery.recovery_id,
        failure_id=branch.failure_id,
        tenant_id=turn.state.tenant_id,
        execution_id=turn.state.execution_id,
        reason=reason,
        summary=_summary(turn, recovery, branch, reason),
        classification=options.classification if options else None,
        checkpoint=branch.checkpoint or (options.checkpoint if options else None) or turn.state.checkpoint,
        options=recovery.considered,
        attempts=recovery.attempt,
        escalated_at=from_epoch_ms(turn.now),
    )


_ASKED: Final = {
    ResultReason.NO_CHECKPOINT: "no checkpoint is known to resume from",
    ResultReason.UNCLASSIFIED: "the evidence does not tell what kind of failure it is",
    ResultReason.NO_OPTIONS: "no remedy is known for it",
    ResultReason.EXHAUSTED: "no allowed remedy is left",
    ResultReason.EXPIRED: "its time ran out",
    ResultReason.OVER_BUDGET: "what is left costs more than the budget allows",
    ResultReason.NEEDS_HUMAN: "only a person may decide what follows",
}


def _summary(turn: Turn, recovery: Recovery, branch: Branch, reason: ResultReason) -> str:
    verdict = branch.options.classification if branch.options else None
    what = f"{verdict.category}/{verdict.subtype[:64]}" if verdict else "a failure without a verdict"
    tried = ", ".join(recovery.strategies) or "nothing"
    agent = f" of agent {branch.agent_id[:64]}" if branch.agent_id else ""
    return (
        f"Execution {turn.state.execution_id[:64]}{agent} failed with {what}; tried: {tried}; "
        f"{_ASKED.get(reason, reason)}: decide whether and how it goes on."
    )
