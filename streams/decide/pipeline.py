"""One failure in, the verdict and the ranked options out: detect, analyze, suggest."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from schemas.records import FailureEvent, Origin, RecoveryOptions
from streams.decide.catalogue import Catalogue
from streams.decide.classify import classify
from streams.decide.classify.logic import Claim, Judgement, unverified_claims
from streams.decide.classify.rules import Rules, built_in
from streams.decide.options import options
from streams.decide.rates import Rates


def decide(
    event: FailureEvent,
    *,
    failure_id: str,
    origin: Origin,
    rates: Rates,
    catalogue: Catalogue,
    now: datetime,
    rules: Rules | None = None,
    judgements: Sequence[Judgement] = (),
) -> RecoveryOptions:
    """What failed, why we think so, and what could be done, best first. Pure: equal arguments, equal answer.

    `judgements` are a verifier's on `claims_to_verify`.
    """
    rules = rules or built_in()
    verdict = classify(event, rules, judgements)
    response = event.tool_response
    return RecoveryOptions(
        tenant_id=event.tenant_id,
        execution_id=event.execution_id,
        failure_id=failure_id,
        origin=origin,
        classification=verdict,
        checkpoint=event.checkpoint,
        call_fingerprint=response.call_fingerprint if response is not None else None,
        options=options(event, verdict, catalogue, rates, now=now),
        value_microusd=catalogue.value_microusd(verdict.category, verdict.subtype),
        rules_version=rules.version,
        catalogue_version=catalogue.version,
        confidence_snapshot=rates.snapshot,
        decided_at=now,
    )


def claims_to_verify(event: FailureEvent, rules: Rules | None = None) -> list[Claim]:
    """What the reasoning claims and no fact decides, where a verifier's word could change the verdict; else nothing."""
    claims = unverified_claims(event)
    doubts = [Judgement(claim, holds=False) for claim in claims]
    return claims if claims and classify(event, rules, doubts) != classify(event, rules) else []
