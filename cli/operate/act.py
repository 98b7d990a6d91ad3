"""The commands themselves: stdout is the outcome, stderr the question."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NoReturn

import orjson
import typer

from cli.context import ExitCode, fail, put_json, put_rows, say
from cli.operate import keys, page, wire
from cli.queries.page import clean
from ops.runtime.settings import Settings
from processors.recover.pauses import refusal, said_after
from processors.recover.policy import Policies, PolicyError
from schemas import signing
from schemas.codec import to_json
from schemas.records import (
    ActionKind,
    DispositionKind,
    Escalation,
    OperatorAction,
    Pause,
    PauseScope,
    Strategy,
    epoch_ms,
)
from schemas.topics import OPERATOR_PAUSES

_ANSWER_HOLDS: Final = timedelta(minutes=15)
_WAIT_S: Final = 15.0
_DONE: Final = (DispositionKind.COMMANDED, DispositionKind.ENDED)
_ID_CHARS: Final = 6
"""Of a recovery's id: fewer do not say which."""


def keygen(name: str, into: Path | None) -> None:
    """Make a key; print what the policy file needs to know of it."""
    try:
        identity, path = keys.generate(name, into or keys.folder())
    except FileExistsError:
        fail(f"{name} has a key in {into or keys.folder()} already", ExitCode.FAILED)
    except (OSError, ValueError) as error:
        fail(str(error), ExitCode.USAGE)
    say(f"{path} is the private key: it stays with {name}. To the policy file goes:")
    print(identity.policy)


def escalations(settings: Settings, *, as_json: bool) -> None:
    """What waits for a person, newest first; what somebody answered comes last."""
    now = datetime.now(UTC)
    waiting = [record for record in wire.asked(settings) if _is_open(record, now)]
    answers = wire.answered(settings) if waiting else {}
    waiting.sort(key=lambda record: record.approval_hash in answers)
    if as_json:
        put_json([_document(record, answers.get(record.approval_hash)) for record in waiting])
        return
    if not waiting:
        say("nobody waits for a person")
    for record in waiting:
        page.show(record, answers.get(record.approval_hash), now, page.console())


def _is_open(record: Escalation, now: datetime) -> bool:
    return bool(record.attempt) and record.expires_at is not None and record.expires_at > now


def _document(record: Escalation, answer: OperatorAction | None) -> dict[str, Any]:
    said = None if answer is None else orjson.loads(to_json(answer))
    document: dict[str, Any] = orjson.loads(to_json(record))
    return document | {"answer": said}


def decide(
    settings: Settings,
    kind: ActionKind,
    recovery: str,
    *,
    choice: str = "",
    reason: str = "",
    key: Path | None = None,
    yes: bool = False,
    as_json: bool = False,
) -> ExitCode:
    """Show a question, and send the answer to it. `choice`: a proposal's strategy or its number, from 1."""
    identity = keys.mine(key)
    question = _find(settings, recovery)
    proposal = _proposal(question, choice) if kind is ActionKind.CHOOSE else 0
    _check(question)
    _warn(settings, identity)
    if not (as_json and yes):
        page.show(question, None, datetime.now(UTC), page.console(stderr=True))
    strategy = None if kind is ActionKind.REJECT else question.proposals[proposal].strategy
    _confirm(f"{kind} {strategy or 'and end the recovery'} as {identity.name}?", yes=yes)
    now = datetime.now(UTC)
    action = OperatorAction(
        tenant_id=question.tenant_id,
        execution_id=question.execution_id,
        recovery_id=question.recovery_id,
        attempt=question.attempt,
        approval_hash=question.approval_hash,
        kind=kind,
        proposal=proposal,
        strategy=strategy,
        operator=identity.name,
        reason=reason,
        issued_at=now,
        expires_at=now + _ANSWER_HOLDS,
        signature=b"",
    )
    return _outcome(settings, signing.sign(action, identity.key), as_json=as_json)


def _outcome(settings: Settings, action: OperatorAction, *, as_json: bool) -> ExitCode:
    became = wire.send_action(settings, action, _WAIT_S)
    if as_json:
        put_json(
            {
                "recovery_id": action.recovery_id,
                "attempt": action.attempt,
                "kind": action.kind,
                "became": became.kind if became else None,
                "reason": became.reason if became else None,
            }
        )
    elif became:
        print(f"{became.kind}: {clean(became.reason)}")
    if became is None:
        say(f"no recover worker answered within {_WAIT_S:g} s; what you said holds until {action.expires_at:%H:%M} UTC")
        return ExitCode.UNREACHABLE
    return ExitCode.OK if became.kind in _DONE else ExitCode.FAILED


def _find(settings: Settings, name: str) -> Escalation:
    """The open question that `name` (recovery id or its beginning, execution id) is of."""
    found = [record for record in wire.asked(settings) if _is_named(record, name)]
    open_ = [record for record in found if _is_open(record, datetime.now(UTC))]
    if len(open_) == 1:
        return open_[0]
    return _nothing_to_decide(name, open_, found)


def _nothing_to_decide(name: str, open_: list[Escalation], found: list[Escalation]) -> NoReturn:
    if open_:
        several = ", ".join(f"{clean(r.tenant_id)}/{clean(r.execution_id)} ({r.recovery_id})" for r in open_)
        fail(f"{name} names several: {several}", ExitCode.USAGE)
    if not found:
        fail(f"no escalation of the last day is of {name}; `omium-recovery escalations` lists them", ExitCode.FAILED)
    if found[0].expires_at is None:
        fail(f"nothing can be decided: the recovery has ended ({found[0].reason})", ExitCode.FAILED)
    fail(f"too late: the time for an answer ended at {found[0].expires_at:%H:%M:%S} UTC", ExitCode.FAILED)


def _is_named(record: Escalation, name: str) -> bool:
    beginning = len(name) >= _ID_CHARS and record.recovery_id.startswith(name)
    return beginning or name in (record.execution_id, f"{record.tenant_id}/{record.execution_id}")


def _proposal(question: Escalation, choice: str) -> int:
    """The place of what `choice` names."""
    strategies = [str(proposal.strategy) for proposal in question.proposals]
    if choice.isdigit() and 1 <= int(choice) <= len(strategies):
        return int(choice) - 1
    if strategies.count(choice) != 1:
        offered = ", ".join(f"{n} {strategy}" for n, strategy in enumerate(strategies, 1))
        problem = "names several" if choice in strategies else "is not proposed"
        fail(f"{choice} {problem}; choose among: {offered}", ExitCode.USAGE)
    return strategies.index(choice)


def _check(question: Escalation) -> None:
    """What is signed must be what is shown."""
    shown = question.checkpoint and signing.approval_hash(
        question.recovery_id,
        question.attempt,
        question.checkpoint,
        question.proposals,
        unsafe_effects=question.unsafe_effects,
    )
    if shown != question.approval_hash:
        fail(
            "the escalation contradicts its own hash; it was not written by recover, or by a newer one", ExitCode.FAILED
        )


def _policies(settings: Settings) -> Policies | None:
    """The workers' policy, where it is at hand."""
    try:
        return Policies.load(settings.policy_file) if settings.policy_file else None
    except PolicyError:
        return None


def _warn(settings: Settings, identity: keys.Identity) -> None:
    """Say at once what the workers will say, as far as it is known."""
    policies = _policies(settings)
    if policies is None:
        return
    operator = policies.operators.get(identity.name)
    if operator is None or operator.public_key != signing.public_text(identity.key.public_key()):
        say(f"{settings.policy_file} does not name {identity.name} with this key: the workers will refuse it")


def _confirm(question: str, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        fail("nobody to ask whether it is meant: add --yes", ExitCode.USAGE)
    if not typer.confirm(question, err=True):
        fail("nothing was sent", ExitCode.FAILED)


def pause(
    settings: Settings,
    scopes: Sequence[tuple[PauseScope, str]],
    *,
    paused: bool,
    reason: str,
    key: Path | None,
    yes: bool,
) -> None:
    """Say that scopes stand still, or go on. What was said last of a scope holds."""
    identity = keys.mine(key)
    for scope, target in scopes:
        if scope is PauseScope.STRATEGY and Strategy(target) is Strategy.UNKNOWN:
            fail(f"no strategy is called {target}", ExitCode.USAGE)
    _warn(settings, identity)
    names = ", ".join(page.scope_of(scope, target) for scope, target in scopes)
    _confirm(f"{'pause' if paused else 'resume'} {names} as {identity.name}?", yes=yes)
    before = _newest_words(settings)
    for scope, target in scopes:
        record = Pause(
            scope=scope,
            target=target,
            paused=paused,
            operator=identity.name,
            reason=reason,
            issued_at=said_after(before.get(f"{scope}:{target}"), datetime.now(UTC)),
            signature=b"",
        )
        wire.send(settings, OPERATOR_PAUSES, signing.sign(record, identity.key))
    print(f"{'paused' if paused else 'resumed'}: {names}")


def _newest_words(settings: Settings) -> dict[str, Pause]:
    """By scope and target. Without the workers' policy nobody knows who may have said them: then all count."""
    policies = _policies(settings)
    newest: dict[str, Pause] = {}
    for record in wire.pauses(settings):
        if policies and refusal(record, policies, epoch_ms(record.issued_at)):
            continue
        known = newest.get(record.key)
        if known is None or record.issued_at >= known.issued_at:
            newest[record.key] = record
    return newest


def pauses(settings: Settings, *, as_json: bool) -> None:
    """What stands still now, by the newest word on each scope."""
    standing = [record for record in _newest_words(settings).values() if record.paused]
    if as_json:
        put_json([orjson.loads(to_json(record)) for record in standing])
    elif standing:
        rows = [("SCOPE", "SINCE (UTC)", "BY", "WHY")]
        rows += [
            (
                page.scope_of(record.scope, record.target),
                f"{record.issued_at:%Y-%m-%d %H:%M:%S}",
                record.operator,
                clean(record.reason),
            )
            for record in standing
        ]
        put_rows(rows)
    else:
        say("nothing is paused")
