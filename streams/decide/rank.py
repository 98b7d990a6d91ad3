"""Which remedy first: by confidence, published until enough was observed."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final, NamedTuple

from schemas.records import Option, Strategy
from streams.decide.rates import Rates

ENOUGH_SAMPLES: Final = 20
"""Attempts of a strategy on a subtype, of seven days, from which the observed rate replaces the published number."""


class Proposal(NamedTuple):
    """One remedy before it is ranked."""

    strategy: Strategy
    parameters: str
    prior: float
    """The ladder's confidence, adjusted to the evidence."""
    cost_microusd: int
    latency_s: float
    why: str


def rank(proposals: Iterable[Proposal], subtype: str, rates: Rates, now: datetime | None = None) -> tuple[Option, ...]:
    """The proposals as options, highest confidence first; ties by cost, then latency, then name."""
    ranked = [_option(proposal, *rates.rate(subtype, None, proposal.strategy, now)) for proposal in proposals]
    ranked.sort(key=_order)
    return tuple(ranked)


def _option(proposal: Proposal, samples: int, successes: int) -> Option:
    posterior = successes / samples if samples >= ENOUGH_SAMPLES else None
    return Option(
        strategy=proposal.strategy,
        parameters=proposal.parameters,
        confidence=proposal.prior if posterior is None else posterior,
        prior=proposal.prior,
        posterior=posterior,
        samples=samples,
        cost_microusd=proposal.cost_microusd,
        latency_s=proposal.latency_s,
        why=proposal.why,
    )


def _order(option: Option) -> tuple[float, int, float, str]:
    return (-option.confidence, option.cost_microusd, option.latency_s, option.strategy)
