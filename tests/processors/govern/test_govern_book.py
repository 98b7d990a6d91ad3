"""One partition of the governor: what is told, what is restored, what cannot be read, what fails."""

from __future__ import annotations

import pytest
from govern_world import CRM, POLICIES, START_MS, report, wanted

from processors.govern import book as module
from processors.govern.book import Book
from processors.recover.ledger import Raw
from schemas import codec
from schemas.records import Circuit, DeadLetter, DependencyState, Incident, Permit, from_epoch_ms
from schemas.topics import DEPENDENCIES, DEPENDENCY_REPORTS, INCIDENTS, PERMITS


def raws(*said: object, first: int = 0) -> list[Raw]:
    return [
        Raw(DEPENDENCY_REPORTS.name, 3, first + n, START_MS, b"acme", codec.to_avro(each))  # type: ignore[arg-type]
        for n, each in enumerate(said)
    ]


def opened() -> tuple[Book, dict[bytes, bytes | None]]:
    """A book in which the CRM is down, and its changelog."""
    book = Book(3, 4, POLICIES)
    turned = book.stage(raws(report(failures=9, failed=9)), START_MS)
    book.commit(turned)
    log = {m.key or b"": m.value for m in turned.messages if m.topic == DEPENDENCIES.name}
    assert [m.partition for m in turned.messages if m.topic == DEPENDENCIES.name] == [3], "one writer, one changelog"
    assert [m.topic for m in turned.messages if m.partition is None] == [INCIDENTS.name]
    return book, log


def test_a_restored_book_is_the_one_that_was() -> None:
    book, log = opened()
    successor = Book(3, 4, POLICIES)
    for key, value in log.items():
        successor.restore(key, value)
    successor.forget_beyond({})
    assert successor.tenants["acme"].dependencies == book.tenants["acme"].dependencies
    assert successor.census == book.census
    turned = successor.stage(raws(report(wanted=(wanted(1, START_MS),)), first=1), START_MS + 2_000)
    assert [p.probe for p in turned.emitted if isinstance(p, Permit)] == [True]
    assert [m.topic for m in turned.messages] == [PERMITS.name, DEPENDENCIES.name]


def test_a_tombstone_and_what_cannot_be_read_are_as_if_nothing_had_been_said() -> None:
    _, log = opened()
    for left in (None, b"\xc3\x01 nonsense"):
        book = Book(3, 4, POLICIES)
        for key, value in log.items():
            book.restore(key, value)
            book.restore(key, left)
        book.forget_beyond({})
        assert book.tenants == {}
        assert book.next_due_ms is None


@pytest.mark.parametrize("memory", ["{?", f'{{"name":"{CRM}","circuit":"melted"}}'])
def test_memory_of_another_release_is_forgotten_and_the_circuit_kept(memory: str) -> None:
    state = DependencyState(
        tenant_id="acme", dependency=CRM, circuit=Circuit.OPEN, epoch=7, said_at=from_epoch_ms(START_MS), memory=memory
    )
    book = Book(3, 4, POLICIES)
    book.restore(CRM.encode(), codec.to_avro(state))
    book.forget_beyond({})
    kept = book.tenants["acme"].dependencies[CRM]
    assert (kept.circuit, kept.epoch) == (Circuit.OPEN, 7)
    book.commit(book.stage([], START_MS, fire_until=START_MS))
    assert book.tenants["acme"].dependencies[CRM].circuit is Circuit.HALF_OPEN


def test_what_is_no_report_is_a_dead_letter_and_stops_nobody() -> None:
    book = Book(3, 4, POLICIES)
    bad = Raw(DEPENDENCY_REPORTS.name, 3, 0, START_MS, b"acme", b"\xc3\x01junk")
    turned = book.stage([bad, *raws(report(failures=9, failed=9), first=1)], START_MS)
    assert [type(r) for r in turned.emitted] == [DeadLetter, Incident]
    assert turned.applied == {DEPENDENCY_REPORTS.name: 2}


def test_a_handler_that_raises_costs_a_dead_letter_and_at_a_tick_what_is_known_of_the_tenant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    book, _ = opened()

    def bad(*_: object) -> None:
        raise KeyError("bug")

    monkeypatch.setattr(module, "govern", bad)
    turned = book.stage(raws(report(failures=1), first=1), START_MS)
    assert [r.reason for r in turned.emitted if isinstance(r, DeadLetter)] == ["handler_error"]
    due = book.next_due_ms
    assert due
    turned = book.stage([], due, fire_until=due)
    assert [(m.topic, m.key, m.value) for m in turned.messages] == [(DEPENDENCIES.name, CRM.encode(), None)]
    book.commit(turned)
    assert book.tenants == {}
    assert book.next_due_ms is None
    assert book.census.total() == 0


def test_what_is_put_off_again_and_again_fills_no_memory() -> None:
    book = Book(3, 4, POLICIES)
    for n in range(500):
        at_ms = START_MS + n * 100
        book.commit(book.stage(raws(report(at_ms=at_ms, failures=1, succeeded=1), first=n), at_ms))
    assert len(book._due) == 1
    due = book.next_due_ms
    assert due == START_MS + 499 * 100 + 600_000
    turned = book.stage([], due, fire_until=due)
    assert [m.value for m in turned.messages] == [None]
