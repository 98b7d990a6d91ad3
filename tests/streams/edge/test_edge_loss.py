"""Each way in which stock Faust 0.15.3 loses records, on the real broker: stock loses, ours does not.

What is lost is counted from the topics and from what the process printed (`loss_run`).
"""

from __future__ import annotations

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource
from loss_run import Run

from schemas.topics import DEAD_LETTERS

pytestmark = pytest.mark.integration

GOING_ON = ("plain", "batch", "before_ack", "concurrency", "out_of_order", "delivery", "decode")
"""Cases after which the worker goes on (ours stops visibly at `before_ack`: an agent's own fault)."""


def bound_dead_letters(bootstrap: str, max_bytes: str | None) -> None:
    """Limit the size of dead letters; None: as by default."""
    operation = AlterConfigOpType.DELETE if max_bytes is None else AlterConfigOpType.SET
    entry = ConfigEntry("max.message.bytes", max_bytes, incremental_operation=operation)
    resource = ConfigResource(ConfigResource.Type.TOPIC, DEAD_LETTERS.name, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.incremental_alter_configs([resource])[resource].result(30)


@pytest.fixture(scope="module", params=["stock", "ours"])
def went_on(request: pytest.FixtureRequest, kafka: str) -> Run:
    """One worker with all the cases after which it can go on, until a commit after all of them."""
    cases = GOING_ON if request.param == "stock" else tuple(c for c in GOING_ON if c != "before_ack")
    run = Run(request.param, kafka, (*cases, "sentinel"))
    run.create()
    run.fill()
    with run.running():
        run.until(lambda: all(run.handled()[case] >= UNTIL[run.kind][case] for case in run.cases), "cases not ended")
        run.produce("sentinel", b"10")
        run.until(lambda: run.committed()["sentinel"] == 11, "no commit after the cases")
        if run.kind == "ours":
            run.until(lambda: run.committed()["delivery"] == 10, "a refused record was not settled")
    return run


_ALL = set(range(10))
UNTIL = {
    "stock": {
        "plain": _ALL - {5},
        "batch": {0, 1, 2, 3},
        "before_ack": _ALL - {5},
        "concurrency": _ALL - {0},
        "out_of_order": _ALL - {0},
        "delivery": _ALL,
        "decode": _ALL - {5},
        "sentinel": _ALL,
    },
    "ours": {
        "plain": _ALL - {5},
        "batch": _ALL - {5},
        "concurrency": _ALL - {0},
        "out_of_order": _ALL - {0},
        "delivery": _ALL,
        "decode": _ALL - {5},
        "sentinel": _ALL,
    },
}
"""What is handled before a worker is as far as it gets."""


@pytest.mark.parametrize("case", [case for case in GOING_ON if case != "before_ack"])
def test_while_the_worker_goes_on(went_on: Run, case: str) -> None:
    """Exception in a loop or a batch, concurrency with a slow event, out-of-order acks, a send that fails, bytes
    that are no record; the groups are new, without a committed offset."""
    assert bool(went_on.lost(case)) == (went_on.kind == "stock")


def test_what_ours_could_not_handle_is_a_dead_letter(went_on: Run) -> None:
    if went_on.kind == "stock":
        pytest.skip("stock Faust has none")
    assert {case: went_on.dead()[case] for case in went_on.cases} == {
        "plain": {5},
        "batch": {5},
        "concurrency": set(),
        "out_of_order": set(),
        "delivery": {5},
        "decode": {5},
        "sentinel": set(),
    }


def test_ours_commits_up_to_the_record_that_is_not_done(went_on: Run) -> None:
    if went_on.kind == "stock":
        assert went_on.committed()["concurrency"] == 10
    else:
        committed = went_on.committed()
        assert (committed["concurrency"], committed["out_of_order"]) == (0, 0)


@pytest.mark.parametrize("kind", ["stock", "ours"])
def test_exception_before_the_acknowledgement(kafka: str, kind: str) -> None:
    """Stock starts the agent again behind the record; ours ends with code 1, and the next worker has it again."""
    run = Run(kind, kafka, ("before_ack",))
    run.create()
    run.fill()
    with run.running():
        if kind == "stock":
            run.until(lambda: run.committed()["before_ack"] == 10, "no commit")
        else:
            run.until(lambda: run.process is not None and run.process.poll() is not None, "did not stop")
            assert run.process is not None
            assert run.process.returncode == 1
    assert bool(run.lost("before_ack")) == (kind == "stock")
    committed = run.committed()["before_ack"]
    assert committed == 10 if kind == "stock" else committed <= 5


@pytest.mark.parametrize("kind", ["stock", "ours"])
def test_changelog_write_that_fails(kafka: str, kind: str) -> None:
    """Stock commits what its changelog never had; ours stops, and has committed nothing."""
    run = Run(kind, kafka, ("changelog",))
    run.create()
    run.fill()
    with run.running():
        if kind == "stock":
            run.until(lambda: run.committed()["changelog"] == 10, "no commit")
        else:
            run.until(lambda: run.process is not None and run.process.poll() is not None, "did not stop")
    assert bool(run.lost("changelog")) == (kind == "stock")


def test_sigterm_while_an_event_is_awaited(kafka: str) -> None:
    """Stock, told not to wait for what is being handled, cancels the agent in the middle of an event and commits
    past it; as it is by default it waits, for hours if it takes them."""
    run = Run("stock", kafka, ("sigterm",))
    run.create()
    run.fill()
    with run.running():
        run.until(lambda: 5 in run.handled()["begun"], "not begun")
        run.stop()
    assert run.lost("sigterm") == [5]


def test_sigterm_in_the_middle_of_an_event(kafka: str) -> None:
    """The event is not waited for (stock waits, for hours if it takes them), and not committed."""
    run = Run("ours", kafka, ("sigterm",))
    run.create()
    run.fill()
    with run.running():
        run.until(lambda: 5 in run.handled()["begun"], "not begun")
        run.stop()
        assert run.process is not None
        assert run.process.returncode == 0
    assert run.committed()["sigterm"] == 5
    with run.running():
        run.until(lambda: run.lines.count("begun 5") == 2, "not begun again")


def test_a_refused_dead_letter_is_tried_again_then_stops_the_worker(kafka: str) -> None:
    """Nothing can stand in for it: going on would lose the record, and waiting would hold its partition up unseen."""
    run = Run("ours", kafka, ("decode",))
    run.create()
    run.fill()
    bound_dead_letters(kafka, "100")
    try:
        with run.running():
            run.until(lambda: run.process is not None and run.process.poll() is not None, "did not stop")
            assert run.process is not None
            assert run.process.returncode == 1
            assert run.log is not None
            assert "refuses a record that must be in it" in run.log.read_text()
        assert (run.committed()["decode"], run.dead()["decode"]) == (5, set())
        with run.running():
            run.until(lambda: "refuses a record" in (run.log.read_text() if run.log else ""), "not refused again")
            bound_dead_letters(kafka, None)
            run.until(lambda: run.committed()["decode"] == 10, "not tried again")
    finally:
        bound_dead_letters(kafka, None)
    assert run.dead()["decode"] == {5}
    assert run.lost("decode") == []


@pytest.mark.parametrize("kind", ["stock", "ours"])
def test_aborted_transactions_are_not_read_and_their_gaps_hold_nothing_up(kafka: str, kind: str) -> None:
    """recovery.settled is written in transactions: an attempt that was aborted never happened."""
    run = Run(kind, kafka, ("committed_only",))
    run.create()
    producer = Producer({"bootstrap.servers": kafka, "transactional.id": run.group})
    producer.init_transactions()
    for number in range(10):
        producer.begin_transaction()
        producer.produce(f"{run.group}.committed_only", str(number).encode(), b"k")
        producer.flush()
        if number % 2:
            producer.abort_transaction()
        else:
            producer.commit_transaction()
    with run.running():
        # The last committed record, 8, is at offset 16: a value and a marker each.
        run.until(lambda: run.committed()["committed_only"] >= 17, "no commit")
    even = {0, 2, 4, 6, 8}
    assert run.handled()["committed_only"] == (even if kind == "ours" else set(range(10)))
