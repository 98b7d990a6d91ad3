"""What people may answer, and that nothing else is heard."""

from __future__ import annotations

from typing import Any

import pytest
from recover_life import BACKOFF, FALLBACK, HUMAN, LADDER, kinds, result, saved
from recover_operators import OPERATORS, answer, policies, question, say
from recover_world import PARAMETERS, START_MS, World, again, option

from processors.recover.policy import Policies
from schemas import codec, signing
from schemas.records import (
    Escalation,
    RecoveryResult,
    SettledAttempt,
    Strategy,
    from_epoch_ms,
)
from schemas.topics import ESCALATIONS


def asking(*chosen: Any, policy: Policies | None = None, **fields: Any) -> World:
    """A world that asks a person: they are ranked first, two remedies behind them."""
    world = World(policies=policy or policies())
    world.offer(world.fail(**fields), *(chosen or (HUMAN, BACKOFF, FALLBACK)))
    return world


def test_a_question_says_all_that_an_answer_would_do_and_is_told_as_escalated_at_once() -> None:
    world = asking()
    asked = question(world)
    assert (asked.attempt, asked.reason) == (1, "needs_human")
    assert [p.strategy for p in asked.proposals] == ["exponential_backoff", "fallback_service", "ask_human"]
    assert [m.kind for p in asked.proposals for m in p.modifications] == ["set_retry", "use_fallback"]
    assert asked.approval_hash == signing.approval_hash(
        asked.recovery_id, 1, asked.checkpoint, asked.proposals, unsafe_effects=False
    )
    assert asked.expires_at == from_epoch_ms(world.now + 3_600_000)
    assert kinds(world) == ["opened", "escalated"]
    assert not world.records(RecoveryResult)
    assert not world.commands


def test_approved_is_done_exactly_as_shown_and_goes_on_as_ever() -> None:
    world = asking()
    asked = question(world)
    world.restart()
    action = answer(world)
    assert say(world, action) == "commanded: exponential_backoff, decided by ann"
    (command,) = world.commands
    assert command.modifications == asked.proposals[0].modifications
    assert command.checkpoint == asked.checkpoint
    assert (command.decision.operator, command.decision.approval_hash) == ("ann", asked.approval_hash)
    world.answer(command)
    assert (result(world).status, result(world).reason) == ("success", "recovered")
    assert len(world.records(Escalation)) == 1


def test_what_is_approved_and_fails_again_is_decided_again() -> None:
    world = asking()
    say(world, answer(world))
    first = answer(world)
    world.offer(world.fail("f2", resumed_by=again(world.commands[0])), HUMAN, BACKOFF, FALLBACK)
    asked = question(world)
    assert (asked.attempt, [p.strategy for p in asked.proposals]) == (
        2,
        ["fallback_service", "ask_human", "exponential_backoff"],
    )
    assert (asked.proposals[2].refused, asked.proposals[2].why) == (True, "already tried on this call")
    assert say(world, first) == "stale: that attempt was commanded already"
    assert say(world, answer(world, "choose", 2)).startswith("commanded")
    assert [c.strategy for c in world.commands] == ["exponential_backoff", "exponential_backoff"]


def test_who_has_mended_the_cause_has_the_run_go_on_unchanged_as_often_as_they_like() -> None:
    world = asking(HUMAN, side_effects_since_checkpoint="unsafe")
    assert question(world).unsafe_effects
    for attempt in (1, 2):
        assert say(world, answer(world)) == "commanded: ask_human, decided by ann"
        command = world.commands[-1]
        assert (command.attempt, command.modifications, command.checkpoint.id) == (attempt, (), "c1")
        world.offer(world.fail(f"again-{attempt}", resumed_by=again(command)), HUMAN)
    say(world, answer(world))
    world.answer(world.commands[-1])
    assert (result(world).status, result(world).attempts) == ("success", 3)


def test_a_person_may_spend_more_than_policy_but_not_do_what_it_forbids() -> None:
    dear, forbidden = option(Strategy.MODEL_UPGRADE, 0.9, 10**6), option(Strategy.CONSTRAINT_INJECTION, 0.8)
    unfit = option(Strategy.VALIDATION_TOOL, 0.8, parameters="{}")
    policy = policies(forbidden_strategies=["constraint_injection"])
    world = asking(dear, forbidden, unfit, policy=policy)
    asked = question(world)
    assert [(p.strategy, p.why) for p in asked.proposals] == [("model_upgrade", "costs more than is left")]
    assert say(world, answer(world)).startswith("commanded")


def test_rejected_ends_without_asking_again() -> None:
    world = asking()
    assert say(world, answer(world, "reject", reason="the customer has left")) == "ended: rejected by ann"
    ended = result(world)
    assert (ended.status, ended.reason, ended.error) == ("failed", "rejected", "ann: the customer has left")
    assert len(world.records(Escalation)) == 1
    assert say(world, answer(world)) == "stale: its recovery has ended"


def test_without_an_answer_it_ends_as_it_would_have_at_once() -> None:
    world = asking()
    late = answer(world, expires_at=from_epoch_ms(world.now + 86_400_000))
    world.restart()
    world.tick(3_599_999)
    assert not world.records(RecoveryResult)
    world.now += 1
    world.append(late)
    world.read_all()
    assert not world.commands
    world.tick()
    assert (result(world).status, result(world).reason) == ("failed", "needs_human")
    assert len(world.records(Escalation)) == 1


@pytest.mark.parametrize(
    "policy",
    [
        policies(person_wait_s=0),
        policies(max_duration_s=0.001),
        Policies({}),
        Policies({"operators": {"bob": OPERATORS["bob"]}}),
    ],
)
def test_where_nobody_may_answer_in_time_it_ends_at_once(policy: Policies) -> None:
    world = World(policies=policy)
    offset = world.fail()
    world.now += 1
    world.offer(offset, HUMAN, BACKOFF)
    assert result(world)
    assert world.records(Escalation)[0].attempt == 0


NOW = START_MS


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"by": "eve"}, "refused: the policy knows no such operator"),
        ({"by": "bob"}, "refused: the operator may not decide for this tenant"),
        ({"by": "eve", "operator": "ann"}, "refused: it is not signed by the operator's key"),
        ({"expires_at": from_epoch_ms(NOW)}, "refused: it has expired"),
        ({"expires_at": from_epoch_ms(NOW + 86_400_001)}, "refused: it claims to hold for more than a day"),
        ({"issued_at": from_epoch_ms(NOW + 300_001)}, "refused: it was issued in the future"),
        ({"recovery_id": "another"}, "stale: no such recovery is open"),
        ({"attempt": 2}, "stale: that is not asked, or no longer"),
        ({"approval_hash": "0" * 64}, "stale: that is not asked, or no longer"),
        ({"proposal": 1}, "refused: it is no answer that this release knows"),
        ({"kind": "unknown"}, "refused: it is no answer that this release knows"),
        ({"kind": "choose", "strategy": Strategy.FASTER_MODEL}, "stale: what was asked has changed"),
        ({"kind": "choose", "proposal": 7}, "stale: what was asked has changed"),
    ],
)
def test_no_other_answer_is_heard_and_the_question_stays(fields: dict[str, Any], said: str) -> None:
    world = asking()
    assert say(world, answer(world, **fields)) == said
    assert not world.commands
    assert say(world, answer(world)).startswith("commanded")


def test_an_answer_counts_once_however_often_it_comes() -> None:
    world = asking()
    action = answer(world)
    assert [say(world, action).partition(":")[0] for _ in range(3)] == ["commanded", "stale", "stale"]
    world.answer(world.commands[0])
    assert say(world, action).startswith("stale")
    assert len(world.commands) == 1


def test_two_people_answer_the_first_counts() -> None:
    world = asking()
    approve, reject = answer(world), answer(world, "reject")
    assert say(world, approve).startswith("commanded")
    assert say(world, reject).startswith("stale")


def test_a_question_that_changed_is_asked_anew_and_the_old_answer_is_stale() -> None:
    world = asking(checkpoint=None)
    assert world.records(RecoveryResult)  # nothing to resume from
    world = World(policies=policies())
    world.append(saved("c1"))
    world.offer(world.fail(checkpoint=None), HUMAN, BACKOFF)
    old = answer(world)
    world.append(saved("c2"))
    world.read_all()
    assert question(world).checkpoint.id == "c2"
    assert say(world, old) == "stale: that is not asked, or no longer"
    assert say(world, answer(world)).startswith("commanded")
    assert world.commands[0].checkpoint.id == "c2"


def test_another_state_under_the_same_name_is_another_question() -> None:
    world = World(policies=policies())
    world.append(saved("c1", data="1"))
    world.offer(world.fail(checkpoint=None), HUMAN, BACKOFF)
    old = answer(world)
    world.append(saved("c1", data="2"))
    world.read_all()
    assert say(world, old) == "stale: that is not asked, or no longer"
    assert say(world, answer(world)).startswith("commanded")


def test_a_policy_that_changed_counts_for_answers_too() -> None:
    world = asking()
    old = answer(world)
    world.policies = policies(forbidden_strategies=["exponential_backoff"])
    assert say(world, old) == "stale: what was asked has changed"
    assert [p.strategy for p in question(world).proposals] == ["fallback_service", "ask_human"]
    assert say(world, answer(world)).startswith("commanded")


def test_an_answer_is_to_all_that_was_shown() -> None:
    world = asking()
    old = answer(world)
    world.policies = policies(forbidden_strategies=["fallback_service"])
    assert say(world, old) == "stale: what was asked has changed"
    assert say(world, answer(world)).startswith("commanded")


def test_time_that_passes_does_not_change_the_question() -> None:
    slow = BACKOFF.model_copy(update={"latency_s": 3600.0})
    world = asking(HUMAN, slow, FALLBACK, policy=policies(person_wait_s=7200))
    world.tick(5_400_000)
    assert say(world, answer(world)) == "commanded: exponential_backoff, decided by ann"


def test_a_parallel_failure_joins_the_question_and_an_unsafe_one_changes_it() -> None:
    world = asking()
    old = answer(world)
    world.fail("f2")
    world.tick(1000)
    assert len(world.records(Escalation)) == 1
    world.fail("f3", side_effects_since_checkpoint="unsafe")
    world.tick(1000)
    assert question(world).unsafe_effects
    assert say(world, old).startswith("stale")
    assert say(world, answer(world)).startswith("commanded")
    assert world.commands[0].fence.offset == 2


def test_an_answer_does_not_wait_for_a_branch_that_just_joined() -> None:
    world = asking()
    world.fail("f2")
    assert say(world, answer(world)).startswith("commanded")
    assert world.commands[0].fence.offset == 1


def test_a_later_failure_takes_the_place_of_the_question() -> None:
    world = asking()
    old = answer(world)
    offset = world.fail("f2", checkpoint="c2")
    assert say(world, old).startswith("stale")
    world.offer(offset, BACKOFF)
    assert [c.checkpoint.id for c in world.commands] == ["c2"]


@pytest.mark.parametrize("rule", [{"approve_strategies": ["exponential_backoff"]}, {"approve_above_microusd": 999}])
def test_what_wants_an_approval_is_proposed_instead_of_sent(rule: dict[str, Any]) -> None:
    world = asking(*LADDER, policy=policies(**rule))
    asked = question(world)
    assert (asked.reason, asked.proposals[0].strategy, asked.proposals[0].refused) == (
        "needs_human",
        "exponential_backoff",
        False,
    )
    assert not world.commands
    assert say(world, answer(world)).startswith("commanded")


def test_what_wants_no_approval_is_sent() -> None:
    rule = {"approve_strategies": ["fallback_service"], "approve_above_microusd": 1000}
    assert len(asking(*LADDER, policy=policies(**rule)).commands) == 1


def test_exhausted_a_person_may_say_once_more() -> None:
    world = asking(BACKOFF)
    world.offer(world.fail("f2", resumed_by=again(world.commands[0])), BACKOFF)
    assert question(world).reason == "exhausted"
    assert say(world, answer(world)).startswith("commanded")
    assert [c.attempt for c in world.commands] == [1, 2]
    assert len(world.records(SettledAttempt)) == 1


def test_only_what_can_be_read_is_proposed() -> None:
    """What a parallel branch adds stands in each proposal."""
    world = World(policies=policies())
    first, second = world.fail("f1"), world.fail("f2")
    world.offer(first, HUMAN, *(option(s, 0.9) for s in list(PARAMETERS)[:8]))
    world.offer(second, option(Strategy.CONSTRAINT_INJECTION, 0.9, parameters='{"text":"%s"}' % ("x" * 50_000)))
    asked = question(world)
    assert len(asked.proposals) == 2
    assert len(codec.encode(ESCALATIONS, asked, source="test").value) < ESCALATIONS.max_message_bytes // 2


def test_nothing_of_it_outlives_the_memory() -> None:
    world = asking()
    for _ in range(10):
        world.until_due()
    assert world.state is None
