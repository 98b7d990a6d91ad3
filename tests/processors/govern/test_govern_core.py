"""Circuits, budgets, permits and incidents, as one pure function."""

from __future__ import annotations

import itertools

import pytest
from govern_world import CRM, POLICIES, SMALL, START_MS, World, report, wanted

from processors.govern.core import TimePassed
from processors.recover.policy import Policies
from schemas.records import Circuit, IncidentStatus, PermitUse, PermitWord, Unresolved, epoch_ms, from_epoch_ms

PLENTY = Policies({"default": {**SMALL, "retry_budget_floor": 10_000, "tenant_budget_floor": 10_000}})


def down(policies: Policies = POLICIES) -> World:
    """A world whose CRM has just failed too often."""
    world = World(policies)
    world.hear(failures=4, failed=2)
    assert world.circuit() is Circuit.OPEN
    return world


def probing(world: World) -> World:
    """With one recovery that probes and two that wait."""
    world.hear(wanted=tuple(wanted(n, world.now) for n in (1, 2, 3)))
    world.pass_time(2_000)
    assert [p.probe for p in world.permits] == [True]
    return world


def test_few_failures_or_many_that_recover_open_nothing() -> None:
    world = World()
    for _ in range(20):
        world.hear(failures=3, succeeded=3)
        world.pass_time(1000)
    assert world.circuit() is Circuit.CLOSED
    assert world.incidents == []


def test_many_that_fail_at_once_open_nothing_before_a_resumed_run_has_failed() -> None:
    world = World()
    world.hear(failures=1000, failed=1)
    assert world.circuit() is Circuit.CLOSED
    world.hear(failed=1)
    assert world.circuit() is Circuit.OPEN


def test_failures_of_long_ago_open_nothing() -> None:
    world = World()
    for _ in range(5):
        world.hear(failures=3, failed=3)
        world.pass_time(12_000)
    assert world.circuit() is Circuit.CLOSED


def test_while_it_is_down_nobody_gets_a_permit() -> None:
    world = down()
    world.hear(wanted=(wanted(1, world.now),))
    world.pass_time(1900)
    assert world.permits == []


def test_what_the_service_asks_for_is_honoured_at_fewer_failures_and_never_beyond_the_longest_wait() -> None:
    world = World()
    world.hear(failures=2, told=2, retry_after=from_epoch_ms(START_MS + 7000), wanted=(wanted(1, START_MS),))
    assert world.circuit() is Circuit.OPEN
    world.pass_time(6900)
    assert world.permits == []
    world.pass_time(200)
    assert len(world.permits) == 1
    world = World()
    world.hear(failures=2, told=2, retry_after=from_epoch_ms(START_MS + 10**9), wanted=(wanted(1, START_MS),))
    for _ in range(30):
        # Those who go on calling it are told the same.
        world.hear(failures=2, told=2, retry_after=from_epoch_ms(world.now + 10**9))
        world.pass_time(1000)
    assert len(world.permits) == 1


def test_one_probe_at_a_time_and_a_lost_one_is_followed_by_another() -> None:
    world = probing(down())
    world.pass_time(4_000)
    assert len(world.permits) == 1
    world.pass_time(2_000)
    assert len(world.permits) == 2, "it was not used in its time"
    world.word(world.permits[1], PermitUse.USED)
    world.pass_time(9_000)
    assert len(world.permits) == 2
    world.pass_time(2_000)
    assert len(world.permits) == 3, "no word came of it in its time"
    assert len({p.recovery_id for p in world.permits}) == 3
    assert world.circuit() is Circuit.HALF_OPEN


def test_a_probe_that_comes_back_unused_is_followed_by_another_at_once() -> None:
    world = World()
    world.hear(failures=4, failed=2)
    world.hear(wanted=(wanted(1, world.now), wanted(2, world.now)))
    world.pass_time(2_000)
    (first,) = world.permits
    world.word(first, PermitUse.RETURNED)
    assert len(world.permits) == 2
    assert world.permits[1].recovery_id != first.recovery_id


def test_who_ended_in_the_outage_costs_those_that_wait_nothing() -> None:
    world = down()
    gone = tuple(wanted(n, world.now) for n in range(100))
    world.hear(wanted=gone)
    world.hear(wanted=(wanted(7777, world.now + 1), wanted(7, world.now, attempt=2)))
    words = (PermitWord(recovery_id=each.recovery_id, attempt=1, use=PermitUse.RETURNED) for each in gone)
    world.hear(permits=tuple(words))
    world.pass_time(2_000)
    assert [(p.execution_id, p.attempt) for p in world.permits] == [("run-7", 2)]
    world.word(world.permits[0], PermitUse.RETURNED)
    assert [p.execution_id for p in world.permits[1:]] == ["run-7777"]


def test_each_probe_that_fails_doubles_the_wait() -> None:
    world = down(PLENTY)
    waits = []
    for n in range(5):
        world.hear(wanted=(wanted(n, world.now),))
        opened, before = world.now, len(world.permits)
        while len(world.permits) == before:
            world.pass_time(100)
        waits.append(round((world.now - opened) / 1000))
        world.word(world.permits[-1], PermitUse.USED)
        world.word(world.permits[-1], PermitUse.FAILED)
    assert waits == [2, 4, 8, 16, 20]


def test_after_a_probe_succeeds_those_that_waited_are_let_go_ever_faster_oldest_first() -> None:
    world = down(PLENTY)
    world.hear(wanted=tuple(wanted(n, START_MS - n) for n in range(200)))
    world.pass_time(2_000)
    world.word(world.permits[0], PermitUse.USED)
    world.word(world.permits[0], PermitUse.SUCCEEDED, succeeded=1)
    healed = world.now
    world.pass_time(60_000)
    assert len(world.permits) == 200
    assert [p.execution_id for p in world.permits] == [f"run-{n}" for n in reversed(range(200))]
    seconds = [(at - healed) // 1000 for at in world.issued_ms()[1:]]
    rates = [seconds.count(second) for second in range(max(seconds))]
    assert rates[0] <= 4
    assert max(rates) <= 52
    assert rates[:10] == sorted(rates[:10])
    assert world.circuit() is Circuit.CLOSED


def test_it_opens_again_when_what_is_let_go_fails() -> None:
    world = down(PLENTY)
    world.hear(wanted=tuple(wanted(n, START_MS) for n in range(50)))
    world.pass_time(2_000)
    world.word(world.permits[0], PermitUse.SUCCEEDED, succeeded=1)
    world.pass_time(2_000)
    world.hear(failures=4, failed=4)
    assert world.circuit() is Circuit.OPEN
    assert len({incident.incident_id for incident in world.incidents}) == 1


def test_a_budget_that_is_used_up_throttles_and_its_successes_pay_for_more() -> None:
    world = World()
    world.hear(unpermitted=6)
    assert world.circuit() is Circuit.THROTTLED
    world.hear(wanted=(wanted(1, world.now),))
    world.pass_time(5_000)
    assert world.permits == []
    world.hear(succeeded=1)
    assert len(world.permits) == 1
    world.pass_time(30_000)
    assert world.circuit() is Circuit.CLOSED
    assert world.incidents == [], "no outage"


def test_a_tenants_budget_holds_over_all_of_its_tools_and_they_take_turns() -> None:
    world = World(Policies({"default": {**SMALL, "retry_budget_floor": 100}}))
    one, other = "acme/tool:one", "acme/tool:two"
    world.hear(one, unpermitted=9)
    for n in range(20):
        world.hear(one, wanted=(wanted(n, world.now),))
    world.hear(other, wanted=(wanted(100, world.now),))
    assert world.permits == []
    world.pass_time(12_000)
    assert len(world.permits) == 9
    assert [p.dependency for p in world.permits].index(other) <= 1


def test_an_outage_is_one_incident_with_its_counts() -> None:
    world = down(PLENTY)
    ended = tuple(Unresolved(execution_id=f"run-{n}", recovery_id=f"r{n}") for n in range(70))
    world.hear(failures=10, wanted=tuple(wanted(n, world.now) for n in range(10)), unresolved=ended)
    world.hear(wanted=(wanted(0, START_MS - 1),))  # asks again
    world.pass_time(5_000)
    world.word(world.permits[0], PermitUse.SUCCEEDED, succeeded=1)
    world.pass_time(120_000)
    statuses = [incident.status for incident in world.incidents]
    assert statuses[0] is IncidentStatus.OPENED
    assert statuses[-1] is IncidentStatus.CLOSED
    assert set(statuses[1:-1]) <= {IncidentStatus.ONGOING}
    last = world.incidents[-1]
    assert (last.failures, last.held, last.released, last.recovered, last.unresolved) == (10, 10, 10, 1, 70)
    assert len(last.recovery_ids) == 50
    updates = [epoch_ms(i.updated_at) for i in world.incidents if i.status is IncidentStatus.ONGOING]
    assert all(later - earlier >= 10_000 for earlier, later in itertools.pairwise(updates))
    assert len({i.event_id for i in world.incidents}) == len(world.incidents)


def test_reports_of_an_old_replay_count_nothing_and_release_nobody() -> None:
    world = down()
    before = world.tenant.dependencies[CRM].window
    world.now += 60_000
    old = world.now - 30_000
    world.step(report(at_ms=old, failures=50, unpermitted=50, wanted=(wanted(1, old),)))
    window = world.tenant.dependencies[CRM].window
    assert sum(s.failures for s in window) == sum(s.failures for s in before)
    assert not world.tenant.waiting


def test_a_successor_goes_on_where_the_broadcast_stands() -> None:
    world = down()
    world.hear(unpermitted=5)
    known = world.tenant.dependencies[CRM]
    world.restart()
    assert world.tenant.dependencies[CRM] == known
    world.hear(wanted=tuple(wanted(n, world.now) for n in range(10)))
    world.pass_time(2_100)
    assert len(world.permits) == 1, "the budget knows of the five"


@pytest.mark.parametrize("circuit", [Circuit.CLOSED, Circuit.OPEN, Circuit.HALF_OPEN, Circuit.THROTTLED])
def test_a_successor_whose_clock_is_an_hour_behind_keeps_nobody_waiting_for_it(circuit: Circuit) -> None:
    """Nor does what its predecessor counted stay in the window."""
    world = World() if circuit is Circuit.CLOSED else down()
    if circuit in (Circuit.HALF_OPEN, Circuit.THROTTLED):
        probing(world)
    if circuit is Circuit.THROTTLED:
        world.word(world.permits[-1], PermitUse.SUCCEEDED)
    world.hear(unpermitted=6)
    before = len(world.permits)
    world.restart()
    world.now -= 3_600_000
    for _ in range(15):
        world.hear(wanted=(wanted(9, world.now),))
        world.step(TimePassed())
        world.pass_time(2_000)
    assert len(world.permits) > before


def test_what_is_well_and_quiet_is_forgotten() -> None:
    world = World()
    world.hear(failures=1)
    world.pass_time(599_000)
    assert CRM in world.tenant.dependencies
    world.pass_time(2_000)
    assert world.tenant.dependencies == {}
    assert world.tenant.due_ms == 0


def test_an_outage_that_nobody_asks_about_any_more_ends() -> None:
    world = down()
    world.pass_time(700_000)
    assert world.circuit() is Circuit.CLOSED
    assert [i.status for i in world.incidents] == [IncidentStatus.OPENED, IncidentStatus.CLOSED]
    world.pass_time(700_000)
    assert world.tenant.dependencies == {}


def test_strangers_names_fill_no_memory() -> None:
    world = World()
    for n in range(1100):
        world.hear(f"acme/tool:{n}", failures=1)
    assert len(world.tenant.dependencies) == 1000
