"""How an attempt, and how a recovery ends: what is said of it, and to whom."""

from __future__ import annotations

from typing import Final

from processors.recover import ids
from processors.recover.gate import give_back, report_end, report_settled
from processors.recover.persons import Question
from processors.recover.state import MAX_CLOSED, Branch, Closed, Hold, Recovery, replace
from processors.recover.turn import Turn
from schemas.records import (
    DispositionKind,
    Escalation,
    RecoveryResult,
    ResultReason,
    ResultStatus,
    ResumeOutcome,
    SettledAttempt,
    SettledStatus,
    from_epoch_ms,
)

_NO_PERSON: Final = frozenset({ResultReason.RECOVERED, ResultReason.NOT_A_FAILURE, ResultReason.ABANDONED})


def settle(turn: Turn, status: SettledStatus, outcome: ResumeOutcome | None = None, by: Branch | None = None) -> None:
    """End the attempt whose command is out; the recovery stays, with the next attempt pending.

    `by`: the failure of the resumed run.
    """
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
    report_settled(turn, recovery, command, status, by)
    total = min(recovery.cost_microusd + cost, 2**53)
    turn.state = replace(turn.state, recovery=replace(recovery, command=None, cost_microusd=total))


def close(turn: Turn, reason: ResultReason, *, final_output: str | None = None, error: str = "") -> None:
    """End the recovery: its result, an escalation where a person is needed and not asked yet, and what became of its
    failures."""
    recovery = turn.state.recovery
    assert recovery
    status = ResultStatus.PARTIAL if recovery.attempt else ResultStatus.FAILED
    if reason is ResultReason.RECOVERED:
        status = ResultStatus.SUCCESS
    trace = recovery.branches[0].trace if recovery.branches else ()
    needed = reason not in _NO_PERSON and asked(recovery) is None
    incident_id = report_end(turn, recovery, reason) if needed else None
    result = _result(turn, recovery, status, reason, final_output, error)
    turn.emit(result.model_copy(update={"incident_id": incident_id}) if incident_id else result, trace)
    if incident_id:
        for branch in recovery.branches:
            turn.dispose_branch(branch, DispositionKind.ESCALATED, f"{reason}: incident {incident_id}")
    elif needed:
        _escalate(turn, recovery, reason)
    give_back(turn, recovery)
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


def asked(recovery: Recovery) -> Hold | None:
    """The wait for a person's answer, if there is one."""
    return recovery.hold if recovery.hold and recovery.hold.kind == "person" else None


def ask(turn: Turn, recovery: Recovery, reason: ResultReason, question: Question, until_ms: int) -> None:
    """Ask a person, and keep the recovery open for the answer."""
    hold = Hold(kind="person", key=question.hash, since_ms=turn.now, until_ms=until_ms)
    turn.state = replace(turn.state, recovery=replace(recovery, hold=hold, due_ms=until_ms))
    _escalate(turn, recovery, reason, question, until_ms)


def _escalate(
    turn: Turn, recovery: Recovery, reason: ResultReason, question: Question | None = None, until_ms: int = 0
) -> None:
    record = _escalation(turn, recovery, reason)
    if question:
        record = record.model_copy(
            update={
                "attempt": recovery.attempt + 1,
                "approval_hash": question.hash,
                "proposals": question.proposals,
                "unsafe_effects": question.unsafe_effects,
                "checkpoint": question.checkpoint,
                "expires_at": from_epoch_ms(until_ms),
            }
        )
    turn.emit(record, recovery.branches[0].trace)
    for branch in recovery.branches:
        turn.dispose_branch(branch, DispositionKind.ESCALATED, reason)


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
