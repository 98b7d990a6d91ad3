"""Metrics credit a strategy with what it did."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import REGISTRY
from recover_world import World, option

from processors.recover.ledger import Ledger, Staged
from processors.recover.observe import observe
from processors.recover.policy import Policies
from schemas.records import RecoveryResult, ResultStatus, Strategy


@pytest.mark.parametrize(("applied", "credit"), [("all", 1), ("some", 1), ("none", 0)])
def test_a_success_is_the_strategys_only_where_the_agent_applied_it(applied: str, credit: int) -> None:
    world = World()
    world.offer(world.fail(), option(Strategy.FALLBACK_SERVICE))
    world.answer(world.commands[0], applied=applied)
    assert [result.status for result in world.records(RecoveryResult)] == [ResultStatus.SUCCESS]
    writer = SimpleNamespace(partition=0, ledger=Ledger(0, 1, Policies.load()))
    names = "omium_recovery_success_total", "omium_recovery_duration_seconds_count"
    before = [REGISTRY.get_sample_value(name, {"strategy": "fallback_service"}) or 0 for name in names]
    observe(cast(Any, writer), Staged(emitted=[emit.record for emit in world.said]), 0)
    after = [REGISTRY.get_sample_value(name, {"strategy": "fallback_service"}) or 0 for name in names]
    assert [b + credit for b in before] == after
