"""Commands followed by a service, against the real broker."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import omium
import pytest
from omium import Agent, Command, NotAppliedError, Omium, Outcome, SqliteFences, Violation
from orchestrator import Orchestrator, command, eventually

pytestmark = pytest.mark.integration
TEXT = ("append_prompt", '{"text": "APR is never 0"}')


@pytest.fixture
def client(bootstrap: str, tenant: str, tmp_path: Path) -> Iterator[Omium]:
    with Omium(bootstrap, tenant, Agent(id="loan"), fences=SqliteFences(tmp_path / "f.sqlite")) as client:
        yield client


def test_every_way_to_end(client: Omium, orchestrator: Orchestrator) -> None:
    """One handler, one command for each end: the outcome (or the new failure) says which."""

    def handler(each: Command) -> Outcome | None:
        assert omium.current_run() is not None
        match each.execution_id:
            case "succeeds":
                return Outcome.succeeded({"apr": 4}, retry_count=1, cost_microusd=900)
            case "silent":
                assert "never 0" in omium.current().prompt()
                return None
            case "refuses":
                raise NotAppliedError("no such prompt")
            case "gives up":
                return Outcome.abandoned("the customer left")
            case "fails unchanged":
                raise ValueError("before anything was used")
            case _:
                omium.note(metrics={"tokens": 7})
                omium.current().prompt()
                raise Violation("wrong again", conclusion="approve")

    with client.serve(handler):
        for name in ("succeeds", "silent", "refuses", "gives up", "fails unchanged", "fails again"):
            orchestrator.command(command(TEXT, tenant_id=client.tenant_id, execution_id=name, agent_id="loan"))
        outcomes = {outcome.execution_id: outcome for outcome in orchestrator.outcomes(5)}
        [failure] = orchestrator.failures()
    assert outcomes["succeeds"].final_output == '{"apr":4}'
    assert (outcomes["succeeds"].retry_count, outcomes["succeeds"].cost_microusd) == (1, 900)
    assert outcomes["succeeds"].applied == "none", "it did not look at the modifications"
    assert (outcomes["silent"].status, outcomes["silent"].applied) == ("succeeded", "all")
    assert (outcomes["refuses"].status, outcomes["refuses"].applied_why) == ("not_applied", "no such prompt")
    assert outcomes["gives up"].status == "abandoned"
    assert outcomes["fails unchanged"].status == "not_applied"
    assert failure.execution_id == "fails again"
    assert failure.resumed_by is not None
    assert (failure.resumed_by.recovery_id, failure.resumed_by.attempt) == ("r-fails again", 1)
    assert failure.conclusion == '"approve"'
    assert failure.metrics is not None
    assert failure.checkpoint is not None


def test_only_its_own_commands(client: Omium, orchestrator: Orchestrator) -> None:
    """Not another agent's, another tenant's, an expired one, or one that only the failed process can follow."""
    from schemas.records import Checkpoint

    followed: list[str] = []
    mine = {"tenant_id": client.tenant_id, "agent_id": "loan"}
    others = [
        command(execution_id="agent", **mine | {"agent_id": "other"}),
        command(execution_id="tenant", **mine | {"tenant_id": f"{client.tenant_id}x"}),
        command(execution_id="expired", lives_s=-1, **mine),
        command(execution_id="in place", checkpoint=Checkpoint(id="in-place:apr"), **mine),
    ]
    with client.serve(lambda each: followed.append(each.execution_id)):
        for execution in range(16):
            # On every partition, a command of its own comes after those that are not.
            for each in others:
                orchestrator.command(each.model_copy(update={"execution_id": f"{each.execution_id}{execution}"}))
            orchestrator.command(command(execution_id=f"mine{execution}", **mine))
        # An expired one may be answered too, to learn the time by the answer: outcomes are told apart by execution.
        own = {f"mine{n}" for n in range(16)}
        eventually(lambda: own <= {outcome.execution_id for outcome in orchestrator.outcomes()})
    assert sorted(followed) == sorted(own)


def test_redelivery_after_a_restart(bootstrap: str, tenant: str, orchestrator: Orchestrator, tmp_path: Path) -> None:
    """Another group has no offsets of the first: everything is delivered again, and nothing followed again."""
    followed: list[str] = []

    def serve(group: str, new: str) -> None:
        store = SqliteFences(tmp_path / "f.sqlite")
        with (
            Omium(bootstrap, tenant, Agent(id="loan"), fences=store) as client,
            client.serve(lambda each: followed.append(each.execution_id), group=group),
        ):
            orchestrator.command(command(tenant_id=tenant, agent_id="loan", execution_id=new))
            eventually(lambda: new in followed)
            if group.endswith("second"):
                eventually(lambda: client.stats.refused == 1)
        store.close()

    serve(f"{tenant}-first", "run")
    serve(f"{tenant}-second", "another")
    assert followed.count("run") == 1


def test_due_later(client: Omium, orchestrator: Orchestrator) -> None:
    """A command that begins later does not hold up the others."""
    order: list[str] = []
    with client.serve(lambda each: order.append(each.execution_id), workers=1):
        for name, starts_in_s in (("later", 1.0), ("now", 0.0)):
            orchestrator.command(
                command(tenant_id=client.tenant_id, agent_id="loan", execution_id=name, starts_in_s=starts_in_s)
            )
        orchestrator.outcomes(2)
    assert order == ["now", "later"]


def test_more_than_its_workers(client: Omium, orchestrator: Orchestrator) -> None:
    """Busy handlers hold commands back, and none is lost; never more run than there are workers."""
    running, most, lock = 0, 0, threading.Lock()

    def handler(_: Command) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        threading.Event().wait(0.05)
        with lock:
            running -= 1

    with client.serve(handler, workers=2):
        for n in range(20):
            orchestrator.command(command(tenant_id=client.tenant_id, agent_id="loan", execution_id=f"run{n}"))
        assert len({outcome.execution_id for outcome in orchestrator.outcomes(20)}) == 20
    assert most == 2


def test_a_step_that_waits_goes_first(client: Omium, orchestrator: Orchestrator) -> None:
    """The service of the same process leaves the command to it."""
    served: list[str] = []
    orchestrator.answer = lambda heard: heard.command(TEXT)
    with client.serve(lambda each: served.append(each.execution_id)) as service:
        assert service.assigned.wait(30)

        @client.step("apr", execution="run", checkpoint="c", wait_s=10)
        def propose() -> str:
            if "never 0" not in omium.current().prompt():
                raise ValueError("APR = 0")
            return "ok"

        assert propose() == "ok"
        orchestrator.command(command(tenant_id=client.tenant_id, agent_id="loan", execution_id="other"))
        orchestrator.outcomes(2)
    assert served == ["other"]


def test_a_step_inside_a_handler(client: Omium, orchestrator: Orchestrator) -> None:
    """It fails as part of the attempt, gets the next one in place, and the handler goes on."""

    @client.step("apr", wait_s=10, checkpoint="c")
    def propose() -> str:
        if "never 0" not in omium.current().prompt():
            raise ValueError("APR = 0")
        return "ok"

    orchestrator.answer = lambda heard: heard.command(TEXT, attempt=2, recovery_id="r", offset=10)
    with client.serve(lambda _: Outcome.succeeded(propose())):
        orchestrator.command(
            command(
                ("append_prompt", '{"text": "be nice"}'),
                tenant_id=client.tenant_id,
                agent_id="loan",
                recovery_id="r",
                offset=10,
            )
        )
        eventually(lambda: any(outcome.attempt == 2 for outcome in orchestrator.outcomes()))
    [failure] = orchestrator.failures()
    assert failure.resumed_by is not None
    assert failure.resumed_by.attempt == 1


def test_fences_that_cannot_be_written_hold_a_command_up(client: Omium, orchestrator: Orchestrator) -> None:
    """A disk that is full or read-only for a moment: not followed without its fence, and not lost either."""
    store = client.acceptor.store
    assert isinstance(store, SqliteFences)
    followed: list[str] = []
    store._db.execute("PRAGMA query_only = ON")
    with client.serve(lambda each: followed.append(each.execution_id)) as service:
        orchestrator.command(command(tenant_id=client.tenant_id, agent_id="loan", execution_id="run"))
        eventually(lambda: bool(service._held))
        assert followed == []
        store._db.execute("PRAGMA query_only = OFF")
        assert orchestrator.outcomes()[0].status == "succeeded"
    assert followed == ["run"]


def test_a_clock_that_is_minutes_ahead(client: Omium, orchestrator: Orchestrator) -> None:
    """A process that only serves: to its clock all is expired, until the broker has acknowledged one answer."""
    client.clock._wall_s += 600
    followed: list[str] = []
    mine = {"tenant_id": client.tenant_id, "agent_id": "loan", "execution_id": "run"}
    with client.serve(lambda each: followed.append(each.command_id)):
        orchestrator.command(command(attempt=1, **mine))
        assert orchestrator.outcomes()[0].applied_why == "expired, by the runtime's clock"
        eventually(lambda: client.clock.checked)
        orchestrator.command(command(attempt=2, **mine))
        first, second = orchestrator.outcomes(2)
    assert [(each.attempt, each.status) for each in (first, second)] == [(1, "not_applied"), (2, "succeeded")]
    assert followed == ["r-run-0-2"]
