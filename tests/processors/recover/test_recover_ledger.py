"""One partition: batches, replays, restores, poison, what is too large, and what is in the wrong place."""

from __future__ import annotations

import random
from dataclasses import replace

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recover_log import EXECUTIONS, NOW, PARTITIONS, Log, busy_log, by_execution, ledger, restored
from recover_world import START_MS

from processors.recover.events import Emit
from processors.recover.ledger import APPLIED_KEY, Message
from processors.recover.packing import unpacked as unpacked_state
from processors.recover.partitioner import partition_of
from processors.recover.staging import OversizedError
from processors.recover.state import HEADER_BYTES, decode
from schemas import codec
from schemas.records import (
    Category,
    Checkpoint,
    CheckpointSaved,
    DeadLetter,
    Disposition,
    RecoveryResult,
    ResumeCommand,
    Strategy,
)
from schemas.topics import BY_NAME, CHECKPOINTS, DEAD_LETTERS, FAILURES, OPTIONS, OUTCOMES


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_batches_replays_and_restarts_change_nothing(seed: int) -> None:
    rng = random.Random(seed)
    records = busy_log(rng).records
    one_by_one, plain = [], ledger()
    for raw in records:
        one_by_one.append(plain.stage([raw], NOW))
        plain.commit(one_by_one[-1])

    batched, other, at = [], ledger(), 0
    while at < len(records):
        size = rng.randint(1, 15)
        if rng.random() < 0.3:
            other.stage(records[at : at + size], NOW)  # aborted
            other = restored(batched)
        replay = [raw for raw in records[:at] if rng.random() < 0.1] if rng.random() < 0.3 else []
        batch = [*replay, *records[at : at + size]]
        batched.append(other.stage(batch, NOW))
        other.commit(batched[-1])
        at += size
    assert by_execution(batched) == by_execution(one_by_one)
    assert other.states == plain.states == restored(batched).states
    assert other.applied == plain.applied == restored(batched).applied
    assert (other.open, other.pending) == (restored(batched).open, restored(batched).pending)
    assert other.next_due_ms == restored(batched).next_due_ms


def test_replayed_from_offset_zero_nothing_is_said_again() -> None:
    records = busy_log(random.Random(1)).records
    taken = ledger()
    taken.commit(taken.stage(records, NOW))
    again = taken.stage(records, NOW)
    assert (again.messages, again.changes, again.replayed) == ([], {}, len(records))


def test_a_topic_that_was_made_anew_is_read_from_its_start() -> None:
    taken = ledger()
    taken.restore(APPLIED_KEY, orjson.dumps({FAILURES.name: 10, OUTCOMES.name: 5}))
    assert taken.forget_beyond({FAILURES.name: 3, OUTCOMES.name: 5}) == [FAILURES.name]
    assert taken.applied == {OUTCOMES.name: 5}


POISON = (None, b"", b"{}", b"\xff\xfe", b"[" * 100_000, b"NaN", b"\xc3\x01" + b"\0" * 30, b'{"tenant_id":"a/b"}')


@pytest.mark.parametrize("topic", [OUTCOMES.name, CHECKPOINTS.name, OPTIONS[Category.PERFORMANCE].name])
def test_poison_becomes_a_dead_letter_and_the_next_record_is_handled(topic: str) -> None:
    log, run = Log(), EXECUTIONS[0]
    for value in POISON:
        log.put(topic, value, b"any")
    log.fail(run)
    staged = ledger().stage(log.records, NOW)
    letters = [r for r in staged.emitted if isinstance(r, DeadLetter)]
    assert sorted(letter.origin_offset for letter in letters) == list(range(len(POISON)))
    assert any(isinstance(r, Disposition) and r.kind == "opened" for r in staged.emitted)
    assert staged.applied[topic] == len(POISON)


def test_undecodable_failures_are_left_to_streams() -> None:
    log = Log()
    log.put(FAILURES.name, b"{}", None)
    staged = ledger().stage(log.records, NOW)
    assert (staged.emitted, staged.applied) == ([], {FAILURES.name: 1})


def test_a_record_in_the_wrong_partition_is_passed_on_as_it_is() -> None:
    log, run = Log(), ("acme", "elsewhere")
    right = partition_of(b"acme/elsewhere", PARTITIONS)
    assert right != 0
    raw = log.fail(run)
    log.succeed(run)
    staged = ledger().stage(log.records, NOW)
    forwarded = [m for m in staged.messages if m.topic in (FAILURES.name, OUTCOMES.name)]
    assert [(m.partition, m.key) for m in forwarded] == [(right, b"acme/elsewhere")] * 2
    assert forwarded[0].value == raw.value
    assert [r.kind for r in staged.emitted if isinstance(r, Disposition)] == ["forwarded"] * 2
    assert not staged.changes


def test_an_output_that_would_not_fit_its_topic_is_a_dead_letter_and_changes_nothing() -> None:
    log, run = Log(), EXECUTIONS[0]
    taken = ledger()
    failed = log.fail(run)
    log.offer(run, failed, Strategy.FALLBACK_SERVICE)
    taken.commit(taken.stage(log.records, NOW))
    before = dict(taken.states)
    # Nearly every byte of it is escaped when it is written out again, so that it more than doubles.
    huge = log.succeed(run, final_output=orjson.dumps("\x01" * 250_000).decode())
    staged = taken.stage([huge], NOW)
    limit = {t.name: t.max_message_bytes for t in BY_NAME.values()}
    assert all(len(m.value or b"") < limit[m.topic] for m in staged.messages)
    letters = [r for r in staged.emitted if isinstance(r, DeadLetter)]
    results = [r for r in staged.emitted if isinstance(r, RecoveryResult)]
    assert letters or results
    if letters:
        taken.commit(staged)
        assert taken.states == before


def test_branches_with_huge_options_still_make_a_command_that_fits() -> None:
    log, run = Log(), EXECUTIONS[0]
    failures = [log.fail(run, f"f{n}") for n in range(12)]
    for failed in failures:
        parameters = orjson.dumps({"text": f"{failed.offset}" + "x" * 40_000}).decode()
        log.offer(run, failed, *[Strategy.CONSTRAINT_INJECTION] * 10, parameters=parameters)
    taken = ledger()
    staged = taken.stage(log.records, NOW)
    taken.commit(staged)
    limit = {t.name: t.max_message_bytes for t in BY_NAME.values()}
    assert all(len(m.value or b"") < limit[m.topic] for m in staged.messages)
    assert [type(r) for r in staged.emitted].count(ResumeCommand) == 1
    assert max(len(unpacked_state(state[HEADER_BYTES:])) for state in taken.states.values()) > 200_000


def test_a_failure_that_is_commanded_at_once_is_not_said_to_be_opened() -> None:
    """The command says it: a record less to write, to audit and to read for nearly every failure."""
    log, run = Log(), EXECUTIONS[0]
    failed = log.fail(run)
    log.offer(run, failed, Strategy.RETRY_ONCE, parameters='{"max_attempts":1}')
    waits = log.fail(EXECUTIONS[1])
    staged = ledger().stage(log.records, NOW)
    kinds = {(r.origin_offset, str(r.kind)) for r in staged.emitted if isinstance(r, Disposition)}
    assert kinds == {(failed.offset, "commanded"), (waits.offset, "opened")}


def test_one_output_that_cannot_be_written_costs_its_own_record_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs are encoded when the whole batch is decided; what fails then must still be found."""
    from processors.recover import staging as module

    log = Log()
    failed = [log.fail(run) for run in EXECUTIONS[:3]]
    for run, raw in zip(EXECUTIONS[:3], failed, strict=True):
        log.offer(run, raw, Strategy.RETRY_ONCE, parameters='{"max_attempts":1}')
    real = module._encoded

    def bad(effect: Emit) -> Message:
        if isinstance(effect.record, ResumeCommand) and effect.record.execution_id == EXECUTIONS[1][1]:
            raise OversizedError("too large")
        return real(effect)

    monkeypatch.setattr(module, "_encoded", bad)
    staged = ledger().stage(log.records, NOW)
    commanded = [r.execution_id for r in staged.emitted if isinstance(r, ResumeCommand)]
    (letter,) = [r for r in staged.emitted if isinstance(r, DeadLetter)]
    assert sorted(commanded) == sorted([EXECUTIONS[0][1], EXECUTIONS[2][1]])
    assert (letter.reason, letter.origin_topic.startswith("recovery.options")) == ("output_oversized", True)
    assert len(staged.changes) == 3


def test_a_handler_that_raises_costs_one_dead_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    from processors.recover import staging as module

    real = module.step

    def bad(state, event, now, *rest):  # type: ignore[no-untyped-def]
        if getattr(getattr(event, "record", None), "failure_id", "") == "f2":
            raise KeyError("bug")
        return real(state, event, now, *rest)

    monkeypatch.setattr(module, "step", bad)
    log, run = Log(), EXECUTIONS[0]
    for n in (1, 2, 3):
        log.fail(run, f"f{n}")
    staged = ledger().stage(log.records, NOW)
    (letter,) = [r for r in staged.emitted if isinstance(r, DeadLetter)]
    assert (letter.reason, letter.origin_offset, letter.payload) == ("handler_error", 1, log.records[1].value)
    assert len([r for r in staged.emitted if isinstance(r, Disposition)]) == 2


def test_a_deadline_whose_handler_raises_ends_as_internal_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from processors.recover import reducer

    log, run = Log(), EXECUTIONS[0]
    log.fail(run)
    taken = ledger()
    taken.commit(taken.stage(log.records, NOW))
    monkeypatch.setattr(reducer, "_on_due", lambda turn: 1 / 0)
    due = taken.next_due_ms
    assert due
    staged = taken.stage([], due, fire_until=due)
    (result,) = [r for r in staged.emitted if isinstance(r, RecoveryResult)]
    assert (result.reason, result.error) == ("internal_error", "ZeroDivisionError")


def test_a_suspect_becomes_a_dead_letter_unseen() -> None:
    log = Log()
    raw = log.fail(EXECUTIONS[0])
    staged = ledger().stage([raw], NOW, suspects=frozenset({(raw.topic, raw.offset)}))
    assert [type(r) for r in staged.emitted] == [DeadLetter]
    assert staged.messages[0].topic == DEAD_LETTERS.name


def test_a_deadline_fires_only_behind_the_barrier() -> None:
    log = Log()
    taken = ledger()
    log.fail(EXECUTIONS[0])
    taken.commit(taken.stage(log.records, NOW))
    due = taken.next_due_ms
    assert due
    assert not taken.stage([], due + 5, fire_until=due - 1).emitted
    fired = taken.stage([], due + 5, fire_until=due)
    taken.commit(fired)
    assert [r.reason for r in fired.emitted if isinstance(r, RecoveryResult)] == ["expired"]
    assert taken.next_due_ms
    assert taken.next_due_ms > due


@pytest.mark.parametrize("ahead_ms", [3_600_000, 3 * 3_600_000, 25 * 3_600_000])
@pytest.mark.parametrize("wrong", [FAILURES.name, CHECKPOINTS.name, OPTIONS[Category.TOOL_FAILURE].name, OUTCOMES.name])
def test_one_brokers_clock_that_is_ahead_moves_nothing(wrong: str, ahead_ms: int) -> None:
    """The same is said whichever topic's leader is wrong: nothing expires, no command is put off."""
    log, run = Log(), EXECUTIONS[0]
    failure = log.fail(run)
    log.say(CHECKPOINTS.name, CheckpointSaved(tenant_id=run[0], execution_id=run[1], checkpoint=Checkpoint(id="k")))
    log.offer(run, failure, Strategy.FALLBACK_SERVICE)
    log.succeed(run)
    said = []
    for records in (log.records, [replace(r, at_ms=r.at_ms + ahead_ms * (r.topic == wrong)) for r in log.records]):
        taken, staged = ledger(), []
        for record in records:
            staged.append(taken.stage([record], START_MS + 10))
            taken.commit(staged[-1])
        said.append([codec.to_json(r) for s in staged for r in s.emitted if not isinstance(r, RecoveryResult)])
        assert [r.status for s in staged for r in s.emitted if isinstance(r, RecoveryResult)] == ["success"]
    assert said[0] == said[1]


def test_what_is_kept_is_the_state_itself() -> None:
    log, run = Log(), EXECUTIONS[0]
    log.fail(run)
    taken = ledger()
    staged = taken.stage(log.records, NOW)
    (change,) = [value for key, value in staged.changes.items() if key == f"{run[0]}/{run[1]}"]
    assert change
    assert decode(change).recovery is not None


def test_after_an_outage_deadlines_drain_as_their_tokens_allow() -> None:
    log, taken = Log(), ledger()
    for run in EXECUTIONS:
        log.fail(run)
    taken.commit(taken.stage(log.records, NOW))
    late = NOW + 10_000_000
    counts = []
    while (due := taken.next_due_ms) is not None and due <= late:
        staged = taken.stage([], late, fire_until=late, tokens=20)
        taken.commit(staged)
        counts.append(sum(isinstance(r, RecoveryResult) for r in staged.emitted))
    assert max(counts) == 4
    assert sum(counts) == len(EXECUTIONS) > 4
