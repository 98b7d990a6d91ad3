"""The rungs: from a pending attempt to its command, from an ended attempt to the next, or to the end."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from processors.recover import ids
from processors.recover.choice import Choice, changes, choose
from processors.recover.ending import ask, asked, close
from processors.recover.gate import blamed, leans, may_pass, report_command
from processors.recover.pauses import hold, in_words, standing
from processors.recover.persons import Question, Ready, answer_until_ms, pose
from processors.recover.policy import Policy
from processors.recover.state import Branch, InFlight, Recovery, replace
from processors.recover.strategies import after_waiting, changes_arguments, fallback_of, merge, modifications, work_s
from processors.recover.turn import Turn
from schemas.records import (
    Category,
    Checkpoint,
    Decision,
    DispositionKind,
    Fence,
    OperatorAction,
    Pause,
    RecoveryOptions,
    ResultReason,
    ResumeCommand,
    Strategy,
    from_epoch_ms,
)


def advance(turn: Turn) -> None:
    """Command the pending attempt, if all it waits for is there; end the recovery, if nothing may be done."""
    if plan := _plan(turn):
        _decide(turn, plan)


def carry_out(turn: Turn, answer: OperatorAction) -> str:
    """Command what a person chose, or say why not; then nothing has happened."""
    plan = _plan(turn, waits=False)
    question = _question(turn, plan) if plan else None
    chosen = question.option_of(answer) if question else None
    if plan is None or question is None or chosen is None:
        return "what was asked has changed"
    plan = dataclasses.replace(plan, choices=[dataclasses.replace(plan.choices[0], chosen=chosen), *plan.choices[1:]])
    if pause := _pause(turn, plan):
        return in_words(pause)
    _command(turn, plan, question.checkpoint, answer)
    return ""


def _plan(turn: Turn, *, waits: bool = True) -> _Plan | None:
    """The pending attempt, weighed; None: it waits for what it needs, or has ended. `waits`: for branches, too."""
    recovery = turn.state.recovery
    if recovery is None or recovery.command:
        return None
    recovery = _without_control_flow(turn, recovery)
    ready = [(branch, branch.options) for branch in recovery.branches if branch.options]
    if not recovery.branches:
        close(turn, ResultReason.NOT_A_FAILURE)
    elif not ready and turn.now >= recovery.options_until_ms:
        close(turn, ResultReason.EXPIRED)
    elif not ready:
        _wait(turn, recovery.options_until_ms)
    elif len(ready) < len(recovery.branches) and turn.now < recovery.merge_until_ms and waits:
        _wait(turn, recovery.merge_until_ms)
    else:
        return _weighed(turn, recovery, ready)
    return None


@dataclass(frozen=True, slots=True)
class _Plan:
    """The pending attempt, weighed: `ready` branches with their options, choices and policies, side by side."""

    recovery: Recovery
    ready: Ready
    choices: list[Choice]
    policies: list[Policy]
    checkpoint: Checkpoint | None


def _weighed(turn: Turn, recovery: Recovery, ready: Ready) -> _Plan:
    ready = [(b, o) for b, o in ready if o.classification.category is not Category.UNCLASSIFIED] or ready
    verdict = ready[0][1].classification
    if not recovery.subtype:
        recovery = replace(recovery, category=verdict.category, subtype=verdict.subtype[:256])
    policies = [_policy(turn, branch) for branch, _ in ready]
    # While a person is asked, the same is weighed as when they were asked, so that their answer finds the question.
    held = asked(recovery)
    at_ms = held.since_ms if held else turn.now
    choices = [choose(recovery, b, o, p, at_ms) for (b, o), p in zip(ready, policies, strict=True)]
    recovery = replace(recovery, considered=choices[0].candidates)
    checkpoint = next((c for b, o in ready if (c := b.checkpoint or o.checkpoint)), None) or turn.state.checkpoint
    turn.state = replace(turn.state, recovery=recovery)
    return _Plan(recovery, ready, choices, policies, checkpoint)


def _decide(turn: Turn, plan: _Plan) -> None:
    recovery = plan.recovery
    # The resumed run repeats what every branch did: what forbids one of them forbids it.
    for (b, o), choice, p in zip(plan.ready, plan.choices, plan.policies, strict=True):
        if reason := _impasse(recovery, b, o, choice, p, turn.now):
            by_outage = asked(recovery) is None and blamed(turn, recovery, reason)
            return close(turn, reason) if by_outage else _escalate(turn, plan, reason)
    if _unsafe(turn, recovery):
        return _escalate(turn, plan, ResultReason.NEEDS_HUMAN)
    checkpoint = plan.checkpoint
    if checkpoint is None:
        if turn.now >= recovery.checkpoint_until_ms:
            return close(turn, ResultReason.NO_CHECKPOINT)
        return _wait(turn, recovery.checkpoint_until_ms)
    if any(c.option and p.wants_approval(c.option) for c, p in zip(plan.choices, plan.policies, strict=True)):
        return _escalate(turn, plan, ResultReason.NEEDS_HUMAN)
    if pause := _pause(turn, plan):
        return hold(turn, recovery, pause, _limit_ms(plan))
    if choices := may_pass(turn, recovery, plan.ready, plan.choices, plan.policies):
        plan = dataclasses.replace(plan, choices=choices)
        if pause := _pause(turn, plan):
            return hold(turn, recovery, pause, _limit_ms(plan))
        _command(turn, plan, checkpoint)
    return None


def _pause(turn: Turn, plan: _Plan) -> Pause | None:
    # Those that failed, and those that the resumed run calls instead.
    tools = [branch.tool for branch, _ in plan.ready]
    options = [choice.option for choice in plan.choices if choice.option]
    tools += [service for option in options if (service := fallback_of(option))]
    strategies = [option.strategy for option in options]
    return standing(turn.view.pauses, turn.state.tenant_id, tools, strategies)


def _limit_ms(plan: _Plan) -> int:
    """When the time for another command is over."""
    return min(answer_until_ms(plan.recovery, policy, 2**62) for policy in plan.policies)


def _unsafe(turn: Turn, recovery: Recovery) -> bool:
    return any(branch.unsafe and not _policy(turn, branch).allow_unsafe_effects for branch in recovery.branches)


def _question(turn: Turn, plan: _Plan) -> Question | None:
    if plan.checkpoint is None:
        return None
    return pose(plan.recovery, plan.ready, plan.choices, plan.checkpoint, unsafe_effects=_unsafe(turn, plan.recovery))


def _escalate(turn: Turn, plan: _Plan, reason: ResultReason) -> None:
    """Ask a person where one may decide, and can in time; else the recovery ends."""
    held = asked(plan.recovery)
    until_ms = answer_until_ms(plan.recovery, plan.policies[0], turn.now)
    in_time = until_ms > turn.now and (held is None or held.until_ms > turn.now)
    question = _question(turn, plan) if in_time and turn.policies.may_be_answered(turn.state.tenant_id) else None
    if question is None:
        return close(turn, reason)
    if held and held.key == question.hash:
        return _wait(turn, held.until_ms)
    return ask(turn, plan.recovery, reason, question, until_ms)


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
    left, newest = [], recovery.left_out_offset
    for branch, verdict in zip(recovery.branches, verdicts, strict=True):
        if verdict and verdict.category is Category.NONE:
            turn.dispose_branch(branch, DispositionKind.IGNORED, verdict.subtype[:256])
            newest = max(newest, branch.offset)
        else:
            left.append(branch)
    recovery = replace(recovery, branches=tuple(left), left_out_offset=newest)
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


def _command(turn: Turn, plan: _Plan, checkpoint: Checkpoint, answer: OperatorAction | None = None) -> None:
    recovery, ready, choices, policy = plan.recovery, plan.ready, plan.choices, plan.policies[0]
    branch, options = ready[0]
    option = choices[0].option
    assert option
    changed, tried = changes(ready, choices)
    # What a person approved is done as it was shown to them.
    waited = recovery.hold is not None and answer is None
    waited_s = (turn.now - branch.at_ms) / 1000 if waited else 0.0
    merged = after_waiting(merge(changed), waited_s)
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
        fence=Fence(offset=max(recovery.left_out_offset, *(b.offset for b in recovery.branches)), attempt=attempt),
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
        decision=_decision(turn, options, choices, policy, answer),
    )
    turn.emit(command, branch.trace, branch.wire_format, max(b.at_ms for b in recovery.branches))
    leaning = leans(turn, ready, choices)
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
        leans=leaning,
        permitted=report_command(turn, recovery, leaning),
    )
    _issued(turn, recovery, in_flight, tried)


def _issued(turn: Turn, recovery: Recovery, command: InFlight, tried: list[str]) -> None:
    recovery = replace(
        recovery,
        attempt=command.attempt,
        command=command,
        hold=None,
        permits=(),
        tried=tuple(dict.fromkeys((*recovery.tried, *tried))),
        strategies=(*recovery.strategies, command.strategy),
    )
    turn.state = replace(turn.state, recovery=recovery)
    for answered in recovery.branches:
        turn.dispose_branch(answered, DispositionKind.COMMANDED)


def _decision(
    turn: Turn, options: RecoveryOptions, choices: list[Choice], policy: Policy, answer: OperatorAction | None
) -> Decision:
    assert choices[0].chosen is not None
    return Decision(
        mode=policy.mode,
        policy_version=turn.policies.version,
        rules_version=options.rules_version[:256],
        catalogue_version=options.catalogue_version[:256],
        confidence_snapshot=options.confidence_snapshot[:256],
        candidates=choices[0].candidates,
        chosen=choices[0].chosen,
        operator=answer.operator if answer else "",
        approval_hash=answer.approval_hash if answer else "",
    )


def _idempotency_key(recovery: Recovery, branch: Branch, checkpoint: Checkpoint, variant: int) -> str:
    """The failed call's own key, so that the service knows the repeat; a new one where the call itself changes."""
    if branch.idempotency_key and not variant:
        return branch.idempotency_key
    return ids.digest("idempotency", recovery.recovery_id, checkpoint.id, str(variant))
