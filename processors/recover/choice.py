"""Which option: what policy, budget and history allow, then the mode's best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from processors.recover.policy import Policy
from processors.recover.state import Branch, Recovery
from processors.recover.strategies import action, apply, remedy
from schemas.modifications import Parameters, SetModel, SetRetry, SetTimeout
from schemas.records import Candidate, ChoiceMode, Option, RecoveryOptions, Strategy

MAX_CANDIDATES: Final = 32
_WHY_CHARS: Final = 300
_MAX_MODIFICATION_CHARS: Final = 256 * 1024
_FREE_MICROUSD: Final = 100
"""What an option without a price counts as in confidence per cost: the time of a run is not free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The candidates of one branch, each with a verdict, and which of them is taken."""

    options: tuple[Option, ...]
    candidates: tuple[Candidate, ...]
    chosen: int | None
    """Index into both; None: nothing may be done."""

    @property
    def option(self) -> Option | None:
        return None if self.chosen is None else self.options[self.chosen]

    @property
    def only_money_forbids(self) -> bool:
        refused = [c.why for c in self.candidates if not c.eligible and c.strategy is not Strategy.ASK_HUMAN]
        return bool(refused) and all(why in (_OVER_BUDGET, _NOT_WORTH) for why in refused)

    @property
    def decidable(self) -> tuple[int, ...]:
        """What a person may have done, best first: all but what cannot be done and what policy forbids.

        ask_human is to run again unchanged: the person has mended the cause. That comes before what failed already.
        """
        return tuple(sorted((n for n, c in enumerate(self.candidates) if _decidable(c)), key=self._rank))

    def _rank(self, place: int) -> tuple[bool, ...]:
        candidate = self.candidates[place]
        person = candidate.strategy is Strategy.ASK_HUMAN
        tried = not candidate.eligible and candidate.why == _TRIED
        return tried, person, place != self.chosen, not candidate.eligible


_OVER_BUDGET: Final = "costs more than is left"
_NOT_WORTH: Final = "costs more than it is worth"
_TRIED: Final = "already tried on this call"
_UNFIT: Final = "its parameters do not fit the strategy"
_FORBIDDEN: Final = "policy forbids it"
_FORBIDDEN_MODEL: Final = "policy forbids its model"
_FINAL: Final = frozenset({_UNFIT, _FORBIDDEN, _FORBIDDEN_MODEL})


def _decidable(candidate: Candidate) -> bool:
    return candidate.eligible or candidate.why not in _FINAL


def choose(
    recovery: Recovery,
    branch: Branch,
    options: RecoveryOptions,
    policy: Policy,
    now: int,
    barred: Callable[[Option], str | None] = lambda _: None,
) -> Choice:
    """Gate and choose. ask_human is taken where it is ranked first, or where nothing else may be done.

    `barred`: why an option that may be done must not be done now.
    """
    listed = options.options[:MAX_CANDIDATES]
    refusals = [_refusal(option, recovery, branch, options, policy, now) or barred(option) for option in listed]
    candidates = tuple(_candidate(option, refusal) for option, refusal in zip(listed, refusals, strict=True))
    doable = [n for n, c in enumerate(candidates) if c.eligible and c.strategy is not Strategy.ASK_HUMAN]
    human = next((n for n, c in enumerate(candidates) if c.strategy is Strategy.ASK_HUMAN), None)
    if human == 0 or not doable:
        return Choice(options=listed, candidates=candidates, chosen=human)
    return Choice(options=listed, candidates=candidates, chosen=max(doable, key=lambda n: _worth(listed[n], policy)))


def _worth(option: Option, policy: Policy) -> float:
    # max() keeps the first of equals: ties are decided by the order in which streams ranked them.
    if policy.mode is ChoiceMode.COST_AWARE:
        return option.confidence / (option.cost_microusd + _FREE_MICROUSD)
    return option.confidence


def _refusal(
    option: Option, recovery: Recovery, branch: Branch, options: RecoveryOptions, policy: Policy, now: int
) -> str | None:
    if option.strategy is Strategy.ASK_HUMAN:
        return None
    cost_limit = min(policy.max_cost_microusd, _or_more(branch.max_cost_microusd))
    time_limit = min(recovery.started_ms + round(policy.max_duration_s * 1000), _or_more(branch.deadline_ms))
    try:
        change = remedy(option)
    except ValueError:
        return _UNFIT
    if policy.forbids(option.strategy):
        return _FORBIDDEN
    if isinstance(change, SetModel) and policy.forbids_model(change.model):
        return _FORBIDDEN_MODEL
    if branch.unsafe and not policy.allow_unsafe_effects:
        return "running again would repeat an unsafe effect"
    if recovery.attempt >= policy.max_attempts:
        return "no attempts left"
    if (
        recovery.tried
        and action(option, _fingerprint(branch, options), options.classification.subtype) in recovery.tried
    ):
        return _TRIED
    if option.confidence < policy.min_confidence:
        return "confidence below the floor"
    if recovery.cost_microusd + option.cost_microusd > cost_limit:
        return _OVER_BUDGET
    if options.value_microusd and option.cost_microusd > option.confidence * options.value_microusd:
        return _NOT_WORTH
    if now + option.latency_s * 1000 > time_limit:
        return "takes longer than is left"
    return _beyond_caps(change, policy)


def _beyond_caps(change: Parameters, policy: Policy) -> str | None:
    if isinstance(change, SetRetry):
        longest_s = max(change.initial_delay_s, change.max_delay_s)
        return "waits longer than policy allows" if longest_s > policy.max_delay_s else None
    if isinstance(change, SetTimeout) and change.timeout_s > policy.max_timeout_s:
        return "allows a call longer than policy does"
    return None


def _or_more(limit: int | None) -> int:
    return 2**62 if limit is None else limit


def _fingerprint(branch: Branch, options: RecoveryOptions) -> str | None:
    return branch.call_fingerprint or options.call_fingerprint


def changes(
    ready: list[tuple[Branch, RecoveryOptions]], choices: list[Choice]
) -> tuple[list[tuple[Parameters, ...]], list[str]]:
    """What the branches' choices change, the first branch's first, and the actions that are tried by it."""
    changed: list[tuple[Parameters, ...]] = []
    tried: list[str] = []
    room = _MAX_MODIFICATION_CHARS
    for (branch, options), choice in zip(ready, choices, strict=True):
        option = choice.option
        if option is None or option.strategy is Strategy.ASK_HUMAN or len(option.parameters) > room:
            continue
        room -= len(option.parameters)
        changed.append(apply(option, branch, options.classification.subtype))
        tried += actions(choice, branch, options)
    return changed, tried


def actions(choice: Choice, branch: Branch, options: RecoveryOptions) -> tuple[str, ...]:
    """What taking `choice` adds to what was tried."""
    assert choice.option
    return (action(choice.option, _fingerprint(branch, options), options.classification.subtype),)


def _candidate(option: Option, refusal: str | None) -> Candidate:
    return Candidate(
        strategy=option.strategy,
        confidence=option.confidence,
        prior=option.prior,
        samples=option.samples,
        cost_microusd=option.cost_microusd,
        latency_s=option.latency_s,
        eligible=refusal is None,
        why=(refusal or option.why)[:_WHY_CHARS],
    )
