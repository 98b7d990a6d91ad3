"""How much an outage is answered with while the news of it travel, and that everybody is let go after it."""

from __future__ import annotations

import random
from collections import Counter

from govern_cluster import PARTITIONS, STEP_MS, Cluster
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.recover.policy import Policies
from schemas.records import Circuit, DependencyReport, Escalation, IncidentStatus, Permit

BURST, PER_S, FLOOR, WINDOW_S = 5, 4, 60, 20
POLICIES = Policies(
    {
        "default": {
            "max_attempts": 20,
            "dependency_burst": BURST,
            "dependency_per_s": PER_S,
            "permit_reask_s": 3,
            "permit_valid_s": 5,
            "probe_wait_s": 5,
            "breaker_min_failures": 10,
            "breaker_open_s": 1,
            "breaker_max_open_s": 4,
            "release_per_s": 5,
            "release_max_per_s": 50,
            "retry_budget_window_s": WINDOW_S,
            "retry_budget_floor": FLOOR,
        }
    }
)
CRM = "acme/tool:crm"


def storm(cluster: Cluster, rng: random.Random, per_step: int) -> int:
    """Twelve seconds in which the CRM fails its callers, a few at each step; those of another tool recover."""
    cluster.down = {"crm"}
    started = Counter[str]()

    def fail() -> None:
        for _ in range(rng.randint(0, per_step)):
            started["crm"] += 1
            cluster.fail(f"crm-{started['crm']}", "crm")
        if rng.random() < 0.2:
            started["erp"] += 1
            cluster.fail(f"erp-{started['erp']}", "erp")

    cluster.pass_time(12_000, fail)
    return started.total()


def heard_ms(cluster: Cluster) -> int:
    """From the first failure until the news of the open circuit were everywhere."""
    opened = min(i.opened_at for i in cluster.incidents)
    return round(opened.timestamp() * 1000) - cluster.now + 12_000 + cluster.news_ms + STEP_MS


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32), news_ms=st.sampled_from((100, 300, 1000, 2000)), per_step=st.integers(2, 6))
def test_what_overshoots_is_bounded_and_after_the_outage_everybody_is_let_go(
    seed: int, news_ms: int, per_step: int
) -> None:
    rng = random.Random(seed)
    cluster = Cluster(POLICIES, news_ms)
    runs = storm(cluster, rng, per_step)
    # The bound that policy.toml states.
    bound = PARTITIONS * (BURST + PER_S * heard_ms(cluster) / 1000)
    assert cluster.unpermitted[CRM] <= bound
    calls = sum(tool == "crm" for _, tool, _ in cluster.commands)
    assert calls <= bound + FLOOR
    if rng.random() < 0.7:
        cluster.kill_governor()
    cluster.pass_time(rng.randrange(0, 5) * 1000)
    cluster.down = set()
    for _ in range(40):
        cluster.pass_time(5_000)
        if len(cluster.results) == runs:
            break
    assert Counter(r.status for r in cluster.results) == {"success": runs}
    assert cluster.said[Escalation] == []
    commands = Counter((c.recovery_id, c.attempt) for _, _, c in cluster.commands)
    assert set(commands.values()) == {1}
    cluster.pass_time(40_000)
    assert cluster.incidents[-1].status is IncidentStatus.CLOSED
    assert len({i.incident_id for i in cluster.incidents}) == 1
    assert {i.dependency for i in cluster.incidents} == {CRM}


def test_another_tools_recoveries_wait_for_nothing() -> None:
    cluster = Cluster(POLICIES, 300)
    storm(cluster, random.Random(7), 5)
    first = {c.execution_id: at for at, tool, c in reversed(cluster.commands) if tool == "erp"}
    assert len(first) > 10
    assert cluster.unpermitted["acme/tool:erp"] == len(first)
    assert not [p for p in cluster.said[Permit] if p.dependency != CRM]


def test_a_storm_of_thousands_is_told_in_few_records() -> None:
    cluster = Cluster(POLICIES, 100)
    cluster.down = {"crm"}
    for n in range(1000):
        cluster.fail(f"run-{n}", "crm")
    cluster.pass_time(1_000)
    told = cluster.said[DependencyReport]
    assert sum(r.failures for r in told) >= 1000
    assert len(told) <= PARTITIONS * 10


def test_without_a_governor_the_allowances_alone_let_everybody_go() -> None:
    cluster = Cluster(POLICIES, 10**9)
    for n in range(200):
        cluster.fail(f"run-{n}", "crm")
    seconds = 0
    while len(cluster.results) < 200:
        cluster.pass_time(1_000)
        seconds += 1
        assert cluster.unpermitted[CRM] <= PARTITIONS * (BURST + PER_S * seconds)
    assert seconds <= 2 * 200 / (PARTITIONS * PER_S)
    assert not any(s.state.circuit is not Circuit.CLOSED for v, _ in cluster.views for s in v.known.values())
