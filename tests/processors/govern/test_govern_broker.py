"""An outage of one tool on a real broker, with kill -9 of the governor in the middle of it."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from govern_broker import Runtime, eventually, worker

from ops.broker import Broker
from ops.runtime import topics
from ops.runtime.child import Child
from ops.runtime.settings import Settings
from schemas.records import Circuit, IncidentStatus
from schemas.topics import COMMANDS, DEAD_LETTERS, DEPENDENCIES, ESCALATIONS, INCIDENTS, PERMITS, RESULTS

pytestmark = pytest.mark.integration

BURST, PER_S, FLOOR, WINDOW_S = 4, 2, 30, 20
POLICY = f"""
[default]
max_attempts = 20
dependency_burst = {BURST}
dependency_per_s = {PER_S}
permit_reask_s = 2
permit_valid_s = 4
probe_wait_s = 4
breaker_min_failures = 10
breaker_min_failed = 4
breaker_open_s = 0.5
breaker_max_open_s = 2
release_per_s = 20
release_max_per_s = 100
retry_budget_window_s = {WINDOW_S}
retry_budget_floor = {FLOOR}
"""


@pytest.fixture
def ours(fresh_kafka: Broker) -> Settings:
    settings = Settings(bootstrap=fresh_kafka.bootstrap, app="govern-test")
    topics.create(settings)
    return settings


@pytest.fixture
def start(ours: Settings, tmp_path: Path) -> Iterator:  # type: ignore[type-arg]
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY)
    started: list[tuple[Child, Path]] = []

    def start(name: str) -> Child:
        log = tmp_path / f"{name}-{len(started)}.log"
        started.append((worker(ours, name, log, policy), log))
        return started[-1][0]

    yield start
    for child, log in started:
        if child.exit_code is None:
            child.stop(10)
        print(f"--- {log.name}: {child.exit_code}\n{log.read_text()}")


@pytest.fixture
def runtime(ours: Settings, request: pytest.FixtureRequest) -> Iterator[Runtime]:
    runtime = Runtime(ours, request.node.name[-40:])
    yield runtime
    runtime.close()


def test_an_outage_is_spared_its_storm_survives_the_governors_death_and_is_one_incident(  # type: ignore[no-untyped-def]
    start, ours: Settings, runtime: Runtime
) -> None:
    start("recover")
    governor = start("govern")
    runtime.down = {"crm"}
    for n in range(120):
        runtime.fail(f"crm-{n}", "crm")
    for n in range(30):
        runtime.fail(f"erp-{n}", "erp")

    def opened() -> bool:
        runtime.work()
        return bool(runtime.records[INCIDENTS.name])

    eventually(opened)
    runtime.work_for(2)
    governor.signal(signal.SIGKILL)
    eventually(lambda: governor.exit_code is not None)
    runtime.work_for(1)
    start("govern")
    # It goes on probing: nothing but its broadcast told it that there is an outage.
    probes = len(runtime.records[PERMITS.name])

    def probed() -> bool:
        runtime.work()
        return len(runtime.records[PERMITS.name]) > probes

    eventually(probed)
    calls = runtime.calls["crm"]
    spent_s = calls[-1][0] - calls[0][0]
    overshoot = ours.partitions * (BURST + PER_S * 1)
    assert len(calls) <= FLOOR * (1 + spent_s / WINDOW_S) + overshoot, "the tool was called too often"
    assert not any(works for _, works in calls)
    assert len(runtime.calls["erp"]) == 30, "another tool's recoveries wait for nothing"

    runtime.down = set()
    eventually(runtime.ended(150), 90)
    assert Counter(r.status for r in runtime.records[RESULTS.name]) == {"success": 150}
    assert runtime.records[ESCALATIONS.name] == runtime.records[DEAD_LETTERS.name] == []
    commands = Counter((c.recovery_id, c.attempt) for c in runtime.records[COMMANDS.name])
    assert set(commands.values()) == {1}

    def closed() -> bool:
        runtime.work()
        return runtime.records[INCIDENTS.name][-1].status is IncidentStatus.CLOSED

    eventually(closed)
    incidents = runtime.records[INCIDENTS.name]
    assert len({incident.incident_id for incident in incidents}) == 1
    assert Counter(i.status for i in incidents)[IncidentStatus.OPENED] == 1
    assert {state.dependency for state in runtime.records[DEPENDENCIES.name] if state.circuit is Circuit.OPEN} == {
        f"{runtime.tenant}/tool:crm"
    }


def test_where_no_governor_lives_the_allowance_lets_everybody_go_in_the_end(  # type: ignore[no-untyped-def]
    start, runtime: Runtime
) -> None:
    start("recover")
    for n in range(40):
        runtime.fail(f"run-{n}", "crm")
    eventually(runtime.ended(40), 60)
    assert Counter(r.status for r in runtime.records[RESULTS.name]) == {"success": 40}
    commands = Counter((c.recovery_id, c.attempt) for c in runtime.records[COMMANDS.name])
    assert set(commands.values()) == {1}
