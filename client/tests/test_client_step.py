"""A decorated step against the real broker; the orchestrator is played by hand."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import omium
import pytest
from omium import NONE, Modifications, NotAppliedError, Omium, Violation
from orchestrator import Heard, Orchestrator, eventually

from schemas.records import Checkpoint, FailureEvent, ResumeCommand

pytestmark = pytest.mark.integration
APR = {"apr": {"type": "range", "min": 2.5, "max": 8.5}}
TEXT = ("append_prompt", '{"text": "APR is never 0"}')


def ladder(*rungs: tuple[str, str]) -> Any:
    """Answers the first failure with the first rung, the failure of that attempt with the second, and so on."""

    def answer(heard: Heard) -> ResumeCommand | None:
        attempt = 1 if heard.failure.resumed_by is None else heard.failure.resumed_by.attempt + 1
        recovery_id = f"r-{heard.failure.execution_id}"
        return (
            heard.command(rungs[attempt - 1], attempt=attempt, recovery_id=recovery_id)
            if attempt <= len(rungs)
            else None
        )

    return answer


@pytest.mark.parametrize("wire_format", ["json", "avro"])
def test_a_violation_is_cured(client: Omium, orchestrator: Orchestrator, wire_format: Any) -> None:
    orchestrator.answer, orchestrator.wire_format = ladder(TEXT), wire_format

    @client.step("apr", execution=lambda loan: loan["id"], constraints=APR)
    def propose(loan: dict[str, Any], mods: Modifications = NONE) -> dict[str, float]:
        return {"apr": 4.5 if "never 0" in mods.prompt("You lend.") else 0}

    assert propose({"id": "loan-1"}) == {"apr": 4.5}
    [outcome], [failure] = orchestrator.outcomes(), orchestrator.failures()
    assert failure.output == '{"apr":0}'
    assert failure.step == "apr"
    assert failure.agent.id == "loan"
    assert failure.reply_format == "json"
    assert (outcome.status, outcome.applied, outcome.final_output) == ("succeeded", "all", '{"apr":4.5}')
    assert outcome.duration_s is not None


def test_rung_by_rung(client: Omium, orchestrator: Orchestrator) -> None:
    """The failure of a resumed run names its attempt; the outcome is that of the attempt that succeeded."""
    orchestrator.answer = ladder(("set_model", '{"model": "large"}'), TEXT)
    seen: list[str] = []

    @client.step("apr", execution="loan-2")
    def propose(mods: Modifications = NONE) -> str:
        seen.append(mods.model("small"))
        if "never 0" not in mods.prompt():
            raise ValueError("APR = 0")
        return "ok"

    assert propose() == "ok"
    assert seen == ["small", "large", "small"]
    failures, [outcome] = orchestrator.failures(2), orchestrator.outcomes()
    assert failures[0].resumed_by is None
    assert failures[1].resumed_by is not None
    assert failures[1].resumed_by.attempt == 1
    assert outcome.attempt == 2
    assert outcome.final_output is None, "an answer is content: it is not sent unasked"


def test_rungs_used_up(client: Omium, orchestrator: Orchestrator) -> None:
    """The agent gets its own exception, that of the last attempt."""
    orchestrator.answer = ladder(TEXT)
    ran: list[str] = []

    @client.step("apr", execution="loan-3", wait_s=2)
    def propose(mods: Modifications = NONE) -> None:
        ran.append(mods.prompt())
        raise LookupError(f"run {len(ran)}")

    with pytest.raises(LookupError, match="run 2"):
        propose()


def test_a_step_that_cannot_follow(client: Omium, orchestrator: Orchestrator) -> None:
    """Nothing took effect: told as not applied, and the next rung is waited for."""

    def answer(heard: Heard) -> list[ResumeCommand]:
        return [
            heard.command(("set_batch_size", '{"batch_size": 10}'), attempt=1),
            heard.command(TEXT, attempt=2),
        ]

    orchestrator.answer = answer

    @client.step("apr", execution="loan-4")
    def propose(mods: Modifications = NONE) -> str:
        if "never 0" not in mods.prompt():
            raise ValueError("APR = 0")
        return "ok"

    assert propose() == "ok"
    first, second = orchestrator.outcomes(2)
    assert (first.attempt, first.status, first.applied) == (1, "not_applied", "none")
    assert (second.attempt, second.status, second.applied) == (2, "succeeded", "all")
    assert len(orchestrator.all(FailureEvent)) == 1


def test_a_step_that_refuses(client: Omium, orchestrator: Orchestrator) -> None:
    orchestrator.answer = ladder(TEXT)

    @client.step("apr", execution="loan-5", wait_s=2)
    def propose(mods: Modifications = NONE) -> str:
        if mods:
            raise NotAppliedError("the prompt is fixed")
        raise ValueError("APR = 0")

    with pytest.raises(ValueError, match="APR = 0"):
        propose()
    [outcome] = orchestrator.outcomes()
    assert (outcome.status, outcome.applied_why) == ("not_applied", "the prompt is fixed")


def test_async(client: Omium, orchestrator: Orchestrator) -> None:
    """The event loop goes on while a step waits; the modifications reach it by context."""
    orchestrator.answer = ladder(TEXT)
    ticks: list[int] = []

    @client.step("apr", execution="loan-6", constraints=APR)
    async def propose() -> dict[str, float]:
        await asyncio.sleep(0)
        return {"apr": 4.5 if "never 0" in omium.current().prompt() else 0}

    async def tick() -> None:
        while True:
            ticks.append(1)
            await asyncio.sleep(0.001)

    async def main() -> Any:
        ticking = asyncio.create_task(tick())
        try:
            return await propose()
        finally:
            ticking.cancel()

    assert asyncio.run(main()) == {"apr": 4.5}
    assert len(ticks) > 2
    orchestrator.outcomes()


def test_a_cancelled_step_is_no_failure(client: Omium, orchestrator: Orchestrator) -> None:
    @client.step("slow", execution="loan-7")
    async def slow() -> None:
        await asyncio.sleep(60)

    @client.step("after", execution="loan-7", wait_s=0)
    def after() -> None:
        raise ValueError("after")

    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(slow(), 0.01))
    with pytest.raises(ValueError, match="after"):
        after()
    assert [failure.step for failure in orchestrator.failures()] == ["after"]


def test_parallel_branches_share_one_command(client: Omium, orchestrator: Orchestrator) -> None:
    """Both run again by it; it has succeeded when both have: one outcome."""
    heard: list[Heard] = []

    def answer(each: Heard) -> ResumeCommand | None:
        heard.append(each)
        return heard[0].command(TEXT, ("set_model", '{"model": "large"}')) if len(heard) == 2 else None

    orchestrator.answer = answer

    @client.step("left", execution="loan-8", checkpoint="c-8")
    async def left() -> str:
        if "never 0" not in omium.current().prompt():
            raise ValueError("left")
        return "left"

    @client.step("right", execution="loan-8", checkpoint="c-8")
    async def right() -> str:
        if omium.current().model("small") == "small":
            raise ValueError("right")
        return "right"

    async def both() -> list[str]:
        return list(await asyncio.gather(left(), right()))

    assert asyncio.run(both()) == ["left", "right"]
    client.flush(5)
    [outcome] = orchestrator.outcomes()
    assert (outcome.status, outcome.applied) == ("succeeded", "all")


def test_a_branch_that_fails_again_decides_for_all(client: Omium, orchestrator: Orchestrator) -> None:
    heard: list[Heard] = []

    def answer(each: Heard) -> ResumeCommand | None:
        heard.append(each)
        if len(heard) == 2:
            return heard[0].command(TEXT, recovery_id="r-9")
        return each.command(TEXT, attempt=2, recovery_id="r-9") if len(heard) == 3 else None

    orchestrator.answer = answer
    runs = {"left": 0, "right": 0}

    @client.step("left", execution="loan-9", checkpoint="c-9")
    def left(mods: Modifications = NONE) -> str:
        runs["left"] += 1
        mods.prompt()
        if runs["left"] < 3:
            raise ValueError("left")
        return "left"

    @client.step("right", execution="loan-9", checkpoint="c-9")
    def right(mods: Modifications = NONE) -> str:
        runs["right"] += 1
        if not mods.prompt():
            raise ValueError("right")
        eventually(lambda: len(heard) == 3)
        return "right"

    results: list[str] = []
    threads = [threading.Thread(target=lambda step=step: results.append(step())) for step in (left, right)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["left", "right"]
    client.flush(5)
    assert [outcome.attempt for outcome in orchestrator.outcomes()] == [2]
    assert runs["right"] == 2


def test_steps_inside_steps_report_once(client: Omium, orchestrator: Orchestrator) -> None:
    @client.step("inner", execution="loan-10", wait_s=0)
    def inner() -> None:
        raise ValueError("inside")

    @client.step("outer", execution="loan-10", wait_s=0)
    def outer() -> None:
        inner()

    with pytest.raises(ValueError, match="inside"):
        outer()
    client.flush(5)
    client.run("loan-10").report("the end")
    assert [failure.step for failure in orchestrator.failures(2)] == ["inner", None]


def test_evidence_of_every_place(client: Omium, orchestrator: Orchestrator) -> None:
    """The step's standing evidence, what it notes while it runs, and what its exception knows."""

    @client.step("decide", execution="loan-11", wait_s=0, evidence={"facts": {"income": 5}, "origin": "tool"})
    def decide() -> None:
        omium.note(reasoning=["income is 50"], metrics={"duration_s": 1.5})
        raise Violation("wrong", conclusion="approve", expected_output={"correct_conclusion": "refuse"}, origin="model")

    with client.run("loan-11") as run:
        run.checkpoint("c-11", {"page": 3}, step="load")
        with pytest.raises(Violation):
            decide()
    [failure], [saved] = orchestrator.failures(), orchestrator.checkpoints()
    assert failure.facts == '{"income":5}'
    assert failure.reasoning == '["income is 50"]'
    assert failure.metrics is not None
    assert failure.metrics.duration_s == 1.5
    assert (failure.conclusion, failure.origin) == ('"approve"', "model")
    assert saved.checkpoint.data == '{"page":3}'
    assert saved.step == "load"


def test_the_current_runs_checkpoint_is_named(client: Omium, orchestrator: Orchestrator) -> None:
    @client.step("decide", wait_s=0)
    def decide() -> None:
        raise ValueError("no")

    with client.run("loan-12", traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01") as run:
        run.checkpoint("c-12")
        with pytest.raises(ValueError, match="no"):
            decide()
    [failure] = orchestrator.failures()
    assert failure.execution_id == "loan-12"
    assert failure.checkpoint is not None
    assert failure.checkpoint.id == "c-12"
    assert all(dict(each.trace)["traceparent"].startswith(b"00-aaaa") for each in orchestrator.heard)


def test_a_late_command_for_a_step_that_gave_up(client: Omium, orchestrator: Orchestrator) -> None:
    """Only this process could have followed it: the recovery ends now, not by its deadlines."""

    @client.step("apr", execution="loan-16", wait_s=0)
    def propose() -> None:
        raise ValueError("APR = 0")

    with pytest.raises(ValueError, match="APR"):
        propose()
    orchestrator.failures()
    heard = Heard(orchestrator.heard[-1], 0, 5)
    assert heard.failure.checkpoint == Checkpoint(id="in-place:apr")
    orchestrator.command(heard.command(TEXT))
    [outcome] = orchestrator.outcomes()
    assert outcome.status == "abandoned"


def test_a_violation_may_be_let_pass(client: Omium) -> None:
    @client.step("apr", execution="loan-17", wait_s=0, constraints=APR, on_violation="return")
    def propose() -> dict[str, float]:
        return {"apr": 0}

    assert propose() == {"apr": 0}


def test_check(client: Omium, orchestrator: Orchestrator) -> None:
    @client.step("apr", execution="loan-18", wait_s=0, check=lambda answer: None if answer else "empty")
    def propose(answer: str) -> str:
        return answer

    assert propose("x") == "x"
    with pytest.raises(Violation, match="empty"):
        propose("")
    orchestrator.failures()
