"""People: the question that an escalation asks, and which answers are heard."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from processors.recover.choice import Choice, changes
from processors.recover.policy import Policies, Policy
from processors.recover.state import Branch, Recovery
from processors.recover.strategies import merge, modifications
from schemas.records import Checkpoint, OperatorAction, Proposal, RecoveryOptions, epoch_ms
from schemas.signing import approval_hash

MAX_PROPOSALS: Final = 12
_MAX_CHARS: Final = 128 * 1024
"""Of all proposals: a person must be able to read what they approve, and it must fit the topic."""
_MAX_ATTEMPTS: Final = 100
"""People may go on where policy's own limit ends, but not for ever."""
_SKEW_MS: Final = 5 * 60_000
"""By so much an operator's clock may be ahead of the broker's."""
_LONGEST_MS: Final = 24 * 3600 * 1000

Ready = list[tuple[Branch, RecoveryOptions]]


@dataclass(frozen=True, slots=True)
class Question:
    """What a person may answer. `options`: the place of each proposal among the first branch's options."""

    checkpoint: Checkpoint
    unsafe_effects: bool
    proposals: tuple[Proposal, ...]
    options: tuple[int, ...]
    hash: str

    def option_of(self, answer: OperatorAction) -> int | None:
        """The option that `answer` is for, or None where it is not one to this question."""
        place = answer.proposal
        if answer.approval_hash != self.hash or place >= len(self.proposals):
            return None
        return self.options[place] if self.proposals[place].strategy is answer.strategy else None


def pose(
    recovery: Recovery, ready: Ready, choices: list[Choice], checkpoint: Checkpoint, *, unsafe_effects: bool
) -> Question | None:
    """The question of the pending attempt, best proposal first; None where there is nothing to decide.

    Follows from the state alone, so that the answer finds the question again.
    """
    attempt = recovery.attempt + 1
    if attempt > _MAX_ATTEMPTS:
        return None
    proposals: list[Proposal] = []
    places: list[int] = []
    room = _MAX_CHARS
    for place in choices[0].decidable[:MAX_PROPOSALS]:
        proposal = _proposal(ready, choices, place)
        room -= sum(len(change.parameters) for change in proposal.modifications)
        if room >= 0:
            proposals.append(proposal)
            places.append(place)
    if not proposals:
        return None
    question = approval_hash(recovery.recovery_id, attempt, checkpoint, proposals, unsafe_effects=unsafe_effects)
    return Question(checkpoint, unsafe_effects, tuple(proposals), tuple(places), question)


def _proposal(ready: Ready, choices: list[Choice], place: int) -> Proposal:
    instead = replace(choices[0], chosen=place)
    changed, _ = changes(ready, [instead, *choices[1:]])
    option, candidate = instead.options[place], instead.candidates[place]
    return Proposal(
        strategy=option.strategy,
        confidence=option.confidence,
        cost_microusd=option.cost_microusd,
        latency_s=option.latency_s,
        modifications=modifications(merge(changed)),
        why=candidate.why,
        refused=not candidate.eligible,
    )


def answer_until_ms(recovery: Recovery, policy: Policy, now: int) -> int:
    """How long a person may take: what policy gives them, within the recovery's own time."""
    deadlines = [branch.deadline_ms for branch in recovery.branches if branch.deadline_ms]
    return min(
        now + round(policy.person_wait_s * 1000),
        recovery.started_ms + round(policy.max_duration_s * 1000),
        *deadlines,
    )


def refusal(action: OperatorAction, policies: Policies, now: int) -> str:
    """Why `action` is not heard, or nothing. `now`: broker's time in epoch ms."""
    operator = policies.operators.get(action.operator)
    if operator is None:
        return "the policy knows no such operator"
    if not operator.has_signed(action):
        return "it is not signed by the operator's key"
    if not operator.may_decide_for(action.tenant_id):
        return "the operator may not decide for this tenant"
    issued_ms, expires_ms = epoch_ms(action.issued_at), epoch_ms(action.expires_at)
    if issued_ms > now + _SKEW_MS:
        return "it was issued in the future"
    if expires_ms - issued_ms > _LONGEST_MS:
        return "it claims to hold for more than a day"
    return "it has expired" if expires_ms <= now else ""
