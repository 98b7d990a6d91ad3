"""Scopes that an operator has paused: what is in them is held. The newest word on each scope holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final

from processors.recover.governed import REASKS_PER_S
from processors.recover.policy import EVERY_TENANT, Policies
from processors.recover.state import Hold, Recovery, replace
from processors.recover.turn import Turn
from schemas import codec
from schemas.records import DispositionKind, Pause, PauseScope, epoch_ms, from_epoch_ms
from schemas.topics import OPERATOR_PAUSES

_SKEW: Final = timedelta(minutes=5)
"""By so much an operator's clock may be ahead of the broker's; a word from the future could not be taken back."""
_AGAIN_MS: Final = (1_000, 60_000)
"""What is held is looked at again after a quarter of the time that it has waited, within these bounds."""


class Pauses:
    """A fold of what operators said. Verified as it is read: who may not pause is not heard."""

    def __init__(self, policies: Callable[[], Policies], refused: Callable[[str], None]) -> None:
        """`refused` is told why a word was not heard."""
        self.known: dict[str, Pause] = {}
        self._policies = policies
        self._refused = refused

    def take(self, _: bytes, value: bytes | None, at_ms: int) -> None:
        """One record of the topic. Never raises."""
        decoded = codec.decode(OPERATOR_PAUSES.name, value)
        if isinstance(decoded, codec.Malformed):
            return self._refused(f"{decoded.reason}: {decoded.error}")
        record = decoded.record
        assert isinstance(record, Pause)
        if why := refusal(record, self._policies(), at_ms):
            return self._refused(f"{record.operator}, {record.scope}: {why}")
        before = self.known.get(record.key)
        # By when it was said, not by its place: an old one that is sent once more changes nothing.
        if before and _said(before) > _said(record):
            return self._refused(f"{record.operator}, {record.scope}: {before.operator} said something later")
        self.known[record.key] = record
        return None


def _said(record: Pause) -> tuple[int, bytes]:
    return epoch_ms(record.issued_at), record.signature


def refusal(record: Pause, policies: Policies, at_ms: int) -> str:
    """Why `record`, appended at `at_ms` by the broker's clock, is not heard, or nothing."""
    operator = policies.operators.get(record.operator)
    if operator is None:
        return "the policy knows no such operator"
    if not operator.has_signed(record):
        return "it is not signed by the operator's key"
    # A tool or a strategy is every tenant's.
    if not operator.may_decide_for(record.target if record.scope is PauseScope.TENANT else EVERY_TENANT):
        return "the operator may not decide for all whom it would stop"
    if record.scope is PauseScope.UNKNOWN:
        return "its scope is not known to this release"
    return "it was said in the future" if record.issued_at > from_epoch_ms(at_ms) + _SKEW else ""


def said_after(before: Pause | None, now: datetime) -> datetime:
    """The time to put on a word of `now`, so that it holds instead of `before`: that one's clock may be ahead."""
    if before is None or before.issued_at > now + _SKEW:
        return now  # which nobody hears
    return max(now, before.issued_at + timedelta(milliseconds=1))


def standing(
    pauses: Mapping[str, Pause], tenant_id: str, tools: Iterable[str | None], strategies: Iterable[str]
) -> Pause | None:
    """The pause that holds up a command for these, if there is one."""
    if not pauses:
        return None
    asked = [(PauseScope.ALL, ""), (PauseScope.TENANT, tenant_id)]
    asked += [(PauseScope.TOOL, tool) for tool in tools if tool]
    asked += [(PauseScope.STRATEGY, strategy) for strategy in strategies]
    found = (pauses.get(f"{scope}:{target}") for scope, target in asked)
    return next((pause for pause in found if pause and pause.paused), None)


def in_words(pause: Pause) -> str:
    """What is paused, by whom and why."""
    scope = "everything" if pause.scope is PauseScope.ALL else f"{pause.scope} {pause.target}"
    return f"{scope} is paused by {pause.operator}{f': {pause.reason}' if pause.reason else ''}"[:500]


def hold(turn: Turn, recovery: Recovery, pause: Pause, limit_ms: int) -> None:
    """Keep the pending attempt until the pause ends; at `limit_ms` it is looked at once more, and ends."""
    held = recovery.hold
    if held is None or (held.kind, held.key) != ("pause", pause.key):
        held = Hold(kind="pause", key=pause.key, since_ms=turn.now, until_ms=0)
        for branch in recovery.branches:
            turn.dispose_branch(branch, DispositionKind.HELD, in_words(pause))
    shortest_ms, longest_ms = _AGAIN_MS
    wait_ms = min(max((turn.now - held.since_ms) / 4, shortest_ms), longest_ms)
    # Thousands that are held ask less often, and each at its own time: on resumption they come one by one.
    wait_ms = max(wait_ms, 1000 * turn.view.held / REASKS_PER_S)
    share = int(recovery.recovery_id[:8], 16) / 2**32
    until_ms = turn.now + math.ceil(wait_ms * (1 + share))
    held = replace(held, until_ms=min(until_ms, max(limit_ms, turn.now + 1)))
    turn.state = replace(turn.state, recovery=replace(recovery, hold=held, due_ms=held.until_ms))
