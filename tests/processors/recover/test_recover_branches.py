"""Failures beside and after each other: parallel branches, other checkpoints, claims on recoveries."""

from __future__ import annotations

from recover_life import BACKOFF, FALLBACK, HUMAN, LADDER, commanded, kinds, result
from recover_world import World, again, option

from schemas.records import (
    ResumedBy,
    Strategy,
)


def test_parallel_branches_at_one_checkpoint_are_one_command_with_merged_modifications() -> None:
    world = World()
    one, two = world.fail("f1"), world.fail("f2")
    world.offer(one, option(Strategy.REFRESH_CREDENTIALS))
    assert not world.commands
    world.offer(two, option(Strategy.CONSTRAINT_INJECTION))
    (command,) = world.commands
    assert [m.kind for m in command.modifications] == ["refresh_credentials", "append_prompt"]
    assert command.fence.offset == two
    assert kinds(world) == ["opened", "joined", "commanded", "commanded"]


def test_a_branch_whose_options_do_not_come_is_not_waited_for_long() -> None:
    world = World()
    one, _ = world.fail("f1"), world.fail("f2")
    world.offer(one, BACKOFF)
    world.tick(999)
    assert not world.commands
    world.tick(1)
    assert len(world.commands) == 1


def test_options_that_come_while_a_command_is_out_count_for_the_next_rung() -> None:
    world = World()
    one, two = world.fail("f1"), world.fail("f2")
    world.offer(one, BACKOFF, FALLBACK)
    world.tick(1000)
    world.offer(two, option(Strategy.CONSTRAINT_INJECTION))
    assert len(world.commands) == 1
    world.tick(10**6)
    assert [m.kind for m in world.commands[1].modifications] == ["use_fallback", "append_prompt"]


def test_a_branch_that_was_no_failure_after_all_does_not_lower_the_fence() -> None:
    world = World()
    one, two = world.fail("f1"), world.fail("f2")
    world.offer(one, BACKOFF, FALLBACK)
    world.tick(1000)
    world.offer(two, category="none", subtype="control_flow")
    world.tick(10**6)
    assert [(c.fence.offset, c.fence.attempt) for c in world.commands] == [(two, 1), (two, 2)]


def test_a_branch_that_fails_just_after_the_command_is_answered_by_it() -> None:
    world = commanded()
    world.now += 500
    offset = world.fail("f2")
    world.offer(offset, FALLBACK)
    assert len(world.commands) == 1
    assert kinds(world)[-1] == "joined"


def test_a_runtime_that_forgets_resumed_by_still_climbs_the_ladder() -> None:
    world = commanded()
    world.now += 10_000
    world.offer(world.fail("f2"), *LADDER)
    assert [c.attempt for c in world.commands] == [1, 2]


def test_a_failure_at_another_checkpoint_takes_the_place_of_the_one_that_waits() -> None:
    world = World()
    first = world.fail("f1")
    world.offer(world.fail("f2", checkpoint="c2"), BACKOFF)
    world.offer(first, FALLBACK)
    (command,) = world.commands
    assert (command.checkpoint.id, command.attempt) == ("c2", 1)
    assert kinds(world) == ["opened", "joined", "joined", "commanded"]


def test_after_success_a_new_failure_of_the_resumed_run_opens_a_new_recovery() -> None:
    world = commanded()
    world.answer(world.commands[0])
    world.offer(world.fail("f2", resumed_by=again(world.commands[0])), BACKOFF)
    one, two = world.commands
    assert two.recovery_id != one.recovery_id
    assert two.attempt == 1
    assert two.fence.offset > one.fence.offset


def test_a_failure_of_a_recovery_that_was_given_up_is_stale() -> None:
    world = commanded(BACKOFF, HUMAN)
    world.offer(world.fail("f2", resumed_by=again(world.commands[0])), BACKOFF, HUMAN)
    assert result(world).reason == "needs_human"
    world.fail("f3", resumed_by=again(world.commands[0]))
    assert kinds(world)[-1] == "stale"


def test_a_claim_on_a_recovery_that_does_not_exist_opens_one() -> None:
    world = commanded(resumed_by=ResumedBy(recovery_id="forged", attempt=9))
    assert (len(world.commands), world.commands[0].attempt) == (1, 1)
