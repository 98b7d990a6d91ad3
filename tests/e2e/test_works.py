"""The demo's agents fail for real, and only what bears on their failure brings them back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from omium import Evidence, Modification, Modifications
from omium.evidence import failure_fields

from cli.demo.job import Job, RunFailed, Work
from cli.demo.services import Services, Timing
from cli.demo.work import WORKS
from schemas.modifications import PARAMETERS, parameters
from schemas.records import Category, FailureEvent, Option, Origin, RecoveryOptions, Strategy
from streams.decide import decide
from streams.decide.catalogue import shipped
from streams.decide.rates import Rates

RECOVERABLE = [name for name, work in WORKS.items() if work.ends == "recovered"]
PUBLISHED = {
    Strategy.FUNCTION_CALLING,
    Strategy.MODEL_UPGRADE,
    Strategy.CONSTRAINT_INJECTION,
    Strategy.VALIDATION_TOOL,
    Strategy.EXPONENTIAL_BACKOFF,
    Strategy.ASYNC_EXECUTION,
    Strategy.INCREASE_TIMEOUT,
    Strategy.REFRESH_CREDENTIALS,
    Strategy.FALLBACK_SERVICE,
    Strategy.CORRECT_CONTEXT,
    Strategy.DECISION_RUBRIC,
    Strategy.REDUCE_COMPLEXITY,
    Strategy.FASTER_MODEL,
    Strategy.PROCESS_IN_BATCHES,
}
BESIDE_THE_POINT: dict[str, dict[str, Any]] = {
    "append_prompt": {"text": "Take a deep breath and think step by step."},
    "set_output_schema": {"name": "answer", "schema": {"type": "object"}},
    "add_tool": {"name": "calculator", "description": "Adds numbers.", "input_schema": {"type": "object"}},
    "set_retry": {"max_attempts": 1, "base_delay_s": 0.0},
    "set_timeout": {"timeout_s": 0.4},
    "run_async": {"poll_interval_s": 0.1, "max_polls": 2},
    "refresh_credentials": {"service": "another"},
    "use_fallback": {"service": "another", "instead_of": "yet another"},
    "provide_context": {"text": "The sky is blue.", "facts": {"sky": "blue"}},
    "add_rubric": {"name": "brevity", "text": "Prefer short answers."},
    "compress_context": {"target_tokens": 1_000_000},
    "set_batch_size": {"batch_size": 1_000},
    "break_loop": {"tool": "another", "text": "Do not call another."},
    "repair_arguments": {"text": "The arguments were refused."},
    "set_identifier": {"wrong": "a", "right": "b"},
    "repair_history": {"problem": "none"},
    "set_step_limit": {"step_limit": 100},
    "summarize_trajectory": {"text": "It failed."},
}


@pytest.fixture(scope="module")
def services() -> Iterator[Services]:
    with Services() as running:
        yield running


@pytest.fixture(scope="module")
def stubborn() -> Iterator[Services]:
    """The same services, whose troubles do not pass while a test lasts."""
    with Services(Timing(rate_window_s=60, outage_s=60.0)) as running:
        yield running


def attempt(work: Work, port: int, execution_id: str, changes: list[Modification], patience_s: float = 0.5) -> bool:
    """Fail once, then run again with the changes: whether that gave what the work was for."""
    job = Job(execution_id=execution_id, services_port=port)
    with pytest.raises(RunFailed):
        work.run(job)
    job.modifications = Modifications(changes)
    job.modifications.stop_at = time.monotonic() + patience_s
    try:
        return work.right(work.run(job))
    except RunFailed:
        return False


def decided(work: Work, port: int, execution_id: str, capabilities: tuple[str, ...] | None) -> RecoveryOptions:
    """What streams says of a real failure of this work."""
    job = Job(execution_id=execution_id, services_port=port)
    with pytest.raises(RunFailed) as failed:
        work.run(job)
    evidence: Evidence = {**failed.value.evidence, "step": work.step, "checkpoint": {"id": "c", "data": job.state}}
    event = FailureEvent.model_validate(
        {
            "tenant_id": "demo",
            "execution_id": execution_id,
            "agent": {"id": work.agent, "model": work.model, "capabilities": capabilities},
            **failure_fields(failed.value, evidence),
        }
    )
    return decide(
        event,
        failure_id="f",
        origin=Origin(partition=0, offset=0),
        rates=Rates.of([]),
        catalogue=shipped(),
        now=datetime.now(UTC),
    )


def change(option: Option) -> Modification:
    made = parameters(option.strategy, option.parameters).modification()
    return Modification(kind=str(made.kind), parameters=made.parameters)


def test_only_what_bears_on_a_failure_cures_it(services: Services, stubborn: Services) -> None:
    """Of all that is offered for a failure to a runtime that can do anything, exactly its cures cure it."""

    def tried(name: str) -> list[str]:
        work, faults = WORKS[name], []
        offered = decided(work, services.port, f"{name}-offered", None).options
        assert len(offered) > 1, f"{name}: nothing is offered"
        for n, option in enumerate(o for o in offered if o.strategy in PARAMETERS):
            cures = change(option).kind in work.cures
            port, patience_s = (services.port, 10.0) if cures else (stubborn.port, 0.5)
            if attempt(work, port, f"{name}-{n}", [change(option)], patience_s) is not cures:
                faults.append(f"{name}: {option.strategy} {'does not help' if cures else 'helps'}: {option.parameters}")
        return faults

    with ThreadPoolExecutor(8) as pool:
        assert [fault for faults in pool.map(tried, RECOVERABLE) for fault in faults] == []


def test_what_is_beside_the_point_cures_nothing(stubborn: Services) -> None:
    """Each kind of modification, made without regard to what failed, leaves the run where it was."""

    def tried(case: tuple[str, str]) -> str | None:
        name, kind = case
        same = [Modification(kind=kind, parameters=BESIDE_THE_POINT[kind])]
        return f"{name}: {kind}" if attempt(WORKS[name], stubborn.port, f"{name}-{kind}", same) else None

    cases = [(name, kind) for name in RECOVERABLE for kind in BESIDE_THE_POINT if kind not in WORKS[name].cures]
    with ThreadPoolExecutor(16) as pool:
        assert [fault for fault in pool.map(tried, cases) if fault] == []


def test_the_agents_own_ladders_recover_them_by_every_published_strategy(services: Services) -> None:
    """With what each runtime can do, best option first: all come back, one of them by its second rung."""

    def climbed(name: str) -> list[Strategy]:
        work = WORKS[name]
        rungs: list[Strategy] = []
        for option in decided(work, services.port, f"{name}-ladder", work.capabilities).options:
            if option.strategy in PARAMETERS:
                rungs.append(option.strategy)
                if attempt(work, services.port, f"{name}-{len(rungs)}", [change(option)], 10.0):
                    return rungs
        raise AssertionError(f"{name} does not come back: {rungs}")

    with ThreadPoolExecutor(8) as pool:
        ladders = dict(zip(RECOVERABLE, pool.map(climbed, RECOVERABLE), strict=True))
    assert {rungs[-1] for rungs in ladders.values()} >= PUBLISHED
    assert [name for name, rungs in ladders.items() if len(rungs) > 1] == ["loan-stubborn"]


def test_the_works_are_of_all_categories(services: Services) -> None:
    found = {
        decided(work, services.port, f"{name}-category", work.capabilities).classification.category
        for name, work in WORKS.items()
    }
    assert found == set(Category) - {Category.UNCLASSIFIED}


def test_nothing_cures_what_cannot_recover(services: Services) -> None:
    work = WORKS["embedding"]
    for option in decided(work, services.port, "quota", None).options:
        if option.strategy in PARAMETERS:
            assert not attempt(work, services.port, f"quota-{option.strategy}", [change(option)])
