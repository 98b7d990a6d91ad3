"""The acceptor: its cases, in every store; and what no order of deliveries may break."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
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
    tenant_id, _, execution_id = execution.partition("/")
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


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed: the cases are tried in Python only")
def test_conformance_of_another_language(tmp_path: Path) -> None:
    """An acceptor of a hundred lines that shares nothing with ours but the cases."""
    cases = str(files("omium") / "conformance" / "acceptor.json")
    script = Path(__file__).with_name("acceptor.mjs")
    done = subprocess.run(["node", script, cases, tmp_path], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == (f"{len(DOCUMENT['cases'])} cases, 0 wrong\n", "", 0)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed: the cases are tried in Python only")
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("compare(fence, held.fence) <= 0", "compare(fence, held.fence) < 0"),
        ("compare(fence, held.fence) <= 0", "fence.attempt <= held.fence.attempt"),
        ("commandId === held.commandId", "false"),
        ("held.finished", "false"),
        ("nowMs >= expiresAtMs", "nowMs > expiresAtMs"),
        ("nowMs >= expiresAtMs", "false"),
        ("!current.includes(failureId)", "false"),
        ("a.offset - b.offset", "Math.fround(a.offset) - Math.fround(b.offset)"),
        ("a.offset - b.offset", "`${a.offset}`.localeCompare(`${b.offset}`)"),
        ("fences.get(execution)", "fences.get('any')"),
        ("fences.get(execution)", "fences.get(execution.split('/')[1])"),
        ("fences.set(execution, ", "fences.set(execution.split('/')[1], "),
        ("held?.commandId === commandId", "held"),
    ],
)
def test_an_acceptor_that_is_wrong_is_found(right: str, wrong: str, tmp_path: Path) -> None:
    source = Path(__file__).with_name("acceptor.mjs").read_text()
    assert right in source
    script = tmp_path / "wrong.mjs"
    script.write_text(source.replace(right, wrong))
    cases = str(files("omium") / "conformance" / "acceptor.json")
    done = subprocess.run(["node", script, cases, tmp_path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stdout + done.stderr


_ACCEPT_AND_DIE = """
import os, signal, sys
sys.path[:0] = [sys.argv[1]]
from omium import Acceptor, SqliteFences
from test_client_acceptor import EPOCH, command
assert Acceptor(SqliteFences(sys.argv[2])).accept(command("c1"), EPOCH) is None
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_that_dies_between_the_fence_and_the_run(tmp_path: Path) -> None:
    """Its attempt is lost, never doubled; the next one, which the deadline brings, is accepted."""
    path = tmp_path / "fences.sqlite"
    here = Path(__file__).parent
    died = subprocess.run([sys.executable, "-c", _ACCEPT_AND_DIE, here, path], timeout=60)
    assert died.returncode == -signal.SIGKILL
    store = SqliteFences(path)
    acceptor = Acceptor(store)
    assert acceptor.accept(command("c1"), EPOCH) is Refusal.DUPLICATE
    assert acceptor.accept(command("c2", attempt=2), EPOCH) is None
    store.close()


@pytest.mark.parametrize("fault", ["PRAGMA query_only = ON", "PRAGMA max_page_count = 1"])
def test_a_store_that_is_read_only_or_full_accepts_nothing(fault: str, tmp_path: Path) -> None:
    """And accepts again once it can: nothing of the failed attempts is left in it."""
    store = SqliteFences(tmp_path / "fences.sqlite")
    acceptor, numbers = Acceptor(store), iter(range(1000))
    store._db.execute(fault)

    def fill() -> None:
        for number in numbers:
            assert acceptor.accept(command(execution=f"acme/{number}"), EPOCH) is None

    with pytest.raises(sqlite3.OperationalError, match=r"readonly|full"):
        fill()
    store._db.execute("PRAGMA query_only = OFF")
    store._db.execute("PRAGMA max_page_count = 1000000")
    assert acceptor.accept(command(execution=f"acme/{next(numbers) - 1}"), EPOCH) is None
    store.close()


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
