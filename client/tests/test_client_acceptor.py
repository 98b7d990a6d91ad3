"""The acceptor: its cases, in every store; and what no order of deliveries may break."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omium import Acceptor, Checkpoint, Command, Fence, FenceStore, MemoryFences, Refusal, SqliteFences

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DOCUMENT = json.loads((files("omium") / "conformance" / "acceptor.json").read_text())
Open = Callable[[], FenceStore]


def command(
    command_id: str = "c",
    recovery_id: str = "r",
    failure_id: str = "f",
    execution: str = "acme/run",
    fence: dict[str, int] | None = None,
    attempt: int = 1,
    expires_at_ms: int = 10**12,
) -> Command:
    tenant_id, execution_id = execution.split("/")
    expires_at = EPOCH + timedelta(milliseconds=expires_at_ms)
    return Command(
        command_id=command_id,
        recovery_id=recovery_id,
        failure_id=failure_id,
        attempt=attempt,
        fence=Fence(**fence or {"offset": 0, "attempt": attempt}),
        tenant_id=tenant_id,
        execution_id=execution_id,
        checkpoint=Checkpoint(id="c"),
        strategy="retry_once",
        changes=(),
        not_before=EPOCH,
        expires_at=expires_at,
        outcome_deadline=expires_at,
        idempotency_key="k",
        issued_at=EPOCH,
    )


@pytest.fixture(params=["memory", "sqlite"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens the store; the next call opens it again, as a restart does."""
    if request.param == "memory":
        yield MemoryFences
        return
    stores: list[SqliteFences] = []

    def reopen() -> FenceStore:
        stores.append(SqliteFences(tmp_path / "fences.sqlite"))
        return stores[-1]

    yield reopen
    for store in stores:
        store.close()


@pytest.mark.parametrize("case", DOCUMENT["cases"], ids=lambda case: str(case["name"]))
def test_conformance(case: dict[str, Any], opened: Open) -> None:
    acceptor = Acceptor(opened())
    if isinstance(acceptor.store, MemoryFences) and any("restart" in step for step in case["steps"]):
        pytest.skip("lives as long as the process")
    delivered = {
        step["deliver"]["command_id"]: command(**step["deliver"]) for step in case["steps"] if "deliver" in step
    }
    for step in case["steps"]:
        if "restart" in step:
            acceptor = Acceptor(opened())
        elif "finish" in step:
            acceptor.finish(delivered[step["finish"]])
        else:
            now = EPOCH + timedelta(milliseconds=step["now_ms"])
            reason = acceptor.accept(command(**step["deliver"]), now, step.get("current"))
            assert (reason or "accepted") == step["expect"]


def test_every_reason_has_a_case() -> None:
    assert DOCUMENT["reasons"] == [str(reason) for reason in Refusal]
    expected = {step.get("expect") for case in DOCUMENT["cases"] for step in case["steps"]}
    assert expected >= {*DOCUMENT["reasons"], "accepted"}


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4), st.integers(0, 3)), max_size=30))
def test_fences_rise_and_no_command_is_accepted_twice(deliveries: list[tuple[int, int, int]]) -> None:
    acceptor = Acceptor(MemoryFences())
    accepted: list[tuple[int, int]] = []
    ids: list[str] = []
    for offset, attempt, copy in deliveries:
        each = command(f"{offset}-{attempt}-{copy}", f"r{offset}", fence={"offset": offset, "attempt": attempt})
        if acceptor.accept(each, EPOCH) is None:
            accepted.append((offset, attempt))
            ids.append(each.command_id)
    assert accepted == sorted(set(accepted))
    assert len(ids) == len(set(ids))
    assert not deliveries or (max((o, a) for o, a, _ in deliveries) in accepted)


def test_of_many_at_once_one_is_accepted(opened: Open) -> None:
    """Two processes with a store each on one file, and threads in both: the comparison is the store's."""
    shared = opened()
    acceptors = [Acceptor(shared), Acceptor(shared if isinstance(shared, MemoryFences) else opened())]
    for round_ in range(1, 20):
        start = threading.Barrier(8)
        results: list[Refusal | None] = []

        def deliver(acceptor: Acceptor, start: threading.Barrier, results: list[Refusal | None], round_: int) -> None:
            start.wait()
            results.append(acceptor.accept(command(f"c{round_}", fence={"offset": 0, "attempt": round_}), EPOCH))

        threads = [threading.Thread(target=deliver, args=(acceptors[n % 2], start, results, round_)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results.count(None) == 1
        assert results.count(Refusal.DUPLICATE) == 7


def test_memory_is_bounded() -> None:
    store = MemoryFences(limit=3)
    acceptor = Acceptor(store)
    for n in range(10):
        assert acceptor.accept(command(execution=f"acme/{n}"), EPOCH) is None
    assert sum(store.load(f"acme/{n}") is not None for n in range(10)) == 3


def test_old_fences_are_deleted(tmp_path: Path) -> None:
    path = tmp_path / "fences.sqlite"
    first = SqliteFences(path)
    Acceptor(first).accept(command(), EPOCH)
    first.close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE omium_fences SET touched_s = touched_s - 31 * 86400")
    connection.commit()
    connection.close()
    second = SqliteFences(path)
    assert second.load("acme/run") is None
    second.close()
