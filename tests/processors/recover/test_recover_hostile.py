"""What a hostile or unlucky input must not do to a partition."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import Any, cast

import pytest
from recover_life import commanded
from recover_world import POLICIES, START_MS, World, option

from processors.recover.lane import Lane
from processors.recover.ledger import Ledger, Raw
from processors.recover.policy import Policies
from processors.recover.role import RECOVER
from processors.recover.state import decode, encode
from schemas import codec
from schemas.records import Checkpoint, FailureEvent, RecoveryResult, Strategy, ToolResponse
from schemas.topics import FAILURES, SETTLED

RETRY = option(Strategy.RETRY_ONCE, 0.6)


def test_trace_headers_cannot_make_an_output_too_large() -> None:
    """They travel on with everything that the failure causes: each name once, and none of more than 512 bytes."""
    event = FailureEvent(tenant_id="t", execution_id="e", checkpoint=Checkpoint(id="c"))
    headers = [("traceparent", b"x" * 500)] * 200 + [("tracestate", b"y" * 100_000)]
    decoded = codec.decode(FAILURES.name, codec.to_avro(event), headers)
    assert isinstance(decoded, codec.Decoded)
    assert sum(len(name) + len(value) for name, value in decoded.trace) < SETTLED.max_message_bytes / 50


@pytest.mark.parametrize("order", [("none", "unsafe"), ("unsafe", "none")])
def test_an_unsafe_branch_is_not_run_again_whatever_the_order(order: tuple[str, str]) -> None:
    world = World()
    places = [world.fail(f"f{n}", side_effects_since_checkpoint=effects) for n, effects in enumerate(order)]
    for place in places:
        world.offer(place, RETRY)
    assert not world.commands
    assert world.records(RecoveryResult)[0].reason == "needs_human"


def test_a_branch_whose_verdict_is_still_awaited_is_not_run_again_if_unsafe() -> None:
    world = World()
    first, _ = world.fail("f1"), world.fail("f2", side_effects_since_checkpoint="unsafe")
    world.offer(first, RETRY)
    world.tick(5_000)
    assert not world.commands


@pytest.mark.parametrize("order", [("search", "payment"), ("payment", "search")])
def test_what_a_tools_policy_forbids_is_forbidden_to_its_branch(order: tuple[str, str]) -> None:
    policies = Policies({"tools": {"payment": {"forbidden_strategies": ["retry_once"]}}})
    world = World(policies=policies)
    places = [world.fail(f"f{n}", tool_response=ToolResponse(tool=tool)) for n, tool in enumerate(order)]
    for place in places:
        world.offer(place, RETRY)
    assert not world.commands


@pytest.mark.parametrize("base_s", [0.0, 1e-300, 1.0, 1e300])
def test_delays_that_grow_beyond_all_numbers_are_bounded_like_others(base_s: float) -> None:
    grows = f'{{"max_attempts":20,"base_delay_s":{base_s},"multiplier":1e300}}'
    world = commanded(option(Strategy.EXPONENTIAL_BACKOFF, parameters=grows))
    (command,) = world.commands
    assert command.outcome_deadline > command.expires_at


def test_a_barrier_is_passed_under_a_stream_that_never_ends() -> None:
    """What was appended after the ends were taken does not hold a deadline up."""
    lane = Lane(
        cast(Any, SimpleNamespace(limit=100, positions={FAILURES.name: 10}, ledger=Ledger(0, 1, POLICIES))),
        RECOVER.flow,
        10**6,
    )
    lane.asked = START_MS, {FAILURES.name: 10}
    lane.read[FAILURES.name] = deque([Raw(FAILURES.name, 0, 10, START_MS, b"t/e", b"")])
    lane.pass_barrier()
    assert lane.barrier_ms == START_MS


def test_a_state_that_cannot_be_read_does_not_stop_the_others() -> None:
    """As after a rollback: the newer release's state stays as it is, for the release that can read it."""
    world = World()
    world.offer(world.fail("f1"), RETRY)
    good = encode(world.state)
    ledger = Ledger(0, 1, POLICIES)
    newer = bytes([99]) + good[1:]
    ledger.restore(b"t/newer", newer)
    ledger.restore(f"{world.state.tenant_id}/{world.state.execution_id}".encode(), good)
    due = decode(good).due_ms
    staged = ledger.stage((), due + 1, fire_until=due + 1, tokens=500)
    ledger.commit(staged)
    assert staged.unreadable == 1
    assert ledger.states["t/newer"] == newer
    assert staged.emitted, "the other execution's deadline fires"
