"""Holding: what leans on a dependency that is down waits for a permit, goes elsewhere, or ends with its incident."""

from __future__ import annotations

from typing import Any

import pytest
from recover_life import HUMAN, kinds, result
from recover_world import START_MS, TENANT, World, again, option

from processors.recover.events import PermitRead, Place
from processors.recover.governed import NEWS_MS, charged, dependency_of, merged, policy_of
from processors.recover.policy import Policies
from processors.recover.state import Branch
from processors.recover.view import Allowance, Standing, Standings, View
from schemas import codec
from schemas.records import (
    Category,
    Circuit,
    Classification,
    DependencyReport,
    DependencyState,
    Disposition,
    Escalation,
    Permit,
    PermitUse,
    SettledAttempt,
    Strategy,
    ToolResponse,
    from_epoch_ms,
)
from schemas.topics import PERMITS

CRM = f"{TENANT}/tool:crm"
BACKOFF = option(Strategy.EXPONENTIAL_BACKOFF, 0.9)
WAITS = option(Strategy.EXPONENTIAL_BACKOFF, 0.9, parameters='{"max_attempts":5,"initial_delay_s":60}')
FALLBACK = option(Strategy.FALLBACK_SERVICE, 0.7)
POLICIES = Policies({"default": {"permit_reask_s": 30, "dependency_burst": 3, "dependency_per_s": 1}})


def standing(circuit: Circuit = Circuit.OPEN, at_ms: int = START_MS, dependency: str = CRM) -> View:
    state = DependencyState(
        tenant_id=TENANT, dependency=dependency, circuit=circuit, incident_id="i1", said_at=from_epoch_ms(at_ms)
    )
    return View(dependencies={dependency: Standing(state, at_ms)})


def failed(view: View | None = None, *chosen: Any, **fields: Any) -> World:
    """A world in which a call of the CRM failed, and what may be done is known."""
    world = World(policies=POLICIES, view=view or View())
    offset = world.fail(tool_response=ToolResponse(tool="crm", call_fingerprint="a"), **fields)
    world.offer(offset, *(chosen or (BACKOFF, HUMAN)), subtype="rate_limit")
    return world


def permit(world: World, **fields: Any) -> PermitRead:
    assert world.state
    recovery = world.state.recovery
    said = {
        "tenant_id": TENANT, "execution_id": "run-1", "recovery_id": recovery.recovery_id if recovery else "0" * 32,
        "attempt": recovery.attempt + 1 if recovery else 1, "dependency": CRM, "issued_at": from_epoch_ms(world.now),
        "expires_at": from_epoch_ms(world.now + 10_000),
    }  # fmt: skip
    return PermitRead(Permit(**{**said, **fields}), Place(topic=PERMITS.name, partition=0, offset=0, at_ms=world.now))


def reports(world: World) -> DependencyReport:
    return merged(world.records(DependencyReport), 0)


def uses(world: World) -> list[PermitUse]:
    return [word.use for word in reports(world).permits]


def test_while_nothing_is_wrong_a_command_waits_for_nothing() -> None:
    world = failed()
    assert len(world.commands) == 1
    told = reports(world)
    assert (told.dependency, told.failures, told.unpermitted, told.wanted) == (CRM, 1, 1, ())


def test_what_leans_on_a_dependency_that_is_down_is_held_and_says_so_once() -> None:
    world = failed(standing())
    assert world.commands == []
    world.tick(29_000)
    world.view = standing(at_ms=world.now)
    world.tick(8_000)
    assert world.commands == []
    assert kinds(world) == ["opened", "held"]
    told = reports(world)
    assert len(told.wanted) == 2, "it asks again: the governor may have forgotten it"
    assert {(w.attempt, w.since) for w in told.wanted} == {(1, from_epoch_ms(START_MS))}


def test_a_hold_survives_a_restart() -> None:
    world = failed(standing())
    before = world.state
    world.restart()
    assert world.state == before
    world.step(permit(world))
    assert len(world.commands) == 1


def test_a_permit_lets_it_go_with_the_same_fence_and_its_use_is_told() -> None:
    world = failed(standing())
    world.now += 5_000
    world.step(permit(world))
    (command,) = world.commands
    assert (command.attempt, command.fence.offset, command.fence.attempt) == (1, 0, 1)
    assert command.expires_at == from_epoch_ms(world.now + 60_000)
    assert uses(world) == [PermitUse.USED]
    assert reports(world).unpermitted == 0
    world.answer(command)
    assert uses(world) == [PermitUse.USED, PermitUse.SUCCEEDED]
    assert reports(world).succeeded == 1
    assert result(world).status == "success"


def test_what_the_service_wanted_to_wait_was_mostly_waited_while_held() -> None:
    world = failed(standing(), WAITS)
    world.now += 50_000
    world.step(permit(world))
    (command,) = world.commands
    assert '"initial_delay_s":10.0' in command.modifications[0].parameters
    assert '"initial_delay_s":60.0' in failed(None, WAITS).commands[0].modifications[0].parameters


@pytest.mark.parametrize(
    "fields",
    [
        {"recovery_id": "0" * 32},
        {"attempt": 2},
        {"dependency": f"{TENANT}/tool:erp"},
        {"expires_at": from_epoch_ms(START_MS)},
    ],
)
def test_a_permit_that_nothing_waits_for_changes_nothing_and_comes_back(fields: dict[str, Any]) -> None:
    world = failed(standing())
    before = world.state
    world.step(permit(world, **fields))
    assert world.state == before
    assert world.commands == []
    assert PermitUse.RETURNED in [word.use for r in world.records(DependencyReport) for word in r.permits]
    assert kinds(world, "permit") == ["stale"]


def test_a_second_permit_makes_no_second_command() -> None:
    world = failed(standing())
    twice = permit(world)
    world.step(twice)
    world.step(twice)
    assert len(world.commands) == 1
    assert uses(world) == [PermitUse.USED, PermitUse.RETURNED]


def test_the_probe_that_fails_by_it_again_says_so_and_by_something_else_says_nothing() -> None:
    for tool, use in (("crm", PermitUse.FAILED), ("erp", PermitUse.INCONCLUSIVE)):
        world = failed(standing())
        world.step(permit(world))
        world.fail("f2", resumed_by=again(world.commands[0]), tool_response=ToolResponse(tool=tool))
        assert uses(world)[-1] is use
        assert reports(world).failed == (1 if tool == "crm" else 0)


def test_no_word_of_an_attempt_is_told_as_such() -> None:
    world = failed(standing())
    world.step(permit(world))
    world.until_due()
    assert PermitUse.EXPIRED in uses(world)
    assert [s.status for s in world.records(SettledAttempt)] == ["expired"]


def test_where_it_is_down_another_service_is_taken_instead_and_the_record_says_why() -> None:
    world = failed(standing(), BACKOFF, FALLBACK, HUMAN)
    (command,) = world.commands
    assert command.strategy is Strategy.FALLBACK_SERVICE
    first = command.decision.candidates[0]
    assert (first.eligible, first.why) == (False, f"{CRM} has to be spared")
    # For a permit that is but a moment away nothing worse is taken.
    assert failed(standing(Circuit.THROTTLED), BACKOFF, FALLBACK, HUMAN).commands == []
    both_down = standing()
    both_down.dependencies.update(standing(dependency=f"{TENANT}/tool:crm-2").dependencies)  # type: ignore[attr-defined]
    assert failed(both_down, BACKOFF, FALLBACK, HUMAN).commands == []


@pytest.mark.parametrize("opens", [False, True])
def test_permits_for_parallel_branches_come_one_by_one(opens: bool) -> None:
    """The first is kept until the second comes, however late; not if what it is for is down again by then."""
    erp = f"{TENANT}/tool:erp"

    def news(circuit: Circuit) -> View:
        both = (standing(circuit, world.now, CRM), standing(Circuit.THROTTLED, world.now, erp))
        return View(dependencies={name: known for view in both for name, known in view.dependencies.items()})

    world = World(policies=POLICIES)
    world.view = news(Circuit.THROTTLED)
    offsets = [
        world.fail(f, tool_response=ToolResponse(tool=tool, call_fingerprint=f))
        for f, tool in (("1", "crm"), ("2", "erp"))
    ]
    for offset in offsets:
        world.offer(offset, BACKOFF, HUMAN, subtype="rate_limit")
    world.step(permit(world))
    world.view = news(Circuit.OPEN if opens else Circuit.THROTTLED)
    world.tick(14_000)
    world.view = news(Circuit.OPEN if opens else Circuit.THROTTLED)
    assert world.commands == []
    world.step(permit(world, dependency=erp))
    assert len(world.commands) == (not opens)
    assert uses(world) == ([] if opens else [PermitUse.USED, PermitUse.USED])


@pytest.mark.parametrize("ends", [False, True])
def test_who_no_longer_waits_says_so(ends: bool) -> None:
    """Else the governor, oldest first, gives its permits to those that ended in the outage."""
    world = failed(standing())
    assert len(reports(world).wanted) == 1
    world.tick(3 * 3_600_000 if ends else NEWS_MS * 3)
    assert len(world.commands) == (not ends)
    assert uses(world) == ["returned"]


def test_a_governor_that_fell_silent_holds_nobody() -> None:
    assert len(failed(standing(at_ms=START_MS - NEWS_MS - 1)).commands) == 1
    world = failed(standing())
    world.tick(40_000)
    assert len(world.commands) == 1


@pytest.mark.parametrize(("appended", "said"), [(-1, 0), (0, 0), (1, 0), (0, -1), (0, 1), (1, 1)])
def test_one_wrong_clock_makes_no_governor_silent_and_keeps_none_alive(appended: int, said: int) -> None:
    """Hours by which the broker's, and the governor's, is off."""
    state = standing(at_ms=START_MS + said * 3_600_000).dependencies[CRM].state
    standings = Standings(lambda: START_MS)
    standings.take(CRM.encode(), codec.to_avro(state), START_MS + appended * 3_600_000)
    view = View(dependencies=standings.known)
    assert failed(view).commands == []
    world = failed(view)
    world.tick(40_000)
    assert len(world.commands) == 1


def test_of_what_is_well_nothing_is_kept_and_of_the_rest_what_holds() -> None:
    standings = Standings(lambda: START_MS)
    for circuit in Circuit:
        for n in range(10):
            name = f"{TENANT}/tool:{circuit}-{n}"
            state = standing(circuit, dependency=name).dependencies[name].state
            standings.take(name.encode(), codec.to_avro(state.model_copy(update={"memory": "m" * 1000})), 0)
    assert len(standings.known) == 30
    assert {len(each.state.memory) for each in standings.known.values()} == {0}
    well = standing(Circuit.CLOSED, dependency=f"{TENANT}/tool:open-1").dependencies[f"{TENANT}/tool:open-1"].state
    standings.take(well.key.encode(), codec.to_avro(well), 0)
    assert len(standings.known) == 29


def test_holding_counts_in_the_time_of_the_recovery() -> None:
    world = World(policies=Policies({"default": {"max_duration_s": 100}}), view=standing())
    world.offer(world.fail(tool_response=ToolResponse(tool="crm")), BACKOFF, HUMAN, subtype="rate_limit")
    for _ in range(20):
        world.view = standing(at_ms=world.now + 40_000)
        world.until_due()
    assert world.commands == []
    assert (result(world).reason, result(world).incident_id) == ("expired", "i1")
    assert round(result(world).total_duration_s) == 100


def test_recoveries_that_an_outage_leaves_unresolved_are_of_its_incident_and_ask_nobody_one_by_one() -> None:
    world = failed(standing())
    world.step(permit(world))
    world.answer(world.commands[0], "not_applied")
    ended = result(world)
    assert (ended.reason, ended.incident_id) == ("needs_human", "i1")
    assert world.records(Escalation) == []
    assert [d.reason for d in world.records(Disposition) if d.kind == "escalated" and d.subject == "failure"] == [
        "needs_human: incident i1"
    ]
    assert [u.recovery_id for u in reports(world).unresolved] == [ended.recovery_id]
    # Where no attempt was made a person would be needed anyway.
    alone = failed(standing(), HUMAN)
    assert len(alone.records(Escalation)) == 1
    assert result(alone).incident_id is None


def test_what_is_not_of_a_tool_or_a_model_leans_on_nothing() -> None:
    world = World(view=standing())
    world.offer(world.fail(tool_response=ToolResponse(tool="crm")), BACKOFF, category=Category.HALLUCINATION)
    assert len(world.commands) == 1
    assert world.records(DependencyReport) == []


def named(**fields: Any) -> str | None:
    verdict = Classification(category=Category.TOOL_FAILURE, subtype="timeout")
    world = failed()
    assert world.state
    assert world.state.recovery
    options = world.state.recovery.branches[0].options
    assert options
    options = options.model_copy(update={"classification": verdict})
    return dependency_of("acme", Branch(failure_id="f", partition=0, offset=0, at_ms=0, options=options, **fields))


def test_names_of_strangers_make_keys_that_fit_and_do_not_collide() -> None:
    assert named(tool="crm") == "acme/tool:crm"
    assert named(tool="model:gpt") != named(model="gpt") == "acme/model:gpt"
    hostile = ["a" * 256, "a" * 255, "crm\n", "crm\r", "\u202ecrm", "💥" * 200, "\x00"]
    keys = [named(tool=tool) or "" for tool in hostile]
    assert len(set(keys)) == len(hostile)
    for key in keys:
        assert key.isprintable()
        DependencyReport(tenant_id="acme", dependency=key, partition=0, reported_at=from_epoch_ms(0))


def test_a_partitions_own_allowance_bounds_what_goes_without_a_permit_and_those_beyond_it_take_turns() -> None:
    allowances: dict[str, Allowance] = {}
    worlds = []
    for n in range(20):
        world = World(policies=POLICIES, view=View(allowances=allowances))
        world.offer(world.fail(f"f{n}", tool_response=ToolResponse(tool="crm")), BACKOFF, HUMAN, subtype="rate_limit")
        charge(allowances, world)
        worlds.append(world)
    assert sum(len(w.commands) for w in worlds) == 3
    went = []
    for second in range(1, 60):
        for world in worlds:
            before = len(world.records(DependencyReport))
            if world.state and world.state.recovery and world.state.recovery.hold:
                world.tick(START_MS + second * 1000 - world.now)
                charge(allowances, world, before)
        went.append(sum(len(w.commands) for w in worlds))
    assert all(count <= 3 + second for second, count in enumerate(went, 1))
    assert went[-1] == 20, "nobody waits for ever"
    assert went[30] == 20, "and none much longer than its turn"


def charge(allowances: dict[str, Allowance], world: World, since: int = 0) -> None:
    for told in world.records(DependencyReport)[since:]:
        policy = policy_of(told.dependency, POLICIES)
        allowances[told.dependency] = charged(allowances.get(told.dependency), told, policy, world.now)
