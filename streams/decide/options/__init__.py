"""What could be done about one failure: every remedy that the evidence and the agent's capabilities allow.

A ladder (`catalogue.toml`) names the strategies that may help a subtype. The generator of each makes its
parameters from the evidence, or declines; what the agent cannot honour and what is unsafe is left out. The
last rung is a person.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from typing import Final

from schemas.modifications import PARAMETERS
from schemas.records import Category, Classification, FailureEvent, Option, Strategy
from streams.decide.catalogue import Catalogue
from streams.decide.options import hallucination, models, names, reasoning, resources, tools
from streams.decide.options.context import Context, Generator, Remedy
from streams.decide.options.estimate import run_cost_microusd, run_latency_s
from streams.decide.options.safety import forbids_repeat
from streams.decide.rank import Proposal, rank
from streams.decide.rates import Rates

GENERATORS: Final[dict[Strategy, Generator]] = {
    **hallucination.GENERATORS,
    **names.GENERATORS,
    **models.GENERATORS,
    **tools.GENERATORS,
    **reasoning.GENERATORS,
    **resources.GENERATORS,
}
"""The maker of each strategy's parameters. ask_human has none: it is always the last rung."""

_KINDS: Final = {strategy: str(cls.kind) for strategy, cls in PARAMETERS.items()}


def options(
    event: FailureEvent,
    classification: Classification,
    catalogue: Catalogue,
    rates: Rates,
    *,
    now: datetime | None = None,
) -> tuple[Option, ...]:
    """The remedies for a failure, best first, the last a person; none for what is no failure (`Category.NONE`).

    Pure. `now` serves dates in the evidence and leaves out learned rates that are too old.
    """
    if classification.category is Category.NONE:
        return ()
    context = Context(event, classification, catalogue, now)
    why_not = forbids_repeat(context)
    proposals = () if why_not else tuple(_proposals(context))
    ranked = rank(proposals, classification.subtype, rates, now)
    return (*ranked, _person(catalogue, classification.subtype, why_not))


def _proposals(context: Context) -> Iterator[Proposal]:
    declared = context.event.agent.capabilities
    for strategy, confidence in context.catalogue.ladder(context.verdict.category, context.verdict.subtype).items():
        if declared is not None and _KINDS[strategy] not in declared:
            continue
        remedy = GENERATORS[strategy](context)
        if remedy is not None:
            yield _proposal(context, strategy, confidence, remedy)


def _proposal(context: Context, strategy: Strategy, confidence: float, remedy: Remedy) -> Proposal:
    table = context.catalogue.strategies[strategy]
    cost, latency = remedy.cost_microusd, remedy.latency_s
    if table.turns:
        if cost is None:
            cost = run_cost_microusd(context, context.model, table.turns, len(remedy.parameters))
        if latency is None:
            latency = run_latency_s(context, context.model, table.turns)
    return Proposal(
        strategy,
        remedy.parameters,
        confidence * remedy.factor,
        table.cost_microusd if cost is None else cost,
        table.latency_s if latency is None else latency,
        remedy.why,
    )


def _person(catalogue: Catalogue, subtype: str, why_not: str | None) -> Option:
    table, question = catalogue.strategies[Strategy.ASK_HUMAN], catalogue.question(subtype)
    return _asking(f"{why_not} {question}" if why_not else question, table.cost_microusd, table.latency_s)


@lru_cache(maxsize=256)
def _asking(why: str, cost_microusd: int, latency_s: float) -> Option:
    """The last rung. Its confidence is 0 so that it ranks last: a person is asked where nothing else is left."""
    return Option(
        strategy=Strategy.ASK_HUMAN,
        confidence=0.0,
        prior=0.0,
        cost_microusd=cost_microusd,
        latency_s=latency_s,
        why=why,
    )
