"""The life of a recovery as one pure function; time, policy and what was read are arguments."""

from __future__ import annotations

from typing import assert_never

from processors.recover import ids
from processors.recover.advance import advance, carry_out
from processors.recover.branch import branch_of
from processors.recover.ending import asked, close, settle
from processors.recover.events import (
    AnyEvent,
    Broken,
    CheckpointRead,
    Due,
    Emit,
    FailureRead,
    OperatorRead,
    OptionsRead,
    OutcomeRead,
    PermitRead,
    Place,
)
from processors.recover.gate import on_permit, report_failure
from processors.recover.policy import Policies, Policy
from processors.recover.state import (
    MAX_BRANCHES,
    MAX_EARLY,
    MAX_SEEN,
    MEMORY_MS,
    Branch,
    Early,
    Execution,
    Recovery,
    replace,
)
from processors.recover.turn import Turn, bounded_checkpoint, bounded_options
from processors.recover.view import NOTHING, View
from schemas.records import (
    ActionKind,
    Applied,
    CheckpointSaved,
    DispositionKind,
    OutcomeStatus,
    RecoveryOptions,
    ResultReason,
    ResultStatus,
    SettledStatus,
)


def step(
    state: Execution, event: AnyEvent, now: int, policies: Policies, view: View = NOTHING
) -> tuple[Execution | None, tuple[Emit, ...]]:
    """What `event` makes of `state`, and the records it causes, in order.

    `now` is the broker's time in epoch ms. `state` is left as it is; None: nothing is worth keeping.
    Where this raises, nothing has happened.
    """
    turn = Turn(state, now, policies, view)
    match event:
        case FailureRead():
            _on_failure(turn, event)
        case OptionsRead():
            _on_options(turn, event)
        case CheckpointRead():
            _on_checkpoint(turn, event.record)
        case OutcomeRead():
            _on_outcome(turn, event)
        case OperatorRead():
            _on_operator(turn, event)
        case PermitRead():
            if on_permit(turn, event):
                advance(turn)
        case Due():
            _on_due(turn)
        case Broken():
            if turn.state.recovery:
                close(turn, ResultReason.INTERNAL_ERROR, error=event.error)
            turn.state = replace(turn.state, early=())
        case _:
            assert_never(event)
    turn.state = _forget(turn.state, now)
    return (None if turn.state.empty else turn.state), tuple(turn.effects)


def _forget(state: Execution, now: int) -> Execution:
    horizon = now - MEMORY_MS
    if state.seen and state.seen[0][1] <= horizon:
        state = replace(state, seen=tuple(s for s in state.seen if s[1] > horizon))
    if state.closed and state.closed[0].ended_ms <= horizon:
        state = replace(state, closed=tuple(c for c in state.closed if c.ended_ms > horizon))
    if any(e.until_ms <= now for e in state.early):
        state = replace(state, early=tuple(e for e in state.early if e.until_ms > now))
    if state.checkpoint and state.checkpoint_ms <= horizon and state.recovery is None:
        state = replace(state, checkpoint=None, checkpoint_ms=0)
    return state


# --- failures


def _on_failure(turn: Turn, event: FailureRead) -> None:
    place, record = event.place, event.record
    failure_id = record.identity(place.partition, place.offset)
    seen_as = ids.digest("seen", failure_id)[:16]

    def said(kind: DispositionKind, reason: str = "", recovery_id: str | None = None, attempt: int = 0) -> None:
        turn.dispose("failure", failure_id, kind, place, reason, recovery_id, attempt)

    options = _take_early(turn, place)
    others = tuple(seen for seen in turn.state.seen if seen[0] != seen_as)
    if len(others) == len(turn.state.seen) and place.at_ms <= turn.now - MEMORY_MS:
        return said(DispositionKind.EXPIRED, "older than the memory of duplicates")
    repeated = len(others) < len(turn.state.seen)
    # A repeat is remembered anew: a runtime that goes on repeating must not outlive the memory.
    turn.state = replace(turn.state, seen=(*others, (seen_as, max(place.at_ms, _last_seen(turn))))[-MAX_SEEN:])
    if repeated:
        return said(DispositionKind.DUPLICATE)
    branch = branch_of(event, failure_id, options)
    policy = turn.policies.of(record.tenant_id, branch.agent_id, branch.tool)
    claimed = record.resumed_by
    ended = next((c for c in turn.state.closed if claimed and c.recovery_id == claimed.recovery_id), None)
    recovery = turn.state.recovery
    if ended and ended.status is not ResultStatus.SUCCESS:
        return said(DispositionKind.STALE, "its recovery has ended", ended.recovery_id, ended.attempts)
    if recovery is None:
        _open(turn, branch, policy)
        assert turn.state.recovery
        said(DispositionKind.OPENED, recovery_id=turn.state.recovery.recovery_id)
        report_failure(turn, branch)
        return advance(turn)
    if claimed and claimed.recovery_id == recovery.recovery_id and claimed.attempt < recovery.attempt:
        return said(DispositionKind.STALE, "of an older attempt", recovery.recovery_id, claimed.attempt)
    said(DispositionKind.JOINED, "", recovery.recovery_id, recovery.attempt)
    report_failure(turn, branch)
    _join(turn, recovery, branch, policy, claims=claimed is not None)
    return advance(turn)


def _last_seen(turn: Turn) -> int:
    return turn.state.seen[-1][1] if turn.state.seen else 0


def _take_early(turn: Turn, place: Place) -> RecoveryOptions | None:
    """The options that overtook the failure at `place`; of those before it nobody asks any more."""
    if not turn.state.early:
        return None
    here = [e for e in turn.state.early if e.options.origin.partition == place.partition]
    passed = [e for e in here if e.options.origin.offset <= place.offset]
    turn.state = replace(turn.state, early=tuple(e for e in turn.state.early if e not in passed))
    return next((e.options for e in passed if e.options.origin.offset == place.offset), None)


def _open(turn: Turn, branch: Branch, policy: Policy) -> None:
    recovery = Recovery(
        recovery_id=ids.recovery_id(turn.state.tenant_id, turn.state.execution_id, branch.failure_id),
        failure_id=branch.failure_id,
        started_ms=branch.at_ms,
        branches=(),
    )
    turn.state = replace(turn.state, recovery=_await_options(turn, recovery, (branch,), policy))


def _await_options(turn: Turn, recovery: Recovery, branches: tuple[Branch, ...], policy: Policy) -> Recovery:
    """The recovery with a new attempt pending, for `branches`."""
    return replace(
        recovery,
        branches=branches,
        command=None,
        hold=None,
        options_until_ms=turn.now + round(policy.options_wait_s * 1000),
        checkpoint_until_ms=turn.now + round(policy.checkpoint_wait_s * 1000),
        merge_until_ms=turn.now + round(policy.merge_wait_s * 1000) if any(b.options for b in branches) else 0,
    )


def _join(turn: Turn, recovery: Recovery, branch: Branch, policy: Policy, *, claims: bool) -> None:
    """A failure of the same execution while its recovery is open."""
    command = recovery.command
    if command:
        grace_ms = round(policy.branch_grace_s * 1000)
        if not claims and branch.at_ms < command.not_before_ms + grace_ms:
            # A parallel branch of the run that failed, not the resumed run: the command answers it too.
            return
        settle(turn, SettledStatus.FAILED, by=branch)
        assert turn.state.recovery
        turn.state = replace(turn.state, recovery=_await_options(turn, turn.state.recovery, (branch,), policy))
        return
    if _same_checkpoint(recovery.branches[0], branch):
        branches = (*recovery.branches, branch)[:MAX_BRANCHES]
        merge_until = recovery.merge_until_ms or (turn.now + round(policy.merge_wait_s * 1000) if branch.options else 0)
        turn.state = replace(turn.state, recovery=replace(recovery, branches=branches, merge_until_ms=merge_until))
        return
    for left in recovery.branches:
        turn.dispose_branch(left, DispositionKind.JOINED, "a later failure took its place")
    turn.state = replace(turn.state, recovery=_await_options(turn, recovery, (branch,), policy))


def _same_checkpoint(one: Branch, other: Branch) -> bool:
    return (one.checkpoint and one.checkpoint.id) == (other.checkpoint and other.checkpoint.id)


# --- options and checkpoints


def _on_options(turn: Turn, event: OptionsRead) -> None:
    record = bounded_options(event.record, event.size_bytes)
    recovery = turn.state.recovery
    origin = (record.origin.partition, record.origin.offset)
    if event.early:
        return _keep_early(turn, record)
    # Also while a command is out that did not wait for them: the next rung weighs them.
    branches = recovery.branches if recovery else ()
    place = next((n for n, b in enumerate(branches) if (b.partition, b.offset) == origin and b.options is None), None)
    if recovery is None or place is None:
        reason = "no failure waits for them"
        return turn.dispose("options", record.failure_id, DispositionKind.STALE, event.place, reason)
    branch = replace(branches[place], options=record)
    report_failure(turn, branch)
    policy = turn.policies.of(record.tenant_id, branch.agent_id, branch.tool)
    turn.state = replace(
        turn.state,
        recovery=replace(
            recovery,
            branches=(*branches[:place], branch, *branches[place + 1 :]),
            merge_until_ms=recovery.merge_until_ms or turn.now + round(policy.merge_wait_s * 1000),
        ),
    )
    return advance(turn)


def _keep_early(turn: Turn, record: RecoveryOptions) -> None:
    """Keep options until their failure is read; of too many those whose failures are read first."""
    early = turn.state.early
    if any(e.options.origin == record.origin for e in early):
        return
    policy = turn.policies.of(record.tenant_id, None, None)
    kept = Early(options=record, until_ms=turn.now + round(policy.options_wait_s * 1000))
    first = sorted((*early, kept), key=lambda e: e.options.origin.offset)[:MAX_EARLY]
    turn.state = replace(turn.state, early=tuple(first))


def _on_checkpoint(turn: Turn, record: CheckpointSaved) -> None:
    turn.state = replace(turn.state, checkpoint=bounded_checkpoint(record.checkpoint), checkpoint_ms=turn.now)
    advance(turn)


# --- outcomes and deadlines


def _on_outcome(turn: Turn, event: OutcomeRead) -> None:
    record, recovery = event.record, turn.state.recovery

    def said(kind: DispositionKind, reason: str = "") -> None:
        turn.dispose("outcome", record.command_id, kind, event.place, reason, record.recovery_id, record.attempt)

    if record.command_id != ids.command_id(record.recovery_id, record.attempt):
        return said(DispositionKind.PHANTOM, "no command of this log has that id")
    ended = next((c for c in turn.state.closed if c.recovery_id == record.recovery_id), None)
    if ended and record.attempt <= ended.attempts:
        repeated = ended.status is ResultStatus.SUCCESS and record.status is OutcomeStatus.SUCCEEDED
        return said(DispositionKind.DUPLICATE if repeated else DispositionKind.STALE, "its recovery has ended")
    if recovery is None or recovery.recovery_id != record.recovery_id or record.attempt > recovery.attempt:
        return said(DispositionKind.PHANTOM, "no such command was issued")
    if recovery.command is None or record.attempt < recovery.attempt:
        return said(DispositionKind.STALE, "the attempt has ended")
    match record.status:
        case OutcomeStatus.SUCCEEDED:
            idle = record.applied is Applied.NONE
            settle(turn, SettledStatus.NOT_APPLIED if idle else SettledStatus.SUCCEEDED, record)
            close(turn, ResultReason.RECOVERED, final_output=record.final_output)
            return said(DispositionKind.ENDED)
        case OutcomeStatus.ABANDONED:
            settle(turn, SettledStatus.NOT_APPLIED, record)
            close(turn, ResultReason.ABANDONED, error=record.applied_why[:500])
            return said(DispositionKind.ENDED, "abandoned")
        case OutcomeStatus.NOT_APPLIED:
            settle(turn, SettledStatus.NOT_APPLIED, record)
            advance(turn)
            after = turn.state.recovery
            if after is None:
                return said(DispositionKind.ESCALATED, "no rung is left")
            return said(DispositionKind.COMMANDED if after.command else DispositionKind.HELD, "next rung")
        case OutcomeStatus.RUNNING:
            return said(DispositionKind.HELD, "still running" if _extend(turn, recovery) else "no time left")
        case OutcomeStatus.UNKNOWN:
            # A newer runtime's word: the deadline decides.
            return said(DispositionKind.STALE, "its status is not known to this release")
        case _:
            assert_never(record.status)


def _extend(turn: Turn, recovery: Recovery) -> bool:
    """Move the outcome deadline on, within the policy's bound. Whether it moved."""
    branch, command = recovery.branches[0], recovery.command
    assert command
    policy = turn.policies.of(turn.state.tenant_id, branch.agent_id, branch.tool)
    bound_ms = command.issued_ms + round((policy.start_within_s + policy.max_outcome_wait_s) * 1000)
    until_ms = min(turn.now + round(policy.attempt_s * 1000), bound_ms)
    if until_ms <= command.outcome_deadline_ms:
        return turn.now < command.outcome_deadline_ms
    command = replace(command, outcome_deadline_ms=until_ms)
    turn.state = replace(turn.state, recovery=replace(recovery, command=command))
    return True


def _on_operator(turn: Turn, event: OperatorRead) -> None:
    record, recovery = event.record, turn.state.recovery

    def said(kind: DispositionKind, reason: str = "") -> None:
        signed = record.signature[:16].hex() or "unsigned"
        turn.dispose("operator", signed, kind, event.place, reason, record.recovery_id, record.attempt)

    if event.refusal:
        return said(DispositionKind.REFUSED, event.refusal)
    if any(c.recovery_id == record.recovery_id for c in turn.state.closed):
        return said(DispositionKind.STALE, "its recovery has ended")
    if recovery is None or recovery.recovery_id != record.recovery_id:
        return said(DispositionKind.STALE, "no such recovery is open")
    if record.attempt <= recovery.attempt:
        return said(DispositionKind.STALE, "that attempt was commanded already")
    held = asked(recovery)
    if held is None or (held.key, recovery.attempt + 1) != (record.approval_hash, record.attempt):
        return said(DispositionKind.STALE, "that is not asked, or no longer")
    if event.place.at_ms >= held.until_ms:
        return said(DispositionKind.STALE, "it came after the time for an answer")
    if record.kind is ActionKind.REJECT:
        close(turn, ResultReason.REJECTED, error=f"{record.operator}: {record.reason}"[:500])
        return said(DispositionKind.ENDED, f"rejected by {record.operator}")
    if record.kind is ActionKind.UNKNOWN or (record.kind is ActionKind.APPROVE and record.proposal):
        return said(DispositionKind.REFUSED, "it is no answer that this release knows")
    if why := carry_out(turn, record):
        said(DispositionKind.STALE, why)
        # What is to be decided now is asked anew.
        return advance(turn)
    return said(DispositionKind.COMMANDED, f"{record.strategy}, decided by {record.operator}")


def _on_due(turn: Turn) -> None:
    recovery = turn.state.recovery
    if recovery is None:
        return
    if recovery.command:
        if turn.now < recovery.command.outcome_deadline_ms:
            return
        settle(turn, SettledStatus.EXPIRED)
    advance(turn)
