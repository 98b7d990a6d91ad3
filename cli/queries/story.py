"""What happened to one execution, put together from its records. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

_SIGNED_CHARS: Final = 32
"""Of a signature, as dispositions name it."""
_SET_ASIDE: Final = frozenset({"duplicate", "ignored", "expired", "stale", "forwarded"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One record, as the audit database has it."""

    kind: str
    topic: str
    at: datetime
    """The broker's time."""
    partition: int = 0
    offset: int = -1
    failure_id: str = ""
    recovery_id: str = ""
    command_id: str = ""
    attempt: int = 0
    status: str = ""
    reason: str = ""
    body: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One resume command, and how it ended."""

    attempt: int
    strategy: str
    issued_at: datetime
    latency_s: float | None
    """From the failure to the command, both by the broker's clock."""
    checkpoint_id: str
    candidates: Sequence[dict[str, Any]]
    """What was chosen from, best first; `chosen` is the index."""
    chosen: int
    mode: str
    operator: str
    """Who decided; empty: the mode did."""
    modifications: Sequence[dict[str, Any]]
    status: str
    """Of the settled attempt; open where it has not ended."""
    outcome: str
    """The runtime's own word; empty where there was none."""
    not_applied_why: str
    retry_count: int
    duration_s: float | None
    cost_microusd: int
    final_output: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One failure, what was thought of it, and what was done."""

    failure_id: str
    detected_at: datetime | None
    agent: str
    step: str
    error: str
    verdict: dict[str, Any] | None
    options: Sequence[dict[str, Any]]
    attempts: Sequence[Attempt]
    answered_by: int
    """The attempt that another failure of the recovery brought, and that answers this one too; 0: none."""
    dispositions: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a person said to a question, and what recover made of it."""

    at: datetime
    operator: str
    action: str
    """approve, choose or reject."""
    strategy: str
    reason: str
    became: str
    """Kind and reason of the disposition; empty where there is none yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """From a failure to its end."""

    recovery_id: str
    status: str
    """success, partial, failed, or open."""
    reason: str
    error: str
    attempts: int
    duration_s: float | None
    cost_microusd: int
    escalation: str
    answers: Sequence[Answer]
    failures: Sequence[Failure]


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """All that is known of one execution."""

    tenant_id: str
    execution_id: str
    recoveries: Sequence[Recovery]
    others: Sequence[Failure]
    """Failures that belong to no recovery: set aside, or not looked at yet."""
    unreadable: Sequence[dict[str, Any]]
    """Records whose key names this execution, and that cannot be read."""
    dead_letters: Sequence[dict[str, Any]]
    """What a worker could not handle."""


def tell(tenant_id: str, execution_id: str, facts: Iterable[Fact]) -> Story:
    """The story in `facts`, whatever their order."""
    return _Teller(sorted(facts, key=lambda fact: fact.at)).story(tenant_id, execution_id)


class _Teller:
    def __init__(self, facts: Sequence[Fact]) -> None:
        self._facts = facts
        self._first: dict[tuple[str, str], Fact] = {}
        for fact in facts:
            # A record said twice counts the first time, as it does in recover.
            name = fact.command_id or fact.failure_id or fact.recovery_id
            if fact.kind in ("recovery_result", "escalation"):
                name = fact.recovery_id
            self._first.setdefault((fact.kind, name), fact)
        self._commands = sorted(self._all("resume_command"), key=lambda fact: (fact.recovery_id, fact.attempt))
        self._said = [f for f in self._all("disposition", once=False) if f.failure_id]

    def _all(self, kind: str, *, once: bool = True) -> list[Fact]:
        if once:
            return [fact for (k, _), fact in self._first.items() if k == kind]
        return [fact for fact in self._facts if fact.kind == kind]

    def story(self, tenant_id: str, execution_id: str) -> Story:
        failures = dict.fromkeys(
            f.failure_id
            for f in self._facts
            if f.failure_id and f.kind in ("failure_event", "recovery_options", "resume_command", "disposition")
        )
        recovery_of = {failure: self._recovery_of(failure) for failure in failures}
        recoveries = dict.fromkeys(
            [*filter(None, recovery_of.values()), *(r.recovery_id for r in self._all("recovery_result"))]
        )
        return Story(
            tenant_id=tenant_id,
            execution_id=execution_id,
            recoveries=[self._recovery(r, [f for f in failures if recovery_of[f] == r]) for r in recoveries],
            others=[self._failure(f, "") for f in failures if not recovery_of[f]],
            unreadable=self._unreadable(),
            dead_letters=self._dead_letters(),
        )

    def _unreadable(self) -> list[dict[str, Any]]:
        """What no worker has said anything about."""
        told = {_origin(letter) for letter in self._all("dead_letter", once=False)}
        found = [f for f in self._all("malformed", once=False) if (f.topic, f.partition, f.offset) not in told]
        return [{"topic": f.topic, "at": f.at, "reason": f.reason} for f in found]

    def _dead_letters(self) -> list[dict[str, Any]]:
        """One for each record, whoever could not handle it, and however often."""
        letters: dict[tuple[str, int, int], dict[str, Any]] = {}
        for fact in self._all("dead_letter", once=False):
            letter = letters.setdefault(_origin(fact), _dead_letter(fact))
            worker = fact.body.get("worker") or ""
            if worker not in letter["worker"].split(" and "):
                letter["worker"] += f" and {worker}"
        return list(letters.values())

    def _recovery_of(self, failure: str) -> str:
        for command in reversed(self._commands):
            if command.failure_id == failure:
                return command.recovery_id
        said = [f for f in self._said if f.failure_id == failure and f.recovery_id and f.status not in _SET_ASIDE]
        return said[-1].recovery_id if said else ""

    def _recovery(self, recovery_id: str, failures: Sequence[str]) -> Recovery:
        result = self._first.get(("recovery_result", recovery_id))
        escalation = self._first.get(("escalation", recovery_id))
        body = result.body if result else {}
        return Recovery(
            recovery_id=recovery_id,
            status=result.status if result else "open",
            reason=result.reason if result else "",
            error=body.get("error") or "",
            attempts=max((c.attempt for c in self._commands if c.recovery_id == recovery_id), default=0),
            duration_s=body.get("total_duration_s"),
            cost_microusd=body.get("total_cost_microusd") or 0,
            escalation=(escalation.body.get("summary") or "") if escalation else "",
            answers=self._answers(recovery_id),
            failures=[self._failure(failure, recovery_id) for failure in failures],
        )

    def _answers(self, recovery_id: str) -> list[Answer]:
        became: dict[str, str] = {}
        for fact in self._all("disposition", once=False):
            if fact.body.get("subject") == "operator":
                became.setdefault(fact.body.get("subject_id") or "", _said(fact))
        # The same, sent once more, is one answer.
        signed = {
            fact.body.get("signature") or "": fact
            for fact in reversed(self._all("operator_action", once=False))
            if fact.recovery_id == recovery_id
        }
        return [
            _answer(fact, became.get(signature[:_SIGNED_CHARS], "")) for signature, fact in reversed(signed.items())
        ]

    def _failure(self, failure_id: str, recovery_id: str) -> Failure:
        event = self._first.get(("failure_event", failure_id))
        options = self._first.get(("recovery_options", failure_id))
        body = event.body if event else {}
        detected_at = event.at if event else None
        own = [self._attempt(c, detected_at) for c in self._commands if c.failure_id == failure_id]
        said = [f for f in self._said if f.failure_id == failure_id]
        resumed = (body.get("resumed_by") or {}).get("attempt") or 0
        shared = max((f.attempt for f in said if f.recovery_id == recovery_id), default=0)
        return Failure(
            failure_id=failure_id,
            detected_at=detected_at,
            agent=(body.get("agent") or {}).get("id") or "",
            step=body.get("step") or "",
            error=_error(body),
            verdict=options.body.get("classification") if options else None,
            options=(options.body.get("options") or []) if options else [],
            attempts=own,
            answered_by=shared if not own and shared > resumed else 0,
            dispositions=list(dict.fromkeys(map(_said, said))),
        )

    def _attempt(self, command: Fact, detected_at: datetime | None) -> Attempt:
        settled = self._first.get(("settled_attempt", command.command_id))
        outcome = self._first.get(("resume_outcome", command.command_id))
        word = outcome.body if outcome else {}
        decision = command.body.get("decision") or {}
        end = settled.body if settled else {}
        return Attempt(
            attempt=command.attempt,
            strategy=command.body.get("strategy") or "",
            issued_at=command.at,
            latency_s=(command.at - detected_at).total_seconds() if detected_at else None,
            checkpoint_id=(command.body.get("checkpoint") or {}).get("id") or "",
            candidates=decision.get("candidates") or [],
            chosen=decision.get("chosen") or 0,
            mode=decision.get("mode") or "",
            operator=decision.get("operator") or "",
            modifications=command.body.get("modifications") or [],
            status=settled.status if settled else "open",
            outcome=word.get("status") or "",
            not_applied_why=word.get("applied_why") or "",
            retry_count=word.get("retry_count") or 0,
            duration_s=end.get("duration_s"),
            cost_microusd=end.get("cost_microusd") or 0,
            final_output=word.get("final_output"),
        )


def _said(disposition: Fact) -> str:
    return f"{disposition.status}: {disposition.reason}" if disposition.reason else disposition.status


def _answer(fact: Fact, became: str) -> Answer:
    return Answer(
        at=fact.at,
        operator=fact.body.get("operator") or "",
        action=fact.status,
        strategy=fact.body.get("strategy") or "",
        reason=fact.reason,
        became=became,
    )


def _origin(letter: Fact) -> tuple[str, int, int]:
    """Topic, partition and offset of the record that a dead letter is about."""
    body = letter.body
    return body.get("origin_topic") or "", body.get("origin_partition") or 0, body.get("origin_offset") or 0


def _dead_letter(fact: Fact) -> dict[str, Any]:
    said = {name: fact.body.get(name) or "" for name in ("worker", "error")}
    return {"topic": fact.body.get("origin_topic") or "", "at": fact.at, "reason": fact.reason, **said}


def _error(failure: dict[str, Any]) -> str:
    error, tool = failure.get("error") or {}, failure.get("tool_response") or {}
    name, message = error.get("class"), error.get("message") or tool.get("error")
    if name and message:
        return f"{name}: {message}"
    if status := tool.get("status_code"):
        return f"{tool.get('tool') or 'a tool'} answered {status}"
    return name or message or ""
