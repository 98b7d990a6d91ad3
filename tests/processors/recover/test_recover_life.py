"""A recovery's life, one fact at a time."""

from __future__ import annotations

import pytest
from recover_life import ASYNC, BACKOFF, FALLBACK, HUMAN, LADDER, LONGER, commanded, kinds, result, saved
from recover_world import PARAMETERS, START_MS, TENANT, World, again, failure, option, options, outcome

from processors.recover import ids
from processors.recover.policy import Policies
from processors.recover.state import MAX_EARLY, MEMORY_MS
from schemas.modifications import PARAMETERS as KINDS
from schemas.records import (
    Agent,
    Budget,
    Category,
    Checkpoint,
    Escalation,
    Execution,
    RecoveryResult,
    SettledAttempt,
    Strategy,
    ToolResponse,
    from_epoch_ms,
    parse_json_text,
)
from schemas.topics import FAILURES


def test_a_failure_with_options_becomes_one_command_and_its_success_a_result() -> None:
    world = commanded()
    (command,) = world.commands
    assert (command.strategy, command.attempt, command.checkpoint.id) == (Strategy.EXPONENTIAL_BACKOFF, 1, "c1")
    assert command.recovery_id == ids.recovery_id(TENANT, "run-1", "f1")
    assert command.command_id == ids.command_id(command.recovery_id, 1)
    world.now += 5000
    world.answer(command, final_output='"done"', cost_microusd=70)
    ended = result(world)
    assert (ended.status, ended.reason, ended.attempts, ended.final_output) == ("success", "recovered", 1, '"done"')
    assert (ended.total_cost_microusd, ended.total_duration_s) == (70, 5.0)
    (settled,) = world.records(SettledAttempt)
    assert (settled.status, settled.duration_s, settled.cost_microusd) == ("succeeded", 5.0, 70)
    assert kinds(world) == ["opened", "commanded"]
    assert kinds(world, "outcome") == ["ended"]
    assert not world.records(Escalation)


def test_what_was_chosen_from_is_on_the_command_and_chooses_the_same_again() -> None:
    (command,) = commanded(LONGER, BACKOFF, ASYNC).commands
    decision = command.decision
    assert [c.strategy for c in decision.candidates] == ["increase_timeout", "exponential_backoff", "async_execution"]
    eligible = [n for n, c in enumerate(decision.candidates) if c.eligible]
    assert decision.chosen == max(eligible, key=lambda n: decision.candidates[n].confidence) == 1
    assert decision.policy_version == World().policies.version


def test_cost_aware_choice_weighs_confidence_by_cost() -> None:
    world = World(policies=Policies({"default": {"mode": "cost_aware"}}))
    dear, cheap = option(Strategy.MODEL_UPGRADE, 0.95, 20_000), option(Strategy.CONSTRAINT_INJECTION, 0.7, 1000)
    world.offer(world.fail(), dear, cheap)
    assert world.commands[0].strategy == "constraint_injection"


def test_options_that_overtake_their_failure_are_kept_for_it() -> None:
    world = World()
    world.append(options("f1", 0, BACKOFF))
    world.read("options")
    assert not world.said
    world.restart()
    world.fail()
    assert len(world.commands) == 1


def test_of_many_options_that_overtake_their_failures_the_first_are_kept() -> None:
    world = World()
    for offset in reversed(range(MAX_EARLY + 1)):
        world.append(options(f"f{offset}", offset, BACKOFF))
    while "options" in world.unread():
        world.read("options")
    world.fail("f0")
    assert len(world.commands) == 1


def test_options_of_duplicates_that_overtook_them_are_not_kept() -> None:
    """Nobody asks for them: they would take the place of others for an hour."""
    world = commanded()
    for offset in range(1, MAX_EARLY + 1):
        world.append(options("f1", offset, BACKOFF))
        world.read("options")
        world.fail("f1")
    world.answer(world.commands[0])
    world.append(options("real", MAX_EARLY + 1, BACKOFF))
    world.read("options")
    world.fail("real")
    assert len(world.commands) == 2


def test_options_of_a_failure_that_was_buried_are_not_kept() -> None:
    world = World()
    world.append(failure("buried"))
    world.append(options("buried", 0, BACKOFF))
    world.read("options")
    world.at[FAILURES.name] = 1
    world.fail("f1")
    assert world.state
    assert not world.state.early


@pytest.mark.parametrize("offset", [0, 7])
def test_options_for_another_failure_are_not_accepted(offset: int) -> None:
    world = World()
    world.fail("old")
    world.offer(0, HUMAN)
    world.fail("f2")
    world.append(options("f2", offset, BACKOFF))
    world.read_all()
    assert not world.commands


def test_the_first_options_count() -> None:
    world = World()
    offset = world.fail()
    world.offer(offset, BACKOFF)
    world.offer(offset, FALLBACK)
    assert [c.strategy for c in world.commands] == ["exponential_backoff"]


def test_a_repeated_failure_is_a_duplicate_for_a_day_and_then_too_old() -> None:
    world = commanded()
    world.fail()
    assert kinds(world)[-1] == "duplicate"
    world.append(failure("late"))
    world.now += MEMORY_MS
    world.read_all()
    assert kinds(world)[-1] == "expired"
    assert len(world.commands) == 1


def test_without_a_checkpoint_it_waits_two_seconds_for_one() -> None:
    world = commanded(checkpoint=None)
    assert not world.commands
    world.now += 1500
    world.append(saved("c9"))
    world.read_all()
    assert world.commands[0].checkpoint.id == "c9"


def test_without_any_checkpoint_a_person_is_asked() -> None:
    world = commanded(checkpoint=None)
    world.tick(1999)
    assert not world.records(RecoveryResult)
    world.tick(1)
    assert (result(world).status, result(world).reason) == ("failed", "no_checkpoint")
    assert kinds(world) == ["opened", "escalated"]


def test_the_latest_checkpoint_of_the_run_helps_where_the_failure_names_none() -> None:
    world = World()
    world.append(saved("c1"))
    world.append(saved("c2", "x" * 20_000))
    world.offer(world.fail(checkpoint=None), BACKOFF)
    assert world.commands[0].checkpoint == Checkpoint(id="c2")


@pytest.mark.parametrize(
    ("category", "chosen", "reason", "escalates"),
    [
        (Category.UNCLASSIFIED, (HUMAN,), "unclassified", True),
        (Category.TOOL_FAILURE, (), "no_options", True),
        (Category.TOOL_FAILURE, (HUMAN, BACKOFF), "needs_human", True),
        (Category.TOOL_FAILURE, (option(Strategy.MODEL_UPGRADE, 0.9, 10**9),), "over_budget", True),
        (Category.TOOL_FAILURE, (option(Strategy.MODEL_UPGRADE, 0.9, 1, "[]"),), "exhausted", True),
        (Category.NONE, (), "not_a_failure", False),
    ],
)
def test_what_cannot_be_commanded_ends_with_its_reason(
    category: Category, chosen: tuple[object, ...], reason: str, escalates: bool
) -> None:
    world = World()
    world.offer(world.fail(), *chosen, category=category)  # type: ignore[arg-type]
    assert (result(world).status, result(world).reason, world.commands) == ("failed", reason, [])
    assert len(world.records(Escalation)) == escalates
    assert kinds(world) == ["opened", "escalated" if escalates else "ignored"]


def test_a_failure_without_options_stays_pending_until_its_own_deadline() -> None:
    world = World()
    world.fail()
    world.tick(3_599_999)
    assert not world.records(RecoveryResult)
    world.tick(1)
    assert result(world).reason == "expired"
    assert "without a verdict" in world.records(Escalation)[0].summary


def test_options_that_come_late_still_count() -> None:
    world = World()
    offset = world.fail()
    world.tick(3_000_000)
    world.offer(offset, *LADDER)
    assert len(world.commands) == 1


def test_failing_again_is_classified_anew_and_takes_the_next_rung_under_a_higher_fence() -> None:
    world = commanded()
    world.offer(world.fail("f2", resumed_by=again(world.commands[0])), *LADDER)
    one, two = world.commands
    assert (two.attempt, two.recovery_id, two.strategy) == (2, one.recovery_id, Strategy.ASYNC_EXECUTION)
    assert (two.fence.offset, two.fence.attempt) > (one.fence.offset, one.fence.attempt)
    assert [s.status for s in world.records(SettledAttempt)] == ["failed"]
    assert kinds(world) == ["opened", "commanded", "joined", "commanded"]


def test_the_ladder_ends_after_three_rungs_in_partial() -> None:
    world = commanded()
    for n in range(2, 5):
        world.offer(world.fail(f"f{n}", resumed_by=again(world.commands[-1])), *LADDER)
    assert [c.attempt for c in world.commands] == [1, 2, 3]
    assert (result(world).status, result(world).reason, result(world).attempts) == ("partial", "exhausted", 3)
    (escalation,) = world.records(Escalation)
    assert "exponential_backoff, async_execution, fallback_service" in escalation.summary
    assert escalation.options
    assert escalation.checkpoint


def test_silence_until_the_deadline_is_the_next_rung() -> None:
    world = commanded()
    deadline = world.commands[0].outcome_deadline
    world.until_due()
    assert from_epoch_ms(world.now) == deadline
    assert [c.strategy for c in world.commands] == ["exponential_backoff", "async_execution"]
    assert world.records(SettledAttempt)[0].status == "expired"


def test_not_applied_teaches_nothing_and_is_the_next_rung() -> None:
    world = commanded()
    world.answer(world.commands[0], "not_applied", applied="none")
    assert world.records(SettledAttempt)[0].status == "not_applied"
    assert world.commands[-1].attempt == 2
    assert kinds(world, "outcome") == ["commanded"]


def test_thirty_polls_of_ten_seconds_get_more_than_three_hundred_seconds() -> None:
    (command,) = commanded(ASYNC).commands
    assert (command.outcome_deadline - command.expires_at).total_seconds() > 300


def test_no_parameters_can_ask_for_an_endless_wait() -> None:
    endless = option(Strategy.ASYNC_EXECUTION, 0.9, 0, '{"poll_interval_s":1e300,"max_polls":1000000}')
    (command,) = commanded(endless).commands
    assert (command.outcome_deadline - command.issued_at).total_seconds() <= 7260


def test_a_late_outcome_of_an_older_attempt_is_recorded_and_changes_nothing() -> None:
    world = commanded()
    world.until_due()
    world.answer(world.commands[0])
    assert kinds(world, "outcome") == ["stale"]
    assert not world.records(RecoveryResult)


def test_an_outcome_of_a_command_nobody_issued_is_a_phantom() -> None:
    world = commanded()
    (command,) = world.commands
    for fields in ({"command_id": "forged"}, {"attempt": 2}, {"recovery_id": "other"}):
        forged = command.model_copy(update=fields)
        if "command_id" not in fields:
            forged = forged.model_copy(update={"command_id": ids.command_id(forged.recovery_id, forged.attempt)})
        world.answer(forged)
    assert kinds(world, "outcome") == ["phantom"] * 3
    assert not world.records(RecoveryResult)


def test_a_repeated_success_is_a_duplicate() -> None:
    world = commanded()
    world.answer(world.commands[0])
    world.answer(world.commands[0])
    assert kinds(world, "outcome") == ["ended", "duplicate"]
    assert len(world.records(RecoveryResult)) == 1


def test_nothing_is_done_twice_on_the_same_call_unless_something_changed() -> None:
    call = ToolResponse(call_fingerprint="abc")
    world = commanded(BACKOFF, HUMAN, tool_response=call)
    slower = option(Strategy.EXPONENTIAL_BACKOFF, 0.9, 1000, '{"max_attempts":5,"initial_delay_s":7}')
    world.offer(world.fail("f2", resumed_by=again(world.commands[0]), tool_response=call), slower, HUMAN)
    assert len(world.commands) == 1
    other = World()
    other.offer(other.fail(tool_response=call), FALLBACK, HUMAN)
    third = option(Strategy.FALLBACK_SERVICE, 0.7, 1000, '{"service":"crm-3"}')
    other.offer(other.fail("f2", resumed_by=again(other.commands[0]), tool_response=call), third, HUMAN)
    assert [c.strategy for c in other.commands] == ["fallback_service"] * 2


def test_the_callers_budget_bounds_cost_and_time() -> None:
    world = commanded(BACKOFF, budget=Budget(max_cost_microusd=999))
    assert result(world).reason == "over_budget"
    late = World()
    late.offer(late.fail(budget=Budget(deadline=from_epoch_ms(START_MS - 1))), BACKOFF, HUMAN)
    assert result(late).reason == "expired"


def test_a_run_with_unsafe_effects_is_not_resumed_without_a_person() -> None:
    world = commanded(BACKOFF, side_effects_since_checkpoint="unsafe")
    assert result(world).reason == "needs_human"
    allowed = World(policies=Policies({"default": {"allow_unsafe_effects": True}}))
    allowed.offer(allowed.fail(side_effects_since_checkpoint="unsafe"), BACKOFF)
    assert len(allowed.commands) == 1


def test_one_party_owns_the_retries() -> None:
    (command,) = commanded(BACKOFF, execution=Execution(sdk_retries=2)).commands
    assert parse_json_text(command.modifications[0].parameters)["sdk_retries"] == 0


def test_the_failed_trajectory_is_summed_up_only_where_the_runtime_shares_and_honours_it() -> None:
    honours = Agent(capabilities=("summarize_trajectory", "append_prompt"))
    (command,) = commanded(option(Strategy.CONSTRAINT_INJECTION), agent=honours, reasoning='"I think"').commands
    assert [m.kind for m in command.modifications] == ["append_prompt", "summarize_trajectory"]
    (plain,) = commanded(option(Strategy.CONSTRAINT_INJECTION), reasoning='"I think"').commands
    assert [m.kind for m in plain.modifications] == ["append_prompt"]


@pytest.mark.parametrize("strategy", sorted(KINDS))
def test_every_strategy_of_the_table_becomes_its_modification(strategy: Strategy) -> None:
    (command,) = commanded(option(strategy)).commands
    assert [m.kind for m in command.modifications] == [KINDS[strategy].kind]
    KINDS[strategy].model_validate_json(command.modifications[0].parameters)
    assert set(PARAMETERS) == set(KINDS)


def test_a_json_runtime_gets_json_and_a_trace_goes_on() -> None:
    from processors.recover.events import FailureRead, Place

    world = World()
    place = Place(topic="agent.failures.v1", partition=0, offset=0, at_ms=world.now)
    world.step(FailureRead(failure(), place, (("traceparent", b"\xff00-1"),), "json"))
    world.at["agent.failures.v1"] = 1
    world.restart()
    world.append(options("f1", 0, BACKOFF))
    world.read_all()
    (emit,) = [e for e in world.said if e.record in world.commands]
    assert (emit.wire_format, emit.trace) == ("json", (("traceparent", b"\xff00-1"),))


def test_the_call_keeps_its_idempotency_key_unless_the_call_changes() -> None:
    call = ToolResponse(idempotency_key="pay-1")
    (same,) = commanded(BACKOFF, tool_response=call).commands
    assert same.idempotency_key == "pay-1"
    (changed,) = commanded(option(Strategy.REPAIR_ARGUMENTS), tool_response=call).commands
    assert changed.idempotency_key != "pay-1"


def test_abandoned_by_its_runtime_it_ends_without_a_person() -> None:
    world = commanded()
    world.answer(world.commands[0], "abandoned")
    assert (result(world).status, result(world).reason) == ("partial", "abandoned")
    assert not world.records(Escalation)


def test_a_day_after_the_end_nothing_is_left() -> None:
    world = commanded()
    world.answer(world.commands[0])
    world.tick(MEMORY_MS - 1)
    assert world.state is not None
    world.tick(MEMORY_MS)
    assert world.state is None


def test_an_unknown_status_of_a_newer_runtime_is_recorded_and_left_to_the_deadline() -> None:
    world = commanded()
    world.answer(world.commands[0], "postponed")
    assert kinds(world, "outcome") == ["stale"]
    assert outcome(world.commands[0], "postponed").status == "unknown"
    world.until_due()
    assert len(world.commands) == 2


def test_a_heartbeat_moves_the_deadline_on_but_not_for_ever() -> None:
    world = commanded()
    (command,) = world.commands
    world.tick(int((command.outcome_deadline - command.issued_at).total_seconds() * 1000) - 1000)
    world.answer(command, "running")
    assert kinds(world, "outcome") == ["held"]
    world.tick(119_000)
    assert len(world.commands) == 1
    beats = 0
    while not world.records(RecoveryResult):
        world.answer(command, "running")
        world.tick(60_000)
        beats += 1
    assert beats > 100
    assert result(world).reason == "expired"
    assert world.records(SettledAttempt)[0].duration_s <= 7260 + 60


def test_a_heartbeat_without_an_end_is_the_next_rung() -> None:
    world = commanded()
    world.answer(world.commands[0], "running")
    world.until_due()
    assert len(world.commands) == 2


def test_an_option_that_costs_more_than_the_run_is_worth_is_left_out() -> None:
    world = World()
    dear = option(Strategy.MODEL_UPGRADE, 0.95, 20_000)
    world.offer(world.fail(), dear, BACKOFF, value_microusd=20_000)
    assert world.commands[0].strategy == "exponential_backoff"
    assert [c.eligible for c in world.commands[0].decision.candidates] == [False, True]
